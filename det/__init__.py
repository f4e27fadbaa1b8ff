"""Object detection: SSDLite or PANLite on any backbone."""

from functools import partial
from typing import Any

from engine.contracts import TaskInfo, import_and_call


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
    distills=("weight",),
    fixed_size="a detector's anchors fit one input size; leave it out, or export one file per size with "
    "data.size=[h,w]",
    reporter=partial(import_and_call, "det.report.DetectionReporter"),
    export=partial(import_and_call, "det.export.network.ExportedDetection"),
    with_file=partial(import_and_call, "det.export.with_file.DetectionWithFile"),
    totals=_totals,
    layouts=partial(import_and_call, "det.layouts.layouts"),
    label_check=partial(import_and_call, "det.label_check.examine"),
    automatic={"data.size": partial(import_and_call, "det.anchors.input_size.input_size")},
)
