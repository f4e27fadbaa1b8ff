"""The interfaces between the engine or the tools and a task, its data and its exported form.

They are protocols, not base classes: any class with these members can be used. `docs/extend/` shows how to
write one of each; `tests/contract.py` tests every task against them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

if TYPE_CHECKING:
    from engine.data.class_map import ClassMap

Batch = dict[str, Any]
Image = NDArray[np.uint8]
"""RGB [H, W, 3]."""


class Split(Protocol):
    """The files of one split of a data source, without their pixels."""

    def __len__(self) -> int: ...

    def without(self, indices: Iterable[int]) -> Split:
        """The same split without the samples at `indices`, in the same order."""
        ...


class Dataset(Protocol):
    """A map-style dataset. `dataset[SampleKey(index, epoch)]` is a dict of tensors and numbers that depends
    only on the seed, the epoch and the index.

    A dataset whose samples have masks can also define `masks()` (see `engine.data.pixel_cache`); one that
    reads more than `image_path(index)` for a sample, `sample_files(index)`: the paths of all its files.
    """

    @property
    def has_labels(self) -> bool:
        """Whether the split can be scored."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, draw: Any, /) -> dict[str, Any]: ...

    def read(self, index: int) -> Any:
        """The stored parts of a sample, before any transform. Raises: UserError if a file is damaged."""
        ...

    def name(self, index: int) -> str:
        """The sample's name in reports, without a suffix; folders are separated by `/`."""
        ...

    def image_path(self, index: int) -> str: ...


class DataSource(Protocol):
    """The object that a `data` config builds: the classes, the splits by name, and a dataset per split."""

    classes: ClassMap
    splits: Mapping[str, Any]
    description: str
    """One line for logs."""
    warnings: Sequence[str]
    """Lines to show before training."""

    def dataset(self, split: str, transform: Any, seed: int = 0, cache: Any = None) -> Any:
        """Build the `Dataset` of a split. Raises: UserError if there is no such split."""
        ...


class Evaluator(Protocol):
    """Computes metrics over a split, batch by batch; its state can be summed across processes.

    `compute()` returns a flat dict from names to numbers and strings. `state()` returns a dict of arrays, and
    `merge(states)` replaces the evaluator's own state with their sum.
    """

    main_metric: str

    def reset(self) -> None: ...

    def update(self, outputs: Any, batch: Batch) -> None: ...

    def state(self) -> dict[str, Any]: ...

    def merge(self, states: list[dict[str, Any]]) -> None: ...

    def compute(self) -> dict[str, Any]: ...

    def table(self) -> str:
        """The results as a text table."""
        ...


@runtime_checkable
class Task(Protocol):
    """An `nn.Module` that contains a `model` (tensor -> tensors) and computes its losses.

    `task(batch)` returns a dict of named losses, with the same names for every batch. Each is a mean over the
    batch (0 if nothing in it counts). Their sum is the training objective; the log lists them by name.
    `weight(batch)` is the number of items (pixels, boxes, images) in that mean; it makes averages over
    micro-batches and processes exact. `predict(batch)` returns the input of `Evaluator.update`.

    Checkpoints contain only `model`; all other state of a task must follow from its configuration.
    """

    model: nn.Module
    classes: ClassMap
    eval_transform: Any
    """The preprocessing of an image for prediction; `str(eval_transform)` describes it."""
    normalize: nn.Module
    """uint8 pixels -> the model's input."""
    distillation: Any
    """The distillation loss, or None."""

    def __call__(self, batch: Batch) -> dict[str, Tensor]: ...

    def weight(self, batch: Batch) -> Tensor: ...

    def predict(self, batch: Batch) -> Any: ...

    def predict_image(self, image: Image) -> Any:
        """RGB [H, W, 3] -> the prediction at the image's own size, on the CPU."""
        ...

    def notes(self, dataset: Any) -> list[str]:
        """Lines to print before training on this split."""
        ...

    def check_classes(self, classes: ClassMap) -> None:
        """Raise a UserError if the task cannot be evaluated on a dataset with these classes."""
        ...

    def evaluator(self, dataset: Any) -> Evaluator: ...


