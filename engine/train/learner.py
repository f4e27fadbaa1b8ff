"""What learns: a task with its optimizer, loss scaling and averaged weights; one step, and its state."""

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
from engine.runtime import DeviceCopy, Runtime
from engine.train import optimizers
from engine.train.settings import TrainerOptions
from engine.train.weight_average import Average


class Gradients(NamedTuple):
    """What a pair of passes came to: the losses by name, the norm of the gradient, whether to stop."""

    losses: dict[str, float]
    norm: float
    stop: bool


class Learner:
    """Takes optimizer steps on batches.

    Attributes:
        task, model: what is trained; the model is what a checkpoint holds.
        average: the averaged weights, where the plan asks for them.

    Raises:
        UserError: the plan asks for SyncBatchNorm in several processes without CUDA.
    """

    def __init__(
        self, *, task: nn.Module, optimizer: Optimizer, plan: TrainerOptions, runtime: Runtime
    ) -> None:
        self.task, self.model = task, cast(nn.Module, task.model)
        self.optimizer, self.runtime, self.clip = optimizer, runtime, plan.clip
        self.average = Average(task, plan.ema) if plan.ema else None
        self.scaler = torch.amp.GradScaler(runtime.device.type, enabled=plan.precision == "fp16")
        self._forward, self._norm = task, torch.zeros(())
        # In one process it is BatchNorm; torch has it for CUDA alone.
        self._sync_bn = plan.sync_bn and runtime.world_size > 1
        if self._sync_bn and runtime.device.type != "cuda":
            raise UserError(
                f"trainer.sync_bn=true needs CUDA devices, these run on {runtime.device}: leave it out"
            )

    def start(self, *, compile: bool) -> None:
        """Get ready to train: join the other processes, compile."""
        if self._sync_bn:
            # In place, with the same parameters and buffers: optimizer, average, checkpoints do not notice.
            nn.SyncBatchNorm.convert_sync_batchnorm(self.task)  # type: ignore[no-untyped-call]
        self._forward = self.runtime.parallel(self.task)
        if compile:
            self.model.compile()
        self.task.train()

    def gradients(self, micro_batches: list[Batch], *, stop: bool = False) -> Gradients:
        """Compute the gradient of the mean loss over the micro-batches of all processes.

        Args:
            stop: whether this process was asked to stop.

        Returns:
            That loss by name, the norm of its gradient (before clipping, without the loss scale), and whether
            any process was asked to stop; the same in every process.

        Raises:
            UserError: another process has ended.
        """
        with self.runtime.company():
            shares = self._shares(micro_batches)
            sums: list[Tensor] = []
            for number, batch in enumerate(micro_batches):
                last = number == len(micro_batches) - 1
                with nullcontext() if last or self.runtime.world_size == 1 else self._forward.no_sync():  # type: ignore[operator]
                    with self.runtime.autocast():
                        named: dict[str, Tensor] = self._forward(batch)
                    parts = list(named.values())
                    if shares is not None:
                        parts = [part * shares[number] for part in parts]
                    detached = [part.detach() for part in parts]
                    sums = list(map(operator.add, sums, detached)) if sums else detached
                    self.scaler.scale(functools.reduce(operator.add, parts)).backward()  # type: ignore[no-untyped-call]
            numbers = self._mean(sums, stop)
        self._norm = self._gradient_norm().to(numbers[0].device)
        # All that the loop has to know, in one reading: the device is waited for once per step.
        *losses, norm = DeviceCopy(torch.stack([*numbers, self._norm])).value().tolist()
        if self.runtime.world_size > 1:
            stop = bool(losses.pop())
        return Gradients(dict(zip(named, losses, strict=True)), norm, stop)

    def _shares(self, micro_batches: list[Batch]) -> Tensor | None:
        """Each micro-batch's share in the mean of the step; None where there is but one."""
        if self.runtime.world_size == len(micro_batches) == 1:
            return None
        weights = torch.stack([self.task.weight(batch).float() for batch in micro_batches])  # type: ignore[operator]
        total = self.runtime.sum(weights.sum())
        # DistributedDataParallel averages gradients over processes; these shares make that the exact mean.
        return weights * self.runtime.world_size / total.clamp(min=1e-12)

    def _mean(self, losses: list[Tensor], stop: bool) -> Sequence[Tensor]:
        """The losses over all processes and, where there are several, how many were asked to stop."""
        if self.runtime.world_size == 1:
            return losses
        numbers = torch.stack([*losses, losses[0].new_full((), float(stop))]).float()
        numbers[:-1] /= self.runtime.world_size
        return self.runtime.sum(numbers).unbind()

    def _gradient_norm(self) -> Tensor:
        # Processes hold the same gradient by now, so they come to the same norm.
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        grads = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        if not grads:
            return torch.zeros((), device=self.runtime.device)
        norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        return norm

    def scale_can_fall(self) -> bool:
        """Whether a gradient that is not finite is an ordinary event: with fp16, where the loss is scaled up.

        `update` then leaves the weights as they are and lowers the scale.
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
        """The task with the weights that are evaluated: the averaged ones, where there are any."""
        return self.task if self.average is None else self.average.task

    def inference_tensors(self) -> Tensors:
        """The weights that are evaluated, as a checkpoint holds them."""
        model = self.model if self.average is None else self.average.model
        return checkpoint.prefixed("model", model.state_dict())

    def capture(self) -> tuple[Tensors, dict[str, Any]]:
        """Everything that a step changes: tensors, and plain data."""
        moments, numbers = optimizers.state_tensors(self.model, self.optimizer)
        tensors = checkpoint.prefixed("model", self.model.state_dict())
        tensors |= checkpoint.prefixed("optimizer", moments)
        if self.average is not None:
            tensors |= checkpoint.prefixed("ema", self.average.model.state_dict())
        updates = self.average.updates if self.average is not None else 0
        return tensors, {"optimizer": numbers, "scaler": self.scaler.state_dict(), "ema_updates": updates}

    def load(self, tensors: Tensors, metadata: dict[str, Any]) -> None:
        """The inverse of `capture`; an average that was not captured starts from the weights.

        Raises:
            UserError: the tensors do not fit the model.
        """
        weights = checkpoint.under("model", tensors)
        checkpoint.load_strict(self.model, weights)
        moments = checkpoint.under("optimizer", tensors)
        optimizers.load_state(self.model, self.optimizer, moments, metadata["optimizer"])
        if self.average is not None:
            averaged = checkpoint.under("ema", tensors)
            checkpoint.load_strict(self.average.model, averaged or weights)
            self.average.updates = metadata["ema_updates"]
        if self.scaler.is_enabled() and metadata["scaler"]:
            self.scaler.load_state_dict(metadata["scaler"])
