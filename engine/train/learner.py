"""One training step: gradients, weight update and weight averaging, with their state for checkpoints."""

import copy
import functools
import operator
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from engine.contracts import Batch
from engine.errors import UserError
from engine.run import checkpoint
from engine.run.checkpoint import Tensors
from engine.runtime import Runtime
from engine.train import optimization
from engine.train.device_copy import DeviceCopy


class StepResult(NamedTuple):
    """The losses by name, the gradient norm before clipping, and whether to stop after this step."""

    losses: dict[str, float]
    gradient_norm: float
    stop: bool


class Learner:
    """Takes optimizer steps on batches.

    Args:
        clip: maximum gradient norm (None: no clipping).
        ema: decay of the averaged weights (None: no averaging).
        scale_loss: scale the loss up and its gradient down, as required for fp16.
        sync_bn: compute BatchNorm statistics over the images of all processes.

    Attributes:
        task, model: the task in training, and its model, which is saved in checkpoints.
        average: the averaged weights, or None.

    Raises:
        UserError: if `sync_bn` is used in several processes without CUDA.
    """

    def __init__(
        self,
        *,
        task: nn.Module,
        optimizer: Optimizer,
        runtime: Runtime,
        clip: float | None = None,
        ema: float | None = None,
        scale_loss: bool = False,
        sync_bn: bool = False,
    ) -> None:
        self.task, self.model = task, cast(nn.Module, task.model)
        self.optimizer, self.runtime, self.clip = optimizer, runtime, clip
        self.average = WeightAverage(task, ema) if ema else None
        self.scaler = torch.amp.GradScaler(runtime.device.type, enabled=scale_loss)
        self._forward, self._norm = task, torch.zeros(())
        # In one process, SyncBatchNorm equals BatchNorm. torch supports it only on CUDA.
        self._sync_bn = sync_bn and runtime.world_size > 1
        if self._sync_bn and runtime.device.type != "cuda":
            raise UserError(f"trainer.sync_bn=true needs CUDA, not {runtime.device}; leave it out")

    def start(self, *, compile: bool) -> None:
        """Prepare for training: set up data parallelism and compilation."""
        if self._sync_bn:
            # This keeps the same parameter and buffer tensors, which the optimizer and the average refer to.
            nn.SyncBatchNorm.convert_sync_batchnorm(self.task)  # type: ignore[no-untyped-call]
        self._forward = self.runtime.parallel(self.task)
        if compile:
            self.model.compile()
        self.task.train()

    def compute_gradients(self, micro_batches: list[Batch], *, stop: bool = False) -> StepResult:
        """Compute the gradient of the mean loss over the micro-batches of all processes.

        Args:
            stop: whether this process was asked to stop.

        Returns:
            The losses by name, the gradient norm (without the loss scale), and whether any process was asked
            to stop; the same in every process.

        Raises:
            UserError: if another process has exited.
        """
        with self.runtime.collective():
            shares = self._shares(micro_batches)
            sums: list[Tensor] = []
            for number, batch in enumerate(micro_batches):
                last = number == len(micro_batches) - 1
                with nullcontext() if last or self.runtime.world_size == 1 else self._forward.no_sync():  # type: ignore[operator]
                    with self.runtime.autocast():
                        named: dict[str, Tensor] = self._forward(batch)
                    losses = list(named.values())
                    if shares is not None:
                        losses = [loss * shares[number] for loss in losses]
                    detached = [loss.detach() for loss in losses]
                    sums = list(map(operator.add, sums, detached)) if sums else detached
                    total = functools.reduce(operator.add, losses)
                    self.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
            numbers = self._mean(sums, stop)
        self._norm = self._gradient_norm().to(numbers[0].device)
        # Read all values in one copy, to wait for the device only once per step.
        *values, norm = DeviceCopy(torch.stack([*numbers, self._norm])).value().tolist()
        if self.runtime.world_size > 1:
            stop = bool(values.pop())
        return StepResult(dict(zip(named, values, strict=True)), norm, stop)

    def _shares(self, micro_batches: list[Batch]) -> Tensor | None:
        """The weight of each micro-batch in the mean of the step; None if there is only one."""
        if self.runtime.world_size == len(micro_batches) == 1:
            return None
        weights = torch.stack([self.task.weight(batch).float() for batch in micro_batches])  # type: ignore[operator]
        total = self.runtime.sum(weights.sum())
        # DistributedDataParallel averages gradients over processes; these weights make that the exact mean.
        return weights * self.runtime.world_size / total.clamp(min=1e-12)

    def _mean(self, losses: list[Tensor], stop: bool) -> Sequence[Tensor]:
        """Mean losses over all processes and, if there are several, the number of processes asked to stop."""
        if self.runtime.world_size == 1:
            return losses
        numbers = torch.stack([*losses, losses[0].new_full((), float(stop))]).float()
        numbers[:-1] /= self.runtime.world_size
        return self.runtime.sum(numbers).unbind()

    def _gradient_norm(self) -> Tensor:
        # All processes have the same gradient at this point, so they compute the same norm.
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        grads = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        if not grads:
            return torch.zeros((), device=self.runtime.device)
        norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        return norm

    def can_lower_loss_scale(self) -> bool:
        """Whether a non-finite gradient can be handled by lowering the loss scale (fp16 only).

        In that case, `update` skips the step and lowers the scale.
        """
        return self.scaler.is_enabled() and self.scaler.get_scale() > 1

    def update(self) -> None:
        """Apply the gradients."""
        if self.clip:
            nn.utils.clip_grads_with_norm_(self.model.parameters(), self.clip, self._norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update()

    @property
    def inference_task(self) -> nn.Module:
        """The task with the weights used for evaluation: the averaged weights, if there are any."""
        return self.task if self.average is None else self.average.task

    def inference_tensors(self) -> Tensors:
        """The weights used for evaluation, with their names in a checkpoint."""
        model = self.model if self.average is None else self.average.model
        return checkpoint.prefixed("model", model.state_dict())

    def capture(self) -> tuple[Tensors, dict[str, Any]]:
        """Everything that a step changes: (tensors, plain data)."""
        moments, numbers = optimization.state_tensors(self.model, self.optimizer)
        tensors = checkpoint.prefixed("model", self.model.state_dict())
        tensors |= checkpoint.prefixed("optimizer", moments)
        if self.average is not None:
            tensors |= checkpoint.prefixed("ema", self.average.model.state_dict())
        updates = self.average.updates if self.average is not None else 0
        return tensors, {"optimizer": numbers, "scaler": self.scaler.state_dict(), "ema_updates": updates}

    def load(self, tensors: Tensors, metadata: dict[str, Any]) -> None:
        """The inverse of `capture`; if there is no saved average, it starts from the weights.

        Raises:
            UserError: if the tensors do not fit the model.
        """
        weights = checkpoint.under("model", tensors)
        checkpoint.load_strict(self.model, weights)
        moments = checkpoint.under("optimizer", tensors)
        optimization.load_state(self.model, self.optimizer, moments, metadata["optimizer"])
        if self.average is not None:
            averaged = checkpoint.under("ema", tensors)
            checkpoint.load_strict(self.average.model, averaged or weights)
            self.average.updates = metadata["ema_updates"]
        if self.scaler.is_enabled() and metadata["scaler"]:
            self.scaler.load_state_dict(metadata["scaler"])


class WeightAverage:
    """Exponential moving average of a task's parameters and buffers.

    The decay increases with the number of updates n, min(decay, (1 + n) / (10 + n)) as in TensorFlow. Without
    this, the average of a short run would consist mostly of its initial weights. Integer buffers (counters)
    are copied. Buffers must be updated in place, as in torch's own layers.

    torch.optim.swa_utils.AveragedModel computes bit-identical averages, but copies the weights at its first
    update (its counter would have to start at one), takes twice as long, and on CUDA reads its counter back
    from the device at each step.

    Attributes:
        task: a copy of the task with the averaged weights.
        updates: number of updates; saved in checkpoints.
    """

    def __init__(self, task: nn.Module, decay: float) -> None:
        self.task = copy.deepcopy(task).requires_grad_(False)
        self.decay, self.updates = decay, 0
        pairs = list(zip(_tensors(self.task), _tensors(task), strict=True))
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]
        self._averaged = [averaged for averaged, _ in floats]
        self._current = [current for _, current in floats]

    @property
    def model(self) -> nn.Module:
        return cast(nn.Module, self.task.model)

    @torch.no_grad()
    def update(self) -> None:
        """Update the average with the task's current weights."""
        rate = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._averaged, self._current, 1 - rate)
        for counter, current in self._counters:
            counter.copy_(current)
        self.updates += 1


def _tensors(task: nn.Module) -> list[Tensor]:
    return list(task.state_dict(keep_vars=True).values())


def step_seed(seed: int, step: int, rank: int) -> int:
    """The random seed for a step in one process."""
    return (seed * 1_000_003 + step * 4_099 + rank) % 2**63