class Reporter(Protocol):
    """Draws and saves predictions and evaluations of a task. `TaskInfo.reporter(task)` builds one.

    Optional methods, for report.html: `draw_sample(dataset, index)` draws an image with its label and its
    prediction (without it, the report shows no images); `report(evaluator, dataset, page)` adds the task's
    sections to an `engine.html.page.Page`, such as results by class (without it: the metrics alone);
    `suspicious(evaluator, dataset, count)` lists the samples whose labels a confident prediction contradicts
    most, as `engine.report.suspicious.Suspicion` (without it, there is no such list).

    Optional, for labels from predictions: `label_kinds`, keys of `engine.pseudo_labels.writers.WRITERS`; and
    `confident(image, prediction, min_score)`, the part of a prediction with at least this score, as the
    writers expect it, or None if there is none. `check_confident(min_score)` raises a UserError if the task's
    predictions have no scores.
    """

    def draw(self, image: Image, prediction: Any, *, legend: bool = True, all_classes: bool = False) -> Image:
        """Draw a prediction on its image. `all_classes`: list all classes in the legend (for videos)."""
        ...

    def per_image(self, outputs: Any) -> list[Any]:
        """Split `Task.predict`'s outputs for a batch into one prediction per image, as `predict_image`
        returns them."""
        ...

    def save_prediction(self, prediction: Any, out: Path, name: str) -> dict[str, Any]:
        """Write the prediction's files other than the drawing; returns the entry for summary.json."""
        ...

    def save_samples(self, dataset: Any, folder: Path, *, count: int) -> None:
        """Draw predictions for `count` images spread over a split."""
        ...

    def save_evaluation(self, evaluator: Any, dataset: Any, out: Path, *, worst: int) -> None:
        """Write the per-class table, the charts and the `worst` images of an evaluation."""
        ...


class ExportedTask(Protocol):
    """The `nn.Module` to export: images [N, 3, H, W] -> a tensor or a tuple of tensors.

    Attributes: output (the kind of output, such as `logits`), names (of the outputs), compared (the outputs
    that are compared numerically with PyTorch), dtype (of the images: `uint8` or `float32`), normalized
    (whether the graph includes normalization), model, classes, eval_transform, normalize.

    Optional attributes: decoding (what a program needs to know to interpret the outputs; stored as JSON in
    the file), decoder (path of a Python file that does so using only NumPy; copied next to the file as
    `decode.py`); fixed_size (why the size cannot be dynamic, and what to do; empty if it can); and
    half_agreement (the lowest `agreement` that is accepted of a file with precision=fp16, by default 0.98).
    `eval_transform.resizing` is also stored, if it exists. Modules with post-processing can have a method
    `with_raw_outputs()`, which returns a module that also outputs the inputs of the post-processing, named in
    `raw_names` (in 8-bit files, post-processing stays float and sensitivities are measured before it).
    """

    model: nn.Module
    classes: ClassMap
    eval_transform: Any
    normalize: Any
    output: str
    names: tuple[str, ...]
    compared: tuple[str, ...]
    dtype: str
    normalized: bool

    def transform(self, image: Image) -> Image:
        """RGB [H, W, 3] -> the network's input image, [h, w, 3]."""
        ...

    def agreement(self, ours: Sequence[NDArray[Any]], theirs: Sequence[NDArray[Any]]) -> float:
        """Fraction of predictions (pixels, boxes, images) on which two outputs agree, in 0..1."""
        ...


