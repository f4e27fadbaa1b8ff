"""Semantic segmentation: LR-ASPP and R-ASPP on any backbone."""

from functools import partial
from typing import Any

from engine.contracts import TaskInfo, import_and_call


def _totals(count: Any, classes: int) -> tuple[float, float]:
    """Parameters and MAdds as in Tables 7 and 8, which include resizing the class scores to the image."""
    params, madds = count.cityscapes(num_classes=classes)
    return params, madds


def _known_classes(names: tuple[str, ...]) -> Any:
    """Cityscapes' ids and colors, for its 19 classes."""
    from seg.data.cityscapes import CITYSCAPES_CLASSES

    return CITYSCAPES_CLASSES if names == CITYSCAPES_CLASSES.names else None


TASK = TaskInfo(
    name="seg",
    title="semantic segmentation",
    metric="miou",
    size_key="data.eval_size",
    paper_classes=19,
    hub_pipeline="image-segmentation",
    distills=("weight", "temperature", "method", "images"),
    known_classes=_known_classes,
    reporter=partial(import_and_call, "seg.report.SegmentationReporter"),
    export=partial(import_and_call, "seg.export.ExportedSegmentation"),
    with_file=partial(import_and_call, "seg.export.SegmentationWithFile"),
    totals=_totals,
    layouts=partial(import_and_call, "seg.layouts.layouts"),
    label_check=partial(import_and_call, "seg.label_check.examine"),
    automatic={"task.loss.class_weights": partial(import_and_call, "seg.data.class_weights.class_weights")},
)
