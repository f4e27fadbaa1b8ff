"""Image classification: one label per image."""

from functools import partial
from typing import Any

from engine.contracts import TaskInfo, import_and_call


def _totals(count: Any, classes: int) -> tuple[float, float]:
    """Parameters and MAdds as in Tables 3 and 9."""
    params, madds = count.classification()
    return params, madds


def _default_names(count: int) -> tuple[str, ...] | None:
    """ImageNet's class names, for 1000 outputs or 1001 with background."""
    from cls.data.imagenet import class_names

    return class_names() if count in (1000, 1001) else None


TASK = TaskInfo(
    name="cls",
    title="image classification",
    metric="top1",
    size_key="data.size",
    paper_classes=1000,
    hub_pipeline="image-classification",
    background=True,
    distills=("weight", "temperature", "images"),
    default_names=_default_names,
    reporter=partial(import_and_call, "cls.report.ClassificationReporter"),
    export=partial(import_and_call, "cls.export.ExportedClassification"),
    with_file=partial(import_and_call, "cls.export.ClassificationWithFile"),
    totals=_totals,
    layouts=partial(import_and_call, "cls.layouts.layouts"),
    label_check=partial(import_and_call, "cls.label_check.examine"),
)
