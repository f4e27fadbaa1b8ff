"""The interfaces that a search uses: trainers, which build, train and score networks, and latency models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Protocol, TypeVar, cast

from torch import Tensor, nn

from backbones.spec import NetSpec

T = TypeVar("T")

LatencyModel = Callable[[NetSpec], float]
"""Spec -> predicted latency in milliseconds, the same each time."""

LogLine = Callable[[str], None]
"""Shows one line of progress."""


class CandidateTrainer(Protocol):
    """Builds, trains and scores candidate networks in one task."""

    def make_task(self, spec: NetSpec) -> nn.Module:
        """A task whose `model` has the network of `spec` as its `backbone`, with new weights."""
        ...

    def train(self, task: nn.Module, steps: int, seed: int) -> None:
        """Train `task.model` in place; the result depends on the weights, `steps` and `seed` only."""
        ...

    def score(self, task: nn.Module) -> float:
        """Accuracy on samples that are not used for training; higher is better."""
        ...


class PretrainedTrainer(CandidateTrainer, Protocol):
    """A `CandidateTrainer` with a trained network to start from; its spec is `spec`."""

    spec: NetSpec

    def make_model(self, spec: NetSpec) -> nn.Module:
        """The model of `make_task` without the task."""
        ...

    def weights(self) -> Mapping[str, Tensor]:
        """The state dict of the trained model."""
        ...


TrainerFactory = Callable[[], PretrainedTrainer]
"""Makes a trainer in any process: it can be pickled and hashed, and equals its copies."""


def shared_trainer(factory: Callable[[], T]) -> T:
    """The trainer that `factory` makes, made once in each process."""
    return cast(T, _make_once(factory))


@lru_cache(maxsize=1)
def _make_once(factory: Callable[[], Any]) -> Any:
    return factory()
