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

    Args:
        on_batch: called with the number of batches done, the batch and its predictions.

    Returns:
        `evaluator.compute()` over the samples of all processes; the same dict in every process.
    """
    was_training = task.training
    task.eval()
    evaluator.reset()
    with torch.inference_mode():
        for done, batch in enumerate(batches, start=1):
            batch = runtime.move(batch)
            outputs = cast(Task, task).predict(batch)
            evaluator.update(outputs, batch)
            if on_batch is not None:
                on_batch(done, batch, outputs)
    task.train(was_training)
    evaluator.merge(runtime.gather(evaluator.state()))
    return evaluator.compute()
