"""The training progress in a checkpoint, and the check that a run is resumed with the same settings."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import UserError


@dataclass
class TrainingState:
    """The state of a training apart from its tensors.

    Attributes:
        without_improvement: evaluations since the best one.
        stopped_early: why the run ended before its last step; empty if it did not.
    """

    step: int = 0
    evaluated_step: int = 0
    saved_step: int = -1
    best: float | None = None
    best_step: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    without_improvement: int = 0
    stopped_early: str = ""

    @property
    def is_best(self) -> bool:
        """Whether the current step has been evaluated and is the best so far."""
        return self.step == self.evaluated_step == self.best_step > 0

    def why_stopped(self, metric: str, steps: int) -> str:
        """Why a run of `steps` steps ends at this step."""
        best = f"the best is from step {self.best_step}" if self.best_step else "it was never a number"
        number = self.without_improvement
        evaluations = "the last evaluation" if number == 1 else f"{number} evaluations"
        return f"{metric} has not improved in {evaluations} ({best}), at step {self.step} of {steps}"

    def results(self, metric: str) -> dict[str, Any]:
        """The content of `metrics.json`: the last evaluation, its step, the best one, and why the run ended
        early, if it did."""
        best = {f"best_{metric}": self.best, "best_step": self.best_step}
        early = {"stopped_early": self.stopped_early} if self.stopped_early else {}
        return {**self.metrics, "step": self.evaluated_step, **best, **early}


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """Settings that must not change when a run is resumed, except `steps`, the length of the run."""

    seed: int
    batch: int
    num_samples: int
    optimizer: str
    steps: int

    def check(self, saved: dict[str, Any], state: TrainingState, path: Path) -> str | None:
        """Compare with the settings `saved` in the checkpoint `path`; returns a note if the length changed.

        Raises:
            UserError: if the checkpoint belongs to another run, or is past the end of this one.
        """
        for name in ("seed", "batch", "num_samples", "optimizer"):
            if saved.get(name) != getattr(self, name):
                raise UserError(
                    f"{path}: was trained with {name}={saved.get(name)}, now {getattr(self, name)}; "
                    f"restore the setting, or start a new run with init_from={path.parent.parent}"
                )
        if state.step > self.steps:
            raise UserError(
                f"{path}: is already at step {state.step}, past trainer.steps={self.steps}; increase "
                "trainer.steps"
            )
        if saved["steps"] == self.steps:
            return None
        return (
            f"the run had {saved['steps']} steps; the learning rate now follows the schedule of {self.steps}"
        )
