"""Shapes as run-length codes and as polygons, in pixels of the image; x to the right, y down."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from doctor.convert.records import Bitmap, Box, Geometry, Polygons, RunLengths

_CORNERS = 64  # of a polygon for an ellipse
_FARTHEST = 10  # times the image's longer side; drawing takes memory for every pixel of an outline


def run_lengths(geometry: Geometry, height: int, width: int) -> Any:
    """COCO's compressed run-length code of the pixels inside the image.

    Raises: ValueError if the shape is not one, such as a polygon of two points.
    """
    from pycocotools import mask as coco_masks

    if isinstance(geometry, RunLengths):
        return _checked(geometry.code, height, width)
    if isinstance(geometry, Bitmap):
        return coco_masks.encode(np.asfortranarray(_placed(geometry, height, width)))
    parts = (corners(geometry),) if isinstance(geometry, Box) else geometry.parts
    for part in parts:
        if len(part) < 3 or not (np.abs(part) <= _FARTHEST * max(height, width)).all():
            raise ValueError("a polygon needs at least three points that are near the image")
    polygons = [part.reshape(-1).tolist() for part in parts]
    return coco_masks.merge(coco_masks.frPyObjects(polygons, height, width))


def bounds(geometry: Geometry, code: Any) -> Box:
    """The box around a shape; for pixels, from their run-length code."""
    from pycocotools import mask as coco_masks

    if isinstance(geometry, Box):
        return geometry
    if isinstance(geometry, Polygons):
        points = np.concatenate(geometry.parts)
        return Box(*points.min(axis=0).tolist(), *points.max(axis=0).tolist())
    left, top, width, height = coco_masks.toBbox(code).tolist()
    return Box(left, top, left + width, top + height)


def corners(box: Box) -> NDArray[np.float64]:
    """Its four corners, [4, 2]."""
    left, top, right, bottom = box
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float64)


def turned(points: NDArray[np.float64], degrees: float, pivot: tuple[float, float]) -> NDArray[np.float64]:
    """Points [N, 2] rotated clockwise, as seen on the screen, around a pivot."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.asarray((points - pivot) @ np.array([[cos, sin], [-sin, cos]]) + pivot)


def ellipse(x: float, y: float, across: float, down: float, degrees: float = 0.0) -> Polygons:
    """A polygon for the ellipse around (x, y) with these radii, rotated clockwise."""
    angles = np.linspace(0, 2 * math.pi, _CORNERS, endpoint=False)
    points = np.stack([x + across * np.cos(angles), y + down * np.sin(angles)], axis=1)
    return Polygons((turned(points, degrees, (x, y)),))


def with_holes(
    outer: NDArray[np.float64], holes: list[NDArray[np.float64]], size: tuple[int, int]
) -> Geometry:
    """The polygon without its holes, inside an image of `size` (height, width)."""
    import cv2

    if not holes:
        return Polygons((outer,))
    left, top = np.maximum(np.floor(outer.min(axis=0)), 0).astype(int).tolist()
    right, bottom = np.minimum(np.ceil(outer.max(axis=0)), size[::-1]).astype(int).tolist()
    pixels = np.zeros((max(0, bottom - top) + 1, max(0, right - left) + 1), np.uint8)
    for value, part in ((1, outer), *((0, hole) for hole in holes)):
        cv2.fillPoly(pixels, [np.rint(part - (left, top)).astype(np.int32)], [value])
    return Bitmap(left, top, pixels.astype(bool))


def _placed(bitmap: Bitmap, height: int, width: int) -> NDArray[np.uint8]:
    """The pixels of an object in an image of this size; those outside are cut off."""
    whole = np.zeros((height, width), np.uint8)
    rows, columns = bitmap.pixels.shape
    top, left = max(bitmap.top, 0), max(bitmap.left, 0)
    bottom, right = min(bitmap.top + rows, height), min(bitmap.left + columns, width)
    if top < bottom and left < right:
        whole[top:bottom, left:right] = bitmap.pixels[
            top - bitmap.top : bottom - bitmap.top, left - bitmap.left : right - bitmap.left
        ]
    return whole


def _checked(code: dict[str, Any], height: int, width: int) -> Any:
    """A code as pycocotools needs it. Raises: ValueError if it is of another size."""
    from pycocotools import mask as coco_masks

    if list(code["size"]) != [height, width]:
        raise ValueError(f"its size is {code['size']}, but the image is {height} x {width}")
    counts = code["counts"]
    if isinstance(counts, list):
        return coco_masks.frPyObjects(code, height, width)
    return {"size": code["size"], "counts": counts.encode() if isinstance(counts, str) else counts}
