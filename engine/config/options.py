"""Typed dataclasses with the options of the tools. conf/<tool>.yaml names them with `_target_`.

`overrides` contains the command-line overrides of the configuration of the run that a tool works on.
"""

import os
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, Literal

from engine.config.instantiate import AtLeast, UnitInterval
from engine.data.images import DEFAULT_MEGAPIXELS, Orientation
from engine.errors import UserError

Checkpoint = Literal["best", "last"]
Count = Annotated[int, AtLeast(0)]
Positive = Annotated[int, AtLeast(1)]
Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The options of tools/train.py that belong to no config group; `conf/train.yaml` explains them."""

    run: str | None = None
    resume: str | None = None
    replay: str | None = None
    init_from: str | None = None
    weights: str | None = None
    checkpoint: Checkpoint = "best"
    seed: Count = 0
    samples: Count = 8
    freeze: Sequence[str] = ()
    skip: Sequence[str] = ()
    labels: str | None = None


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """The options of tools/check.py, in addition to those of tools/train.py."""

    out: str | None = None
    strict: bool = False


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The keys of `data` that control how files are read; the other keys belong to the task."""

    split: str
    workers: Count = 0
    eval_batch: Positive = 1
    limit: Positive | None = None
    on_error: Literal["fail", "skip"] = "fail"
    error_budget: Annotated[float, UnitInterval()] = 0.01
    exclude: str | None = None
    cache: str | None = None
    pixel_range: Sequence[float] | None = None
    max_megapixels: float = DEFAULT_MEGAPIXELS
    orientation: Orientation = "upright"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options shared by all tools that work on a trained run."""

    run: str
    checkpoint: Checkpoint = "best"
    out: str | None = None
    overrides: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class InferenceOptions(RunOptions):
    """How to run inference: in PyTorch on a device, or with an exported file in its runtime."""

    artifact: str | None = None
    threads: Positive = 1
    device: str = "auto"
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        check_effective(self.overrides)
        if self.artifact is None:
            refuse_unused(self, "threads", needs="artifact=<exported file>")


@dataclass(frozen=True, kw_only=True)
class EvalOptions(InferenceOptions):
    worst: Count = 8
    suspicious: Count = 20
    save_predictions: bool = False


@dataclass(frozen=True, kw_only=True)
class PredictOptions(InferenceOptions):
    input: str
    legend: bool = True
    frames: Positive | None = None
    save_labels: Literal["coco", "yolo", "masks", "folders"] | None = None
    min_score: Annotated[float, UnitInterval()] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_unscored(self.overrides)
        if self.min_score is not None and self.save_labels is None:
            raise ValueError("min_score needs save_labels=; set that too")

    @property
    def least_score(self) -> float:
        """`min_score`, or its default."""
        return 0.5 if self.min_score is None else self.min_score


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """The options of tools/compare.py; `conf/compare.yaml` explains them."""

    run: Sequence[str]
    out: str = "comparison"
    overrides: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.overrides:
            raise UserError(
                f"{self.overrides[0].partition('=')[0]}: runs are compared as they were trained; leave it out"
            )
        if len(set(self.run)) < 2:
            raise ValueError(f"run must name at least two runs, such as run=[a,b], got {list(self.run)}")
        folders: dict[str, str] = {}
        for path in dict.fromkeys(self.run):  # counted twice, a run would have a standard deviation of 0
            first = folders.setdefault(os.path.realpath(os.path.expanduser(path)), path)
            if first != path:
                raise ValueError(f"run names the same folder twice, as {first} and {path}; leave one out")


@dataclass(frozen=True, kw_only=True)
class PublishOptions(RunOptions):
    repo: str | None = None
    license: str | None = None
    description: str | None = None
    private: bool = False
    revision: str | None = None

    def __post_init__(self) -> None:
        check_effective(self.overrides)
        if self.out is None and self.repo is None:
            raise ValueError("set out=<folder>, repo=<user>/<name>, or both")
        if self.repo is None:
            refuse_unused(self, "private", "revision", needs="repo=<user>/<name>")


@dataclass(frozen=True, kw_only=True)
class ModelsOptions:
    """The options of tools/models.py; `conf/models.yaml` explains them."""

    name: str | None = None
    only: Literal["seg", "det", "cls"] | None = None

    def __post_init__(self) -> None:
        if self.name is not None and self.only is not None:
            raise ValueError("only is for the list of all networks; leave it out, or leave out name=")


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """The options of tools/convert.py; `conf/convert.yaml` explains them."""

    input: str
    out: str
    to: Literal["masks", "coco"]
    format: Literal["labelme", "cvat", "coco", "yolo", "label_studio", "supervisely"] | None = None
    boxes: Literal["skip", "fill"] = "skip"
    orientation: Orientation = "upright"
    max_megapixels: float = DEFAULT_MEGAPIXELS
    copy: bool = False

    def __post_init__(self) -> None:
        if self.to != "masks":
            refuse_unused(self, "boxes", needs="to=masks")


_ONLY_IN_TRAINING = (
    *("trainer", "optimizer", "schedule", "augment", "distill"),
    *("init_from", "weights", "seed", "samples", "freeze", "skip", "resume", "replay", "paper"),
    *("task.loss", "task.dice", "task.lovasz", "task.auxiliary", "task.label_smoothing", "task.mix"),
    *("task.matcher", "data.scale", "data.recipe"),
)
"""Keys and groups in a run's configuration that cannot be overridden after training."""
ONLY_SCORED = ("task.scored_per_class", "data.limit", "data.exclude", "data.error_budget")
"""Keys that only affect how a split is scored, not what is predicted."""


def check_effective(overrides: Sequence[str]) -> None:
    """Raise a UserError if an override of a run sets a key that only training reads."""
    for override in overrides_of(_ONLY_IN_TRAINING, overrides):
        own = _key(override).removeprefix("trainer.")
        remedy = f"write {own}=" if own in ("device", "precision") else "leave it out"
        raise UserError(f"{override}: only training reads this key; {remedy}")


def check_unscored(overrides: Sequence[str]) -> None:
    """Raise a UserError if an override sets a key of evaluation; for tools that score nothing."""
    for override in overrides_of(["task.scored_per_class"], overrides):
        raise UserError(f"{override}: only evaluation reads this key; leave it out")


def overrides_of(names: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """The overrides of these keys, or of keys in these groups."""
    starts = tuple(f"{name}." for name in names)
    return [override for override in overrides if f"{_key(override)}.".startswith(starts)]


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def refuse_unused(options: Any, *names: str, needs: str, key: str = "") -> None:
    """Raise a UserError if one of these options is set, because it has an effect only with others.

    Args:
        names: fields of the dataclass `options`; none: all of them.
        needs: the options that are needed, for the message.
        key: the key of `options` in the configuration.
    """
    for name in not_default(options, *names):
        dotted = f"{key}.{name}" if key else name
        raise UserError(f"{dotted} needs {needs}; set that too, or leave it out")


def not_default(options: Any, *names: str) -> list[str]:
    """The fields of a dataclass, or those of `names`, whose value is not the default."""
    found = []
    for field in fields(options):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        value = getattr(options, field.name)
        value = tuple(value) if isinstance(value, list) else value
        if (not names or field.name in names) and value != default:
            found.append(field.name)
    return found


def at_least(options: object, least: int, *names: str) -> None:
    """Raise a ValueError if one of these options is a number below `least`."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
