"""Object detection: SSDLite on MobileNet backbones, trained on boxes."""

from typing import TYPE_CHECKING, Any

from engine.contracts import TaskInfo

if TYPE_CHECKING:
    from det.export import ExportedDetection
    from det.report import DetectionReporter
    from det.task import Detection


def _reporter(task: "Detection") -> "DetectionReporter":
    from det.report import DetectionReporter

    return DetectionReporter(task)


def _export(**options: Any) -> "ExportedDetection":
    from det.export import ExportedDetection

    return ExportedDetection(**options)


def _with_file(*, task: "Detection", artifact: Any) -> "Detection":
    from det.export import with_file

    return with_file(task=task, artifact=artifact)


def _totals(count: Any, classes: int) -> tuple[float, float]:
    """Table 6: without batch norm."""
    params, madds = count.detection()
    return params, madds


TASK = TaskInfo(
    name="det",
    title="object detection",
    metric="map",
    size_key="data.size",
    paper_classes=90,
    first_id=1,
    distills=False,
    reporter=_reporter,
    export=_export,
    with_file=_with_file,
    totals=_totals,
)
"""What the tools read about this package."""
