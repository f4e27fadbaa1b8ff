"""The edges of a street: houses, walls and fences."""

import math
from dataclasses import dataclass
from random import Random

import numpy as np

from streets.camera import Color, scaled, vary
from streets.canvas import Canvas
from streets.shapes import Card, box

PLASTER: tuple[Color, ...] = (
    (216, 200, 170), (172, 92, 70), (206, 166, 106), (198, 190, 182), (150, 160, 172), (226, 216, 200),
    (186, 132, 112), (164, 156, 128), (196, 148, 140), (138, 112, 96),
)  # fmt: skip
ROOFS: tuple[Color, ...] = ((128, 66, 50), (92, 78, 74), (74, 78, 88), (148, 84, 60))
AWNINGS: tuple[Color, ...] = ((180, 40, 44), (40, 90, 120), (60, 110, 70), (210, 160, 60), (110, 60, 110))
PANE: Color = (66, 82, 100)
GLEAM: Color = (112, 130, 150)
DOORS: tuple[Color, ...] = ((92, 56, 40), (44, 70, 62), (60, 60, 74))
LIT: Color = (250, 206, 120)


@dataclass(frozen=True)
class _Face:
    """One upright rectangle of a house, in meters, and the light on it."""

    card: Card
    wide: float
    tall: float
    plaster: Color
    shade: float


def house(
    canvas: Canvas, rng: Random, *, x: float, z: tuple[float, float], side: float, tall: float,
    deep: float = 14.0, open_gable: bool = True,
) -> None:  # fmt: skip
    """A house at the street's edge `x`: its long face from z[0] to z[1] and the gable that looks at us.

    `side` is -1 on the left of the street and 1 on its right; `deep` is how far it reaches away from it.
    Only an `open_gable`, one that no neighbor hides, has windows.
    """
    near, far = z
    plaster = vary(rng, rng.choice(PLASTER))
    gable = Card(x, near, 0.0 if side > 0 else math.pi)
    end = _Face(gable, deep, tall, scaled(plaster, 0.94), canvas.light.shade((0, 0, -1)))
    front = _Face(Card(x, near, math.pi / 2), far - near, tall, plaster, canvas.light.shade((-side, 0, 0)))
    with canvas.object("building"):
        if rng.random() < 0.6:
            inner, ridge = x + side * 3, tall + 2.6
            slope = ((x, tall, near), (x, tall, far), (inner, ridge, far), (inner, ridge, near))
            canvas.fill(slope, rng.choice(ROOFS), shade=canvas.light.shade((-side * 0.65, 0.75, 0.0)))
        if open_gable:
            _face(canvas, rng, end, shops=False)
        else:
            canvas.fill(end.card.place(box(0, 0, deep, tall)), end.plaster, shade=end.shade)
        _face(canvas, rng, front, shops=rng.random() < 0.55)


def facade_across(canvas: Canvas, rng: Random, *, x0: float, x1: float, z: float, tall: float) -> None:
    """A house that closes the street, facing us."""
    plaster = vary(rng, rng.choice(PLASTER))
    with canvas.object("building"):
        if rng.random() < 0.6:
            roof = ((x0, tall, z), (x1, tall, z), (x1 - 1.5, tall + 3, z + 3), (x0 + 1.5, tall + 3, z + 3))
            canvas.fill(roof, rng.choice(ROOFS), shade=canvas.light.shade((0, 0.7, -0.7)))
        face = _Face(Card(x0, z), x1 - x0, tall, plaster, canvas.light.shade((0, 0, -1)))
        _face(canvas, rng, face, shops=rng.random() < 0.5)


def _face(canvas: Canvas, rng: Random, face: _Face, *, shops: bool) -> None:
    """A wall with plinth and cornice, rows of windows, and shops or a door below."""
    place, shade = face.card.place, face.shade
    canvas.fill(place(box(0, 0, face.wide, face.tall)), face.plaster, shade=shade)
    canvas.paint(
        place(box(0, face.tall - 0.45, face.wide, face.tall)), scaled(face.plaster, 1.14), shade=shade
    )
    canvas.paint(place(box(0, 0, face.wide, 0.5)), scaled(face.plaster, 0.6), shade=shade)
    columns = max(1, round(face.wide / rng.uniform(2.0, 2.9)))
    centers = (np.arange(columns) + 0.5) * face.wide / columns
    _windows(canvas, rng, face, centers, lowest=1 if shops else 0)
    if shops:
        _shops(canvas, rng, face)
    else:
        door = centers[rng.randrange(columns)]
        canvas.paint(place(box(door - 0.6, 0, door + 0.6, 2.2)), rng.choice(DOORS), shade=shade)


