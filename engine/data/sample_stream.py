"""Which samples a step sees, as a pure function of the step; and the loaders that read them.

The training stream is endless: item n is sample `permutation(epoch)[n % N]` of epoch `n // N`, and step s
takes the items [s * batch, (s + 1) * batch). Batches run across the end of an epoch, so none is ever short
and no sample is dropped. A sample's augmentation depends on (seed, epoch, index) alone. So nothing about the
stream has to be saved: a resumed run, any number of workers and any number of processes see the same pixels.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler


class Draw(NamedTuple):
    """One sample of the training stream: the dataset's `index`, drawn in `epoch`."""

    index: int  # type: ignore[assignment]  # shadows tuple.index, which nobody asks a sample for
    epoch: int


def draw_seed(seed: int, draw: Draw) -> int:
    """A 32-bit seed that depends on nothing but (seed, epoch, index)."""
    return int(np.random.SeedSequence([seed, draw.epoch, draw.index]).generate_state(1)[0])


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
