"""Semantic segmentation: LR-ASPP and R-ASPP on any backbone."""

from functools import partial
from typing import Any

from engine.contracts import TaskInfo, import_and_call


def _totals(count: Any, classes: int) -> tuple[float, float]:
    """Parameters and MAdds as in Tables 7 and 8, which include resizing the class scores to the image."""
    params, madds = count.cityscapes(num_classes=classes)
    return params, madds


TASK = TaskInfo(
    name="seg",
    title="semantic segmentation",
    metric="miou",
    size_key="data.eval_size",
    paper_classes=19,
    hub_pipeline="image-segmentation",
    distills=True,
    reporter=partial(import_and_call, "seg.report.SegmentationReporter"),
    export=partial(import_and_call, "seg.export.ExportedSegmentation"),
    with_file=partial(import_and_call, "seg.export.SegmentationWithFile"),
    totals=_totals,
)
