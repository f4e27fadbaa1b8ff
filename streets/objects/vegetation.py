"""Trees, bushes and hedges: clumps of leaves that are brighter toward the sun."""

import math
from random import Random

import numpy as np

from streets.drawing.camera import Color, scaled, vary
from streets.drawing.canvas import Canvas
from streets.drawing.shapes import Plane, bar, disc, discs

LEAVES: tuple[Color, ...] = ((58, 98, 38), (74, 112, 44), (48, 88, 46), (90, 118, 40), (66, 104, 58))
AUTUMN: tuple[Color, ...] = ((158, 112, 36), (142, 84, 34), (128, 122, 44))
BARK: Color = (84, 66, 50)


def leaf_color(rng: Random) -> Color:
    return vary(rng, rng.choice(AUTUMN if rng.random() < 0.08 else LEAVES), 8)


def tree(canvas: Canvas, rng: Random, plane: Plane, *, tall: float) -> None:
    """A broadleaf tree (sometimes a conifer), `tall` meters high."""
    leaf = leaf_color(rng)
    trunk = tall * rng.uniform(0.28, 0.4)
    with canvas.object("vegetation"):
        canvas.paint_part(
            plane.to_world(
                bar((0, 0), (rng.uniform(-0.2, 0.2), trunk * 1.4), 0.04 * tall + 0.1, 0.03 * tall)
            ),
            BARK,
        )
        if rng.random() < 0.15:
            _conifer(canvas, plane, tall, scaled(leaf, 0.75))
        else:
            wide = tall * rng.uniform(0.26, 0.36)
            count = 8 if plane.z < 30 else 5  # fewer leaves suffice far away
            _clump(canvas, rng, plane, (0.0, (trunk + tall) / 2), (wide, (tall - trunk) / 2), leaf, count)


def bush(canvas: Canvas, rng: Random, plane: Plane, *, wide: float, tall: float) -> None:
    leaf = leaf_color(rng)
    with canvas.object("vegetation"):
        canvas.paint_part(
            plane.to_world(
                ((-wide * 0.8, 0), (wide * 0.8, 0), (wide * 0.6, tall * 0.6), (-wide * 0.6, tall * 0.6))
            ),
            scaled(leaf, 0.62),
        )
        _clump(canvas, rng, plane, (0.0, tall * 0.55), (wide, tall * 0.5), leaf, count=5)


def _clump(
    canvas: Canvas,
    rng: Random,
    plane: Plane,
    center: tuple[float, float],
    radii: tuple[float, float],
    leaf: Color,
    count: int = 8,
) -> None:
    """Dark leaves along the back, bright ones toward the sun."""
    sun = math.copysign(1.0, canvas.light.sun[0])
    radius = 0.58 * min(radii)
    blobs = [(center[0], center[1], max(radius, 0.8 * min(radii)))]
    for i in range(count):
        angle = 2 * math.pi * (i + rng.random() * 0.8) / count
        reach = rng.uniform(0.55, 0.75)
        u, v = center[0] + reach * radii[0] * math.cos(angle), center[1] + reach * radii[1] * math.sin(angle)
        blobs.append((u, v, radius * rng.uniform(0.7, 1.0)))
    u, v, r = np.array(blobs).T
    canvas.paint_part(plane.to_world(discs(u, v, r)), leaf, shade=0.68)
    for brightness, share, shift in ((0.95, 0.72, 0.16), (1.22, 0.42, 0.3)):
        lit = plane.to_world(discs(u + sun * shift * r, v + shift * r, r * share))
        for half in (lit[::2], lit[1::2]):
            canvas.paint(half, leaf, shade=brightness * rng.uniform(0.86, 1.1))


def _conifer(canvas: Canvas, plane: Plane, tall: float, leaf: Color) -> None:
    for i in range(4):
        foot, wide = tall * (0.15 + 0.19 * i), tall * (0.24 - 0.045 * i)
        canvas.paint_part(
            plane.to_world(((-wide, foot), (wide, foot), (0.0, foot + tall * 0.34))),
            leaf,
            shade=0.8 + 0.12 * i,
        )
        canvas.paint(
            plane.to_world(((-wide, foot), (-wide * 0.2, foot), (0.0, foot + tall * 0.3))),
            leaf,
            shade=0.68 + 0.1 * i,
        )


def hedge(canvas: Canvas, rng: Random, x: float, z0: float, z1: float, *, tall: float) -> None:
    """A trimmed hedge along the street, at `x`."""
    leaf = leaf_color(rng)
    with canvas.object("vegetation"):
        wall = ((x, 0, z0), (x, 0, z1), (x, tall, z1), (x, tall, z0))
        canvas.paint_part(wall, leaf, shade=0.85)
    z = np.arange(z0 + 0.3, z1, 0.7)
    for along in z[::-1]:
        up = rng.uniform(0.2, tall * 0.85)
        spot = Plane(x, float(along), math.pi / 2).to_world(disc(0, up, rng.uniform(0.1, 0.22)))
        canvas.paint(spot, leaf, shade=rng.uniform(0.6, 1.2))
