"""Bicycles and motorcycles, ridden or parked, from the side and from the front or rear."""

from random import Random

from streets.drawing.camera import Color, vary
from streets.drawing.canvas import Canvas
from streets.drawing.shapes import Plane, bar, disc, rectangle

FRAMES: tuple[Color, ...] = ((206, 36, 44), (30, 120, 190), (40, 150, 90), (240, 150, 30), (236, 236, 232))
TIRE: Color = (30, 30, 32)


def bicycle(canvas: Canvas, rng: Random, plane: Plane, *, color: Color | None = None) -> None:
    """A bicycle from the side, with its front wheel at positive u."""
    frame = color or rng.choice(FRAMES)
    seat, crank, bars, rear, front = (-0.22, 0.92), (-0.06, 0.32), (0.38, 1.02), (-0.54, 0.35), (0.54, 0.35)
    with canvas.object("bicycle"):
        for hub in (rear, front):
            rim = plane.to_world(disc(*hub, 0.35))
            canvas.paint_part(rim, (118, 116, 114))
            canvas.paint_ring(rim, plane.to_world(disc(*hub, 0.27)), TIRE)
            canvas.paint(plane.to_world(disc(*hub, 0.07)), (190, 190, 190))
        for a, b in ((rear, crank), (rear, seat), (crank, seat), (crank, bars), (seat, bars), (bars, front)):
            canvas.paint_part(plane.to_world(bar(a, b, 0.085)), frame)
        canvas.paint_part(plane.to_world(bar((-0.36, 0.97), (-0.08, 0.97), 0.11)), TIRE)
        canvas.paint_part(plane.to_world(bar((0.3, 1.08), (0.52, 1.04), 0.09)), TIRE)


def bicycle_end_on(canvas: Canvas, rng: Random, plane: Plane) -> None:
    """A bicycle from the front or rear, which look alike at this size."""
    with canvas.object("bicycle"):
        canvas.paint_part(plane.to_world(disc(0, 0.36, 0.1, 3.5)), TIRE)
        canvas.paint_part(plane.to_world(bar((0, 0.5), (0, 1.05), 0.13)), rng.choice(FRAMES))
        canvas.paint_part(plane.to_world(bar((-0.34, 1.05), (0.34, 1.05), 0.1)), TIRE)
        canvas.paint(plane.to_world(disc(0, 0.9, 0.08)), (250, 240, 200))


def motorcycle(canvas: Canvas, rng: Random, plane: Plane) -> None:
    """A motorcycle from the side."""
    paint = vary(rng, rng.choice(((190, 24, 30), (24, 70, 170), (40, 40, 44), (232, 120, 24), (60, 130, 60))))
    with canvas.object("motorcycle"):
        for u in (-0.7, 0.74):
            canvas.paint_part(plane.to_world(disc(u, 0.33, 0.33)), TIRE)
            canvas.paint(plane.to_world(disc(u, 0.33, 0.17)), (168, 170, 172))
        canvas.paint_part(
            plane.to_world(((-0.62, 0.3), (0.5, 0.28), (0.44, 0.72), (-0.4, 0.74))), (84, 86, 92)
        )
        canvas.paint(plane.to_world(disc(-0.02, 0.46, 0.18)), (176, 178, 180))
        canvas.paint_part(plane.to_world(bar((-0.95, 0.34), (0.1, 0.28), 0.12)), (196, 198, 200))
        canvas.paint_part(plane.to_world(bar((0.74, 0.33), (0.42, 1.05), 0.11)), (150, 152, 156))
        canvas.paint_part(plane.to_world(((-0.12, 0.72), (0.46, 0.7), (0.42, 1.0), (0.08, 1.04))), paint)
        canvas.paint_part(
            plane.to_world(
                ((-1.0, 0.82), (-0.85, 0.66), (0.0, 0.7), (0.0, 0.9), (-0.6, 0.86), (-0.98, 0.98))
            ),
            TIRE,
        )
        canvas.paint_part(plane.to_world(bar((0.5, 0.78), (0.98, 0.68), 0.1)), paint)
        canvas.paint_part(plane.to_world(disc(0.54, 0.92, 0.11)), (252, 244, 206))
        canvas.paint_part(plane.to_world(bar((0.26, 1.12), (0.5, 1.06), 0.09)), TIRE)


def motorcycle_end_on(canvas: Canvas, rng: Random, plane: Plane, *, rear: bool) -> None:
    """A motorcycle from the front or `rear`, which differ in the light."""
    paint = vary(rng, rng.choice(((190, 24, 30), (24, 70, 170), (232, 120, 24))))
    with canvas.object("motorcycle"):
        canvas.paint_part(plane.to_world(disc(0, 0.34, 0.13, 2.6)), TIRE)
        canvas.paint_part(
            plane.to_world(
                ((-0.24, 0.42), (0.24, 0.42), (0.28, 0.95), (0.1, 1.1), (-0.1, 1.1), (-0.28, 0.95))
            ),
            paint,
        )
        canvas.paint_part(plane.to_world(bar((-0.42, 1.06), (0.42, 1.06), 0.1)), TIRE)
        canvas.paint(plane.to_world(disc(0, 0.84, 0.12)), (220, 30, 30) if rear else (255, 248, 214))
        canvas.paint(plane.to_world(rectangle(-0.1, 0.5, 0.1, 0.64)), (236, 236, 226))
