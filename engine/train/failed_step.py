"""Saves a training step whose loss or gradient was not finite, and repeats it to find the cause.

`replay.safetensors` contains the state before the step, its samples, and its result. A single process repeats
the step of all processes: their micro-batches one after the other, each with its original random numbers.
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
    """Write a replay file for `read`. Raises: UserError if it cannot be written."""
    numbers = {"losses": result.losses, "gradient_norm": result.gradient_norm}
    checkpoint.write(path, tensors, {**metadata, **numbers})


@dataclass(frozen=True)
class FailedStep:
    """The failed step in the replay file at `path`."""

    path: Path
    tensors: Tensors
    metadata: dict[str, Any]

    def repeat(
        self, learner: Learner, train_set: Dataset, identity: RunIdentity, *, compile: bool = False
    ) -> str:
        """Repeat the step with the settings of the run; returns a report of several lines.

        Raises:
            UserError: if the data or the optimizer differ, or everything is finite this time.
        """
        if learner.runtime.world_size > 1:
            raise UserError("replay= runs in a single process; start it without torchrun")
        self._check(train_set, identity)
        step, processes, accumulate = self._step, self.metadata["processes"], self.metadata["accumulate"]
        samples = [train_set[SampleKey(*key)] for key in self.metadata["samples"]]
        micro_batches = self._micro_batches(learner, samples)
        learner.load(self.tensors, self.metadata)
        learner.start(compile=compile)
        with self._seeding(learner):
            result = learner.compute_gradients(micro_batches)
        if all(map(math.isfinite, [*result.losses.values(), result.gradient_norm])):
            now, before = map(_in_words, (result.losses, self.metadata["losses"]))
            raise UserError(
                f"{self.path}: step {step} was repeated, and everything is finite ({now}, gradient norm "
                f"{result.gradient_norm:g}); the run had {before}, gradient norm "
                f"{self.metadata['gradient_norm']:g}; repeat it on the same device with the same versions as "
                "the run (environment.json)"
            )
        lines = [
            f"step {step}, samples: {len(samples)}, processes: {processes}, "
            f"micro-batches per process: {accumulate}",
            *self._comparison(result),
            "losses of each sample alone:",
            *self._single_sample_losses(learner, samples),
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
                raise UserError(
                    f"{self.path}: was written by a run with {name}={then}, now {now}; restore the setting"
                )
        for (index, _), then in zip(self.metadata["samples"], self.metadata["files"], strict=True):
            now = train_set.image_path(index)
            if Path(now).name != Path(then).name:
                raise UserError(
                    f"{self.path}: sample {index} was {then} and is now {now}; restore the data of the run"
                )

    def _micro_batches(self, learner: Learner, samples: list[dict[str, Any]]) -> list[Batch]:
        size = len(samples) // (self.metadata["processes"] * self.metadata["accumulate"])
        parts = [samples[first : first + size] for first in range(0, len(samples), size)]
        return [learner.runtime.move(_batch(part)) for part in parts]

    @contextlib.contextmanager
    def _seeding(self, learner: Learner) -> Iterator[None]:
        """Seed the first micro-batch of each process with that process's seed."""
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

    def _comparison(self, result: StepResult) -> list[str]:
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

    def _single_sample_losses(self, learner: Learner, samples: list[dict[str, Any]]) -> Iterator[str]:
        for sample, file in zip(samples, self.metadata["files"], strict=True):
            learner.runtime.seed(step_seed(self._seed, self._step, 0))
            try:
                with torch.no_grad(), learner.runtime.autocast():
                    named = learner.task(learner.runtime.move(_batch([sample])))
            except ValueError as error:  # In training mode, BatchNorm needs more than one value per channel.
                yield f"  {file}: not possible ({str(error).splitlines()[0]})"
                continue
            losses = {name: loss.item() for name, loss in named.items()}
            mark = "" if all(map(math.isfinite, losses.values())) else "  <- not finite"
            yield f"  {file}: {_in_words(losses)}{mark}"

    def _nonfinite_tensors(self, model: nn.Module) -> list[str]:
        # Without buffers: when they were saved, running statistics already included the step's batch.
        buffers = {f"model/{name}" for name, _ in model.named_buffers()}
        state = {name: tensor for name, tensor in self.tensors.items() if name not in buffers}
        return [name for name, tensor in state.items() if not bool(tensor.isfinite().all())]

    def _origin(self, learner: Learner, micro_batches: list[Batch]) -> list[str]:
        # Reset everything for a second pass.
        learner.scaler.update()
        learner.optimizer.zero_grad(set_to_none=True)
        learner.load(self.tensors, self.metadata)
        names = self._nonfinite_tensors(learner.model)
        lines = [f"already not finite before the step: {', '.join(names[:4])}"] if names else []
        with NonFiniteTracer(learner.task) as tracer, self._seeding(learner), _eager():
            learner.compute_gradients(micro_batches)
        return [*lines, *tracer.lines()]


def read(path: Path) -> FailedStep:
    """Read a replay file.

    Raises:
        UserError: if the file is missing, damaged, or not a replay file.
    """
    if not path.is_file():
        raise UserError(f"replay={path}: no such file; pass the replay.safetensors of a run")
    tensors, metadata = checkpoint.read(path)
    if missing := [name for name in _ENTRIES if name not in metadata]:
        raise UserError(
            f"{path}: not a replay file (it has no {missing[0]}); pass the replay.safetensors of a run whose "
            "loss was not finite"
        )
    return FailedStep(path, tensors, metadata)


def _batch(samples: list[dict[str, Any]]) -> Batch:
    return collate([dict(sample) for sample in samples])  # copies, because collate removes entries


def _in_words(losses: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in losses.items())


def _eager() -> Any:
    """Disable compilation, which would skip the tracer's hooks."""
    return torch.compiler.set_stance("force_eager")
