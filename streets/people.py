"""Pedestrians, cyclists and bikers, and the machines that they ride or have parked."""

import math
from collections.abc import Callable
from random import Random

import numpy as np

from streets.camera import Color, scaled, vary
from streets.canvas import Canvas
from streets.shapes import Card, Flat, box, disc, limb

SKIN: tuple[Color, ...] = ((236, 190, 160), (214, 160, 124), (160, 108, 76), (104, 70, 52))
HAIR: tuple[Color, ...] = ((44, 32, 26), (92, 60, 36), (186, 144, 84), (150, 148, 146), (24, 22, 24))
TOPS: tuple[Color, ...] = (
    (196, 52, 60), (226, 152, 40), (62, 110, 176), (232, 226, 214), (52, 60, 92), (120, 74, 130),
    (40, 120, 116), (206, 110, 140), (96, 74, 58), (60, 64, 66), (222, 196, 74),
)  # fmt: skip
BOTTOMS: tuple[Color, ...] = ((40, 48, 74), (34, 34, 38), (86, 96, 122), (126, 108, 84), (70, 60, 56))
HELMETS: tuple[Color, ...] = ((236, 236, 232), (216, 40, 44), (240, 200, 40), (36, 38, 44))
FRAMES: tuple[Color, ...] = ((206, 36, 44), (30, 120, 190), (40, 150, 90), (240, 150, 30), (236, 236, 232))
CASES: tuple[Color, ...] = ((120, 70, 40), (180, 40, 60), (40, 60, 60))
TYRE: Color = (30, 30, 32)

Joint = tuple[float, float]
# From a figure's own (across, up) outline in meters to world points.
Placing = Callable[[Flat | np.ndarray], np.ndarray]


