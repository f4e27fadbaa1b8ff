"""Peak memory of a network, measured in a process that does nothing else."""

import multiprocessing
import pickle
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from engine.errors import UserError

MB = 1024 * 1024
RUNS = 2  # the second runs while memory of the first is still allocated


def peak_mb(prepare: Callable[[], Callable[[], Any]], *, device: str = "cpu") -> float | None:
    """Peak memory for loading and running a network, in megabytes.

    On the CPU: growth of the resident set of a new process after it has imported torch, including the
    runtime's libraries, weights, activations and caches. On CUDA: the peak of torch's allocator.

    Args:
        prepare: pickled and called in the new process; returns a function that is then called twice.
        device: where the network runs.

    Returns:
        Megabytes, or None on systems that do not report a process's memory.

    Raises:
        UserError: if the process failed, or was killed, most likely because memory ran out.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(pickle.dumps(prepare), device, sender), daemon=True)
    child.start()
    sender.close()
    try:
        result: float | str | None = receiver.recv()
    except EOFError:
        child.join()
        raise UserError(
            f"measuring memory: the process ended with status {child.exitcode} (-9: the system ran out of "
            "memory); set a smaller size=, or memory=false"
        ) from None
    child.join()
    if isinstance(result, str):
        raise UserError(f"measuring memory: {result}; set memory=false to skip it")
    return result


def _child(pickled: bytes, device: str, sender: Connection) -> None:
    try:
        sender.send(_measured(pickled, torch.device(device)))
    except Exception as error:
        sender.send(f"{type(error).__name__}: {error}".splitlines()[0])


def _measured(pickled: bytes, device: torch.device) -> float | None:
    if device.type == "cuda":
        run = pickle.loads(pickled)()
        torch.cuda.reset_peak_memory_stats(device)
        for _ in range(RUNS):
            run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) / MB
    _reset_peak()
    before = _status_mb("VmRSS")
    run = pickle.loads(pickled)()
    for _ in range(RUNS):
        run()
    after = _status_mb("VmHWM")
    return None if before is None or after is None else after - before


def _reset_peak() -> None:
    if sys.platform == "linux":
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        except OSError:
            return  # loading libraries can then count as the peak, but it rarely is


def _status_mb(field: str) -> float | None:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:")), None)
