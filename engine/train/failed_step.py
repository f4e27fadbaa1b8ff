"""A training step whose loss or gradient was not finite: written to a file by the run, repeated from it.

`replay.safetensors` holds the state before the step, the samples of the step, and its result. One process
repeats what several did: their micro-batches one after the other, each with the random numbers it had.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.contracts import Batch, Dataset
from engine.data.loader import SampleKey, collate
from engine.errors import UserError
from engine.run import checkpoint
from engine.run.checkpoint import Tensors
from engine.run.training_state import RunIdentity
from engine.train.learner import Learner, StepResult, step_seed
from engine.train.nonfinite import NonFiniteTracer

_ENTRIES = (
    "state",
    "identity",
    "losses",
    "gradient_norm",
    "samples",
    "files",
    "processes",
    "accumulate",
)


def write(path: Path, tensors: Tensors, metadata: Mapping[str, Any], result: StepResult) -> None:
    """Write what `read` needs. Raises: UserError if the file cannot be written."""
    numbers = {"losses": result.losses, "gradient_norm": result.gradient_norm}
    checkpoint.write(path, tensors, {**metadata, **numbers})


@dataclass(frozen=True)
class FailedStep:
    """What a run left at `path`."""

    path: Path
    tensors: Tensors
    metadata: dict[str, Any]

    def repeat(
        self, learner: Learner, train_set: Dataset, identity: RunIdentity, *, compile: bool = False
    ) -> str:
        """Repeat the step with what the run was trained with; returns a report of several lines.

        Raises:
            UserError: if the data or the optimizer are others, or everything is finite this time.
        """
        if learner.runtime.world_size > 1:
            raise UserError("replay=: one process repeats what all did; start it without torchrun")
        self._check(train_set, identity)
        step, processes, accumulate = self._step, self.metadata["processes"], self.metadata["accumulate"]
        samples = [train_set[SampleKey(*key)] for key in self.metadata["samples"]]
        micro_batches = self._micro_batches(learner, samples)
        learner.load(self.tensors, self.metadata)
        learner.start(compile=compile)
        with self._seeding(learner):
            result = learner.compute_gradients(micro_batches)
        if all(map(math.isfinite, [*result.losses.values(), result.gradient_norm])):
            raise UserError(
                f"{self.path}: step {step} was repeated and everything is finite ({_listed(result.losses)}, "
                f"gradient norm {result.gradient_norm:g}); the run had {_listed(self.metadata['losses'])}, "
                f"gradient norm {self.metadata['gradient_norm']:g}: repeat it on the run's device, with its "
                "versions (environment.json)"
            )
        lines = [
            f"step {step}, samples: {len(samples)}, processes: {processes}, "
            f"micro-batches of each: {accumulate}",
            *self._compared(result),
            "each sample alone:",
            *self._alone(learner, samples),
            *self._origin(learner, micro_batches),
        ]
        return "\n".join(lines)

    @property
    def _step(self) -> int:
        return int(self.metadata["state"]["step"])

    @property
    def _seed(self) -> int:
        return int(self.metadata["identity"]["seed"])

    def _check(self, train_set: Dataset, identity: RunIdentity) -> None:
        for name in ("seed", "num_samples", "optimizer"):
            then, now = self.metadata["identity"].get(name), getattr(identity, name)
            if then != now:
                raise UserError(f"{self.path}: was written by a training with {name}={then}, now {now}")
        for (index, _), then in zip(self.metadata["samples"], self.metadata["files"], strict=True):
            now = train_set.image_path(index)
            if Path(now).name != Path(then).name:
                raise UserError(
                    f"{self.path}: sample {index} was {then}, now it is {now}: the data has changed"
                )

    def _micro_batches(self, learner: Learner, samples: list[dict[str, Any]]) -> list[Batch]:
        size = len(samples) // (self.metadata["processes"] * self.metadata["accumulate"])
        parts = [samples[first : first + size] for first in range(0, len(samples), size)]
        return [learner.runtime.move(_batch(part)) for part in parts]

    @contextlib.contextmanager
    def _seeding(self, learner: Learner) -> Iterator[None]:
        """Give each process's first micro-batch the random numbers of that process."""
        started = 0

        def seed(task: nn.Module, inputs: Any) -> None:
            nonlocal started
            rank, within = divmod(started, self.metadata["accumulate"])
            if within == 0:
                learner.runtime.seed(step_seed(self._seed, self._step, rank))
            started += 1

        hook = learner.task.register_forward_pre_hook(seed)
        try:
            yield
        finally:
            hook.remove()

    def _compared(self, result: StepResult) -> list[str]:
        recorded = {**self.metadata["losses"], "gradient norm": self.metadata["gradient_norm"]}
        repeated = {**result.losses, "gradient norm": result.gradient_norm}
        width = max(map(len, repeated))
        lines = [f"{'':{width}}  {'recorded':>14}  {'repeated':>14}"]
        for name, now in repeated.items():
            then = recorded.get(name, math.nan)
            same = now == then or (math.isnan(now) and math.isnan(then))
            verdict = "equal bit for bit" if same else "not equal"
            lines.append(f"{name:{width}}  {then:>14.8g}  {now:>14.8g}  {verdict}")
        return lines

    def _alone(self, learner: Learner, samples: list[dict[str, Any]]) -> Iterator[str]:
        for sample, file in zip(samples, self.metadata["files"], strict=True):
            learner.runtime.seed(step_seed(self._seed, self._step, 0))
            try:
                with torch.no_grad(), learner.runtime.autocast():
                    named = learner.task(learner.runtime.move(_batch([sample])))
            except ValueError as error:  # BatchNorm needs more than one value per channel to train.
                yield f"  {file}: not possible ({str(error).splitlines()[0]})"
                continue
            losses = {name: loss.item() for name, loss in named.items()}
            mark = "" if all(map(math.isfinite, losses.values())) else "  <- not finite"
            yield f"  {file}: {_listed(losses)}{mark}"

    def _nonfinite_tensors(self, model: nn.Module) -> list[str]:
        # Buffers are left out: running statistics had seen the step's batch when they were written.
        buffers = {f"model/{name}" for name, _ in model.named_buffers()}
        state = {name: tensor for name, tensor in self.tensors.items() if name not in buffers}
        return [name for name, tensor in state.items() if not bool(tensor.isfinite().all())]

    def _origin(self, learner: Learner, micro_batches: list[Batch]) -> list[str]:
        # A second pass, as if there had been no first.
        learner.scaler.update()
        learner.optimizer.zero_grad(set_to_none=True)
        learner.load(self.tensors, self.metadata)
        names = self._nonfinite_tensors(learner.model)
        lines = [f"already not finite before the step: {', '.join(names[:4])}"] if names else []
        with NonFiniteTracer(learner.task) as tracer, self._seeding(learner), _eager():
            learner.compute_gradients(micro_batches)
        return [*lines, *tracer.lines()]


def read(path: Path) -> FailedStep:
    """Read what a run left.

    Raises:
        UserError: if the file is missing, damaged, or not a replay file.
    """
    tensors, metadata = checkpoint.read(path)
    if missing := [name for name in _ENTRIES if name not in metadata]:
        raise UserError(
            f"{path}: not a replay file (it has no {missing[0]}); a run writes replay.safetensors when its "
            "loss is not finite"
        )
    return FailedStep(path, tensors, metadata)


def _batch(samples: list[dict[str, Any]]) -> Batch:
    return collate([dict(sample) for sample in samples])  # collate removes entries from its samples


def _listed(losses: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in losses.items())


def _eager() -> Any:
    """Without compilation, which would skip the tracer's hooks."""
    return torch.compiler.set_stance("force_eager")
