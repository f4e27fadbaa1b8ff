"""What all vehicles share: a place, a body, and details on the faces that the camera sees."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from streets.camera import Color
from streets.canvas import Canvas
from streets.shapes import Flat, Pose, box, disc

GLASS: Color = (52, 66, 82)
RUBBER: Color = (26, 26, 28)
RIM: Color = (150, 152, 156)
BLACK: Color = (34, 35, 38)
PLATE: Color = (236, 236, 226)
TAIL: Color = (214, 26, 28)
HEAD: Color = (255, 250, 226)

# Beyond this the windows of a side are less than a pixel.
_DETAILS_M = 40.0

Details = Sequence[tuple[Flat, Color]]


@dataclass(frozen=True)
class Vehicle:
    """One vehicle in its place; lengths in meters, `kind` tells variants of a label apart."""

    label: str
    pose: Pose
    kind: int
    color: Color
    length: float
    width: float
    coachwork: "Callable[[Canvas, Vehicle], None]"

    @property
    def footprint(self) -> np.ndarray:
        """[4, 3]: what its shadow lies under."""
        return self.pose.footprint(self.length, self.width)

    def draw(self, canvas: Canvas) -> None:
        with canvas.object(self.label):
            self.coachwork(canvas, self)

    def sides(self, canvas: Canvas, details: Details, inset: float = 0.0) -> None:
        """Paint (along, up) details on the side that the camera sees, unless it is too far away for them."""
        if self.pose.z > _DETAILS_M:
            return
        for sign in (-1.0, 1.0):
            across = sign * (self.width / 2 - inset)
            if self.pose.sees(0.0, across, (0.0, sign)):
                shade = canvas.light.shade(self.pose.turn(0, sign, 0))
                for flat, color in details:
                    canvas.paint(self.pose.side(across, flat), color, shade=shade)

    def wheels(self, canvas: Canvas, alongs: tuple[float, ...], radius: float) -> None:
        for sign in (-1.0, 1.0):
            across = sign * self.width / 2
            if self.pose.sees(0.0, across, (0.0, sign)):
                for along in alongs:
                    canvas.fill(self.pose.side(across, disc(along, radius, radius)), RUBBER)
                    canvas.paint(self.pose.side(across, disc(along, radius, radius * 0.55)), RIM, shade=0.9)

    def tyres(self, canvas: Canvas, radius: float) -> None:
        """The tyres below the near end, which stand out under the body."""
        along = self.length / 2 * (-0.72 if self.pose.sees(-self.length / 2, 0, (-1, 0)) else 0.72)
        inner, outer = self.width * 0.32, self.width * 0.48
        for flat in (box(-outer, 0, -inner, radius), box(inner, 0, outer, radius)):
            canvas.fill(self.pose.end(along, flat), RUBBER)

    def ends(self, canvas: Canvas, front: Details, rear: Details) -> None:
        """Paint (across, up) details on the end that the camera sees."""
        for along, details in ((self.length / 2, front), (-self.length / 2, rear)):
            normal = math.copysign(1.0, along)
            if self.pose.sees(along, 0.0, (normal, 0.0)):
                shade = canvas.light.shade(self.pose.turn(normal, 0, 0))
                for flat, color in details:
                    lamp = color in (HEAD, TAIL)
                    canvas.paint(self.pose.end(along, flat), color, shade=max(shade, 0.95) if lamp else shade)


def pair(u0: float, v0: float, u1: float, v1: float, color: Color) -> list[tuple[Flat, Color]]:
    """The same rectangle on either side of the middle, such as lamps."""
    return [(box(u0, v0, u1, v1), color), (box(-u1, v0, -u0, v1), color)]
