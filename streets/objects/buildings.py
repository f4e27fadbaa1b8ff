"""Houses, walls and fences along a street."""

import math
from dataclasses import dataclass
from random import Random

import numpy as np

from streets.drawing.camera import Color, scaled, vary
from streets.drawing.canvas import Canvas
from streets.drawing.shapes import Plane, rectangle

WALL_COLORS: tuple[Color, ...] = (
    (216, 200, 170), (172, 92, 70), (206, 166, 106), (198, 190, 182), (150, 160, 172), (226, 216, 200),
    (186, 132, 112), (164, 156, 128), (196, 148, 140), (138, 112, 96),
)  # fmt: skip
ROOFS: tuple[Color, ...] = ((128, 66, 50), (92, 78, 74), (74, 78, 88), (148, 84, 60))
AWNINGS: tuple[Color, ...] = ((180, 40, 44), (40, 90, 120), (60, 110, 70), (210, 160, 60), (110, 60, 110))
PANE: Color = (66, 82, 100)
REFLECTION: Color = (112, 130, 150)
DOORS: tuple[Color, ...] = ((92, 56, 40), (44, 70, 62), (60, 60, 74))
LIT_WINDOW: Color = (250, 206, 120)


@dataclass(frozen=True)
class _Wall:
    """One wall of a house: an upright rectangle in meters, its color and the light on it."""

    plane: Plane
    wide: float
    tall: float
    color: Color
    shade: float


def house(
    canvas: Canvas, rng: Random, *, x: float, z: tuple[float, float], side: float, tall: float,
    deep: float = 14.0, open_gable: bool = True,
) -> None:  # fmt: skip
    """A house at the edge `x` of the street: a long wall from z[0] to z[1], and a gable toward the camera.

    `side` is -1 on the left of the street and 1 on the right; `deep` is the size away from the street, in
    meters. The gable has windows only if it is an `open_gable`, one that no neighboring house hides.
    """
    near, far = z
    color = vary(rng, rng.choice(WALL_COLORS))
    gable = Plane(x, near, 0.0 if side > 0 else math.pi)
    end = _Wall(gable, deep, tall, scaled(color, 0.94), canvas.light.shade((0, 0, -1)))
    front = _Wall(Plane(x, near, math.pi / 2), far - near, tall, color, canvas.light.shade((-side, 0, 0)))
    with canvas.object("building"):
        if rng.random() < 0.6:
            inner, ridge = x + side * 3, tall + 2.6
            slope = ((x, tall, near), (x, tall, far), (inner, ridge, far), (inner, ridge, near))
            canvas.paint_part(slope, rng.choice(ROOFS), shade=canvas.light.shade((-side * 0.65, 0.75, 0.0)))
        if open_gable:
            _house_wall(canvas, rng, end, shops=False)
        else:
            canvas.paint_part(end.plane.to_world(rectangle(0, 0, deep, tall)), end.color, shade=end.shade)
        _house_wall(canvas, rng, front, shops=rng.random() < 0.55)


def facade_across(canvas: Canvas, rng: Random, *, x0: float, x1: float, z: float, tall: float) -> None:
    """A house at the end of the street, facing the camera."""
    color = vary(rng, rng.choice(WALL_COLORS))
    with canvas.object("building"):
        if rng.random() < 0.6:
            roof = ((x0, tall, z), (x1, tall, z), (x1 - 1.5, tall + 3, z + 3), (x0 + 1.5, tall + 3, z + 3))
            canvas.paint_part(roof, rng.choice(ROOFS), shade=canvas.light.shade((0, 0.7, -0.7)))
        wall = _Wall(Plane(x0, z), x1 - x0, tall, color, canvas.light.shade((0, 0, -1)))
        _house_wall(canvas, rng, wall, shops=rng.random() < 0.5)


def _house_wall(canvas: Canvas, rng: Random, wall: _Wall, *, shops: bool) -> None:
    """A wall with base and cornice, rows of windows, and shops or a door on the ground floor."""
    to_world, shade = wall.plane.to_world, wall.shade
    canvas.paint_part(to_world(rectangle(0, 0, wall.wide, wall.tall)), wall.color, shade=shade)
    canvas.paint(
        to_world(rectangle(0, wall.tall - 0.45, wall.wide, wall.tall)),
        scaled(wall.color, 1.14),
        shade=shade,
    )
    canvas.paint(to_world(rectangle(0, 0, wall.wide, 0.5)), scaled(wall.color, 0.6), shade=shade)
    columns = max(1, round(wall.wide / rng.uniform(2.0, 2.9)))
    centers = (np.arange(columns) + 0.5) * wall.wide / columns
    _windows(canvas, rng, wall, centers, lowest=1 if shops else 0)
    if shops:
        _shops(canvas, rng, wall)
    else:
        door = centers[rng.randrange(columns)]
        canvas.paint(to_world(rectangle(door - 0.6, 0, door + 0.6, 2.2)), rng.choice(DOORS), shade=shade)


