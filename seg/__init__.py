"""Semantic segmentation: LR-ASPP and R-ASPP on any backbone."""

from typing import Any

from engine.contracts import TaskInfo, imported_when_called


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
    reporter=imported_when_called("seg.report.SegmentationReporter"),
    export=imported_when_called("seg.export.ExportedSegmentation"),
    with_file=imported_when_called("seg.export.SegmentationWithFile"),
    totals=_totals,
)
