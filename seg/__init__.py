"""Semantic segmentation: LR-ASPP and R-ASPP on any backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.contracts import TaskInfo

if TYPE_CHECKING:
    from seg.export import ExportedSegmentation, SegmentationWithFile
    from seg.report import SegmentationReporter


def _reporter(task: Any) -> SegmentationReporter:
    from seg.report import SegmentationReporter

    return SegmentationReporter(task)


def _export(**options: Any) -> ExportedSegmentation:
    from seg.export import ExportedSegmentation

    return ExportedSegmentation(**options)


def _with_file(*, task: Any, artifact: Any) -> SegmentationWithFile:
    from seg.export import SegmentationWithFile

    return SegmentationWithFile(task=task, artifact=artifact)


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
    reporter=_reporter,
    export=_export,
    with_file=_with_file,
    totals=_totals,
)
