"""How far a run has come: the numbers in a checkpoint beside its tensors, and what they must match."""

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
        """Whether this step was evaluated and is the best so far."""
        return self.step == self.evaluated_step == self.best_step > 0

    def results(self, metric: str) -> dict[str, Any]:
        """The content of `metrics.json`: the last evaluation, its step, and the best one."""
        best = {f"best_{metric}": self.best, "best_step": self.best_step}
        return {**self.metrics, "step": self.evaluated_step, **best}


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """What must not change when a run is resumed, and the length of the run, which may."""

    seed: int
    batch: int
    num_samples: int
    optimizer: str
    steps: int

    def check(self, then: dict[str, Any], state: TrainingState, path: Path) -> str | None:
        """Compare with the checkpoint at `path`; returns a note if the run's length has changed.

        Raises:
            UserError: the checkpoint belongs to another run, or is past the end of this one.
        """
        for name in ("seed", "batch", "num_samples", "optimizer"):
            if then.get(name) != getattr(self, name):
                raise UserError(
                    f"{path}: was trained with {name}={then.get(name)}, now {getattr(self, name)}: this "
                    f"is not the same run; start a new one with init_from={path.parent.parent}"
                )
        if state.step > self.steps:
            raise UserError(
                f"{path}: is already at step {state.step}, past trainer.steps={self.steps}; set a larger "
                "trainer.steps"
            )
        if then["steps"] == self.steps:
            return None
        return f"it had {then['steps']} steps: the learning rate now follows the schedule of {self.steps}"
