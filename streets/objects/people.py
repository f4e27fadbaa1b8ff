"""Pedestrians, cyclists and motorcyclists."""

import math
from collections.abc import Callable
from random import Random

import numpy as np

from streets.drawing.camera import Color, scaled, vary
from streets.drawing.canvas import Canvas
from streets.drawing.shapes import Plane, Polygon2D, bar, disc, rectangle

SKIN: tuple[Color, ...] = ((236, 190, 160), (214, 160, 124), (160, 108, 76), (104, 70, 52))
HAIR: tuple[Color, ...] = ((44, 32, 26), (92, 60, 36), (186, 144, 84), (150, 148, 146), (24, 22, 24))
TOPS: tuple[Color, ...] = (
    (196, 52, 60), (226, 152, 40), (62, 110, 176), (232, 226, 214), (52, 60, 92), (120, 74, 130),
    (40, 120, 116), (206, 110, 140), (96, 74, 58), (60, 64, 66), (222, 196, 74),
)  # fmt: skip
BOTTOMS: tuple[Color, ...] = ((40, 48, 74), (34, 34, 38), (86, 96, 122), (126, 108, 84), (70, 60, 56))
HELMETS: tuple[Color, ...] = ((236, 236, 232), (216, 40, 44), (240, 200, 40), (36, 38, 44))
BAGS: tuple[Color, ...] = ((120, 70, 40), (180, 40, 60), (40, 60, 60))
SHOES: Color = (30, 30, 32)

Joint = tuple[float, float]
# (across, up) points of a figure, in meters -> world points.
ToWorld = Callable[[Polygon2D | np.ndarray], np.ndarray]


def person(canvas: Canvas, rng: Random, plane: Plane, *, tall: float | None = None) -> None:
    """A pedestrian, walking or standing; `tall` in meters."""
    tall = tall or rng.uniform(1.6, 1.92)
    stride = rng.choice((0.0, rng.uniform(-0.32, 0.32), rng.uniform(0.15, 0.34)))
    top, bottom = vary(rng, rng.choice(TOPS)), vary(rng, rng.choice(BOTTOMS), 8)
    skin, hair = rng.choice(SKIN), rng.choice(HAIR)
    wide = rng.uniform(0.42, 0.52)
    coat, skirt = rng.random() < 0.3, rng.random() < 0.2
    bag = rng.random() < 0.3

    def to_world(polygon: Polygon2D | np.ndarray) -> np.ndarray:
        return plane.to_world(np.asarray(polygon) * tall / 1.75)

    with canvas.object("person"):
        hem = 0.62 if coat else 0.86
        _leg(canvas, to_world, -stride, scaled(skin if skirt else bottom, 0.88))
        canvas.paint_part(to_world(_arm(wide, stride, -1)), scaled(top, 0.8))
        _leg(canvas, to_world, stride, skin if skirt else bottom)
        if skirt:
            canvas.paint_part(to_world(((-0.24, 0.52), (0.24, 0.52), (0.17, 0.95), (-0.17, 0.95))), bottom)
        half = wide / 2
        canvas.paint_part(
            to_world(
                (
                    (-half * 0.86, hem),
                    (half * 0.86, hem),
                    (half, 1.42),
                    (0.1, 1.5),
                    (-0.1, 1.5),
                    (-half, 1.42),
                )
            ),
            top,
        )
        canvas.paint(to_world(rectangle(-half * 0.86, hem, -half * 0.3, 1.4)), scaled(top, 0.86))
        canvas.paint_part(to_world(_arm(wide, -stride, 1)), scaled(top, 0.92))
        if bag:
            canvas.paint_part(to_world(rectangle(half * 0.7, 0.68, half * 0.7 + 0.2, 0.98)), rng.choice(BAGS))
        _head(canvas, to_world, (0.0, 1.61), skin, hair)


def _leg(canvas: Canvas, to_world: ToWorld, stride: float, color: Color) -> None:
    foot = 0.1 * (1 if stride >= 0 else -1) + stride
    canvas.paint_part(to_world(bar((0.05 if stride >= 0 else -0.05, 0.92), (foot, 0.06), 0.2, 0.13)), color)
    canvas.paint_part(to_world(rectangle(foot - 0.1, 0.0, foot + 0.13, 0.09)), SHOES)


