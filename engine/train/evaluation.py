"""Evaluation of one split: every sample once, whatever the number of processes.

Counting overlaps with predicting: while the model works on a batch, one thread feeds the evaluator with the
batches before it, in their order.
"""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import torch
from torch import nn

from engine.contracts import Batch, Evaluator, Task
from engine.data.loader import Batches, LostWorker
from engine.runtime import DeviceCopy, Runtime

AHEAD = 2
"""Batches that may be predicted and not yet counted: two, so that neither side waits for a slow moment."""


def evaluate(
    task: nn.Module,
    batches: Iterable[Batch],
    evaluator: Evaluator,
    runtime: Runtime,
    *,
    on_batch: Callable[[int, Batch, Any], None] | None = None,
) -> dict[str, Any]:
    """Run `task.predict` over `batches` (this process's share) and return the metrics of the whole split.

    Predictions are made in the runtime's precision, with rank 0's running statistics in all processes. The
    evaluator gets them on the CPU, with the batch as the loader gave it, in the order of the batches.

    Args:
        on_batch: called after the evaluator, in the same thread, with the number of batches done, the batch
            and its predictions.

    Returns:
        `evaluator.compute()` over the samples of all processes; the same dict in every process.

    Raises:
        UserError: a process that reads data was killed, or another process of the run has ended.
        Exception: whatever the evaluator or `on_batch` raised first; no later batch is counted.
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
    reader = Batches(iter(batches))  # Started before the thread: a process with threads should not fork.
    with _Counter(evaluator, on_batch) as counter, torch.inference_mode():
        while not stopped:
            try:
                batch = next(reader)
            except StopIteration:
                break
            except LostWorker:
                if not (stopped := stop()):
                    raise
                break
            with runtime.autocast():
                outputs = cast(Task, task).predict(runtime.move(batch))
            counter.add(batch, DeviceCopy(outputs))
            stopped = stop()
        if stopped:
            counter.give_up()
    task.train(was_training)
    shares = runtime.gather((stopped, evaluator.state()))
    if any(given_up for given_up, _ in shares):
        return None
    evaluator.merge([state for _, state in shares])
    return evaluator.compute()


class _Counter:
    """Feeds an evaluator from one thread, in order; the first error comes out of the next call."""

    def __init__(self, evaluator: Evaluator, on_batch: Callable[[int, Batch, Any], None] | None) -> None:
        self._evaluator, self._on_batch = evaluator, on_batch
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="evaluator")
        self._waiting: deque[Future[None]] = deque()
        self._added = 0
        self._over = False

    def add(self, batch: Batch, outputs: DeviceCopy) -> None:
        self._added += 1
        self._waiting.append(self._thread.submit(self._count, self._added, batch, outputs))
        while len(self._waiting) > AHEAD or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()

    def _count(self, number: int, batch: Batch, outputs: DeviceCopy) -> None:
        if self._over:
            return
        try:
            with torch.inference_mode():
                value = outputs.value()
                self._evaluator.update(value, batch)
                if self._on_batch is not None:
                    self._on_batch(number, batch, value)
        except BaseException:
            self._over = True
            raise

    def give_up(self) -> None:
        """Count no further batch."""
        self._over = True

    def __enter__(self) -> "_Counter":
        return self

    def __exit__(self, *error: object) -> None:
        # An error of the counting belongs to an earlier batch than one of the predicting: it goes first.
        try:
            while self._waiting:
                self._waiting.popleft().result()
        finally:
            self._thread.shutdown(cancel_futures=True)
