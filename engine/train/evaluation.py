"""Evaluation on a split: every sample is used once, with any number of processes.

Scoring overlaps with prediction: while the model processes a batch, a thread passes the previous batches to
the evaluator, in order.
"""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self, cast

import torch
from torch import nn

from engine.contracts import Batch, Evaluator, Task
from engine.data.loader import WorkerKilled
from engine.io.progress import PATIENCE_S, Progress, announced
from engine.runtime import Runtime
from engine.train.device_copy import DeviceCopy

MAX_UNSCORED = 2
"""Maximum number of batches that are predicted but not yet scored; two smooth out variations in speed."""


def evaluate(
    task: nn.Module,
    batches: Iterable[Batch],
    evaluator: Evaluator,
    runtime: Runtime,
    *,
    on_batch: Callable[[int, Batch, Any], None] | None = None,
) -> dict[str, Any]:
    """Run `task.predict` over `batches` (this process's share) and return the metrics of the whole split.

    Predictions use the runtime's precision, and rank 0's running statistics in all processes. The evaluator
    receives them on the CPU, with the loader's batch, in order.

    Args:
        on_batch: called after the evaluator, in the same thread, with the number of batches done, the batch
            and its predictions.

    Returns:
        `evaluator.compute()` over the samples of all processes; the same dict in every process.

    Raises:
        UserError: if a DataLoader worker was killed, or another process of the run has exited.
        Exception: the first exception raised by the evaluator or `on_batch`; later batches are not scored.
    """
    metrics = evaluate_unless_stopped(
        task, batches, evaluator, runtime, on_batch=on_batch, stop=lambda: False
    )
    assert metrics is not None
    return metrics


def evaluate_unless_stopped(
    task: nn.Module,
    batches: Iterable[Batch],
    evaluator: Evaluator,
    runtime: Runtime,
    *,
    stop: Callable[[], bool],
    on_batch: Callable[[int, Batch, Any], None] | None = None,
) -> dict[str, Any] | None:
    """Like `evaluate`, but returns None in every process if `stop()` is true after a batch in any process."""
    was_training = task.training
    task.eval()
    runtime.broadcast_buffers(task)
    evaluator.reset()
    stopped = False
    remaining = iter(
        batches
    )  # Starts the workers before the thread, because a process with threads should not fork.
    with _ScoringThread(evaluator, on_batch) as scoring, torch.inference_mode():
        while not stopped:
            try:
                batch = next(remaining)
            except StopIteration:
                break
            except WorkerKilled:
                if not (stopped := stop()):
                    raise
                break
            with runtime.autocast():
                outputs = cast(Task, task).predict(runtime.move(batch))
            scoring.add(batch, DeviceCopy(outputs))
            stopped = stop()
        if stopped:
            scoring.cancel()
    task.train(was_training)
    shares = runtime.gather((stopped, evaluator.state()))
    if any(cancelled for cancelled, _ in shares):
        return None
    evaluator.merge([state for _, state in shares])
    return evaluator.compute()


class EvaluationProgress:
    """Shows the progress of an evaluation that takes more than a few seconds.

    Args:
        total: batches of this process.
        shown: whether this process shows it.
    """

    def __init__(self, total: int, *, shown: bool = True) -> None:
        self._bar = Progress(total, unit="evaluation batch", after=PATIENCE_S) if shown else None
        self._first: AbstractContextManager[Callable[[], None]] = (
            announced("evaluation") if shown else nullcontext(lambda: None)
        )

    def __enter__(self) -> Self:
        self._end_first = self._first.__enter__()
        return self

    def on_batch(self, done: int, batch: Batch, outputs: Any) -> None:
        """The callback for `evaluate`."""
        self._end_first()
        if self._bar is not None:
            self._bar.update(done)

    def __exit__(self, *error: Any) -> None:
        self._first.__exit__(*error)
        if self._bar is not None:
            self._bar.close()


class _ScoringThread:
    """Updates an evaluator in a thread, in order; an error in the thread is raised by the next call."""

    def __init__(self, evaluator: Evaluator, on_batch: Callable[[int, Batch, Any], None] | None) -> None:
        self._evaluator, self._on_batch = evaluator, on_batch
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="evaluator")
        self._waiting: deque[Future[None]] = deque()
        self._added = 0
        self._cancelled = False

    def add(self, batch: Batch, outputs: DeviceCopy) -> None:
        self._added += 1
        self._waiting.append(self._thread.submit(self._score, self._added, batch, outputs))
        while len(self._waiting) > MAX_UNSCORED or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()

    def _score(self, number: int, batch: Batch, outputs: DeviceCopy) -> None:
        if self._cancelled:
            return
        try:
            with torch.inference_mode():
                value = outputs.value()
                self._evaluator.update(value, batch)
                if self._on_batch is not None:
                    self._on_batch(number, batch, value)
        except BaseException:
            self._cancelled = True
            raise

    def cancel(self) -> None:
        """Stop scoring."""
        self._cancelled = True

    def __enter__(self) -> "_ScoringThread":
        return self

    def __exit__(self, *error: object) -> None:
        # A scoring error takes precedence over a prediction error, because it belongs to an earlier batch.
        try:
            while self._waiting:
                self._waiting.popleft().result()
        finally:
            self._thread.shutdown(cancel_futures=True)
