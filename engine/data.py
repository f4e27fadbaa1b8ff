"""Which samples a step sees, as a pure function of the step; and the loaders that read them.

The training stream is endless: item n is sample `permutation(epoch)[n % N]` of epoch `n // N`, and step s
takes the items [s * batch, (s + 1) * batch). Batches run across the end of an epoch, so none is ever short
and no sample is dropped. A sample's augmentation depends on (seed, epoch, index) alone. So nothing about the
stream has to be saved: a resumed run, any number of workers and any number of processes see the same pixels.
"""

import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, default_collate

from engine.errors import UserError


class Draw(NamedTuple):
    """One sample of the training stream: the dataset's `index`, drawn in `epoch`."""

    index: int  # type: ignore[assignment]  # shadows tuple.index, which nobody asks a sample for
    epoch: int


def draw_seed(seed: int, draw: Draw) -> int:
    """A 32-bit seed that depends on nothing but (seed, epoch, index)."""
    return int(np.random.SeedSequence([seed, draw.epoch, draw.index]).generate_state(1)[0])


class Ragged(NamedTuple):
    """A part of a sample whose length differs from sample to sample: a batch holds a list of the `rows`."""

    rows: Tensor


class Dataset(Protocol):
    """A map-style data set: `dataset[Draw(index, epoch)]` is a dict of tensors and numbers."""

    def __len__(self) -> int: ...

    def __getitem__(self, draw: Draw) -> dict[str, Any]: ...


class Stream(Sampler[list[Draw]]):
    """The batches of one process, from `first_step` on.

    Args:
        num_samples: size of the data set, at least 1.
        batch: samples per step over all processes and micro-batches.
        micro_batches: gradient accumulation: batches that one process yields per step.
        rank, world_size: which process of how many.

    Raises:
        ValueError: the data set is empty, or `batch` does not divide into `world_size * micro_batches` parts.
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
            raise ValueError("the training split is empty")
        parts = world_size * micro_batches
        if batch < 1 or batch % parts:
            raise ValueError(
                f"trainer.batch={batch} must be a multiple of processes x trainer.accumulate = {parts}"
            )
        self.num_samples, self.batch, self.seed, self.first_step = num_samples, batch, seed, first_step
        self.micro_batches, self.rank, self.world_size = micro_batches, rank, world_size
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def __iter__(self) -> Iterator[list[Draw]]:
        step = self.first_step
        while True:
            yield from self.step_batches(step)
            step += 1

    def step_batches(self, step: int) -> list[list[Draw]]:
        """The micro-batches that this process contributes to `step`."""
        size = self.batch // (self.world_size * self.micro_batches)
        first = step * self.batch + self.rank * size * self.micro_batches
        starts = range(first, first + size * self.micro_batches, size)
        return [[self.item(position) for position in range(start, start + size)] for start in starts]

    def item(self, position: int) -> Draw:
        """The sample at `position` of the endless stream."""
        epoch, offset = divmod(position, self.num_samples)
        if epoch != self._epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.num_samples)
            self._epoch, self._order = epoch, order
        return Draw(int(self._order[offset]), epoch)


class Shard(Sampler[list[Draw]]):
    """Every sample of a split once, dealt to the processes without padding: evaluation counts exactly."""

    def __init__(self, *, num_samples: int, batch: int = 1, rank: int = 0, world_size: int = 1) -> None:
        self.indices = range(rank, num_samples, world_size)
        self.batch = batch

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch)

    def __iter__(self) -> Iterator[list[Draw]]:
        for start in range(0, len(self.indices), self.batch):
            yield [Draw(index, 0) for index in self.indices[start : start + self.batch]]


@dataclass(frozen=True, kw_only=True)
class Feed:
    """The two data sets of a training and how they are read.

    Attributes:
        train_set, eval_set: map-style, indexed by `Draw`.
        seed: of the order of samples.
        workers: loader processes.
        eval_batch: images per batch at evaluation; more than one needs images of one size.
        notes: what `metrics.json` says about the data.
    """

    train_set: Dataset
    eval_set: Dataset
    seed: int = 0
    workers: int = 0
    eval_batch: int = 1
    notes: Mapping[str, Any] = field(default_factory=dict)

    def train_batches(
        self, first_step: int, *, batch: int, micro_batches: int, rank: int, world_size: int, pin: bool
    ) -> Iterator[dict[str, Any]]:
        """This process's endless micro-batches from `first_step` on."""
        stream = Stream(
            num_samples=len(self.train_set),
            batch=batch,
            seed=self.seed,
            first_step=first_step,
            micro_batches=micro_batches,
            rank=rank,
            world_size=world_size,
        )
        return iter(loader(self.train_set, stream, workers=self.workers, pin_memory=pin))

    def draws(self, step: int, *, batch: int) -> list[Draw]:
        """The samples that all processes together see at `step`."""
        return Stream(num_samples=len(self.train_set), batch=batch, seed=self.seed).step_batches(step)[0]

    def eval_batches(self, *, rank: int, world_size: int, pin: bool) -> Iterator[dict[str, Any]]:
        """This process's share of the evaluation split."""
        size = len(self.eval_set)
        shard = Shard(num_samples=size, batch=self.eval_batch, rank=rank, world_size=world_size)
        return iter(loader(self.eval_set, shard, workers=self.workers, pin_memory=pin))


def loader(
    dataset: Dataset,
    batches: Sampler[list[Draw]],
    *,
    workers: int = 0,
    pin_memory: bool = False,
) -> DataLoader[dict[str, Any]]:
    """A torch loader over `batches`; `workers` processes read ahead (0: in this process)."""
    return DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=pin_memory,
        collate_fn=collate,
        worker_init_fn=start_worker,
        prefetch_factor=4 if workers else None,
    )


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Samples to a batch: tensors are stacked, numbers become a tensor, ragged parts a list of tensors.

    Raises:
        UserError: the tensors differ in size.
    """
    for name, value in samples[0].items():
        sizes = {tuple(sample[name].shape[-2:]) for sample in samples if isinstance(value, Tensor)}
        if len(sizes) > 1:
            found = " and ".join(f"{height}x{width}" for height, width in sorted(sizes)[:2])
            raise UserError(
                f"a batch cannot hold images of {found}: set data.eval_batch=1, or data.eval_size"
            )
    ragged = [name for name, value in samples[0].items() if isinstance(value, Ragged)]
    lists = {name: [sample.pop(name).rows for sample in samples] for name in ragged}
    return {**default_collate(samples), **lists}


def as_tensor(array: NDArray[Any]) -> Tensor:
    """A tensor of an array's values, contiguous; it shares the array's memory where that is writable.

    A view into a cache is not, and a tensor needs memory that it may write to.
    """
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def file_of(dataset: Dataset, index: int) -> str:
    """The file behind a sample, where the data set can tell (`image_path(index)`), else its number."""
    return str(dataset.image_path(index)) if hasattr(dataset, "image_path") else f"sample {index}"


def start_worker(worker: int) -> None:
    # Ctrl-C and a scheduler's SIGTERM go to the whole process group. The main process decides what to do
    # about them and needs its workers until then, so they leave the group; when it ends, it terminates
    # them (torch's own handler ends a worker quietly when its parent asks).
    if hasattr(os, "setpgrp"):  # not on Windows
        os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The workers are the parallelism: threads inside of them only fight over the same cores.
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
