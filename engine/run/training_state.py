"""Where a run stands: the numbers in a checkpoint beside its tensors, and what they must agree with."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import UserError


@dataclass
class TrainingState:
    """What changes while training, beside the tensors."""

    step: int = 0
    evaluated_step: int = 0
    saved_step: int = -1
    best: float | None = None
    best_step: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def is_best(self) -> bool:
        """Whether this very step was evaluated, and better than all before."""
        return self.step == self.evaluated_step == self.best_step > 0

    def results(self, metric: str) -> dict[str, Any]:
        """The content of `metrics.json`: the last evaluation, its step, and the best one."""
        best = {f"best_{metric}": self.best, "best_step": self.best_step}
        return {**self.metrics, "step": self.evaluated_step, **best}


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """What a checkpoint must agree with to be continued; and the length of the run, which may change."""

    seed: int
    batch: int
    num_samples: int
    optimizer: str
    steps: int

    def check(self, then: dict[str, Any], state: TrainingState, path: Path) -> str | None:
        """Compare with what a checkpoint at `path` holds; says where the run's length has changed.

        Raises:
            UserError: it belongs to another run, or is further than this one shall go.
        """
        for name in ("seed", "batch", "num_samples", "optimizer"):
            if then.get(name) != getattr(self, name):
                raise UserError(
                    f"{path}: was trained with {name}={then.get(name)}, now {getattr(self, name)}: that is "
                    f"no continuation; start a new run with init_from={path.parent.parent}"
                )
        if state.step > self.steps:
            raise UserError(
                f"{path}: is at step {state.step} already, past the end asked for; set trainer.steps to more"
            )
        if then["steps"] == self.steps:
            return None
        return f"it had {then['steps']} steps: the learning rate now follows the schedule of {self.steps}"