def _windows(canvas: Canvas, rng: Random, wall: _Wall, centers: np.ndarray, *, lowest: int) -> None:
    """A grid of framed panes that reflect the sky; at dusk some are lit."""
    floor_m = rng.uniform(2.9, 3.3)
    low = floor_m * (np.arange(lowest, max(1, int((wall.tall - 0.6) / floor_m))) + 0.3)
    half = wall.wide / len(centers) * rng.uniform(0.24, 0.32)
    u, v = (grid.ravel() for grid in np.meshgrid(centers, low))
    if not len(u):
        return
    rim, pane, shade = 0.13, floor_m * 0.5, 0.5 + wall.shade / 2
    frames = _rectangles(u - half - rim, v - 0.14, u + half + rim, v + pane + rim)
    panes = wall.plane.to_world(_rectangles(u - half, v, u + half, v + pane))
    canvas.paint(wall.plane.to_world(frames), scaled(wall.color, 1.22), shade=wall.shade)
    canvas.paint(panes, vary(rng, PANE, 14), shade=shade)
    canvas.paint(
        wall.plane.to_world(_rectangles(u - half, v + pane * 0.55, u, v + pane)), REFLECTION, shade=shade
    )
    if canvas.light.name == "dusk":
        lit = np.array([rng.random() < 0.4 for _ in u])
        if lit.any():
            canvas.paint(panes[lit], LIT_WINDOW)


def _shops(canvas: Canvas, rng: Random, wall: _Wall) -> None:
    """Display windows with doors, each under an awning."""
    count = max(1, round(wall.wide / 4))
    step = wall.wide / count
    u = np.arange(count) * step
    to_world, shade = wall.plane.to_world, wall.shade
    glass = LIT_WINDOW if canvas.light.name == "dusk" else (84, 100, 112)
    canvas.paint(to_world(_rectangles(u + 0.3, 0.45, u + step - 0.3, 2.3)), glass, shade=0.6 + shade * 0.4)
    canvas.paint(
        to_world(_rectangles(u + 0.15, 2.25, u + step - 0.15, 2.85)), rng.choice(AWNINGS), shade=shade
    )
    canvas.paint(
        to_world(_rectangles(u + step * 0.45, 0, u + step * 0.7, 2.2)), scaled(glass, 0.7), shade=shade
    )


def _rectangles(u0: np.ndarray, v0: np.ndarray | float, u1: np.ndarray, v1: np.ndarray | float) -> np.ndarray:
    """[m, 4, 2] rectangles from `u0` (and `v0`) to `u1` (and `v1`)."""
    corners = np.empty((len(u0), 4, 2))
    corners[:, 0, 0] = corners[:, 3, 0] = u0
    corners[:, 1, 0] = corners[:, 2, 0] = u1
    corners[:, 0, 1] = corners[:, 1, 1] = v0
    corners[:, 2, 1] = corners[:, 3, 1] = v1
    return corners


def freestanding_wall(canvas: Canvas, rng: Random, *, x: float, z0: float, z1: float, side: float) -> None:
    """A freestanding wall along the street, of brick or concrete slabs, with coping on top."""
    tall, brick = rng.uniform(1.9, 2.7), rng.random() < 0.5
    color = vary(rng, (150, 84, 66) if brick else (168, 166, 172), 8)
    shade = canvas.light.shade((-side, 0, 0))
    street = Plane(x, z0, math.pi / 2)
    long = z1 - z0
    with canvas.object("wall"):
        gable = Plane(x, z0, 0.0 if side > 0 else math.pi)
        canvas.paint_part(
            gable.to_world(rectangle(0, 0, 0.4, tall)), color, shade=canvas.light.shade((0, 0, -1))
        )
        canvas.paint_part(street.to_world(rectangle(0, 0, long, tall)), color, shade=shade)
        if brick:
            rows = np.arange(0.3, tall - 0.2, 0.3)
            canvas.paint(
                street.to_world(_rectangles(rows * 0, rows, rows * 0 + long, rows + 0.07)),
                scaled(color, 1.25),
                shade=shade,
            )
        else:
            joints = np.arange(1.5, long, 2.0)
            if len(joints):
                canvas.paint(
                    street.to_world(_rectangles(joints, 0, joints + 0.14, tall)),
                    scaled(color, 0.7),
                    shade=shade,
                )
        canvas.paint(
            street.to_world(rectangle(0, tall - 0.24, long, tall)), (196, 190, 182), shade=shade * 1.05
        )
        canvas.paint(street.to_world(rectangle(0, 0, long, 0.25)), scaled(color, 0.65), shade=shade)


def fence(canvas: Canvas, rng: Random, *, x: float, z0: float, z1: float, tall: float) -> None:
    """Pickets or railings along the street. It is see-through, but its label covers the gaps too."""
    street, long = Plane(x, z0, math.pi / 2), z1 - z0
    wooden = rng.random() < 0.5
    color = rng.choice(
        ((186, 140, 92), (236, 232, 222), (150, 108, 70))
        if wooden
        else ((48, 84, 66), (60, 62, 68), (176, 180, 182))
    )
    pitch, bar = (0.3, 0.17) if wooden else (0.36, 0.1)
    with canvas.object("fence"):
        canvas.add_part(street.to_world(rectangle(0, 0, long, tall)))
        u = np.arange(0.0, long, pitch)
        canvas.paint(street.to_world(_rectangles(u, 0.06, u + bar, tall)), color)
        for v in (0.18, tall - 0.18):
            canvas.paint(street.to_world(rectangle(0, v - 0.07, long, v + 0.07)), scaled(color, 0.85))
        u = np.arange(0.0, long, pitch * 7)
        canvas.paint(street.to_world(_rectangles(u, 0, u + bar * 1.8, tall + 0.1)), scaled(color, 0.75))
