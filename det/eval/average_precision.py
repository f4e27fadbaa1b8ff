"""COCO's average precision and recall as arrays, computed by pycocotools or hotcoco with equal results.

pycocotools is the reference, and slow: about 25 s for 2000 images with 100 detections each. hotcoco is
compiled and takes a hundredth of that.
"""

import contextlib
import importlib.util
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.errors import UserError

BACKENDS = ("auto", "hotcoco", "pycocotools")


AREAS = ("all", "small", "medium", "large")
"""COCO's ranges of an object's area: all, below 32 x 32 pixels, up to 96 x 96, above that."""


# pycocotools overwrites an object's `ignore` flag by `iscrowd`, and crowds are matched differently: by any
# number of detections, and by the share of the detection that is inside. An object whose area is outside
# all ranges is ignored by both libraries and matched by IoU like any other.
_OUTSIDE_ALL_RANGES = 1e12


class Objects(NamedTuple):
    """Ground truth in COCO's format, ordered by image.

    Attributes:
        image_ids, category_ids: int64 [G].
        boxes: float64 [G, 4], (x, y, width, height) in pixels.
        areas: float64 [G]; they decide whether an object is small, medium or large.
        crowd, ignored: bool [G]; crowds are ignored too.
    """

    image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    ignored: NDArray[np.bool_]

    @property
    def scored_areas(self) -> NDArray[np.float64]:
        """The areas to score with: outside all ranges for objects that are ignored but not crowds."""
        return np.where(self.ignored & ~self.crowd, _OUTSIDE_ALL_RANGES, self.areas)


class Curves(NamedTuple):
    """The arrays that COCO's evaluation accumulates; NaN if there is nothing to score.

    T = 10 IoU thresholds from .50 to .95, R = 101 recalls from 0 to 1, K categories, A = 4 `AREAS`, M limits
    on the detections per image and category.

    Attributes:
        precision: [T, R, K, A, M], at each recall.
        recall: [T, K, A, M], the highest one.
        scores: [T, R, K, A, M], the score threshold at which each recall is reached.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    scores: NDArray[np.float64]

    def ap(
        self, *, iou: int | slice = slice(None), category: int | slice = slice(None), area: int = 0
    ) -> float:
        """Average precision at the largest limit on detections, averaged over IoUs and categories that are
        not selected by index."""
        return mean(self.precision[iou, :, category, area, -1])


def choose_backend(name: str) -> str:
    """`hotcoco` or `pycocotools`; `auto` chooses hotcoco if it is installed.

    Raises:
        ValueError: if the name is unknown.
        UserError: if hotcoco is requested but not installed.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    installed = importlib.util.find_spec("hotcoco") is not None
    if name == "hotcoco" and not installed:
        raise UserError(
            "backend=hotcoco: hotcoco is not installed; run `pip install hotcoco`, or set backend=pycocotools"
        )
    return "hotcoco" if installed and name != "pycocotools" else "pycocotools"


def accumulate(
    detections: NDArray[np.float64],
    truth: Objects,
    *,
    image_ids: Sequence[int],
    category_ids: Sequence[int],
    max_detections: Sequence[int],
    backend: str,
) -> Curves:
    """Score detections against the ground truth.

    Args:
        detections: [D, 7], COCO's results array: image id, x, y, width, height, score, category id.
        truth: the objects of these images.
        image_ids: the images to score, with or without objects and detections.
        category_ids: the categories, in the order of the result's K.
        max_detections: increasing limits on the detections per image and category.
        backend: from `choose_backend`.
    """
    categories = sorted(category_ids)  # both libraries sort the ids
    run = _hotcoco if backend == "hotcoco" else _pycocotools
    result = run(detections, truth, list(image_ids), categories, list(max_detections))
    order = np.searchsorted(categories, category_ids)
    precision, recall, scores = (np.asarray(result[name]) for name in ("precision", "recall", "scores"))
    parts = (precision[:, :, order], recall[:, order], scores[:, :, order])
    return Curves(*(np.where(part < 0, np.nan, part) for part in parts))


