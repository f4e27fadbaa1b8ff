"""Platform-aware NAS (MnasNet; section 4.1 of "Searching for MobileNetV3").

1. A strategy (the controller, or one of `nas.mnas.baselines`) proposes a batch of architectures.
2. Each is trained briefly from new weights and scored; its latency comes from a table.
3. The strategy learns from the rewards, ACC x (LAT / TAR)^w. Repeat.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Tensor

from backbones.spec import NetSpec
from engine.errors import UserError
from engine.run import checkpoint
from nas.candidates import LatencyModel, LogLine
from nas.executors import Executor
from nas.history import SearchHistory
from nas.mnas.reward import Reward
from nas.mnas.space import MnasSpace, Tokens
from nas.mnas.trials import MnasResult, SampledTrial, ScoreCandidate, TrialRunner

T = TypeVar("T")


class Strategy(Protocol):
    """Decides which architectures to try next; depends only on its seed and the rewards passed to `tell`."""

    def ask(self, count: int) -> list[Tokens]:
        """The next `count` architectures; the same ones until it is told their rewards."""
        ...

    def tell(self, tokens: Sequence[Tokens], rewards: Sequence[float]) -> None:
        """Learn from the rewards of the architectures that were asked for last."""
        ...

    def state(self) -> dict[str, Tensor]: ...

    def load(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`; the search then continues as if it had not been interrupted."""
        ...


class MnasSearch:
    """The search; it works for any task.

    Args:
        samples: architectures to try; about 8000 in the paper.
        steps: of the short training, for the caller that makes it; 5 epochs of ImageNet in the paper.
        batch: architectures per `ask` and `tell`.
        reward: of an accuracy and a latency.
        space: makes the search space around a skeleton (a partial `MnasSpace`).
        strategy: makes the strategy, from the space's numbers of options and a seed.

    Raises:
        ValueError: if samples, steps or batch is below 1.
    """

    def __init__(
        self,
        *,
        samples: int,
        reward: Reward,
        space: Callable[[NetSpec], MnasSpace],
        strategy: Callable[..., Strategy],
        steps: int = 100,
        batch: int = 8,
    ) -> None:
        for name, number in (("samples", samples), ("steps", steps), ("batch", batch)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        self.samples, self.steps, self.batch, self.reward = samples, steps, batch, reward
        self.space, self.strategy = space, strategy

    @property
    def strategy_name(self) -> str:
        return str(_class_and_options(self.strategy)["name"])

    def identity(self) -> dict[str, Any]:
        """The settings that must match for a search to resume, as JSON values; `samples` may grow."""
        return {
            "batch": self.batch,
            "steps": self.steps,
            "reward": asdict(self.reward),
            "space": _class_and_options(self.space),
            "strategy": _class_and_options(self.strategy),
        }

    def search(
        self,
        skeleton: NetSpec,
        score_candidate: ScoreCandidate,
        *,
        latency: LatencyModel,
        history: SearchHistory,
        folder: Path,
        executor: Executor,
        seed: int = 0,
        log: LogLine = print,
    ) -> MnasResult:
        """Run the search, or resume it.

        A failed trial has the reward 0. An architecture that was scored before is not trained again. All
        trials have the same seed, so that they are comparable.

        Args:
            history: trials that it contains are not repeated.
            folder: for the strategy's state.
            log: shows progress.

        Raises:
            UserError: if an option of the space or the strategy is out of range, all trials of the first
                batch failed, the latency table lacks a layer, or the history has other architectures.
        """
        space = _make("method.space", self.space, skeleton)
        strategy = _make("method.strategy", self.strategy, space.num_options, seed=seed)
        path = folder / "strategy.safetensors"
        trials = TrialRunner(
            space=space,
            score_candidate=score_candidate,
            latency=latency,
            reward=self.reward,
            samples=self.samples,
            history=history,
            executor=executor,
            seed=seed,
            log=log,
        )
        told = _restore(strategy, path, known=trials.known_from_start)
        log(str(space))
        while told < self.samples:
            architectures = strategy.ask(min(self.batch, self.samples - told))
            rewards = trials.run(told, architectures)
            strategy.tell(architectures, rewards)
            told += len(architectures)
            checkpoint.write(path, strategy.state(), {"told": told})
            log(trials.best_so_far(told, rewards))
        rows = [trials.rows[number] for number in range(self.samples)]
        return MnasResult(space=space, reward=self.reward, trials=tuple(map(SampledTrial.from_row, rows)))


def _make(key: str, make: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Call the partial constructor that the configuration has at `key`."""
    try:
        return make(*arguments, **options)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{key}: {error}") from None


def _restore(strategy: Strategy, path: Path, *, known: int) -> int:
    """Load the state that was saved last; returns how many trials it was told.

    If no saved state fits the history, the strategy replays all trials, which gives the same result.
    """
    if not checkpoint.exists(path):
        return 0
    try:
        tensors, metadata, _ = checkpoint.read_latest(path)
    except UserError:
        return 0
    if not 0 < (told := int(metadata["told"])) <= known:
        return 0
    strategy.load(tensors)
    return told


def _class_and_options(constructor: Any) -> dict[str, Any]:
    """A class, or a partial of one, as its name and options."""
    options = getattr(constructor, "keywords", {})
    return {"name": getattr(constructor, "func", constructor).__name__, **options}
