"""A vehicle: its pose, its size, its body, and how details on the faces toward the camera are painted."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from streets.drawing.camera import Color
from streets.drawing.canvas import Canvas
from streets.drawing.shapes import Polygon2D, Pose, disc, rectangle

GLASS: Color = (52, 66, 82)
RUBBER: Color = (26, 26, 28)
RIM: Color = (150, 152, 156)
BLACK: Color = (34, 35, 38)
PLATE: Color = (236, 236, 226)
TAILLIGHT: Color = (214, 26, 28)
HEADLIGHT: Color = (255, 250, 226)

# Farther away, the windows of a side are smaller than a pixel.
_DETAILS_M = 40.0

Details = Sequence[tuple[Polygon2D, Color]]


@dataclass(frozen=True)
class Vehicle:
    """One vehicle, in meters. `model` numbers the variants of a label; `draw_body` draws one."""

    label: str
    pose: Pose
    model: int
    color: Color
    length: float
    width: float
    draw_body: "Callable[[Canvas, Vehicle], None]"

    @property
    def footprint(self) -> np.ndarray:
        """[4, 3]: its rectangle on the ground, slightly enlarged, for its shadow."""
        return self.pose.footprint(self.length, self.width)

    def draw(self, canvas: Canvas) -> None:
        with canvas.object(self.label):
            self.draw_body(canvas, self)

    def paint_side(self, canvas: Canvas, details: Details, inset: float = 0.0) -> None:
        """Paint (along, up) details on the visible side, unless the vehicle is too far away for details."""
        if self.pose.z > _DETAILS_M:
            return
        for sign in (-1.0, 1.0):
            across = sign * (self.width / 2 - inset)
            if self.pose.faces_camera(0.0, across, (0.0, sign)):
                shade = canvas.light.shade(self.pose.direction(0, sign, 0))
                for polygon, color in details:
                    canvas.paint(self.pose.on_side(across, polygon), color, shade=shade)

    def add_wheels(self, canvas: Canvas, alongs: tuple[float, ...], radius: float) -> None:
        """Add wheels to the visible side, at these distances along it."""
        for sign in (-1.0, 1.0):
            across = sign * self.width / 2
            if self.pose.faces_camera(0.0, across, (0.0, sign)):
                for along in alongs:
                    canvas.paint_part(self.pose.on_side(across, disc(along, radius, radius)), RUBBER)
                    canvas.paint(
                        self.pose.on_side(across, disc(along, radius, radius * 0.55)), RIM, shade=0.9
                    )

    def add_tires(self, canvas: Canvas, radius: float) -> None:
        """Add the two tires that show below the near end of the body."""
        along = self.length / 2 * (-0.72 if self.pose.faces_camera(-self.length / 2, 0, (-1, 0)) else 0.72)
        inner, outer = self.width * 0.32, self.width * 0.48
        for polygon in (rectangle(-outer, 0, -inner, radius), rectangle(inner, 0, outer, radius)):
            canvas.paint_part(self.pose.on_end(along, polygon), RUBBER)

    def paint_end(self, canvas: Canvas, front: Details, rear: Details) -> None:
        """Paint (across, up) details on the visible end, the front or the rear."""
        for along, details in ((self.length / 2, front), (-self.length / 2, rear)):
            normal = math.copysign(1.0, along)
            if self.pose.faces_camera(along, 0.0, (normal, 0.0)):
                shade = canvas.light.shade(self.pose.direction(normal, 0, 0))
                for polygon, color in details:
                    brightness = max(shade, 0.95) if color in (HEADLIGHT, TAILLIGHT) else shade
                    canvas.paint(self.pose.on_end(along, polygon), color, shade=brightness)


def mirrored(u0: float, v0: float, u1: float, v1: float, color: Color) -> list[tuple[Polygon2D, Color]]:
    """A rectangle and its mirror image on the other side of the middle, such as a pair of lights."""
    return [(rectangle(u0, v0, u1, v1), color), (rectangle(-u1, v0, -u0, v1), color)]