def summarize(curves: Curves, max_detections: Sequence[int]) -> dict[str, float]:
    """COCO's 12 numbers in 0..1 by name; NaN if there is nothing to score."""
    iou_50, iou_75 = 0, 5  # positions among .50, .55, ..., .95
    result = {"map": curves.ap(), "map_50": curves.ap(iou=iou_50), "map_75": curves.ap(iou=iou_75)}
    for position, area in enumerate(AREAS[1:], start=1):
        result[f"map_{area}"] = curves.ap(area=position)
    for position, limit in enumerate(max_detections):
        result[f"ar_{limit}"] = mean(curves.recall[:, :, 0, position])
    for position, area in enumerate(AREAS[1:], start=1):
        result[f"ar_{area}"] = mean(curves.recall[:, :, position, -1])
    return result


def mean(values: NDArray[np.float64]) -> float:
    """The mean of the values that are not NaN; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def truth_to_coco(truth: Objects) -> list[dict[str, Any]]:
    """COCO's list of `annotations`. Ids start at 1, since to both libraries an id of 0 means "no match"."""
    columns = (
        truth.image_ids,
        truth.category_ids,
        truth.boxes,
        truth.scored_areas,
        truth.crowd,
        truth.ignored,
    )
    return [
        {
            "id": number,
            "image_id": image,
            "category_id": category,
            "bbox": box,
            "area": area,
            "iscrowd": int(crowd),
            "ignore": int(ignored),
        }
        for number, (image, category, box, area, crowd, ignored) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True), start=1
        )
    ]


def detections_to_coco(detections: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Detections as in `accumulate` -> COCO's results format, without rounding."""
    images, categories = (detections[:, column].astype(np.int64).tolist() for column in (0, 6))
    return [
        {"image_id": image, "category_id": category, "bbox": box, "score": score}
        for image, category, box, score in zip(
            images, categories, detections[:, 1:5].tolist(), detections[:, 5].tolist(), strict=True
        )
    ]


def _pycocotools(
    detections: NDArray[np.float64],
    truth: Objects,
    images: list[int],
    categories: list[int],
    limits: list[int],
) -> dict[str, Any]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    results = detections_to_coco(detections)
    areas = (detections[:, 3] * detections[:, 4]).tolist()
    for number, (result, area) in enumerate(zip(results, areas, strict=True), start=1):
        result.update(id=number, area=area, iscrowd=0)
    sides = []
    with contextlib.redirect_stdout(io.StringIO()):
        for annotations in (truth_to_coco(truth), results):
            side = COCO()  # its loadRes raises IndexError if there are no detections
            side.dataset = {
                "images": [{"id": image} for image in images],
                "categories": [{"id": category} for category in categories],
                "annotations": annotations,
            }
            side.createIndex()
            sides.append(side)
        evaluation = COCOeval(*sides, "bbox")
        evaluation.params.maxDets = limits
        evaluation.evaluate()
        evaluation.accumulate()
    return dict(evaluation.eval or {})


def _hotcoco(
    detections: NDArray[np.float64],
    truth: Objects,
    images: list[int],
    categories: list[int],
    limits: list[int],
) -> dict[str, Any]:
    from hotcoco import COCO, COCOeval

    reference = COCO.from_arrays(
        [{"id": image, "file_name": "", "width": 0, "height": 0} for image in images],
        [{"id": category, "name": str(category)} for category in categories],
        truth.image_ids,
        truth.category_ids,
        truth.boxes,
        ids=np.arange(1, len(truth.boxes) + 1),
        area=truth.scored_areas,
        iscrowd=truth.crowd,
    )
    evaluation = COCOeval(reference, reference.load_res(np.ascontiguousarray(detections)), "bbox")
    evaluation.params.max_dets = limits
    evaluation.evaluate()
    evaluation.accumulate()
    return dict(evaluation.eval or {})
