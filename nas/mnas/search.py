"""Platform-aware NAS (MnasNet; section 4.1 of "Searching for MobileNetV3").

1. A strategy (the controller, or one of `nas.mnas.baselines`) asks for a batch of architectures.
2. Each is trained for a short while from new weights and scored; its latency comes from a table.
3. The strategy is told the rewards, ACC x (LAT / TAR)^w; on with 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from backbones.spec import NetSpec
from engine.errors import UserError
from engine.run import checkpoint
from nas.executors import Executor
from nas.history import History
from nas.mnas.reward import Reward
from nas.mnas.space import MnasSpace, Tokens
from nas.mnas.trials import Evaluate, MnasResult, SampledTrial, SampledTrials


class Strategy(Protocol):
    """Decides what is tried next. What it asks for depends on its seed and on what it was told alone."""

    def ask(self, count: int) -> list[Tokens]: ...

    def tell(self, tokens: Sequence[Tokens], rewards: Sequence[float]) -> None: ...

    def state(self) -> dict[str, Tensor]: ...

    def load(self, state: dict[str, Tensor]) -> None: ...


class Trainee(Protocol):
    """What `Proxy` needs to know of a task."""

    def make_task(self, spec: NetSpec) -> nn.Module: ...

    def finetune(self, task: nn.Module, steps: int, seed: int) -> None: ...

    def score(self, task: nn.Module) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """An `Evaluate`: `steps` steps of training from new weights, then the score on held-out samples.

    open: opens the task in any process, once in each; can be pickled.
    steps: at least 1.
    """

    open: Callable[[], Trainee]
    steps: int

    def __call__(self, spec: NetSpec, seed: int) -> float:
        trainee = _opened(self.open)
        torch.manual_seed(seed)
        task = trainee.make_task(spec)
        trainee.finetune(task, self.steps, seed)
        return trainee.score(task)


class Mnas:
    """The search.

    Args:
        samples: architectures to try; the paper took some 8000.
        steps: of the proxy training, for whoever makes the `Proxy`; the paper took 5 epochs of ImageNet.
        batch: asked for, and told, at once.
        reward: of an accuracy and a latency.
        space: makes the space of a skeleton (a partial `MnasSpace`).
        strategy: makes the strategy of a space's numbers of options, with a seed.

    Raises:
        ValueError: samples, steps or batch below 1.
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

    def identity(self) -> dict[str, Any]:
        """What must be the same for a search to go on, as plain values; it may go on to more samples."""
        return {
            "batch": self.batch,
            "steps": self.steps,
            "reward": asdict(self.reward),
            "space": _options(self.space),
            "strategy": _options(self.strategy),
        }

    def search(
        self,
        skeleton: NetSpec,
        evaluate: Evaluate,
        *,
        latency: Callable[[NetSpec], float],
        history: History,
        folder: Path,
        executor: Executor,
        seed: int = 0,
        say: Callable[[str], None] = print,
    ) -> MnasResult:
        """Run, or go on with, the search.

        A trial that crashes has the reward 0. An architecture that was scored before is not trained again.
        All trials have the same seed, so that they compare.

        Args:
            latency: spec -> ms.
            history: what was done before is not done again.
            folder: for the strategy's state.
            say: takes lines on the progress.

        Raises:
            UserError: nothing but crashes in the first batch, a latency that the table does not give, or a
                history of other architectures than this search asks for.
        """
        space = self.space(skeleton)
        strategy = self.strategy(space.num_options, seed=seed)
        path = folder / "strategy.safetensors"
        trials = SampledTrials(
            space=space,
            evaluate=evaluate,
            latency=latency,
            reward=self.reward,
            samples=self.samples,
            history=history,
            executor=executor,
            seed=seed,
            say=say,
        )
        told = _restored(strategy, path, known=trials.done_before)
        say(str(space))
        while told < self.samples:
            asked = strategy.ask(min(self.batch, self.samples - told))
            rewards = trials.run(told, asked)
            strategy.tell(asked, rewards)
            told += len(asked)
            checkpoint.write(path, strategy.state(), {"told": told})
            say(trials.table(told, rewards))
        rows = [trials.rows[number] for number in range(self.samples)]
        return MnasResult(space=space, reward=self.reward, trials=tuple(map(SampledTrial.of, rows)))


def _restored(strategy: Strategy, path: Path, *, known: int) -> int:
    """Load the state that was saved last; returns how many trials it was told.

    Where there is none that the history bears out, the strategy is told its trials anew: the same result, a
    little later.
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


def _options(maker: Any) -> dict[str, Any]:
    """A class, or a partial of one, by its name and the options that were given."""
    options = getattr(maker, "keywords", {})
    return {"name": getattr(maker, "func", maker).__name__, **options}


@lru_cache(maxsize=1)
def _opened(open_task: Callable[[], Trainee]) -> Trainee:
    return open_task()
