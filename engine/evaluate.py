"""Evaluation of one split: every sample once, whatever the number of processes."""

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import nn

from engine.runtime import Runtime
from engine.task import Batch, Evaluator, Task


def evaluate(
    task: nn.Module,
    batches: Iterable[Batch],
    evaluator: Evaluator,
    runtime: Runtime,
    *,
    on_batch: Callable[[int, Batch, Any], None] | None = None,
) -> dict[str, Any]:
    """Run `task.predict` over `batches` (this process's share) and return the metrics of the whole split.

    Predictions are made in the runtime's precision, with rank 0's running statistics in all processes.

    Args:
        on_batch: called with the number of batches done, the batch and its predictions.

    Returns:
        `evaluator.compute()` over the samples of all processes; the same dict in every process.
    """
    metrics = evaluate_until(task, batches, evaluator, runtime, on_batch=on_batch, stop=lambda: False)
    assert metrics is not None
    return metrics


def evaluate_until(
    task: nn.Module,
    batches: Iterable[Batch],
    evaluator: Evaluator,
    runtime: Runtime,
    *,
    stop: Callable[[], bool],
    on_batch: Callable[[int, Batch, Any], None] | None = None,
) -> dict[str, Any] | None:
    """`evaluate`, given up (None, in every process) where `stop` says so between two batches of any."""
    was_training = task.training
    task.eval()
    runtime.share_buffers(task)
    evaluator.reset()
    stopped = False
    with torch.inference_mode():
        for done, batch in enumerate(batches, start=1):
            batch = runtime.move(batch)
            with runtime.autocast():
                outputs = cast(Task, task).predict(batch)
            evaluator.update(outputs, batch)
            if on_batch is not None:
                on_batch(done, batch, outputs)
            if stopped := stop():
                break
    task.train(was_training)
    shares = runtime.gather((stopped, evaluator.state()))
    if any(given_up for given_up, _ in shares):
        return None
    evaluator.merge([state for _, state in shares])
    return evaluator.compute()
