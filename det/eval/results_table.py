"""The results of a detection evaluation as text."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from det.data.dataset import DetectionSplit
from det.eval.average_precision import Curves, Objects
from det.eval.true_positives import OperatingPoint
from det.eval.zero_ap_diagnosis import diagnose_zero_ap
from engine.data.class_map import ClassMap
from engine.errors import counted, padded, text_width

_AREA_RANGES = {"small": "< 32 x 32 pixels", "medium": "32 x 32 to 96 x 96", "large": "> 96 x 96"}


class Scored(Protocol):
    """The part of `DetectionEvaluator` that the table uses."""

    classes: ClassMap
    split: DetectionSplit
    max_detections: list[int]

    @property
    def detections(self) -> NDArray[np.float64]: ...

    @property
    def truth(self) -> Objects: ...

    @property
    def curves(self) -> Curves: ...

    @property
    def operating_point(self) -> OperatingPoint | None: ...

    def compute(self) -> dict[str, Any]: ...


def results_table(evaluator: Scored) -> str:
    """A line per class, COCO's 12 numbers in percent, the best score threshold; if AP is 0, a diagnosis."""
    results = evaluator.compute()
    lines = [*_class_lines(evaluator, results), *_summary_lines(evaluator, results)]
    if (best := evaluator.operating_point) is not None:
        lines.append(
            f"best F1 {_percent(best.f1).strip()} at scores >= {best.threshold:.3g} (IoU .50: precision "
            f"{_percent(best.precision).strip()}, recall {_percent(best.recall).strip()})"
        )
    if not results["num_objects"]:
        lines.append("AP is n/a: these images have no objects to score against; check data.split")
    elif results["map"] == 0:
        lines += diagnose_zero_ap(evaluator.detections, evaluator.truth, evaluator.split, evaluator.classes)
    return "\n".join(lines)


def _class_lines(evaluator: Scored, results: dict[str, Any]) -> list[str]:
    names, ids = evaluator.classes.names, evaluator.classes.ids
    width = max(len("all classes"), *map(text_width, names))
    categories = evaluator.truth.category_ids[~evaluator.truth.ignored]
    detected = evaluator.detections[:, 6]
    lines = [f"{'class':<{width}}    AP %  AP50 %   objects  detections"]
    for index, (name, id_) in enumerate(zip(names, ids, strict=True)):
        numbers = f"{_percent(results[f'ap/{name}'])}  {_percent(evaluator.curves.ap(iou=0, category=index))}"
        counts = f"{int((categories == id_).sum()):>8}  {int((detected == id_).sum()):>10}"
        lines.append(f"{padded(name, width)}  {numbers}  {counts}")
    lines.append("-" * len(lines[0]))
    means = f"{_percent(results['map'])}  {_percent(results['map_50'])}"
    present = f"{results['num_classes_present']} of {len(names)} classes present"
    return [
        *lines,
        f"{'all classes':<{width}}  {means}  {len(categories):>8}  {len(detected):>10}",
        f"{present}, {counted(results['num_images'], 'image')}",
        "",
    ]


def _summary_lines(evaluator: Scored, results: dict[str, Any]) -> list[str]:
    limits = evaluator.max_detections
    rows = [
        ("AP", "map", f"IoU .50:.95, at most {limits[-1]} per image and class"),
        ("AP50", "map_50", "IoU .50"),
        ("AP75", "map_75", "IoU .75"),
        *((f"AP {area}", f"map_{area}", text) for area, text in _AREA_RANGES.items()),
        *((f"AR {limit}", f"ar_{limit}", f"at most {limit} per image and class") for limit in limits),
        *((f"AR {area}", f"ar_{area}", text) for area, text in _AREA_RANGES.items()),
    ]
    width = max(len(title) for title, _, _ in rows)
    lines = []
    for title, key, text in rows:
        missing = "  (no such objects)" if np.isnan(results[key]) and title[3:] in _AREA_RANGES else ""
        lines.append(f"{title:<{width}}  {_percent(results[key])}  {text}{missing}")
    return lines


def _percent(value: float) -> str:
    return ("n/a" if np.isnan(value) else f"{100 * value:.2f}").rjust(6)
