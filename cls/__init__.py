"""Image classification: one label per image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.contracts import TaskInfo

if TYPE_CHECKING:
    from cls.export import ClassificationWithFile, ExportedClassification
    from cls.report import ClassificationReporter


def _reporter(task: Any) -> ClassificationReporter:
    from cls.report import ClassificationReporter

    return ClassificationReporter(task)


def _export(**options: Any) -> ExportedClassification:
    from cls.export import ExportedClassification

    return ExportedClassification(**options)


def _with_file(*, task: Any, artifact: Any) -> ClassificationWithFile:
    from cls.export import ClassificationWithFile

    return ClassificationWithFile(task=task, artifact=artifact)


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
    distills=True,
    default_names=_default_names,
    reporter=_reporter,
    export=_export,
    with_file=_with_file,
    totals=_totals,
)
