"""The canvas: a supersampled picture and, beside it, a crisp map of which object owns which pixel.

Objects are painted back to front. What is painted inside `with canvas.object("car"):` makes up one object:
its outline (holes filled, as a human annotator would draw it) takes over the pixels that it covers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np
from cityscapesscripts.helpers.labels import name2label

from streets.camera import Camera, Color, Light

SUPERSAMPLE = 2
# cv2 takes fixed-point coordinates: 1/16 pixel.
_SHIFT = 4
_ONE = 1 << _SHIFT

# The classes with boxes: Cityscapes' eight things, and the two small ones that detectors care about.
THINGS = (
    "traffic light", "traffic sign", "person", "rider", "car", "truck", "bus", "train", "motorcycle",
    "bicycle",
)  # fmt: skip

Points = Sequence[Sequence[float]] | np.ndarray


@dataclass(frozen=True)
class Outline:
    """One object as drawn, before anything nearer hides it; `polygon` int32 [n >= 3, 2], (column, row)."""

    label: str
    polygon: np.ndarray


class Canvas:
    """Paints world polygons through a camera and a light.

    `pixels` is uint8 [S*H, S*W, 3] RGB, `owners` uint16 [H, W]: indices into `outlines`.
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
        """What `fill` paints inside becomes one object of this Cityscapes class."""
        self._parts = []
        yield
        self._claim(label)

    def fill(self, points: Points, color: Color, *, shade: float = 1.0) -> None:
        """Paint a world polygon [n, 3] (or several convex ones, [m, n, 3]) as a part of the open object."""
        self._parts.append(self.paint(points, color, shade=shade))

    def paint(self, points: Points, color: Color, *, shade: float = 1.0) -> np.ndarray:
        """Paint world polygons on the picture only; returns them in pixels."""
        world = np.asarray(points, dtype=np.float64)
        xy = self.camera.project(world)
        depth = float(world.reshape(-1, 3)[0, 2])
        self.paint_pixels(xy, self.light.seen(color, depth_m=depth, shade=shade))
        return xy

    def fill_outline(self, points: Points) -> None:
        """A part of the open object that one sees through: it owns the pixels, its paint comes otherwise."""
        self._parts.append(self.camera.project(np.asarray(points, dtype=np.float64)))

    def fill_pixels(self, xy: np.ndarray, color: Color) -> None:
        """`fill` for a polygon given in pixels and a color that is final."""
        self.paint_pixels(xy, color)
        self._parts.append(xy)

    def paint_pixels(self, xy: np.ndarray, color: Color) -> None:
        """Paint one polygon [n, 2], or several convex ones [m, n, 2], in a color that is final."""
        fixed, rgb = _fixed(xy, SUPERSAMPLE), _rgb(color)
        if xy.ndim == 2:
            cv2.fillPoly(self.pixels, [fixed], rgb, cv2.LINE_8, _SHIFT)
        else:
            for polygon in fixed:
                cv2.fillConvexPoly(self.pixels, polygon, rgb, cv2.LINE_8, _SHIFT)

    def ring(self, outer: np.ndarray, inner: np.ndarray, color: Color) -> None:
        """Paint what lies between two world polygons."""
        pair = [_fixed(self.camera.project(points), SUPERSAMPLE) for points in (outer, inner)]
        seen = self.light.seen(color, depth_m=float(outer[0, 2]))
        cv2.fillPoly(self.pixels, pair, _rgb(seen), cv2.LINE_8, _SHIFT)

    def darken(self, polygons: Sequence[np.ndarray], *, soft: float) -> None:
        """Cast shadows: world polygons on the ground, softened by `soft` (a share of the image height)."""
        height, width = self.size
        mask = np.zeros(self.size, np.uint8)
        for polygon in polygons:
            cv2.fillPoly(mask, [_fixed(self.camera.project(polygon))], 255, cv2.LINE_8, _SHIFT)
        blurred = cv2.GaussianBlur(mask, (0, 0), max(0.5, soft * height))
        top = int(self.camera.horizon) * SUPERSAMPLE
        size = (width * SUPERSAMPLE, height * SUPERSAMPLE)
        kept = 255 - cv2.resize(blurred, size, interpolation=cv2.INTER_LINEAR)[top:] * self.light.shadow
        ground = cv2.multiply(self.pixels[top:], cv2.merge([kept.astype(np.uint8)] * 3), scale=1 / 255)
        self.pixels[top:] = ground

    def _claim(self, label: str) -> None:
        """Give the pixels under the open object's outline to it; one outside the image leaves no trace."""
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
        if label in THINGS and len(contours) > 1:
            # A thing is one polygon; crumbs cut off by the image border stay with what lies behind.
            contours = [max(contours, key=cv2.contourArea)]
        for contour in contours:
            self._own(label, contour[:, 0] + origin)

    def _own(self, label: str, polygon: np.ndarray) -> None:
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
        """uint16 [H, W]: id * 1000 + n for classes with instances, numbered in drawing order; else the id."""
        counts: dict[str, int] = {}
        table = []
        for outline in self.outlines:
            label = name2label[outline.label]
            n = counts.get(outline.label, 0)
            counts[outline.label] = n + 1
            # traffic lights and signs have boxes here but no instances in Cityscapes
            table.append(label.id * 1000 + n if label.hasInstances and not label.ignoreInEval else label.id)
        return np.array(table, np.uint16)[self.owners]


def _fixed(xy: np.ndarray, scale: int = 1) -> np.ndarray:
    """cv2's fixed-point coordinates; pixel i spans [i, i + 1] for us and is centerd on i for cv2."""
    return (xy * (scale * _ONE) - _ONE / 2).astype(np.int32)


def _rgb(color: Color) -> Color:
    r, g, b = color
    return (min(255.0, max(0.0, r)), min(255.0, max(0.0, g)), min(255.0, max(0.0, b)))
