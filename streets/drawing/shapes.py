"""The shapes that objects are made of: flat polygons on upright planes, and extruded profiles."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from streets.drawing.camera import Color
from streets.drawing.canvas import Canvas

Polygon2D = Sequence[tuple[float, float]]

_ANGLES = np.linspace(0, 2 * math.pi, 12, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)


def disc(u: float, v: float, radius: float, stretch: float = 1.0) -> np.ndarray:
    """[12, 2]: a circle around (u, v); `stretch` is its height divided by its width."""
    points: np.ndarray = _CIRCLE * (radius, radius * stretch) + (u, v)
    return points


def discs(u: np.ndarray, v: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """[m, 12, 2]: m circles."""
    points: np.ndarray = _CIRCLE * radius[:, None, None] + np.stack([u, v], axis=-1)[:, None]
    return points


def rectangle(u0: float, v0: float, u1: float, v1: float) -> Polygon2D:
    return ((u0, v0), (u1, v0), (u1, v1), (u0, v1))


def bar(
    a: tuple[float, float], b: tuple[float, float], width: float, end_width: float | None = None
) -> Polygon2D:
    """A bar from `a` to `b` that may taper: `width` at `a`, `end_width` at `b`."""
    along = math.hypot(b[0] - a[0], b[1] - a[1]) or 1.0
    nu, nv = (a[1] - b[1]) / along / 2, (b[0] - a[0]) / along / 2
    end = width if end_width is None else end_width
    return (
        (a[0] + nu * width, a[1] + nv * width), (b[0] + nu * end, b[1] + nv * end),
        (b[0] - nu * end, b[1] - nv * end), (a[0] - nu * width, a[1] - nv * width),
    )  # fmt: skip


@dataclass(frozen=True)
class Plane:
    """An upright plane through (x, z); u runs along `yaw` (0: right, pi/2: away from the camera), v is up."""

    x: float
    z: float
    yaw: float = 0.0

    def to_world(self, polygon: Polygon2D | np.ndarray) -> np.ndarray:
        """[..., 2] (u, v) -> [..., 3] world points."""
        axes, origin = self._frame
        points: np.ndarray = np.asarray(polygon, dtype=np.float64) @ axes + origin
        return points

    @cached_property
    def _frame(self) -> tuple[np.ndarray, np.ndarray]:
        axes = np.array(((math.cos(self.yaw), 0.0, math.sin(self.yaw)), (0.0, 1.0, 0.0)))
        return axes, np.array((self.x, 0.0, self.z))


@dataclass(frozen=True)
class Pose:
    """Position and heading of a vehicle: center (x, z); `yaw` 0 heads right, pi/2 away from the camera."""

    x: float
    z: float
    yaw: float

    def to_world(self, points: Sequence[tuple[float, float, float]] | np.ndarray) -> np.ndarray:
        """[n, 3] (along, across to the left, up) -> [n, 3] world points."""
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        axes = ((cos, 0.0, sin), (-sin, 0.0, cos), (0.0, 1.0, 0.0))
        return np.asarray(points, dtype=np.float64) @ axes + (self.x, 0.0, self.z)

    def direction(self, along: float, across: float, up: float) -> tuple[float, float, float]:
        """A direction in the vehicle's axes -> the same direction in the world, (x, y, z)."""
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        return (along * cos - across * sin, up, along * sin + across * cos)

    def faces_camera(self, along: float, across: float, normal: tuple[float, float]) -> bool:
        """Whether the camera sees the vertical face at (along, across) with this outward normal."""
        nx, _, nz = self.direction(normal[0], normal[1], 0.0)
        x, _, z = self.direction(along, across, 0.0)
        return nx * (self.x + x) + nz * (self.z + z) < 0

    def on_side(self, across: float, polygon: Polygon2D | np.ndarray) -> np.ndarray:
        """(along, up) points on the side at `across` -> world points."""
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        return Plane(self.x - across * sin, self.z + across * cos, self.yaw).to_world(polygon)

    def on_end(self, along: float, polygon: Polygon2D | np.ndarray) -> np.ndarray:
        """(across, up) points on the end at `along` -> world points."""
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        return Plane(self.x + along * cos, self.z + along * sin, self.yaw + math.pi / 2).to_world(polygon)

    def footprint(self, length: float, width: float, grow: float = 0.1) -> np.ndarray:
        """[4, 3]: the vehicle's rectangle on the ground, `grow` meters larger on every side."""
        a, w = length / 2 + grow, width / 2 + grow
        return self.to_world([(-a, -w, 0), (a, -w, 0), (a, w, 0), (-a, w, 0)])


def extrude(
    canvas: Canvas,
    pose: Pose,
    profile: Polygon2D,
    half_width: float,
    color: Color,
    *,
    edges: dict[int, Color] | None = None,
) -> None:
    """Paint the visible faces of a solid: a profile stretched by `half_width` to either side.

    The profile is convex, (along, up), counterclockwise. `edges` recolors single faces, such as the
    windshield: face i runs from profile point i to i + 1.
    """
    for i, (a, b) in enumerate(zip(profile, (*profile[1:], profile[0]), strict=True)):
        normal = pose.direction(b[1] - a[1], 0.0, a[0] - b[0])
        w = half_width
        quad = pose.to_world(((a[0], -w, a[1]), (b[0], -w, b[1]), (b[0], w, b[1]), (a[0], w, a[1])))
        eye = (quad[0, 0], quad[0, 1] - canvas.camera.height_m, quad[0, 2])
        if sum(n * e for n, e in zip(normal, eye, strict=True)) < 0:
            size = math.sqrt(sum(n * n for n in normal)) or 1.0
            unit = (normal[0] / size, normal[1] / size, normal[2] / size)
            canvas.paint_part(quad, (edges or {}).get(i, color), shade=canvas.light.shade(unit))
    for across in (-half_width, half_width):
        sign = math.copysign(1.0, across)
        if pose.faces_camera(0.0, across, (0.0, sign)):
            canvas.paint_part(
                pose.on_side(across, profile), color, shade=canvas.light.shade(pose.direction(0, sign, 0))
            )
