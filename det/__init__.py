"""Object detection: SSDLite on any backbone."""

from typing import Any

from engine.contracts import TaskInfo, imported_when_called


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
    reporter=imported_when_called("det.report.DetectionReporter"),
    export=imported_when_called("det.export.ExportedDetection"),
    with_file=imported_when_called("det.export.DetectionWithFile"),
    totals=_totals,
)
