"""Data sources, samplers and loaders: which samples a training step uses, and how they are read.

Training samples form an infinite stream: item n is sample `permutation(epoch)[n % N]` of epoch `n // N`, and
step s uses items [s * batch, (s + 1) * batch). A batch can span two epochs, so all batches have the same size
and no sample is dropped. A sample's augmentation depends only on (seed, epoch, index). Therefore the position
in the stream needs no checkpoint: resumed runs, and runs with any number of workers and processes, use the
same pixels.
"""

from __future__ import annotations

import re
import signal
import sys
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from types import FrameType, MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar, cast, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, default_collate

from engine.contracts import Batch, Dataset
from engine.data.images import Range, read_image
from engine.errors import UserError, no_split
from engine.io.parallel import init_worker

if TYPE_CHECKING:
    from engine.data.class_map import ClassMap
    from engine.data.pixel_cache import PixelCache


SplitT = TypeVar("SplitT")
DatasetT = TypeVar("DatasetT")
SampleT = TypeVar("SampleT")


class SplitSource(ABC, Generic[SplitT, DatasetT]):
    """Base of each task's `engine.contracts.DataSource`: classes, splits by name, and a dataset per split.

    Attributes:
        classes: the classes, the same for all splits.
        splits: name -> split, in the order train, val, test, others.
        description: one line for logs.
        warnings: lines to show before training.
        fewest_classes: what the task needs to learn anything.
        pixel_range, upright: see `engine.data.images.read_image`.
        gaps: split -> indices of samples that a resumed run has lost; they are left out of batches.

    Raises:
        UserError: if there are fewer classes.
    """

    fewest_classes = 1
    pixel_range: Range | None = None
    upright: bool = True
    gaps: Mapping[str, Set[int]] = MappingProxyType({})

    def __init__(
        self,
        *,
        classes: ClassMap,
        splits: Mapping[str, SplitT],
        description: str,
        warnings: Sequence[str] = (),
    ) -> None:
        if len(classes) < self.fewest_classes:
            raise UserError(
                f"{description}: {classes.names[0]!r} is the only class, so every prediction would be right; "
                f"at least {self.fewest_classes} classes are needed: add one for all the rest"
            )
        self.classes, self.splits = classes, dict(splits)
        self.description, self.warnings = description, tuple(warnings)

    def dataset(self, split: str, transform: Any, seed: int = 0, cache: PixelCache | None = None) -> DatasetT:
        """The samples of one split. Raises: UserError if there is no such split."""
        if split not in self.splits:
            reasons = [line for line in self.warnings if f": {split}: " in line]
            raise no_split(split, self.splits, source=self.description, reasons=reasons)
        dataset: Any = self._dataset(self.splits[split], transform, seed, cache)
        if split in self.gaps:
            dataset.gaps = self.gaps[split]
        if cache is None and (self.pixel_range is not None or not self.upright):
            dataset.read_pixels = partial(read_image, pixel_range=self.pixel_range, upright=self.upright)
        return cast(DatasetT, dataset)

    @abstractmethod
    def _dataset(self, split: SplitT, transform: Any, seed: int, cache: PixelCache | None) -> DatasetT: ...


class SampleKey(NamedTuple):
    """A sample's index and the epoch for which it is augmented."""

    index: int  # type: ignore[assignment]  # shadows tuple.index, which is not used here
    epoch: int


def sample_seed(seed: int, key: SampleKey) -> int:
    """A 32-bit seed that depends only on (seed, epoch, index)."""
    return int(np.random.SeedSequence([seed, key.epoch, key.index]).generate_state(1)[0])


@runtime_checkable
class MixesSamples(Protocol[SampleT]):
    """An augmentation that may combine a sample with others of the split, as a mosaic does.

    It is called like any other augmentation, with the parts of a sample and a seed, if it needs no others.
    """

    def partners(self, seed: int) -> int:
        """How many other samples `seed` needs; 0: it is called."""
        ...

    def combine(self, samples: Sequence[SampleT], seed: int) -> SampleT:
        """A sample and its partners -> one sample."""
        ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


def partner_indices(dataset: Dataset, index: int, seed: int, count: int) -> list[int]:
    """Indices of `count` samples to combine with sample `index`, drawn from all samples of the dataset.

    They depend only on `seed`, the sample's own; its augmentation uses other random streams. Sample `index`
    itself stands in for samples that can no longer be read when a run resumes.
    """
    gaps: Set[int] = getattr(dataset, "gaps", frozenset())
    drawn = np.random.default_rng([seed, 3]).integers(len(dataset), size=count).tolist()
    return [index if other in gaps else other for other in drawn]


