"""The largest batch that fits into a device's memory."""

import gc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from engine.contracts import Batch, Choice
from engine.data.loader import DataLoaders
from engine.errors import UserError, out_of_memory
from engine.runtime import Runtime
from engine.train.learner import Learner

MOST_OF_THE_IMAGES = 1 / 16
"""A batch has at most this share of the training images, so that an epoch has enough steps."""

_MEMORY_SHARE = 0.9  # of the device; the rest is for evaluation and fragmentation
_UPDATES = 2  # the second one has the optimizer's state in memory


def largest_power_of_two(fits: Callable[[int], bool], *, most: int) -> int:
    """The largest power of two up to `most` that fits, trying each from 2 on; 0 if 2 does not fit."""
    size, tried = 0, 2
    while tried <= most and fits(tried):
        size, tried = tried, 2 * tried
    return size


def choose(
    data: DataLoaders,
    *,
    default: int,
    micro_batches: int,
    runtime: Runtime,
    fits: Callable[[int], bool],
) -> Choice:
    """The batch over all processes and micro-batches.

    Args:
        default: the configuration's batch; a smaller one is chosen only if it does not fit.
        fits: number of images of one micro-batch of this process -> whether a step fits into its memory.

    Raises:
        UserError: if two images do not fit.
    """
    parts = micro_batches * runtime.world_size
    images = max(default, int(len(data.train_set) * MOST_OF_THE_IMAGES))
    most = max(2, images // parts)
    size = min(runtime.gather(largest_power_of_two(fits, most=most)))
    if not size:
        raise UserError(
            "trainer.batch=auto: a step on two images does not fit into the device's memory; lower "
            "data.crop or data.size, or use a smaller network"
        )
    if 2 * size <= most:
        reason = f"{2 * size * parts} images do not fit into the memory of {runtime.device}"
    else:
        reason = f"a larger batch would exceed a sixteenth of the {len(data.train_set)} training images"
    return Choice(value=size * parts, reason=reason)


def fits(
    task: nn.Module,
    optimizer: Optimizer,
    runtime: Runtime,
    data: DataLoaders,
    *,
    images: int,
    ema: float | None,
) -> bool:
    """Whether training steps on `images` images fit into the memory of a CUDA device, which is freed again.

    Args:
        task: a copy, which the steps change.
    """
    torch.cuda.reset_peak_memory_stats(runtime.device)
    try:
        _take_steps(task, optimizer, runtime, data, images=images, ema=ema)
        peak = torch.cuda.max_memory_reserved(runtime.device)
        free, total = torch.cuda.mem_get_info(runtime.device)
        others = total - free - torch.cuda.memory_reserved(runtime.device)
        return peak + others <= _MEMORY_SHARE * total
    except Exception as error:
        if not out_of_memory(error):
            raise
        return False
    finally:
        optimizer.state.clear()
        gc.collect()
        torch.cuda.empty_cache()


def _take_steps(
    task: nn.Module,
    optimizer: Optimizer,
    runtime: Runtime,
    data: DataLoaders,
    *,
    images: int,
    ema: float | None,
) -> None:
    alone = replace(runtime, rank=0, world_size=1)
    learner = Learner(task=task, optimizer=optimizer, runtime=alone, ema=ema)
    learner.start(compile=False)
    batch = alone.move(repeated(first_batch(data), images))
    for _ in range(_UPDATES):
        learner.compute_gradients([{**batch}])
        learner.update()


def first_batch(data: DataLoaders) -> Batch:
    """The first two samples of training, at their real size."""
    alone = replace(data, workers=0)
    size = min(2, len(data.train_set))
    batches = alone.train_batches(0, batch=size, micro_batches=1, rank=0, world_size=1, pin=False)
    return next(batches)


def repeated(batch: Batch, images: int) -> Batch:
    """A batch of `images` images: those of `batch`, repeated."""
    result: dict[str, Any] = {}
    for name, value in batch.items():
        times = -(-images // len(value))
        if isinstance(value, Tensor):
            result[name] = value.repeat(times, *[1] * (value.dim() - 1))[:images]
        else:
            result[name] = (value * times)[:images]
    return result
