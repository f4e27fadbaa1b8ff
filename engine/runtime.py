"""The runtime environment of a run: device, precision, memory format, processes and signals.

In a single process, all collective operations are no-ops.
"""

import ctypes
import multiprocessing
import os
import platform
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from types import FrameType
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from engine.errors import UserError

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others, at the start and in every collective operation."""

EXIT_STOPPED = 75
"""Exit status of a run that was stopped after saving a checkpoint (EX_TEMPFAIL in sysexits.h)."""

SAME_REQUEST_S = 2.0
"""Signals within this many seconds count as one: a terminal and torchrun both forward Ctrl-C."""

_PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class _DilatedInFloat32(TorchFunctionMode):
    """Computes dilated depthwise convolutions in fp32 where autocast would use bf16, while training on a CPU.

    In bf16 and channels-last format, from a width of about 32, oneDNN's gradient of their weights reads
    uninitialized memory, so it is wrong or not finite (seen with torch 2.15). Other convolutions, and the
    gradient of the input, are not affected.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.conv2d or not torch.is_grad_enabled() or not _is_dilated_depthwise(*args, **kwargs):
            return func(*args, **kwargs)
        args = map_tensors(args, Tensor.float)
        kwargs = {name: map_tensors(value, Tensor.float) for name, value in kwargs.items()}
        with torch.autocast("cpu", enabled=False):
            return func(*args, **kwargs).to(torch.get_autocast_dtype("cpu"))