def _windows(canvas: Canvas, rng: Random, face: _Face, centers: np.ndarray, *, lowest: int) -> None:
    """A grid of framed panes that mirror the sky; at dusk some are lit."""
    floor_m = rng.uniform(2.9, 3.3)
    low = floor_m * (np.arange(lowest, max(1, int((face.tall - 0.6) / floor_m))) + 0.3)
    half = face.wide / len(centers) * rng.uniform(0.24, 0.32)
    u, v = (grid.ravel() for grid in np.meshgrid(centers, low))
    if not len(u):
        return
    rim, pane, shade = 0.13, floor_m * 0.5, 0.5 + face.shade / 2
    frames = _boxes(u - half - rim, v - 0.14, u + half + rim, v + pane + rim)
    panes = face.card.place(_boxes(u - half, v, u + half, v + pane))
    canvas.paint(face.card.place(frames), scaled(face.plaster, 1.22), shade=face.shade)
    canvas.paint(panes, vary(rng, PANE, 14), shade=shade)
    canvas.paint(face.card.place(_boxes(u - half, v + pane * 0.55, u, v + pane)), GLEAM, shade=shade)
    if canvas.light.name == "dusk":
        lit = np.array([rng.random() < 0.4 for _ in u])
        if lit.any():
            canvas.paint(panes[lit], LIT)


def _shops(canvas: Canvas, rng: Random, face: _Face) -> None:
    """Display windows with doors, each under an awning."""
    count = max(1, round(face.wide / 4))
    step = face.wide / count
    u = np.arange(count) * step
    place, shade = face.card.place, face.shade
    glass = LIT if canvas.light.name == "dusk" else (84, 100, 112)
    canvas.paint(place(_boxes(u + 0.3, 0.45, u + step - 0.3, 2.3)), glass, shade=0.6 + shade * 0.4)
    canvas.paint(place(_boxes(u + 0.15, 2.25, u + step - 0.15, 2.85)), rng.choice(AWNINGS), shade=shade)
    canvas.paint(place(_boxes(u + step * 0.45, 0, u + step * 0.7, 2.2)), scaled(glass, 0.7), shade=shade)


def _boxes(u0: np.ndarray, v0: np.ndarray | float, u1: np.ndarray, v1: np.ndarray | float) -> np.ndarray:
    """[m, 4, 2] rectangles from `u0` (and `v0`) to `u1` (and `v1`)."""
    corners = np.empty((len(u0), 4, 2))
    corners[:, 0, 0] = corners[:, 3, 0] = u0
    corners[:, 1, 0] = corners[:, 2, 0] = u1
    corners[:, 0, 1] = corners[:, 1, 1] = v0
    corners[:, 2, 1] = corners[:, 3, 1] = v1
    return corners


def wall(canvas: Canvas, rng: Random, *, x: float, z0: float, z1: float, side: float) -> None:
    """A free-standing wall along the street, of brick or of concrete slabs, with a coping."""
    tall, brick = rng.uniform(1.9, 2.7), rng.random() < 0.5
    color = vary(rng, (150, 84, 66) if brick else (168, 166, 172), 8)
    shade = canvas.light.shade((-side, 0, 0))
    street = Card(x, z0, math.pi / 2)
    long = z1 - z0
    with canvas.object("wall"):
        gable = Card(x, z0, 0.0 if side > 0 else math.pi)
        canvas.fill(gable.place(box(0, 0, 0.4, tall)), color, shade=canvas.light.shade((0, 0, -1)))
        canvas.fill(street.place(box(0, 0, long, tall)), color, shade=shade)
        if brick:
            rows = np.arange(0.3, tall - 0.2, 0.3)
            canvas.paint(
                street.place(_boxes(rows * 0, rows, rows * 0 + long, rows + 0.07)),
                scaled(color, 1.25),
                shade=shade,
            )
        else:
            joints = np.arange(1.5, long, 2.0)
            if len(joints):
                canvas.paint(
                    street.place(_boxes(joints, 0, joints + 0.14, tall)), scaled(color, 0.7), shade=shade
                )
        canvas.paint(street.place(box(0, tall - 0.24, long, tall)), (196, 190, 182), shade=shade * 1.05)
        canvas.paint(street.place(box(0, 0, long, 0.25)), scaled(color, 0.65), shade=shade)


def fence(canvas: Canvas, rng: Random, *, x: float, z0: float, z1: float, tall: float) -> None:
    """Pickets or railings along the street; one sees through, the label does not."""
    street, long = Card(x, z0, math.pi / 2), z1 - z0
    wooden = rng.random() < 0.5
    color = rng.choice(
        ((186, 140, 92), (236, 232, 222), (150, 108, 70))
        if wooden
        else ((48, 84, 66), (60, 62, 68), (176, 180, 182))
    )
    pitch, bar = (0.3, 0.17) if wooden else (0.36, 0.1)
    with canvas.object("fence"):
        canvas.fill_outline(street.place(box(0, 0, long, tall)))
        u = np.arange(0.0, long, pitch)
        canvas.paint(street.place(_boxes(u, 0.06, u + bar, tall)), color)
        for v in (0.18, tall - 0.18):
            canvas.paint(street.place(box(0, v - 0.07, long, v + 0.07)), scaled(color, 0.85))
        u = np.arange(0.0, long, pitch * 7)
        canvas.paint(street.place(_boxes(u, 0, u + bar * 1.8, tall + 0.1)), scaled(color, 0.75))
