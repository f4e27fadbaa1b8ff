"""Where a run happens: device, precision, memory format, processes.

With one process every collective is a no-op.
"""

import os
import platform
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine.memory import keep_freed_memory

_PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Runtime:
    """One process's view of the machine.

    Attributes:
        device: where tensors live.
        precision: fp32, bf16 or fp16 (autocast); fp16 needs CUDA, where losses are scaled.
        channels_last: NHWC memory format, 1.2x to 1.5x faster for these networks on CPUs and on tensor cores.
        rank, world_size: this process among all.
    """

    device: torch.device
    precision: str = "fp32"
    channels_last: bool = True
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def autocast(self) -> AbstractContextManager[Any]:
        dtype = _PRECISIONS[self.precision]
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)

    def place(self, module: nn.Module) -> nn.Module:
        """Move a module to the device, in this run's memory format."""
        module = module.to(self.device)
        return module.to(memory_format=torch.channels_last) if self.channels_last else module

    def move(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Move a batch's tensors, and lists of them, to the device."""

        def to_device(value: Any) -> Any:
            if isinstance(value, list):
                return [to_device(part) for part in value]
            return value.to(self.device, non_blocking=True) if isinstance(value, Tensor) else value

        return {name: to_device(value) for name, value in batch.items()}

    def parallel(self, task: nn.Module) -> nn.Module:
        """Wrap for data-parallel training where there are several processes."""
        if self.world_size == 1:
            return task
        devices = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(task, device_ids=devices)

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, in the order of ranks."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, in every process."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, device=self.device)
        return values[0]

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.world_size > 1:
            dist.all_reduce(value)
        return value

    def share_buffers(self, module: nn.Module) -> None:
        """Give every process rank 0's buffers, such as running statistics."""
        if self.world_size > 1:
            with torch.no_grad():
                for buffer in module.buffers():
                    dist.broadcast(buffer, src=0)

    def seed(self, number: int) -> None:
        """Seed torch's generators: the CPU's and this process's device."""
        torch.default_generator.manual_seed(number)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(number)
        elif self.device.type != "cpu":
            torch.manual_seed(number)

    def close(self) -> None:
        if self.world_size > 1 and dist.is_initialized():
            dist.destroy_process_group()


class Readout:
    """Numbers on their way from the device: sent early, read late, so that the device goes on meanwhile."""

    def __init__(self, numbers: Tensor) -> None:
        self._numbers, self._arrived = numbers, None
        if numbers.is_cuda:
            self._numbers = torch.empty_like(numbers, device="cpu", pin_memory=True)
            self._numbers.copy_(numbers, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def read(self) -> list[float]:
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._numbers.tolist()


def start(
    *, device: str = "auto", precision: str = "fp32", channels_last: bool = True, deterministic: bool = False
) -> Runtime:
    """Find the device and join the other processes that torchrun started.

    Raises:
        ValueError: an unknown precision or device, or fp16 without CUDA.
    """
    if precision not in _PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(_PRECISIONS)}, got {precision!r}")
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    chosen = _device(device, int(os.environ.get("LOCAL_RANK", 0)))
    if precision == "fp16" and chosen.type != "cuda":
        raise ValueError(f"precision=fp16 needs a CUDA device, this is {chosen}: use bf16 or fp32")
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
        torch.backends.cudnn.benchmark = not deterministic
    if chosen.type == "cpu":
        keep_freed_memory()
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    if world_size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    return Runtime(chosen, precision, channels_last, rank, world_size)


def _device(name: str, local_rank: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device={name!r} is no device: use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={name}: this machine has no CUDA device; use cpu or auto")
    if name == "cuda":
        device = torch.device("cuda", local_rank)
    if device.type == "cuda" and device.index >= torch.cuda.device_count():
        raise ValueError(
            f"device={name}: there is no device {device}, only {torch.cuda.device_count()} of them; "
            "start as many processes as there are devices"
        )
    return device


def describe(runtime: Runtime) -> dict[str, Any]:
    """Versions and hardware, for `environment.json`."""
    import numpy
    import torchvision

    device = str(runtime.device)
    if runtime.device.type == "cuda":
        device += f" ({torch.cuda.get_device_name(runtime.device)})"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": numpy.__version__,
        "device": device,
        "cpu_threads": torch.get_num_threads(),
        "processes": runtime.world_size,
        "precision": runtime.precision,
    }
