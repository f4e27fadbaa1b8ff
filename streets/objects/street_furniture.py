"""Street furniture: lamps, traffic signs and lights, trash cans."""

from random import Random

import numpy as np

from streets.drawing.camera import Color, vary
from streets.drawing.canvas import Canvas
from streets.drawing.shapes import Plane, Polygon2D, bar, disc, rectangle

STEEL: tuple[Color, ...] = ((118, 122, 124), (96, 100, 104), (140, 142, 140), (74, 84, 80))
RED: Color = (206, 28, 34)
BLUE: Color = (28, 84, 178)
WHITE: Color = (240, 240, 236)
YELLOW: Color = (244, 196, 36)
BLACK: Color = (30, 31, 33)


def street_lamp(canvas: Canvas, rng: Random, plane: Plane, *, toward: float) -> None:
    """A street lamp; `toward` is the direction of the road, -1 (left) or 1."""
    steel, tall, reach = rng.choice(STEEL), rng.uniform(5.0, 7.5), toward * rng.uniform(0.8, 1.8)
    with canvas.object("pole"):
        canvas.paint_part(plane.to_world(bar((0, 0), (0, tall), 0.3, 0.2)), steel)
        canvas.paint_part(plane.to_world(bar((0, tall - 0.1), (reach, tall + 0.3), 0.17)), steel)
        canvas.paint_part(
            plane.to_world(rectangle(reach - 0.3, tall + 0.18, reach + 0.3, tall + 0.36)), (206, 206, 196)
        )


def post(canvas: Canvas, plane: Plane, *, tall: float, wide: float = 0.18, color: Color = STEEL[0]) -> None:
    with canvas.object("pole"):
        canvas.paint_part(plane.to_world(rectangle(-wide / 2, 0, wide / 2, tall)), color)


def traffic_sign(canvas: Canvas, rng: Random, plane: Plane) -> None:
    """A post with one or two traffic signs."""
    tall, size = rng.uniform(2.5, 3.1), rng.uniform(0.46, 0.58)
    post(canvas, plane, tall=tall, color=rng.choice(STEEL))
    for i in range(2 if rng.random() < 0.25 else 1):
        _sign(canvas, rng, plane, tall - size - i * size * 2.1, size)


def _sign(canvas: Canvas, rng: Random, plane: Plane, v: float, r: float) -> None:
    kind = rng.choice(("limit", "warning", "yield", "crossing", "mandatory", "priority", "stop", "no entry"))
    up: Polygon2D = ((-r, v - r * 0.75), (r, v - r * 0.75), (0.0, v + r))
    down: Polygon2D = ((-r, v + r * 0.75), (r, v + r * 0.75), (0.0, v - r))
    diamond: Polygon2D = ((-r, v), (0, v - r), (r, v), (0, v + r))
    square = rectangle(-r * 0.85, v - r * 0.85, r * 0.85, v + r * 0.85)
    layers: dict[str, list[tuple[Polygon2D | np.ndarray, Color]]] = {
        "limit": [
            (disc(0, v, r), RED),
            (disc(0, v, r * 0.7), WHITE),
            (rectangle(-r * 0.3, v - r * 0.3, r * 0.3, v + r * 0.3), BLACK),
        ],
        "warning": [
            (up, RED),
            (_shrunk(up, v - r * 0.15, 0.55), WHITE),
            (disc(0, v - r * 0.25, r * 0.16), BLACK),
        ],
        "yield": [(down, RED), (_shrunk(down, v + r * 0.2, 0.55), WHITE)],
        "crossing": [(square, BLUE), (_shrunk(up, v - r * 0.1, 0.6), WHITE)],
        "mandatory": [(disc(0, v, r), BLUE), (bar((0, v - r * 0.55), (0, v + r * 0.5), r * 0.3), WHITE)],
        "priority": [(diamond, WHITE), (_shrunk(diamond, v, 0.66), YELLOW)],
        "stop": [(disc(0, v, r), RED), (rectangle(-r * 0.7, v - r * 0.2, r * 0.7, v + r * 0.2), WHITE)],
        "no entry": [(disc(0, v, r), RED), (disc(0, v, r * 0.68), WHITE)],
    }
    with canvas.object("traffic sign"):
        (first, color), *rest = layers[kind]
        canvas.paint_part(plane.to_world(first), color)
        for polygon, color in rest:
            canvas.paint(plane.to_world(polygon), color)