class TrainingSampler(Sampler[list[SampleKey]]):
    """One process's batches of the infinite training stream, starting at `first_step`.

    Args:
        num_samples: size of the dataset, at least 1.
        batch: samples per step, over all processes and micro-batches.
        micro_batches: batches that one process contributes to a step (gradient accumulation).
        rank, world_size: rank of this process and number of processes.

    Raises:
        UserError: if the dataset is empty, or `batch` is not a multiple of `world_size * micro_batches`.
    """

    def __init__(
        self,
        *,
        num_samples: int,
        batch: int,
        seed: int,
        first_step: int = 0,
        micro_batches: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if num_samples < 1:
            raise UserError("the training split is empty")
        parts = world_size * micro_batches
        if batch < 1 or batch % parts:
            raise UserError(
                f"trainer.batch={batch} must be a multiple of processes x trainer.accumulate = {parts}"
            )
        self.num_samples, self.batch, self.seed, self.first_step = num_samples, batch, seed, first_step
        self.micro_batches, self.rank, self.world_size = micro_batches, rank, world_size
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        step = self.first_step
        while True:
            yield from self.step_batches(step)
            step += 1

    def step_batches(self, step: int) -> list[list[SampleKey]]:
        """The micro-batches that this process contributes to `step`."""
        size = self.batch // (self.world_size * self.micro_batches)
        first = step * self.batch + self.rank * size * self.micro_batches
        starts = range(first, first + size * self.micro_batches, size)
        return [[self._key(position) for position in range(start, start + size)] for start in starts]

    def _key(self, position: int) -> SampleKey:
        epoch, offset = divmod(position, self.num_samples)
        if epoch != self._epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.num_samples)
            self._epoch, self._order = epoch, order
        return SampleKey(int(self._order[offset]), epoch)


class EvaluationSampler(Sampler[list[SampleKey]]):
    """One process's batches of a split; all processes together read each sample exactly once."""

    def __init__(self, *, num_samples: int, batch: int = 1, rank: int = 0, world_size: int = 1) -> None:
        self.indices = range(rank, num_samples, world_size)
        self.batch = batch

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for start in range(0, len(self.indices), self.batch):
            yield [SampleKey(index, 0) for index in self.indices[start : start + self.batch]]


class VariableLength(NamedTuple):
    """Part of a sample with varying length, such as its boxes; in a batch, a list of the `rows`."""

    rows: Tensor


def collate(samples: list[dict[str, Any]]) -> Batch:
    """Combine samples into a batch: tensors are stacked, numbers become a tensor, `VariableLength` a list.

    Raises:
        UserError: if the images differ in size.
    """
    for name, value in samples[0].items():
        sizes = {tuple(sample[name].shape[-2:]) for sample in samples if isinstance(value, Tensor)}
        if len(sizes) > 1:
            two = " and ".join(f"{height}x{width}" for height, width in sorted(sizes)[:2])
            raise UserError(
                f"cannot batch images of different sizes ({two}); set data.eval_batch=1; in training, "
                "remove transforms that randomly change the size from augment.extra"
            )
    variable = [name for name, value in samples[0].items() if isinstance(value, VariableLength)]
    lists = {name: [sample.pop(name).rows for sample in samples] for name in variable}
    return {**default_collate(samples), **lists}


def as_tensor(array: NDArray[Any]) -> Tensor:
    """Convert an array to a contiguous tensor, which shares the array's memory if that is writable.

    Views into a pixel cache are read-only and are copied, because torch requires writable memory.
    """
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


@dataclass(frozen=True, kw_only=True)
class DataLoaders:
    """The training and evaluation datasets, and their loaders.

    Attributes:
        train_set, eval_set: datasets indexed by `SampleKey`.
        seed: seed of the sample order.
        workers: number of loader processes.
        eval_batch: images per batch in evaluation; with more than one, all images must have the same size.
        extra_metrics: additional entries for metrics.json about the data.
    """

    train_set: Dataset
    eval_set: Dataset
    seed: int = 0
    workers: int = 0
    eval_batch: int = 1
    extra_metrics: Mapping[str, Any] = field(default_factory=dict)

    def train_batches(
        self, first_step: int, *, batch: int, micro_batches: int, rank: int, world_size: int, pin: bool
    ) -> Iterator[Batch]:
        """This process's infinite iterator over micro-batches, starting at `first_step`."""
        sampler = TrainingSampler(
            num_samples=len(self.train_set),
            batch=batch,
            seed=self.seed,
            first_step=first_step,
            micro_batches=micro_batches,
            rank=rank,
            world_size=world_size,
        )
        return iter(BatchLoader(self.train_set, sampler, workers=self.workers, pin_memory=pin))

    def step_samples(self, step: int, *, batch: int) -> list[SampleKey]:
        """The samples that all processes together use at `step`."""
        sampler = TrainingSampler(num_samples=len(self.train_set), batch=batch, seed=self.seed)
        return sampler.step_batches(step)[0]

    def eval_batches(self, *, rank: int, world_size: int, pin: bool) -> Iterator[Batch]:
        """This process's batches of the evaluation split."""
        size = len(self.eval_set)
        sampler = EvaluationSampler(num_samples=size, batch=self.eval_batch, rank=rank, world_size=world_size)
        return iter(BatchLoader(self.eval_set, sampler, workers=self.workers, pin_memory=pin))

    def num_eval_batches(self, world_size: int) -> int:
        """The number of batches in the first process's share of the evaluation split."""
        sampler = EvaluationSampler(
            num_samples=len(self.eval_set), batch=self.eval_batch, world_size=world_size
        )
        return len(sampler)