def _arm(wide: float, swing: float, sign: int) -> Polygon2D:
    return bar((sign * wide * 0.46, 1.4), (sign * wide * 0.58 + swing * 0.7, 0.82), 0.14, 0.1)


def _head(canvas: Canvas, to_world: ToWorld, center: Joint, skin: Color, cover: Color) -> None:
    """A face under hair or a helmet; `cover` is its color."""
    u, v = center
    canvas.paint_part(to_world(disc(u, v + 0.02, 0.125, 1.15)), cover)
    canvas.paint(to_world(disc(u, v - 0.035, 0.1, 1.1)), skin)
    canvas.paint_part(to_world(rectangle(u - 0.05, v - 0.16, u + 0.05, v - 0.08)), skin)


def rider(canvas: Canvas, rng: Random, plane: Plane, *, motorized: bool) -> None:
    """The rider of the bicycle or motorcycle drawn just before, from the side."""
    top = (
        vary(rng, rng.choice(TOPS))
        if not motorized
        else vary(rng, rng.choice(((40, 40, 44), (120, 34, 30), (60, 66, 92))))
    )
    bottom, skin = rng.choice(BOTTOMS), rng.choice(SKIN)
    seat, shoulder = ((-0.2, 0.92), (0.04, 1.46)) if motorized else ((-0.2, 1.0), (0.1, 1.5))
    hands = (0.4, 1.12)
    phase = rng.uniform(0, math.pi)
    with canvas.object("rider"):
        for turn in (phase + math.pi, phase):
            lift = 0.0 if motorized else 0.13 * math.sin(turn)
            foot = (0.12, 0.34) if motorized else (0.0 + 0.13 * math.cos(turn), 0.3 + lift)
            knee = (0.26, 0.72 + lift * 0.6)
            shade = 1.0 if turn == phase else 0.8
            canvas.paint_part(plane.to_world(bar(seat, knee, 0.22, 0.17)), scaled(bottom, shade))
            canvas.paint_part(plane.to_world(bar(knee, foot, 0.17, 0.12)), scaled(bottom, shade))
            canvas.paint_part(
                plane.to_world(bar((foot[0] - 0.08, foot[1]), (foot[0] + 0.16, foot[1]), 0.1)), SHOES
            )
        canvas.paint_part(plane.to_world(bar((seat[0], seat[1] - 0.05), shoulder, 0.34, 0.4)), top)
        canvas.paint_part(plane.to_world(bar(shoulder, hands, 0.15, 0.1)), scaled(top, 0.84))
        _head(canvas, plane.to_world, (shoulder[0] + 0.1, 1.72), skin, rng.choice(HELMETS))


def rider_end_on(canvas: Canvas, rng: Random, plane: Plane) -> None:
    """The rider of the bicycle or motorcycle drawn just before, from the front or rear."""
    top, bottom = vary(rng, rng.choice(TOPS)), rng.choice(BOTTOMS)
    with canvas.object("rider"):
        for sign in (-1, 1):
            canvas.paint_part(plane.to_world(bar((sign * 0.1, 0.98), (sign * 0.22, 0.66), 0.2, 0.17)), bottom)
            canvas.paint_part(
                plane.to_world(bar((sign * 0.22, 0.66), (sign * 0.15, 0.32), 0.16, 0.12)),
                scaled(bottom, 0.85),
            )
            canvas.paint_part(
                plane.to_world(bar((sign * 0.22, 1.42), (sign * 0.34, 1.08), 0.14, 0.1)), scaled(top, 0.85)
            )
        canvas.paint_part(
            plane.to_world(
                ((-0.19, 0.92), (0.19, 0.92), (0.26, 1.42), (0.1, 1.52), (-0.1, 1.52), (-0.26, 1.42))
            ),
            top,
        )
        _head(canvas, plane.to_world, (0.0, 1.66), rng.choice(SKIN), rng.choice(HELMETS))
