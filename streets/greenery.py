"""Trees, bushes and hedges: clumps of leaves, lit from the sun's side."""

import math
from random import Random

import numpy as np

from streets.camera import Color, scaled, vary
from streets.canvas import Canvas
from streets.shapes import Card, disc, discs, limb

LEAVES: tuple[Color, ...] = ((58, 98, 38), (74, 112, 44), (48, 88, 46), (90, 118, 40), (66, 104, 58))
AUTUMN: tuple[Color, ...] = ((158, 112, 36), (142, 84, 34), (128, 122, 44))
BARK: Color = (84, 66, 50)


def leaf_color(rng: Random) -> Color:
    return vary(rng, rng.choice(AUTUMN if rng.random() < 0.08 else LEAVES), 8)


def tree(canvas: Canvas, rng: Random, card: Card, *, tall: float) -> None:
    """A broad-leaved tree (now and then a conifer), `tall` meters high."""
    leaf = leaf_color(rng)
    bole = tall * rng.uniform(0.28, 0.4)
    with canvas.object("vegetation"):
        canvas.fill(
            card.place(limb((0, 0), (rng.uniform(-0.2, 0.2), bole * 1.4), 0.04 * tall + 0.1, 0.03 * tall)),
            BARK,
        )
        if rng.random() < 0.15:
            _conifer(canvas, card, tall, scaled(leaf, 0.75))
        else:
            wide = tall * rng.uniform(0.26, 0.36)
            count = 8 if card.z < 30 else 5  # nobody counts the leaves of a far tree
            _clump(canvas, rng, card, (0.0, (bole + tall) / 2), (wide, (tall - bole) / 2), leaf, count)


def bush(canvas: Canvas, rng: Random, card: Card, *, wide: float, tall: float) -> None:
    leaf = leaf_color(rng)
    with canvas.object("vegetation"):
        canvas.fill(
            card.place(
                ((-wide * 0.8, 0), (wide * 0.8, 0), (wide * 0.6, tall * 0.6), (-wide * 0.6, tall * 0.6))
            ),
            scaled(leaf, 0.62),
        )
        _clump(canvas, rng, card, (0.0, tall * 0.55), (wide, tall * 0.5), leaf, count=5)


def _clump(
    canvas: Canvas,
    rng: Random,
    card: Card,
    center: tuple[float, float],
    radii: tuple[float, float],
    leaf: Color,
    count: int = 8,
) -> None:
    """Dark leaves behind, bright ones towards the sun."""
    sun = math.copysign(1.0, canvas.light.sun[0])
    radius = 0.58 * min(radii)
    blobs = [(center[0], center[1], max(radius, 0.8 * min(radii)))]
    for i in range(count):
        angle = 2 * math.pi * (i + rng.random() * 0.8) / count
        reach = rng.uniform(0.55, 0.75)
        u, v = center[0] + reach * radii[0] * math.cos(angle), center[1] + reach * radii[1] * math.sin(angle)
        blobs.append((u, v, radius * rng.uniform(0.7, 1.0)))
    u, v, r = np.array(blobs).T
    canvas.fill(card.place(discs(u, v, r)), leaf, shade=0.68)
    for brightness, share, shift in ((0.95, 0.72, 0.16), (1.22, 0.42, 0.3)):
        lit = card.place(discs(u + sun * shift * r, v + shift * r, r * share))
        for some in (lit[::2], lit[1::2]):
            canvas.paint(some, leaf, shade=brightness * rng.uniform(0.86, 1.1))


def _conifer(canvas: Canvas, card: Card, tall: float, leaf: Color) -> None:
    for i in range(4):
        foot, wide = tall * (0.15 + 0.19 * i), tall * (0.24 - 0.045 * i)
        canvas.fill(
            card.place(((-wide, foot), (wide, foot), (0.0, foot + tall * 0.34))), leaf, shade=0.8 + 0.12 * i
        )
        canvas.paint(
            card.place(((-wide, foot), (-wide * 0.2, foot), (0.0, foot + tall * 0.3))),
            leaf,
            shade=0.68 + 0.1 * i,
        )


def hedge(canvas: Canvas, rng: Random, quad_x: float, z0: float, z1: float, *, tall: float) -> None:
    """A clipped hedge along the street."""
    leaf = leaf_color(rng)
    with canvas.object("vegetation"):
        wall = ((quad_x, 0, z0), (quad_x, 0, z1), (quad_x, tall, z1), (quad_x, tall, z0))
        canvas.fill(wall, leaf, shade=0.85)
    z = np.arange(z0 + 0.3, z1, 0.7)
    for at in z[::-1]:
        up = rng.uniform(0.2, tall * 0.85)
        spot = Card(quad_x, float(at), math.pi / 2).place(disc(0, up, rng.uniform(0.1, 0.22)))
        canvas.paint(spot, leaf, shade=rng.uniform(0.6, 1.2))
