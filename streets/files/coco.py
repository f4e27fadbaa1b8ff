"""COCO annotations of the drawn scenes: boxes and polygons of the visible parts of each thing."""

from typing import Any

import cv2
import numpy as np
from cityscapesscripts.helpers.labels import name2label

from streets.drawing.canvas import THING_CLASSES
from streets.files.cityscapes import image_stem
from streets.scene import Scene

# Smaller visible parts are not annotated, as a human annotator would not.
MIN_AREA_PX = 12


def scene_annotations(scene: Scene) -> list[dict[str, Any]]:
    """COCO annotations of a scene's visible things, without `id` and `image_id`.

    `bbox` is x, y, width, height in pixels, tight around the visible pixels; `area` counts them.
    """
    annotations = []
    areas = np.bincount(scene.owners.ravel(), minlength=len(scene.polygons))
    for index, outline in enumerate(scene.polygons):
        if outline.label not in THING_CLASSES or areas[index] < MIN_AREA_PX:
            continue
        # No pixel outside its outline belongs to it.
        left, top, wide, high = cv2.boundingRect(outline.polygon)
        mask = (scene.owners[top : top + high, left : left + wide] == index).astype(np.uint8)
        x, y, w, h = cv2.boundingRect(mask)
        annotations.append(
            {
                "category_id": name2label[outline.label].id,
                "bbox": [left + x, top + y, w, h],
                "area": int(areas[index]),
                "iscrowd": 0,
                "segmentation": _segmentation(mask, (left, top)),
            }
        )
    return annotations


def _segmentation(mask: np.ndarray, origin: tuple[int, int]) -> list[list[float]]:
    """Polygons [x, y, x, y, ...] around the pixels of the mask, pixel i spanning [i, i + 1].

    Traced at twice the size, so that they run close to the pixels' borders and even one pixel has an outline.
    """
    double = cv2.resize(mask, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(double, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [((contour[:, 0] + 0.5) / 2 + origin).ravel().tolist() for contour in contours]


def instances_file(
    split: str, scenes: list[list[dict[str, Any]]], size: tuple[int, int], *, version: int
) -> dict[str, Any]:
    """The content of COCO's instances_<split>.json; category ids are Cityscapes label ids.

    Args:
        scenes: the annotations of each scene of the split, in order.
        size: (height, width) of the images.
        version: of the drawing, for the description.
    """
    images = [
        {
            "id": index + 1,
            "file_name": f"{image_stem(split, index)}_leftImg8bit.png",
            "height": size[0],
            "width": size[1],
        }
        for index in range(len(scenes))
    ]
    annotations = [{**thing, "image_id": i + 1} for i, things in enumerate(scenes) for thing in things]
    labels = sorted((name2label[name] for name in THING_CLASSES), key=lambda label: label.id)
    return {
        "info": {"description": f"procedural street scenes, version {version}"},
        "licenses": [],
        "images": images,
        "annotations": [{"id": i + 1, **annotation} for i, annotation in enumerate(annotations)],
        "categories": [
            {"id": label.id, "name": label.name, "supercategory": label.category} for label in labels
        ],
    }
