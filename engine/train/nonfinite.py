"""Repeat the step at which a run met a loss or a gradient that is not finite, and say where that began.

A run leaves `replay.safetensors` then (`Trainer._refuse`): the state before the step, the samples it drew,
and what it came to. One process repeats what several did: their micro-batches one after the other, each with
the random numbers it had.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from engine.contracts import Batch
from engine.data.loader import collate, file_of
from engine.data.sample_stream import Draw
from engine.errors import UserError
from engine.run import checkpoint
from engine.run.checkpoint import Tensors
from engine.train.learner import Gradients
from engine.train.trainer import Trainer, step_seed

_ENTRIES = ("state", "identity", "losses", "norm", "draws", "files", "processes", "accumulate")


@dataclass(frozen=True)
class Replay:
    """What a run left at `path`."""

    path: Path
    tensors: Tensors
    metadata: dict[str, Any]

    def repeat(self, trainer: Trainer) -> str:
        """Repeat the step with a trainer that was built as the run's was; says what happened, in lines.

        Raises:
            UserError: the trainer has other data or another optimizer, or all is finite this time.
        """
        if trainer.runtime.world_size > 1:
            raise UserError("replay=: one process repeats what all did; start it without torchrun")
        self._check(trainer)
        step = self.metadata["state"]["step"]
        samples = [trainer.feed.train_set[Draw(*draw)] for draw in self.metadata["draws"]]
        micro_batches = self._micro_batches(trainer, samples)
        trainer.learner.load(self.tensors, self.metadata)
        trainer.learner.start(compile=trainer.plan.compile)
        with self._seeding(trainer):
            found = trainer.learner.gradients(micro_batches)
        if all(map(math.isfinite, [*found.losses.values(), found.norm])):
            raise UserError(
                f"{self.path}: step {step} was repeated and all is finite ({_listed(found.losses)}, gradient "
                f"norm {found.norm:g}); the run had {_listed(self.metadata['losses'])}, gradient norm "
                f"{self.metadata['norm']:g}: repeat it on its device, with its versions (environment.json)"
            )
        parts = (
            f"processes: {self.metadata['processes']}, micro-batches of each: {self.metadata['accumulate']}"
        )
        lines = [f"step {step}, samples: {len(samples)}, {parts}"]
        lines += self._compared(found)
        lines += ["each sample alone:", *self._alone(trainer, samples)]
        return "\n".join([*lines, *self._origin(trainer, micro_batches)])

    def _check(self, trainer: Trainer) -> None:
        for name in ("seed", "num_samples", "optimizer"):
            then, now = self.metadata["identity"].get(name), getattr(trainer.identity, name)
            if then != now:
                raise UserError(f"{self.path}: was left by a training with {name}={then}, now {now}")
        for draw, then in zip(self.metadata["draws"], self.metadata["files"], strict=True):
            now = file_of(trainer.feed.train_set, draw[0])
            if Path(now).name != Path(then).name:
                raise UserError(
                    f"{self.path}: sample {draw[0]} was {then}, now it is {now}: the data has changed"
                )

    def _micro_batches(self, trainer: Trainer, samples: list[dict[str, Any]]) -> list[Batch]:
        size = len(samples) // (self.metadata["processes"] * self.metadata["accumulate"])
        parts = [samples[first : first + size] for first in range(0, len(samples), size)]
        return [trainer.runtime.move(_batch(part)) for part in parts]

    @contextlib.contextmanager
    def _seeding(self, trainer: Trainer) -> Iterator[None]:
        """Give each process's first micro-batch the random numbers of that process."""
        started = 0

        def seed(task: nn.Module, inputs: Any) -> None:
            nonlocal started
            rank, within = divmod(started, self.metadata["accumulate"])
            if within == 0:
                trainer.runtime.seed(step_seed(trainer.feed.seed, self.metadata["state"]["step"], rank))
            started += 1

        hook = trainer.learner.task.register_forward_pre_hook(seed)
        try:
            yield
        finally:
            hook.remove()

    def _compared(self, found: Gradients) -> list[str]:
        then = {**self.metadata["losses"], "gradient norm": self.metadata["norm"]}
        now = {**found.losses, "gradient norm": found.norm}
        width = max(map(len, now))
        lines = [f"{'':{width}}  {'recorded':>14}  {'repeated':>14}"]
        for name, value in now.items():
            before = then.get(name, math.nan)
            same = value == before or (math.isnan(value) and math.isnan(before))
            verdict = "equal bit for bit" if same else "not equal"
            lines.append(f"{name:{width}}  {before:>14.8g}  {value:>14.8g}  {verdict}")
        return lines

    def _alone(self, trainer: Trainer, samples: list[dict[str, Any]]) -> Iterator[str]:
        for sample, file in zip(samples, self.metadata["files"], strict=True):
            trainer.runtime.seed(step_seed(trainer.feed.seed, self.metadata["state"]["step"], 0))
            try:
                with torch.no_grad(), trainer.runtime.autocast():
                    named = trainer.learner.task(trainer.runtime.move(_batch([sample])))
            except ValueError as error:  # BatchNorm needs more than one value per channel to train.
                yield f"  {file}: not possible ({str(error).splitlines()[0]})"
                continue
            losses = {name: loss.item() for name, loss in named.items()}
            mark = "" if all(map(math.isfinite, losses.values())) else "  <- not finite"
            yield f"  {file}: {_listed(losses)}{mark}"

    def _spoilt(self, model: nn.Module) -> list[str]:
        # Buffers are left out: running statistics have seen the step's batch by the time they are written.
        buffers = {f"model/{name}" for name, _ in model.named_buffers()}
        state = {name: tensor for name, tensor in self.tensors.items() if name not in buffers}
        return [name for name, tensor in state.items() if not bool(tensor.isfinite().all())]

    def _origin(self, trainer: Trainer, micro_batches: list[Batch]) -> list[str]:
        learner = trainer.learner
        # A second pass, as if there had been no first.
        learner.scaler.update()
        learner.optimizer.zero_grad(set_to_none=True)
        learner.load(self.tensors, self.metadata)
        spoilt = self._spoilt(learner.model)
        lines = [f"not finite before the step already: {', '.join(spoilt[:4])}"] if spoilt else []
        with NonFiniteTracer(learner.task) as trace, self._seeding(trainer), _eager():
            learner.gradients(micro_batches)
        return [*lines, *trace.lines()]


