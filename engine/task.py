"""What the engine asks of a task and of an evaluator: two protocols, no base classes."""

from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

Batch = dict[str, Any]


@runtime_checkable
class Task(Protocol):
    """What is learnt. A task is an `nn.Module` that owns a `model` (tensor -> tensors) and knows its loss.

    `task(batch)` returns a dict of named losses, the same names every time, each the mean over what the batch
    holds (0 where it holds nothing): their sum is the objective, their names are the log. `weight(batch)`
    says over how much that mean was taken (pixels, boxes, images), so that micro-batches and processes can
    be averaged exactly. `predict(batch)` returns what the evaluator takes.

    A checkpoint holds `model`; whatever else a task keeps must follow from its configuration. The loop calls
    `train()` and `eval()`: a model that keeps some layers frozen overrides `train`.
    """

    model: nn.Module

    def __call__(self, batch: Batch) -> dict[str, Tensor]: ...

    def weight(self, batch: Batch) -> Tensor: ...

    def predict(self, batch: Batch) -> Any: ...


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