def person(canvas: Canvas, rng: Random, card: Card, *, tall: float | None = None) -> None:
    """A pedestrian, walking or standing; `tall` in meters."""
    tall = tall or rng.uniform(1.6, 1.92)
    stride = rng.choice((0.0, rng.uniform(-0.32, 0.32), rng.uniform(0.15, 0.34)))
    top, bottom = vary(rng, rng.choice(TOPS)), vary(rng, rng.choice(BOTTOMS), 8)
    skin, hair = rng.choice(SKIN), rng.choice(HAIR)
    wide = rng.uniform(0.42, 0.52)
    coat, skirt = rng.random() < 0.3, rng.random() < 0.2
    bag = rng.random() < 0.3

    def at(flat: Flat | np.ndarray) -> np.ndarray:
        return card.place(np.asarray(flat) * tall / 1.75)

    with canvas.object("person"):
        hem = 0.62 if coat else 0.86
        _leg(canvas, at, -stride, scaled(skin if skirt else bottom, 0.88))
        canvas.fill(at(_arm(wide, stride, -1)), scaled(top, 0.8))
        _leg(canvas, at, stride, skin if skirt else bottom)
        if skirt:
            canvas.fill(at(((-0.24, 0.52), (0.24, 0.52), (0.17, 0.95), (-0.17, 0.95))), bottom)
        half = wide / 2
        canvas.fill(
            at(
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
        canvas.paint(at(box(-half * 0.86, hem, -half * 0.3, 1.4)), scaled(top, 0.86))
        canvas.fill(at(_arm(wide, -stride, 1)), scaled(top, 0.92))
        if bag:
            canvas.fill(at(box(half * 0.7, 0.68, half * 0.7 + 0.2, 0.98)), rng.choice(CASES))
        _head(canvas, at, (0.0, 1.61), skin, hair)


def _leg(canvas: Canvas, at: Placing, stride: float, color: Color) -> None:
    foot = 0.1 * (1 if stride >= 0 else -1) + stride
    canvas.fill(at(limb((0.05 if stride >= 0 else -0.05, 0.92), (foot, 0.06), 0.2, 0.13)), color)
    canvas.fill(at(box(foot - 0.1, 0.0, foot + 0.13, 0.09)), TYRE)


def _arm(wide: float, swing: float, sign: int) -> Flat:
    return limb((sign * wide * 0.46, 1.4), (sign * wide * 0.58 + swing * 0.7, 0.82), 0.14, 0.1)


def _head(canvas: Canvas, at: Placing, center: Joint, skin: Color, cover: Color) -> None:
    """A face under hair or a helmet."""
    u, v = center
    canvas.fill(at(disc(u, v + 0.02, 0.125, 1.15)), cover)
    canvas.paint(at(disc(u, v - 0.035, 0.1, 1.1)), skin)
    canvas.fill(at(box(u - 0.05, v - 0.16, u + 0.05, v - 0.08)), skin)


def bicycle(canvas: Canvas, rng: Random, card: Card, *, color: Color | None = None) -> None:
    """A bicycle seen from the side, its front wheel at positive u."""
    frame = color or rng.choice(FRAMES)
    seat, crank, bars, rear, front = (-0.22, 0.92), (-0.06, 0.32), (0.38, 1.02), (-0.54, 0.35), (0.54, 0.35)
    with canvas.object("bicycle"):
        for hub in (rear, front):
            rim = card.place(disc(*hub, 0.35))
            canvas.fill(rim, (118, 116, 114))
            canvas.ring(rim, card.place(disc(*hub, 0.27)), TYRE)
            canvas.paint(card.place(disc(*hub, 0.07)), (190, 190, 190))
        for a, b in ((rear, crank), (rear, seat), (crank, seat), (crank, bars), (seat, bars), (bars, front)):
            canvas.fill(card.place(limb(a, b, 0.085)), frame)
        canvas.fill(card.place(limb((-0.36, 0.97), (-0.08, 0.97), 0.11)), TYRE)
        canvas.fill(card.place(limb((0.3, 1.08), (0.52, 1.04), 0.09)), TYRE)


def bicycle_end_on(canvas: Canvas, rng: Random, card: Card) -> None:
    with canvas.object("bicycle"):
        canvas.fill(card.place(disc(0, 0.36, 0.1, 3.5)), TYRE)
        canvas.fill(card.place(limb((0, 0.5), (0, 1.05), 0.13)), rng.choice(FRAMES))
        canvas.fill(card.place(limb((-0.34, 1.05), (0.34, 1.05), 0.1)), TYRE)
        canvas.paint(card.place(disc(0, 0.9, 0.08)), (250, 240, 200))


def motorcycle(canvas: Canvas, rng: Random, card: Card) -> None:
    """A motorcycle seen from the side: thick tyres, a tank, an engine."""
    paint = vary(rng, rng.choice(((190, 24, 30), (24, 70, 170), (40, 40, 44), (232, 120, 24), (60, 130, 60))))
    with canvas.object("motorcycle"):
        for u in (-0.7, 0.74):
            canvas.fill(card.place(disc(u, 0.33, 0.33)), TYRE)
            canvas.paint(card.place(disc(u, 0.33, 0.17)), (168, 170, 172))
        canvas.fill(card.place(((-0.62, 0.3), (0.5, 0.28), (0.44, 0.72), (-0.4, 0.74))), (84, 86, 92))
        canvas.paint(card.place(disc(-0.02, 0.46, 0.18)), (176, 178, 180))
        canvas.fill(card.place(limb((-0.95, 0.34), (0.1, 0.28), 0.12)), (196, 198, 200))
        canvas.fill(card.place(limb((0.74, 0.33), (0.42, 1.05), 0.11)), (150, 152, 156))
        canvas.fill(card.place(((-0.12, 0.72), (0.46, 0.7), (0.42, 1.0), (0.08, 1.04))), paint)
        canvas.fill(
            card.place(((-1.0, 0.82), (-0.85, 0.66), (0.0, 0.7), (0.0, 0.9), (-0.6, 0.86), (-0.98, 0.98))),
            TYRE,
        )
        canvas.fill(card.place(limb((0.5, 0.78), (0.98, 0.68), 0.1)), paint)
        canvas.fill(card.place(disc(0.54, 0.92, 0.11)), (252, 244, 206))
        canvas.fill(card.place(limb((0.26, 1.12), (0.5, 1.06), 0.09)), TYRE)


def motorcycle_end_on(canvas: Canvas, rng: Random, card: Card, *, rear: bool) -> None:
    paint = vary(rng, rng.choice(((190, 24, 30), (24, 70, 170), (232, 120, 24))))
    with canvas.object("motorcycle"):
        canvas.fill(card.place(disc(0, 0.34, 0.13, 2.6)), TYRE)
        canvas.fill(
            card.place(((-0.24, 0.42), (0.24, 0.42), (0.28, 0.95), (0.1, 1.1), (-0.1, 1.1), (-0.28, 0.95))),
            paint,
        )
        canvas.fill(card.place(limb((-0.42, 1.06), (0.42, 1.06), 0.1)), TYRE)
        canvas.paint(card.place(disc(0, 0.84, 0.12)), (220, 30, 30) if rear else (255, 248, 214))
        canvas.paint(card.place(box(-0.1, 0.5, 0.1, 0.64)), (236, 236, 226))


def rider(canvas: Canvas, rng: Random, card: Card, *, engine: bool) -> None:
    """Whoever sits on the machine drawn just before, seen from the side."""
    top = (
        vary(rng, rng.choice(TOPS))
        if not engine
        else vary(rng, rng.choice(((40, 40, 44), (120, 34, 30), (60, 66, 92))))
    )
    bottom, skin = rng.choice(BOTTOMS), rng.choice(SKIN)
    seat, shoulder = ((-0.2, 0.92), (0.04, 1.46)) if engine else ((-0.2, 1.0), (0.1, 1.5))
    hands = (0.4, 1.12)
    phase = rng.uniform(0, math.pi)
    with canvas.object("rider"):
        for turn in (phase + math.pi, phase):
            lift = 0.0 if engine else 0.13 * math.sin(turn)
            foot = (0.12, 0.34) if engine else (0.0 + 0.13 * math.cos(turn), 0.3 + lift)
            knee = (0.26, 0.72 + lift * 0.6)
            shade = 1.0 if turn == phase else 0.8
            canvas.fill(card.place(limb(seat, knee, 0.22, 0.17)), scaled(bottom, shade))
            canvas.fill(card.place(limb(knee, foot, 0.17, 0.12)), scaled(bottom, shade))
            canvas.fill(card.place(limb((foot[0] - 0.08, foot[1]), (foot[0] + 0.16, foot[1]), 0.1)), TYRE)
        canvas.fill(card.place(limb((seat[0], seat[1] - 0.05), shoulder, 0.34, 0.4)), top)
        canvas.fill(card.place(limb(shoulder, hands, 0.15, 0.1)), scaled(top, 0.84))
        _head(canvas, card.place, (shoulder[0] + 0.1, 1.72), skin, rng.choice(HELMETS))


def rider_end_on(canvas: Canvas, rng: Random, card: Card) -> None:
    top, bottom = vary(rng, rng.choice(TOPS)), rng.choice(BOTTOMS)
    with canvas.object("rider"):
        for sign in (-1, 1):
            canvas.fill(card.place(limb((sign * 0.1, 0.98), (sign * 0.22, 0.66), 0.2, 0.17)), bottom)
            canvas.fill(
                card.place(limb((sign * 0.22, 0.66), (sign * 0.15, 0.32), 0.16, 0.12)), scaled(bottom, 0.85)
            )
            canvas.fill(
                card.place(limb((sign * 0.22, 1.42), (sign * 0.34, 1.08), 0.14, 0.1)), scaled(top, 0.85)
            )
        canvas.fill(
            card.place(((-0.19, 0.92), (0.19, 0.92), (0.26, 1.42), (0.1, 1.52), (-0.1, 1.52), (-0.26, 1.42))),
            top,
        )
        _head(canvas, card.place, (0.0, 1.66), rng.choice(SKIN), rng.choice(HELMETS))