def read(path: Path) -> Replay:
    """Read what a run left.

    Raises:
        UserError: the file is missing, damaged, or not a replay file.
    """
    tensors, metadata = checkpoint.read(path)
    if missing := [name for name in _ENTRIES if name not in metadata]:
        raise UserError(
            f"{path}: no replay file (it holds no {missing[0]}); a run leaves replay.safetensors where its "
            "loss is not finite"
        )
    return Replay(path, tensors, metadata)


def _batch(samples: list[dict[str, Any]]) -> Batch:
    return collate([dict(sample) for sample in samples])  # collate takes ragged parts out of its samples


def _listed(losses: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in losses.items())


def _eager() -> Any:
    """Without compilation, which would pass over the hooks."""
    return torch.compiler.set_stance("force_eager")


class NonFiniteTracer:
    """Watches a module's passes while it is open.

    A module comes after the modules in it, so the first one named is the innermost. What a parent does
    itself, between its children, counts as the parent's.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._hooks: list[RemovableHandle] = []
        self._inputs: dict[str, str] = {}
        self._output: str | None = None
        self._gradient: str | None = None

    def __enter__(self) -> "NonFiniteTracer":
        for name, module in self._module.named_modules():
            self._hooks.append(module.register_forward_hook(self._watch(name)))
        for name, parameter in self._module.named_parameters():
            if parameter.requires_grad:
                hook = parameter.register_post_accumulate_grad_hook(self._watch_gradient(name))  # type: ignore[no-untyped-call]
                self._hooks.append(hook)
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _watch(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if self._output is None or name not in self._inputs:
                self._inputs[name] = value_range(inputs)
            if self._output is None and not _finite(output):
                self._output = name

        return hook

    def _watch_gradient(self, name: str) -> Any:
        def hook(parameter: Tensor) -> None:
            if self._gradient is None and not _finite(parameter.grad):
                self._gradient = name

        return hook

    def lines(self) -> list[str]:
        """The two findings, with the range of what went into the module concerned."""
        if self._output == "":
            first = "the output of every module is finite; the loss that is computed from them is not"
        elif self._output is None:
            first = "the output of every module is finite"
        else:
            kind = type(self._module.get_submodule(self._output)).__name__
            first = (
                f"first module whose output is not finite: {self._output} ({kind}); its input: "
                f"{self._inputs[self._output]}"
            )
        if self._gradient is None:
            return [first, "the gradient of every parameter is finite"]
        owner = self._gradient.rpartition(".")[0]
        read = self._inputs.get(owner, "not seen")
        return [
            first,
            "first parameter, in the order of the backward pass, whose gradient is not finite: "
            f"{self._gradient}; input of {owner or 'the task'}: {read}",
        ]


def value_range(value: Any) -> str:
    """`<least> .. <greatest>` of the finite numbers in a nest of tensors, and how many are not finite."""
    numbers = [tensor.detach().float().flatten() for tensor in _tensors(value) if tensor.numel()]
    if not numbers:
        return "no numbers"
    flat = torch.cat(numbers)
    finite = flat[flat.isfinite()]
    text = f"{finite.min().item():g} .. {finite.max().item():g}" if len(finite) else "nothing finite"
    strange = len(flat) - len(finite)
    return f"{text}, and {strange} of {len(flat)} values not finite" if strange else text


def _finite(value: Any) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in _tensors(value))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
