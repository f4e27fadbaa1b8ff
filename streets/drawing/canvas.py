"""The canvas: a supersampled image, and a map that says which object owns each pixel.

Objects are painted back to front. The parts painted inside `with canvas.object("car"):` form one object. Its
outline (holes filled, as a human annotator would draw it) takes over the pixels that it covers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np
from cityscapesscripts.helpers.labels import name2label

from streets.drawing.camera import Camera, Color, Light

SUPERSAMPLE = 2
# cv2 takes fixed-point coordinates, here in 1/16 pixel.
_SHIFT = 4
_ONE = 1 << _SHIFT

# The classes with boxes: Cityscapes' eight classes with instances, and traffic lights and signs.
THING_CLASSES = (
    "traffic light", "traffic sign", "person", "rider", "car", "truck", "bus", "train", "motorcycle",
    "bicycle",
)  # fmt: skip

Points = Sequence[Sequence[float]] | np.ndarray


@dataclass(frozen=True)
class Outline:
    """The outline of a whole object, hidden parts included; `polygon` is int32 [n >= 3, 2], (column, row)."""

    label: str
    polygon: np.ndarray


class Canvas:
    """Paints polygons of the world as a camera sees them in a light.

    `pixels` is uint8 [SUPERSAMPLE * H, SUPERSAMPLE * W, 3] RGB; `owners` is uint16 [H, W], indices into
    `outlines`.
    """

    def __init__(self, *, size: tuple[int, int], camera: Camera, light: Light) -> None:
        self.size = size
        self.camera = camera
        self.light = light
        height, width = size
        self.pixels = np.zeros((height * SUPERSAMPLE, width * SUPERSAMPLE, 3), np.uint8)
        self.owners = np.zeros(size, np.uint16)
        self.outlines: list[Outline] = []
        self._parts: list[np.ndarray] = []

    @contextmanager
    def object(self, label: str) -> Iterator[None]:
        """Inside the `with` block, the added parts become one object of this Cityscapes class."""
        self._parts = []
        yield
        self._claim_pixels(label)

    def paint_part(self, points: Points, color: Color, *, shade: float = 1.0) -> None:
        """Paint a world polygon [n, 3], or several convex ones [m, n, 3], as a part of the current object."""
        self._parts.append(self.paint(points, color, shade=shade))

    def paint(self, points: Points, color: Color, *, shade: float = 1.0) -> np.ndarray:
        """Paint world polygons on the image only; returns them in pixels."""
        world = np.asarray(points, dtype=np.float64)
        xy = self.camera.project(world)
        depth = float(world.reshape(-1, 3)[0, 2])
        self.paint_pixels(xy, self.light.seen(color, depth_m=depth, shade=shade))
        return xy

    def add_part(self, points: Points) -> None:
        """Add a part to the current object without painting it, for see-through objects."""
        self._parts.append(self.camera.project(np.asarray(points, dtype=np.float64)))

    def paint_part_pixels(self, xy: np.ndarray, color: Color) -> None:
        """`paint_part` for a polygon in pixels; the color is used as it is, without shade and haze."""
        self.paint_pixels(xy, color)
        self._parts.append(xy)

    def paint_pixels(self, xy: np.ndarray, color: Color) -> None:
        """Paint one polygon [n, 2], or several convex ones [m, n, 2], in pixels, without shade and haze."""
        fixed, rgb = _fixed(xy, SUPERSAMPLE), _rgb(color)
        if xy.ndim == 2:
            cv2.fillPoly(self.pixels, [fixed], rgb, cv2.LINE_8, _SHIFT)
        else:
            for polygon in fixed:
                cv2.fillConvexPoly(self.pixels, polygon, rgb, cv2.LINE_8, _SHIFT)

    def paint_ring(self, outer: np.ndarray, inner: np.ndarray, color: Color) -> None:
        """Paint the area between two world polygons."""
        pair = [_fixed(self.camera.project(points), SUPERSAMPLE) for points in (outer, inner)]
        seen = self.light.seen(color, depth_m=float(outer[0, 2]))
        cv2.fillPoly(self.pixels, pair, _rgb(seen), cv2.LINE_8, _SHIFT)

    def cast_shadows(self, polygons: Sequence[np.ndarray], *, blur: float) -> None:
        """Darken world polygons on the ground, with edges blurred by `blur` (a share of the image height)."""
        height, width = self.size
        mask = np.zeros(self.size, np.uint8)
        for polygon in polygons:
            cv2.fillPoly(mask, [_fixed(self.camera.project(polygon))], 255, cv2.LINE_8, _SHIFT)
        blurred = cv2.GaussianBlur(mask, (0, 0), max(0.5, blur * height))
        top = int(self.camera.horizon) * SUPERSAMPLE
        size = (width * SUPERSAMPLE, height * SUPERSAMPLE)
        light = 255 - cv2.resize(blurred, size, interpolation=cv2.INTER_LINEAR)[top:] * self.light.shadow
        ground = cv2.multiply(self.pixels[top:], cv2.merge([light.astype(np.uint8)] * 3), scale=1 / 255)
        self.pixels[top:] = ground

    def _claim_pixels(self, label: str) -> None:
        """Give the current object the pixels under its outline; an object outside the image is dropped."""
        height, width = self.size
        corners = np.concatenate([part.reshape(-1, 2) for part in self._parts])
        left, top = np.maximum(np.floor(corners.min(0)).astype(int) - 1, 0)
        right, bottom = np.minimum(np.ceil(corners.max(0)).astype(int) + 1, (width, height))
        if right <= left or bottom <= top:
            return
        mask = np.zeros((bottom - top, right - left), np.uint8)
        origin = np.array((left, top))
        for part in self._parts:
            fixed = _fixed(part - origin)
            if part.ndim == 2:
                cv2.fillPoly(mask, [fixed], 1, cv2.LINE_8, _SHIFT)
            else:
                for polygon in fixed:
                    cv2.fillConvexPoly(mask, polygon, 1, cv2.LINE_8, _SHIFT)
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        if label in THING_CLASSES and len(contours) > 1:
            # A thing is one polygon; pieces cut off by the image border stay with the object behind.
            contours = [max(contours, key=cv2.contourArea)]
        for contour in contours:
            self._add_outline(label, contour[:, 0] + origin)

    def _add_outline(self, label: str, polygon: np.ndarray) -> None:
        while len(polygon) < 3:
            polygon = np.concatenate([polygon, polygon[:1]])
        polygon = polygon.astype(np.int32)
        cv2.fillPoly(self.owners, [polygon], len(self.outlines))
        self.outlines.append(Outline(label, polygon))

    def label_ids(self) -> np.ndarray:
        """uint8 [H, W]: Cityscapes label ids."""
        table = np.array([name2label[outline.label].id for outline in self.outlines], np.uint8)
        return table[self.owners]

    def instance_ids(self) -> np.ndarray:
        """uint16 [H, W]: id * 1000 + n for classes with instances (n: drawing order), else the label id."""
        counts: dict[str, int] = {}
        table = []
        for outline in self.outlines:
            label = name2label[outline.label]
            n = counts.get(outline.label, 0)
            counts[outline.label] = n + 1
            # Traffic lights and signs have boxes here but no instances in Cityscapes.
            table.append(label.id * 1000 + n if label.hasInstances and not label.ignoreInEval else label.id)
        return np.array(table, np.uint16)[self.owners]


def _fixed(xy: np.ndarray, scale: int = 1) -> np.ndarray:
    """cv2's fixed-point coordinates; pixel i spans [i, i + 1] here, and is centered on i in cv2."""
    return (xy * (scale * _ONE) - _ONE / 2).astype(np.int32)


def _rgb(color: Color) -> Color:
    r, g, b = color
    return (min(255.0, max(0.0, r)), min(255.0, max(0.0, g)), min(255.0, max(0.0, b)))