class BatchLoader:
    """Iterates over a sampler's batches, prefetched by `workers` processes (0: loaded in this process).

    A UserError raised by the dataset in a worker is raised unchanged here. Iterating can also raise
    `WorkerKilled`: see `_BatchIterator`.
    """

    def __init__(
        self,
        dataset: Dataset,
        batches: Iterable[list[SampleKey]],
        *,
        workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        reader: Any = _BatchReader(dataset)
        with _any_number_of_workers():
            self._loader: DataLoader[Any] = DataLoader(
                reader,
                sampler=batches,
                batch_size=None,  # the sampler's items are batches
                collate_fn=_unchanged,
                num_workers=workers,
                pin_memory=pin_memory,
                worker_init_fn=init_worker,
                prefetch_factor=4 if workers else None,
            )

    def __iter__(self) -> Iterator[Batch]:
        with _any_number_of_workers():
            return _BatchIterator(iter(self._loader))


@contextmanager
def _any_number_of_workers() -> Iterator[None]:
    """Silence torch's warning: more workers than CPUs can be useful, because workers also wait for files."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create .* worker processes")
        yield


def without_gaps(dataset: Dataset, keys: list[SampleKey]) -> list[SampleKey]:
    """The `keys` of samples that exist; if there are none, the next existing sample."""
    gaps: Set[int] = getattr(dataset, "gaps", frozenset())
    if not gaps:
        return keys
    present = [key for key in keys if key.index not in gaps]
    after = (key._replace(index=(key.index + step) % len(dataset)) for key in keys[:1] for step in count(1))
    return present or [next(key for key in after if key.index not in gaps)]


class _UserErrorMessage(NamedTuple):
    """Transfers a UserError from a worker, because torch would replace its message with a traceback."""

    message: str


class _BatchReader:
    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, keys: list[SampleKey]) -> Batch | _UserErrorMessage:
        try:
            return collate([self.dataset[key] for key in without_gaps(self.dataset, keys)])
        except UserError as error:
            return _UserErrorMessage(str(error))


def _unchanged(batch: Any) -> Any:
    return batch


class WorkerKilled(UserError):
    """A DataLoader worker was killed."""


_SIGNAL_GRACE_S = 1.0
"""The longest delay between workers and main process when a signal is sent to a whole job."""

_worker_deaths: list[str] = []


class _BatchIterator(Iterator[Batch]):
    """Raises `WorkerKilled` between batches only.

    When a worker is killed, torch raises an error from a signal handler, which can interrupt the main process
    anywhere, even in an optimizer step or a checkpoint. This class records the error and raises it from the
    next call of `next`. If `next` is already waiting, it raises within 5 s, when torch checks its workers.
    """

    def __init__(self, batches: Iterator[Batch | _UserErrorMessage]) -> None:
        self._batches = batches
        _worker_deaths.clear()
        _wrap_death_handler()

    def __next__(self) -> Batch:
        try:
            if _worker_deaths:
                raise RuntimeError(_worker_deaths[-1])
            batch = next(self._batches)
        except (RuntimeError, ConnectionError, EOFError) as error:
            if not _is_worker_death(error):
                raise
            time.sleep(_SIGNAL_GRACE_S)
            cause = re.search(r"signal: ([^.]*)", " ".join([*_worker_deaths, str(error)]))
            raise WorkerKilled(
                f"a DataLoader worker was killed ({cause[1] if cause else 'unknown cause'}), usually because "
                "memory or shared memory (/dev/shm) ran out; lower data.workers or trainer.batch, or add "
                "memory; continue with resume=<run folder>"
            ) from None
        if isinstance(batch, _UserErrorMessage):
            raise UserError(batch.message)
        return batch


def _is_worker_death(error: Exception) -> bool:
    if isinstance(error, RuntimeError):
        return "DataLoader worker (pid" in str(error)
    # Receiving a batch's shared memory fails if the worker is dead. Exceptions raised inside a live worker
    # start with "Caught ...".
    return not str(error).startswith("Caught ")


def _wrap_death_handler() -> None:
    """Record the errors of torch's SIGCHLD handler, which torch installs with the first worker."""
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        return
    handler = signal.getsignal(signal.SIGCHLD)
    if callable(handler) and not hasattr(handler, "records_deaths"):
        signal.signal(signal.SIGCHLD, _recording(handler))


def _recording(handler: Callable[[int, FrameType | None], Any]) -> Callable[[int, FrameType | None], None]:
    def record(number: int, frame: FrameType | None) -> None:
        try:
            handler(number, frame)
        except RuntimeError as error:
            _worker_deaths.append(str(error))

    record.records_deaths = True  # type: ignore[attr-defined]
    return record
