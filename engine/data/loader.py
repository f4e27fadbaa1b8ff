"""Which samples a step sees, as a pure function of the step; and the loaders that read them.

The training stream is endless: item n is sample `permutation(epoch)[n % N]` of epoch `n // N`, and step s
takes the items [s * batch, (s + 1) * batch). Batches run across the end of an epoch, so none is ever short
and no sample is dropped. A sample's augmentation depends on (seed, epoch, index) alone. So nothing about the
stream has to be saved: a resumed run, any number of workers and any number of processes see the same pixels.
"""

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, default_collate

from engine.contracts import Batch, Dataset
from engine.data.sample_stream import Draw, Shard, Stream
from engine.errors import UserError


class Ragged(NamedTuple):
    """A part of a sample whose length differs from sample to sample: a batch holds a list of the `rows`."""

    rows: Tensor


@dataclass(frozen=True, kw_only=True)
class TrainingData:
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


A_MOMENT_S = 1.0
"""How much later than its workers the main process may get a signal that is sent to all of a job."""


class LostWorker(UserError):
    """A process that reads data was killed."""


class Batches(Iterator[Batch]):
    """A loader's batches.

    torch raises the death of a worker out of a signal handler, so in the middle of whatever the main process
    does: an optimizer step, a checkpoint. Here it is noted, and raised by the next `next`; by one that waits
    already within the 5 s after which torch looks at its workers.
    """

    _deaths: list[str] = []  # noqa: RUF012  one list per process, as there is one signal handler

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self._deaths.clear()
        _surround_torchs_handler()

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
            LostWorker: a process that reads data was killed.
        """
        try:
            if self._deaths:
                raise RuntimeError(self._deaths[-1])
            return next(self._batches)
        except (RuntimeError, ConnectionError, EOFError) as error:
            if not _tells_of_a_death(error):
                raise
            time.sleep(A_MOMENT_S)
            cause = re.search(r"signal: ([^.]*)", " ".join([*self._deaths, str(error)]))
            raise LostWorker(
                f"a process that reads data was killed ({cause[1] if cause else 'cause unknown'}); usually "
                "memory, or shared memory in /dev/shm, ran out: lower data.workers or trainer.batch, or give "
                "the run more; go on with resume=<run folder>"
            ) from None


def _tells_of_a_death(error: Exception) -> bool:
    if isinstance(error, RuntimeError):
        return "DataLoader worker (pid" in str(error)
    # A batch lies in shared memory that its worker hands over: a dead one cannot. What goes wrong inside of a
    # worker that lives is told as "Caught ..." instead.
    return not str(error).startswith("Caught ")


def _surround_torchs_handler() -> None:
    # torch's own is there once a first loader has started its workers.
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        return
    handler = signal.getsignal(signal.SIGCHLD)
    if callable(handler) and not hasattr(handler, "notes_deaths"):
        signal.signal(signal.SIGCHLD, _noting(handler))


def _noting(handler: Callable[[int, FrameType | None], Any]) -> Callable[[int, FrameType | None], None]:
    def note(number: int, frame: FrameType | None) -> None:
        try:
            handler(number, frame)
        except RuntimeError as error:
            Batches._deaths.append(str(error))

    note.notes_deaths = True  # type: ignore[attr-defined]
    return note
