"""Boxes and polygons of what one sees of each thing, as COCO writes them."""

from typing import Any

import cv2
import numpy as np
from cityscapesscripts.helpers.labels import name2label

from streets.canvas import THINGS
from streets.scene import Scene

# Less than this is a crumb behind a tree: nobody would annotate it.
MIN_AREA_PX = 12


def annotations(drawn: Scene) -> list[dict[str, Any]]:
    """COCO annotations of a scene's visible things, without `id` and `image_id`.

    `bbox` is x, y, width, height in pixels, tight around the visible pixels; `area` counts them.
    """
    found = []
    areas = np.bincount(drawn.owners.ravel(), minlength=len(drawn.polygons))
    for index, outline in enumerate(drawn.polygons):
        if outline.label not in THINGS or areas[index] < MIN_AREA_PX:
            continue
        # nothing of it can be seen outside its outline
        left, top, wide, high = cv2.boundingRect(outline.polygon)
        mask = (drawn.owners[top : top + high, left : left + wide] == index).astype(np.uint8)
        x, y, w, h = cv2.boundingRect(mask)
        found.append(
            {
                "category_id": name2label[outline.label].id,
                "bbox": [left + x, top + y, w, h],
                "area": int(areas[index]),
                "iscrowd": 0,
                "segmentation": _segmentation(mask, (left, top)),
            }
        )
    return found


def _segmentation(mask: np.ndarray, origin: tuple[int, int]) -> list[list[float]]:
    """Polygons [x, y, x, y, ...] around the mask's pixels, pixel i spanning [i, i + 1].

    Traced at twice the size, so that they run near the pixels' borders and even one pixel has an outline.
    """
    double = cv2.resize(mask, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(double, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [((contour[:, 0] + 0.5) / 2 + origin).ravel().tolist() for contour in contours]