Severity = Literal["error", "warning", "note"]
"""error: training stops or is wrong; warning: it costs accuracy, or a score is not what it seems; note: worth
knowing."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One kind of fault of a dataset: one entry in the report of `tools/check.py`.

    Attributes:
        code: a stable name of the kind, such as `damaged_image`.
        title: one line that starts with the number, such as "12 images are damaged".
        count: how often it occurs.
        examples: up to three files (for masks and boxes with the place in the file), most severe first.
        why: one sentence: what happens in training if nothing is done.
        remedy: an override such as `data.on_error=skip` if there is one, or what to do with the files.
        exclude: split -> names of the samples to leave out; empty if leaving them out is not a remedy.
    """

    code: str
    severity: Severity
    title: str
    count: int
    examples: tuple[str, ...]
    why: str
    remedy: str
    exclude: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A layout of files that was recognized in a folder, and how to use it.

    Attributes:
        task: the value of `task=`.
        data: the value of `data=`, such as `voc`.
        title: the layout in words, such as "Pascal VOC, one XML file per image".
        overrides: what else to write after `data=`, such as `data.root=my_data`.
        conversion: the arguments of the `tools/convert.py` command that must run first; the overrides then
            refer to the new folder. Empty if the layout is read in place.
        rank: if several layouts match a folder, the one with the highest rank is used.
    """

    task: str
    data: str
    title: str
    overrides: tuple[str, ...]
    conversion: tuple[str, ...] = ()
    rank: int = 0


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The value of a key that was set to `auto`: plain numbers, or lists of them, and the reason in words."""

    value: Any
    reason: str


def import_and_call(name: str, /, *arguments: Any, **options: Any) -> Any:
    """Import the module of `package.module.function`, and call the function (or build the class)."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)(*arguments, **options)


@dataclass(frozen=True, kw_only=True)
class TaskInfo:
    """The description of a task package: `TASK` in its `__init__.py`. The tools use nothing else from it.

    The functions import their dependencies when they are called (see `import_and_call`), to keep unused
    tasks from slowing startup.

    Attributes:
        name: the value of `task=`, and the name of the package.
        title: the task in words, for messages and model cards.
        metric: the key in metrics.json that selects the `best` checkpoint; higher is better.
        hub_pipeline: the task's name on the Hugging Face Hub, for model cards; empty if it has none.
        size_key: the config key with the network's input size.
        paper_classes: number of classes in the paper's tables, for benchmarks without data.
        first_id: id of the first class if a dataset has no ids (1 for detectors, because 0 is background).
        background: whether a weight file can have an extra, unnamed output for the background.
        default_names: number of classes -> their names, for weights without class names (ImageNet's 1000).
        known_classes: class names -> the class map (ids, colors) of a public dataset with these classes, or
            None, for published weights.
        distills: the options of `distill.teacher` that apply, such as ("weight",); none: it is not supported.
        fixed_size: why an exported file has a fixed input size, and what to do; empty if it can be dynamic.
        reporter: task -> `Reporter`.
        export: `export(task=..., **options)` -> `ExportedTask`.
        with_file: `with_file(task=..., artifact=...)` -> a task that predicts with an exported file
            (`deploy.artifact.Artifact`) instead of its model.
        totals: `totals(count, classes)` -> parameters and multiply-adds, counted as in the paper's tables.
        layouts: folder -> the layouts in it that the task can train on, for `tools/check.py`; None: unknown.
        label_check: checks the labels of a dataset for `tools/check.py`; None: only images are checked.
        automatic: key -> function that chooses its value if the key is set to `auto`, from the data source
            and the configuration as plain values: `choose(source, config)` -> `Choice`.
    """

    name: str
    title: str
    metric: str
    size_key: str
    paper_classes: int
    hub_pipeline: str = ""
    first_id: int = 0
    background: bool = False
    distills: Sequence[str] = ()
    default_names: Callable[[int], tuple[str, ...] | None] | None = None
    known_classes: Callable[[tuple[str, ...]], ClassMap | None] | None = None
    fixed_size: str = ""
    reporter: Callable[[Any], Reporter]
    export: Callable[..., Any]
    with_file: Callable[..., Any]
    totals: Callable[[Any, int], tuple[float, float]]
    layouts: Callable[[Path], Iterable[Layout]] | None = None
    label_check: Callable[..., Any] | None = None
    automatic: Mapping[str, Callable[[Any, Mapping[str, Any]], Choice]] = field(default_factory=dict)
