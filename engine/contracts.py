"""Everything that the engine and the tools ask of a task, its data and its exported form, in one place.

Protocols, no base classes: a class that has these members fits, wherever it comes from. `docs/extend/` shows
how to write one of each; `tests/contract.py` holds every task to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

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
    """A map-style data set. `dataset[SampleKey(index, epoch)]` is a dict of tensors and numbers that depends
    on nothing but the seed, the epoch and the index.

    A data set whose samples have masks may also have `masks()` (see `engine.data.pixel_cache`).
    """

    @property
    def has_labels(self) -> bool:
        """Whether the split can be scored."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, draw: Any, /) -> dict[str, Any]: ...

    def read(self, index: int) -> Any:
        """The stored parts of a sample, before any transform. Raises: UserError naming a damaged file."""
        ...

    def name(self, index: int) -> str:
        """What the sample is called in reports: no suffix, `/` between folders."""
        ...

    def image_path(self, index: int) -> str: ...


class DataSource(Protocol):
    """What a `data` config builds: the classes, the splits by name, and a data set per split."""

    classes: ClassMap
    splits: Mapping[str, Any]
    description: str
    """One line for logs."""
    warnings: Sequence[str]
    """Lines to show before training."""

    def dataset(self, split: str, transform: Any, seed: int = 0, cache: Any = None) -> Any:
        """A `Dataset`. Raises: UserError if there is no such split."""
        ...


class Evaluator(Protocol):
    """Metrics over a split: fed batch by batch, additive across processes.

    `compute()` returns a flat dict of names to numbers and strings. `state()` is a dict of arrays, and
    `merge(states)` replaces the evaluator's own state by their sum.
    """

    main_metric: str

    def reset(self) -> None: ...

    def update(self, outputs: Any, batch: Batch) -> None: ...

    def state(self) -> dict[str, Any]: ...

    def merge(self, states: list[dict[str, Any]]) -> None: ...

    def compute(self) -> dict[str, Any]: ...

    def table(self) -> str:
        """The result as text, for people."""
        ...


@runtime_checkable
class Task(Protocol):
    """What is learned: an `nn.Module` that owns a `model` (tensor -> tensors) and knows its losses.

    `task(batch)` returns a dict of named losses, the same names every time, each the mean over what the batch
    holds (0 if it holds nothing): their sum is the objective, their names are the log. `weight(batch)` says
    over how much that mean was taken (pixels, boxes, images), so that micro-batches and processes can be
    averaged exactly. `predict(batch)` returns what the evaluator takes.

    A checkpoint holds `model`; whatever else a task keeps must follow from its configuration.
    """

    model: nn.Module
    classes: ClassMap
    eval_transform: Any
    """What happens to an image before it is predicted; `str(eval_transform)` describes it."""
    normalize: nn.Module
    """uint8 pixels -> what the model takes."""
    distillation: Any
    """A loss that draws the scores towards a teacher's, or None."""

    def __call__(self, batch: Batch) -> dict[str, Tensor]: ...

    def weight(self, batch: Batch) -> Tensor: ...

    def predict(self, batch: Batch) -> Any: ...

    def predict_image(self, image: Image) -> Any:
        """RGB [H, W, 3] -> the prediction at the image's own size, on the CPU."""
        ...

    def notes(self, dataset: Any) -> list[str]:
        """Lines worth reading before training on this split."""
        ...

    def check_classes(self, classes: ClassMap) -> None:
        """Raises: UserError if a data set has classes that this task cannot be scored on."""
        ...

    def evaluator(self, dataset: Any) -> Evaluator: ...


class Reporter(Protocol):
    """Draws and saves what a task computes. `TaskInfo.reporter(task)` makes one."""

    def draw(self, image: Image, prediction: Any, *, legend: bool = True, all_classes: bool = False) -> Image:
        """The image with its prediction; `all_classes`: a legend that does not change from frame to frame."""
        ...

    def save_prediction(self, prediction: Any, out: Path, name: str) -> dict[str, Any]:
        """Write what belongs to one image beside its drawing; returns its part of summary.json."""
        ...

    def save_samples(self, dataset: Any, folder: Path, *, count: int) -> None:
        """Draw predictions for `count` images spread over a split."""
        ...

    def save_evaluation(self, evaluator: Any, dataset: Any, out: Path, *, worst: int) -> None:
        """Write the per-class table, the charts and the `worst` images of an evaluation."""
        ...


class ExportedTask(Protocol):
    """What export captures: an `nn.Module`, images [N, 3, H, W] -> a tensor or a tuple of tensors.

    Attributes: output (what the file gives, such as `logits`), names (of the outputs), compared (those whose
    numbers must equal PyTorch's), dtype (of the images: `uint8` or `float32`), normalized (whether the graph
    normalizes the images itself), model, classes, eval_transform, normalize.
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
        """RGB [H, W, 3] -> what the network is given, [h, w, 3]."""
        ...

    def agreement(self, ours: Sequence[NDArray[Any]], theirs: Sequence[NDArray[Any]]) -> float:
        """Share of the answers (pixels, boxes, images) that two outputs have in common, in 0..1."""
        ...


@dataclass(frozen=True, kw_only=True)
class TaskInfo:
    """What a task package says about itself, as `TASK` in its `__init__.py`. The tools read nothing else.

    The functions import what they need when they are called: a package costs nothing until it is used.

    Attributes:
        name: what users type, `task=<name>`; also the name of the package.
        title: in words, for messages and model cards.
        metric: the metric that `best` means, a key of metrics.json; larger is better.
        hub_pipeline: the Hugging Face Hub's name of the task, for model cards; empty: it has none.
        size_key: the config key that says at which size the network sees an image.
        paper_classes: number of classes of the paper's rows, for benchmarks without data.
        first_id: id of the first class where a data set gives none (detectors: 1, because 0 is background).
        background: whether a weight file may have one more output than it has named classes, for background.
        default_names: number of classes -> their names, for weights without names (ImageNet's 1000).
        distills: whether `distill.teacher` works.
        reporter: task -> `Reporter`.
        export: `export(task=..., **options)` -> `ExportedTask`.
        with_file: `with_file(task=..., artifact=...)` -> the task, predicting with an exported file
            (`deploy.artifact.Artifact`) instead of its model.
        totals: `totals(count, classes)` -> parameters and multiply-adds as the paper's tables count them.
    """

    name: str
    title: str
    metric: str
    size_key: str
    paper_classes: int
    hub_pipeline: str = ""
    first_id: int = 0
    background: bool = False
    distills: bool = False
    default_names: Callable[[int], tuple[str, ...] | None] | None = None
    reporter: Callable[[Any], Reporter]
    export: Callable[..., Any]
    with_file: Callable[..., Any]
    totals: Callable[[Any, int], tuple[float, float]]
