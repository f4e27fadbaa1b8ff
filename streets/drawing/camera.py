"""The camera, which projects points of the world to pixels, and the light, which turns colors into seen ones.

World coordinates are in meters: x to the right, y up, z forward. The road is at y = 0, and the camera is
above the origin.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from random import Random

import numpy as np

Color = tuple[float, float, float]

# Nearer points are projected as if they were this far away; strips of ground start here.
NEAR_M = 1.2


@dataclass(frozen=True)
class Camera:
    """A level pinhole camera; `focal`, `horizon` (row) and `center` (column) are in pixels."""

    focal: float
    horizon: float
    center: float
    height_m: float

    def project(self, points: np.ndarray) -> np.ndarray:
        """[..., 3] world points in meters -> [..., 2] (column, row), pixel i spanning [i, i + 1]."""
        eye, focal, middle = self._frame
        pixels: np.ndarray = (points[..., :2] - eye) * (focal / np.maximum(points[..., 2:], NEAR_M)) + middle
        return pixels

    @cached_property
    def _frame(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Position of the eye (x, y), focal lengths (rows run downward) and principal point."""
        middle = np.array((self.center, self.horizon))
        return np.array((0.0, self.height_m)), np.array((self.focal, -self.focal)), middle


@dataclass(frozen=True)
class Light:
    """The sky of a scene: direction of the sun, and how sun, haze and clouds change colors.

    `name` is "sun", "overcast" or "dusk"; `cast` is the color cast of the whole image, a factor per channel.
    """

    name: str
    sun: tuple[float, float, float]
    ambient: float
    direct: float
    shadow: float
    zenith: Color
    skyline: Color
    cloud: Color
    cloudiness: float
    visibility_m: float
    cast: Color

    def shade(self, normal: tuple[float, float, float]) -> float:
        """Brightness of a matte surface with this outward normal; about 1 in full light."""
        cosine = sum(n * s for n, s in zip(normal, self.sun, strict=True))
        return self.ambient + self.direct * max(0.0, cosine)

    def seen(self, color: Color, *, depth_m: float, shade: float = 1.0) -> Color:
        """The color as it appears after shading and through `depth_m` of haze."""
        clear = math.exp(-depth_m / self.visibility_m)
        shade *= clear
        (r, g, b), (hr, hg, hb), hazy = color, self.skyline, 1.0 - clear
        return (shade * r + hazy * hr, shade * g + hazy * hg, shade * b + hazy * hb)


def random_camera(rng: Random, *, size: tuple[int, int]) -> Camera:
    """A dashboard camera for an image of `size` (height, width)."""
    height, width = size
    return Camera(
        focal=rng.uniform(1.2, 1.6) * height,
        horizon=rng.uniform(0.36, 0.47) * height,
        center=rng.uniform(0.42, 0.60) * width,
        height_m=rng.uniform(1.3, 1.9),
    )


def random_light(rng: Random) -> Light:
    """Sun, overcast or dusk, with random strength and color."""
    side = rng.choice((-1.0, 1.0)) * rng.uniform(0.45, 0.75)
    sun = (side, 0.55, -rng.uniform(0.25, 0.55))
    kind = rng.choices(("sun", "overcast", "dusk"), (0.5, 0.33, 0.17))[0]
    warm = rng.uniform(-1, 1)
    if kind == "sun":
        blue = rng.uniform(-12, 14)
        return Light(
            name=kind, sun=sun, ambient=0.66, direct=0.5, shadow=rng.uniform(0.35, 0.5),
            zenith=(78 + blue, 138 + blue, 208), skyline=(190, 214, 234), cloud=(250, 250, 252),
            cloudiness=rng.uniform(0.2, 0.8), visibility_m=rng.uniform(180, 400),
            cast=(1.03 + 0.03 * warm, 1.0, 0.98),
        )  # fmt: skip
    if kind == "overcast":
        gray = rng.uniform(-18, 14)
        return Light(
            name=kind, sun=sun, ambient=0.82, direct=0.14, shadow=0.34,
            zenith=(172 + gray, 181 + gray, 192 + gray), skyline=(214 + gray, 219 + gray, 223 + gray),
            cloud=(232 + gray, 234 + gray, 238 + gray), cloudiness=0.7,
            visibility_m=rng.uniform(90, 220), cast=(0.96, 0.98 + 0.02 * warm, 1.02),
        )  # fmt: skip
    return Light(
        name=kind, sun=sun, ambient=0.62, direct=0.3, shadow=0.4,
        zenith=(84, 98, 152), skyline=(244, 186, 142), cloud=(250, 170, 140),
        cloudiness=rng.uniform(0.3, 0.7), visibility_m=rng.uniform(140, 260),
        cast=(1.02 + 0.05 * warm, 0.90, 0.88),
    )  # fmt: skip


def vary(rng: Random, color: Color, amount: float = 12.0) -> Color:
    """The color, made slightly lighter or darker and shifted slightly in hue."""
    value = rng.uniform(-amount, amount)
    r, g, b = (min(255.0, max(0.0, c + value + rng.uniform(-amount, amount) / 2)) for c in color)
    return (r, g, b)


def scaled(color: Color, factor: float) -> Color:
    return (color[0] * factor, color[1] * factor, color[2] * factor)
