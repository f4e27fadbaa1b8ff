"""Rows, runtimes and thread counts -> results: what is measured together, and what is written down of it."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deploy.benchmark.paper_rows import BenchmarkRow
from deploy.benchmark.records import result, timing
from deploy.formats.runtimes import Session, open_session
from deploy.timing import machine
from deploy.timing.latency import Rounds, Timer, clocked, on_cuda, take_rounds
from deploy.timing.memory import peak_mb
from engine.data.preprocessing import Size
from engine.errors import UserError

Image = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One row on one runtime, ready to be opened here or, pickled, in another process.

    runtime: `eager`, a format of `deploy.formats.runtimes`, or the name of a given file.
    file: the exported network; None for `eager`.
    picture: pixels [H, W, 3]: the whole way from them to label map, boxes or class is timed. None: the
        network alone, from a normalized image to its raw outputs. At batch 1, both.
    """

    row: BenchmarkRow
    runtime: str
    threads: int
    file: Path | None = None
    device: str = "cpu"
    channels_last: bool = True
    picture: Image | None = None

    @property
    def name(self) -> str:
        return f"{self.row.name} on {self.runtime}"

    @property
    def include(self) -> str:
        return "network" if self.picture is None else "all"

    def open(self) -> Callable[[], Any]:
        """Load it; what comes back runs it once."""
        set_threads(self.threads)
        assert self.row.task is not None
        if self.picture is not None:
            return self._whole(self.row.task, self.picture)
        if self.file is None:
            return _eager(self._placed(self.row.task.model), example(self.row.size).to(self.device))
        session = open_session(self.file, threads=self.threads)
        array = input_of(session, self.row.size)
        return lambda: session(array)

    def _whole(self, task: nn.Module, picture: Image) -> Callable[[], Any]:
        whole: Any = copy.deepcopy(task).eval().to(self.device)
        if self.file is None:
            whole.model = self._placed(whole.model)
        else:
            session = open_session(self.file, threads=self.threads)
            whole.model = SessionNetwork(session, whole.model)
        return lambda: whole.predict_image(picture)

    def _placed(self, model: Any) -> nn.Module:
        # A copy: rows stay as they were handed in, whatever runs on them next.
        placed: nn.Module = copy.deepcopy(model).eval().to(self.device)
        return placed.to(memory_format=torch.channels_last) if self.channels_last else placed

    def timer(self, run: Callable[[], Any]) -> Timer:
        device = torch.device(self.device)
        if device.type != "cuda":
            return clocked(run)
        if self.picture is None:
            return on_cuda(run, device)
        return clocked(run, synchronise=lambda: torch.cuda.synchronize(device))


class SessionNetwork(nn.Module):
    """An exported network in the place of the module that it was exported from."""

    def __init__(self, session: Session, model: Any) -> None:
        super().__init__()
        self.session, self.anchors = session, getattr(model, "anchors", None)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        outputs = tuple(torch.from_numpy(np.asarray(array)) for array in self.session(images.numpy()))
        return outputs[0] if len(outputs) == 1 else outputs


def _eager(module: nn.Module, images: Tensor) -> Callable[[], Any]:
    @torch.inference_mode()
    def run() -> Any:
        return module(images)

    return run


def example(size: Size) -> Tensor:
    """Float noise as normalized images have it: [1, 3, H, W]."""
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def input_of(session: Session, size: Size) -> np.ndarray[Any, Any]:
    """Noise [N, 3, H, W] of the type and size that an exported network takes; what it leaves open is 1 and
    `size`."""
    count, height, width = session.shape
    size = (height or size[0], width or size[1])
    images = (
        example(size) if session.dtype == "float32" else torch.from_numpy(noise(size)).permute(2, 0, 1)[None]
    )
    return np.ascontiguousarray(images.expand(count or 1, -1, -1, -1).numpy())


def noise(size: Size) -> Image:
    """A picture [H, W, 3] of noise."""
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


def set_threads(threads: int) -> None:
    """Have torch use `threads` threads within an operation and none beside it."""
    torch.set_num_threads(threads)
    with contextlib.suppress(RuntimeError):  # torch takes this once in a process
        torch.set_num_interop_threads(1)


def check_threads(threads: Sequence[Any]) -> None:
    """Raises: UserError for a thread count that is no number of this machine's cores."""
    for count in threads:
        if type(count) is not int or not 1 <= count <= machine.cores():
            raise UserError(
                f"threads must be 1 to {machine.cores()}, the cores of this machine, got {count!r}"
            )


def gemm_gmadds(*, seconds: float = 0.5, side: int = 1024) -> float:
    """Billions of multiply-adds per second in a large float32 matrix product, by torch and with the threads
    that it has: about the best that this CPU can do."""
    left, right = torch.rand(side, side), torch.rand(side, side)
    best, until = float("inf"), time.perf_counter() + seconds
    multiply = clocked(lambda: torch.mm(left, right))
    while time.perf_counter() < until:
        best = min(best, multiply())
    return side**3 / best / 1e9


def compare(
    contestants: Sequence[Contestant],
    rounds: Rounds,
    *,
    baseline: BenchmarkRow,
    memory: bool = True,
    progress: Callable[[int, str], None] | None = None,
) -> list[dict[str, Any]]:
    """Time contestants of one thread count in turns; a result for each, in their order.

    Args:
        baseline: the row that ratios refer to, on the first runtime that it has here.
        memory: measure peak memory too, each in a process of its own.
    """
    reference = next(one for one in contestants if one.row is baseline)
    device = reference.device
    set_threads(reference.threads)
    about: dict[str, Any] = {"machine": machine.describe(device)}
    if torch.device(device).type == "cpu":
        about["gemm_gmadds_per_s"] = gemm_gmadds()
    timers = {one.name: one.timer(one.open()) for one in contestants}
    assert len(timers) == len(contestants), "two contestants of one name would be measured as one"
    seconds = take_rounds(timers, rounds, progress=progress)
    timers.clear()  # what they hold on to is not needed while memory is measured
    results = []
    for one in contestants:
        found = timing(seconds[one.name], seconds[reference.name], rounds)
        found["peak_memory_mb"] = peak_mb(one.open, device=device) if memory else None
        how = described(one, reference)
        results.append(result(one.row, baseline=baseline, **how, **found, **about))
    return results


def described(one: Contestant, baseline: Contestant) -> dict[str, Any]:
    """How a contestant was run, for its result."""
    return {
        "runtime": one.runtime,
        "threads": one.threads,
        "include": one.include,
        "channels_last": one.channels_last if one.file is None else None,
        "baseline_runtime": baseline.runtime,
    }


def groups(
    rows: Sequence[BenchmarkRow], runtimes: Sequence[str], threads: Sequence[int]
) -> list[tuple[int, list[tuple[BenchmarkRow, str]]]]:
    """What is measured together, as (threads, rows with a runtime): all rows on one runtime, or one row on
    all runtimes.

    So the ratios that are asked for, between rows or between runtimes, are formed within rounds, and no more
    networks are in memory than there are rows or runtimes.
    """
    if len(rows) == 1:
        return [(count, [(rows[0], runtime) for runtime in runtimes]) for count in threads]
    return [(count, [(row, runtime) for row in rows]) for count in threads for runtime in runtimes]
