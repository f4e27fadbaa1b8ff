"""Object detection: SSDLite on any backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.contracts import TaskInfo

if TYPE_CHECKING:
    from det.export import DetectionWithFile, ExportedDetection
    from det.report import DetectionReporter


def _reporter(task: Any) -> DetectionReporter:
    from det.report import DetectionReporter

    return DetectionReporter(task)


def _export(**options: Any) -> ExportedDetection:
    from det.export import ExportedDetection

    return ExportedDetection(**options)


def _with_file(*, task: Any, artifact: Any) -> DetectionWithFile:
    from det.export import DetectionWithFile

    return DetectionWithFile(task=task, artifact=artifact)


def _totals(count: Any, classes: int) -> tuple[float, float]:
    """Table 6 leaves out the parameters of batch norm."""
    params, madds = count.detection()
    return params, madds


TASK = TaskInfo(
    name="det",
    title="object detection",
    metric="map",
    size_key="data.size",
    paper_classes=90,
    hub_pipeline="object-detection",
    first_id=1,
    distills=False,
    reporter=_reporter,
    export=_export,
    with_file=_with_file,
    totals=_totals,
)