def _is_dilated_depthwise(
    input: Tensor,
    weight: Tensor,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> bool:
    """Whether F.conv2d with these arguments is a dilated depthwise convolution."""
    return groups > 1 and weight.shape[1] == 1 and dilation not in (1, (1, 1), [1, 1])


@dataclass(frozen=True)
class Runtime:
    """The device, precision and rank of this process, and the collective operations of all processes.

    Attributes:
        device: the device of this process.
        precision: fp32, bf16 or fp16 (autocast); fp16 needs CUDA, where losses are scaled.
        channels_last: NHWC memory format; makes these networks 1.2x to 1.5x faster on CPUs and tensor cores.
        rank, world_size: rank of this process and number of processes.
    """

    device: torch.device
    precision: str = "fp32"
    channels_last: bool = True
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @contextmanager
    def autocast(self) -> Iterator[None]:
        dtype = _PRECISIONS[self.precision]
        if dtype is None:
            yield
            return
        on_cpu = self.device.type == "cpu"
        with torch.autocast(self.device.type, dtype), _DilatedInFloat32() if on_cpu else nullcontext():
            yield

    def place(self, module: nn.Module) -> nn.Module:
        """Move a module to the device, in this run's memory format."""
        module = module.to(self.device)
        return module.to(memory_format=torch.channels_last) if self.channels_last else module

    def move(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Move a batch's tensors, and lists of them, to the device."""
        return {
            name: map_tensors(value, lambda tensor: tensor.to(self.device, non_blocking=True))
            for name, value in batch.items()
        }

    def parallel(self, task: nn.Module) -> nn.Module:
        """Wrap for data-parallel training if there are several processes."""
        if self.world_size == 1:
            return task
        devices = [self.device.index] if self.device.type == "cuda" else None
        with self.collective():
            return nn.parallel.DistributedDataParallel(task, device_ids=devices)

    @contextmanager
    def collective(self) -> Iterator[None]:
        """Context manager for collective operations.

        Raises:
            UserError: if another process has exited or has not responded for `TIMEOUT`.
        """
        try:
            yield
        except RuntimeError as error:
            if self.world_size == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
                raise
            raise UserError(
                f"another process of this run has exited or is not responding (this is process {self.rank} "
                f"of {self.world_size}); check its output, and continue with resume=<run folder>"
            ) from None

    def gather(self, value: Any) -> list[Any]:
        """Collect the values of all processes, ordered by rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        with self.collective():
            dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's value in every process."""
        if self.world_size == 1:
            return value
        values = [value]
        with self.collective():
            dist.broadcast_object_list(values, src=0, device=self.device)
        return values[0]

    def sum(self, value: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place."""
        if self.world_size > 1:
            with self.collective():
                dist.all_reduce(value)
        return value

    def broadcast_buffers(self, module: nn.Module) -> None:
        """Copy rank 0's buffers, such as running statistics, to all processes."""
        if self.world_size > 1:
            with torch.no_grad(), self.collective():
                for buffer in module.buffers():
                    dist.broadcast(buffer, src=0)

    def seed(self, number: int) -> None:
        """Seed torch's generators for the CPU and this process's device."""
        torch.default_generator.manual_seed(number)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(number)
        elif self.device.type != "cpu":
            torch.manual_seed(number)

    def close(self) -> None:
        if self.world_size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Apply `change` to every tensor in nested lists, tuples and dicts."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: map_tensors(part, change) for key, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(part, change) for part in value))
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(part, change) for part in value)
    return value


def start(
    *,
    device: str = "auto",
    precision: str = "fp32",
    channels_last: bool = True,
    deterministic: bool = False,
    key: str = "device",
) -> Runtime:
    """Select the device and connect to the other processes started by torchrun.

    key: the configuration key that sets the device, for messages.

    Raises:
        UserError: if the precision or device is unknown, fp16 is used without CUDA, or the other processes
            cannot be reached.
    """
    if precision not in _PRECISIONS:
        raise UserError(f"precision must be one of {', '.join(_PRECISIONS)}, got {precision!r}")
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    chosen = _device(device, int(os.environ.get("LOCAL_RANK", 0)), key)
    if precision == "fp16" and chosen.type != "cuda":
        raise UserError(
            f"{key.removesuffix('device')}precision=fp16 needs a CUDA device, not {chosen}; use bf16 or fp32"
        )
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
        torch.backends.cudnn.benchmark = not deterministic
    if chosen.type == "cpu":
        keep_freed_memory()
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    if world_size > 1 and not dist.is_initialized():
        _join("nccl" if chosen.type == "cuda" else "gloo", rank, world_size)
    return Runtime(chosen, precision, channels_last, rank, world_size)


def _join(backend: str, rank: int, world_size: int) -> None:
    address = [os.environ.get(name) for name in ("MASTER_ADDR", "MASTER_PORT")]
    if None in address:
        raise UserError(
            f"WORLD_SIZE={world_size} is set without MASTER_ADDR and MASTER_PORT; start with torchrun"
        )
    try:
        dist.init_process_group(backend, timeout=TIMEOUT)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(
            f"process {rank} of {world_size} could not reach the others at {':'.join(map(str, address))} "
            f"({reason}); check MASTER_ADDR and MASTER_PORT"
        ) from None


def _device(name: str, local_rank: int, key: str) -> torch.device:
    with warnings.catch_warnings(
        record=True
    ) as noise:  # torch warns about drivers even if no GPU is requested
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if available else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"{key}={name}: no such device; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not available:
        reason = f" ({str(noise[0].message).splitlines()[0][:200]})" if noise else ""
        raise UserError(f"{key}={name}: this machine has no CUDA device{reason}; use cpu or auto")
    if name == "cuda":
        device = torch.device("cuda", local_rank)
    if device.type == "cuda" and device.index >= torch.cuda.device_count():
        raise UserError(
            f"{key}={name}: {device} does not exist; this machine has {torch.cuda.device_count()} CUDA "
            "devices; start at most one process per device"
        )
    return device


def exit_process(status: int) -> NoReturn:
    """Exit with `status`, without the normal shutdown if `Runtime.close` was not called.

    In that case, threads can be waiting for a process that has exited: with NCCL they never return, and with
    gloo Python's normal shutdown sometimes aborts with another exit status.
    """
    if dist.is_available() and dist.is_initialized():
        for child in multiprocessing.active_children():
            child.terminate()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


class Stopped(Exception):
    """The run was asked to stop and has saved a checkpoint."""


class StopRequest:
    """Records SIGTERM and SIGINT while installed; another one seconds later kills the process."""

    def __init__(self) -> None:
        self.signal: str | None = None
        self._received_at = 0.0
        self._previous: dict[int, object] = {}

    def install(self) -> None:
        """Install the signal handlers; does nothing outside the main thread, which cannot handle signals."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._record)

    def remove(self) -> None:
        """Restore the previous handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous.clear()

    def _record(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._received_at = signal.Signals(number).name, now
        elif now - self._received_at > SAME_REQUEST_S:
            self.remove()
            os.kill(os.getpid(), number)


def describe(runtime: Runtime) -> dict[str, Any]:
    """Describe versions and hardware, for `environment.json`."""
    import numpy

    device = str(runtime.device)
    if runtime.device.type == "cuda":
        device += f" ({torch.cuda.get_device_name(runtime.device)})"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),  # importing it takes a second
        "numpy": numpy.__version__,
        "device": device,
        "cpu_threads": torch.get_num_threads(),
        "processes": runtime.world_size,
        "precision": runtime.precision,
    }


_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h
_LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Configure glibc to keep freed memory in this process; returns whether that is supported.

    By default, glibc requests every large block from the kernel and returns it when it is freed. A training
    step allocates and frees gigabytes of activations, and every time, each page is zeroed and mapped again.
    `benchmarks/training_step.py --memory` measures the cost.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _LARGEST_INT), (_M_TOP_PAD, 64 << 20))
    # A list, not a generator, so every setting is applied.
    accepted = [mallopt(name, value) == 1 for name, value in settings]
    return all(accepted)