def _shrunk(polygon: Polygon2D, center: float, share: float) -> Polygon2D:
    return [(u * share, center + (v - center) * share) for u, v in polygon]


def guide_sign(canvas: Canvas, rng: Random, plane: Plane) -> None:
    """A large direction sign on two posts."""
    half, low, high = rng.uniform(0.9, 1.4), 1.9, rng.uniform(2.9, 3.4)
    ground = rng.choice((BLUE, YELLOW, (24, 112, 70)))
    for u in (-half * 0.7, half * 0.7):
        post(canvas, Plane(plane.x + u, plane.z), tall=high, wide=0.16)
    with canvas.object("traffic sign"):
        canvas.paint_part(plane.to_world(rectangle(-half, low, half, high)), WHITE)
        canvas.paint(plane.to_world(rectangle(-half + 0.07, low + 0.07, half - 0.07, high - 0.07)), ground)
        for i in range(2):
            v = low + 0.25 + i * (high - low - 0.25) / 2
            canvas.paint(
                plane.to_world(rectangle(-half * 0.7, v, half * rng.uniform(0.1, 0.7), v + 0.16)),
                BLACK if ground == YELLOW else WHITE,
            )


def traffic_light(canvas: Canvas, rng: Random, plane: Plane, *, arm: float = 0.0) -> None:
    """A post with a traffic light, and if `arm` is not 0 a second one over the road, `arm` meters away."""
    post(canvas, plane, tall=5.0 if arm else 2.4, wide=0.22, color=STEEL[1])
    lit = rng.choice((0, 0, 1, 2, 2))
    if arm:
        with canvas.object("pole"):
            canvas.paint_part(plane.to_world(bar((0, 4.95), (arm, 5.1), 0.2)), STEEL[1])
        _light_head(canvas, plane, arm, 4.1, lit)
    _light_head(canvas, plane, 0.0, 2.2, lit)


def _light_head(canvas: Canvas, plane: Plane, u: float, v: float, lit: int) -> None:
    colors: tuple[Color, ...] = ((70, 255, 150), (255, 196, 40), (255, 50, 40))
    with canvas.object("traffic light"):
        canvas.paint_part(
            plane.to_world(rectangle(u - 0.28, v, u + 0.28, v + 1.3)),
            (214, 178, 50) if lit == 1 else (36, 42, 40),
        )
        canvas.paint(plane.to_world(rectangle(u - 0.22, v + 0.06, u + 0.22, v + 1.24)), (22, 25, 25))
        for i, color in enumerate(colors):
            dim: Color = (color[0] * 0.25, color[1] * 0.25, color[2] * 0.25)
            canvas.paint(plane.to_world(disc(u, v + 0.25 + 0.4 * i, 0.17)), color if i == lit else dim)


def static_object(canvas: Canvas, rng: Random, plane: Plane) -> None:
    """A trash can, cabinet or bollard: Cityscapes' label `static`, which is not evaluated."""
    color = vary(rng, rng.choice(((66, 96, 74), (128, 130, 132), (214, 128, 40), (70, 74, 84))))
    wide, tall = rng.choice(((0.5, 0.95), (0.9, 1.2), (0.24, 0.85)))
    with canvas.object("static"):
        canvas.paint_part(plane.to_world(rectangle(-wide / 2, 0, wide / 2, tall)), color)
        canvas.paint(plane.to_world(rectangle(-wide / 2, tall * 0.82, wide / 2, tall)), (44, 46, 48))
