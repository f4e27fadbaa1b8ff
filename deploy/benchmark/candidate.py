"""A network on a runtime, ready to be timed."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deploy.benchmark.rows import BenchmarkRow
from deploy.formats import open_session
from deploy.session import Session
from deploy.timing.latency import Timer, clocked, on_cuda
from engine.contracts import Image
from engine.data.preprocessing import Size


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One row on one runtime, which can be opened here or, pickled, in another process.

    Attributes:
        runtime: `eager`, a format, or the name of an exported file.
        file: the exported network; None for `eager`.
        image: RGB [H, W, 3]; everything from this image to the label map, boxes or class is timed. None: only
            the network, from a normalized image to its raw outputs. Both at batch size 1.
    """

    row: BenchmarkRow
    runtime: str
    threads: int
    file: Path | None = None
    device: str = "cpu"
    channels_last: bool = True
    image: Image | None = None

    @property
    def name(self) -> str:
        return f"{self.row.name} on {self.runtime}"

    @property
    def include(self) -> str:
        return "network" if self.image is None else "all"

    def open(self) -> Callable[[], Any]:
        """Load the network; the returned function runs it once."""
        set_threads(self.threads)
        task: Any = self.row.predictor
        assert task is not None
        if self.image is not None:
            return self._from_image(task, self.image)
        if self.file is None:
            return _eager_call(self._on_device(task.model), example(self.row.size).to(self.device))
        session = open_session(self.file, threads=self.threads)
        array = input_for(session, self.row.size)
        return lambda: session(array)

    def timer(self, run: Callable[[], Any]) -> Timer:
        device = torch.device(self.device)
        if device.type != "cuda":
            return clocked(run)
        if self.image is None:
            return on_cuda(run, device)
        return clocked(run, synchronize=lambda: torch.cuda.synchronize(device))

    def _from_image(self, task: nn.Module, image: Image) -> Callable[[], Any]:
        predictor: Any = copy.deepcopy(task).eval().to(self.device)
        if self.file is None:
            predictor.model = self._on_device(predictor.model)
        else:
            predictor.model = SessionNetwork(open_session(self.file, threads=self.threads), predictor.model)
        return lambda: predictor.predict_image(image)

    def _on_device(self, model: Any) -> nn.Module:
        # A copy, because other candidates use the row's model too.
        copied: nn.Module = copy.deepcopy(model).eval().to(self.device)
        return copied.to(memory_format=torch.channels_last) if self.channels_last else copied


class SessionNetwork(nn.Module):
    """An exported network that replaces the module it was exported from and has the same attributes."""

    def __init__(self, session: Session, model: nn.Module) -> None:
        super().__init__()
        self._session = session
        self._replaced = (model,)  # in a tuple: not registered as a submodule

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._replaced[0], name)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        outputs = tuple(torch.from_numpy(np.asarray(array)) for array in self._session(images.numpy()))
        return outputs[0] if len(outputs) == 1 else outputs


def _eager_call(module: nn.Module, images: Tensor) -> Callable[[], Any]:
    @torch.inference_mode()
    def run() -> Any:
        return module(images)

    return run


def example(size: Size) -> Tensor:
    """Float noise with the range of normalized images: [1, 3, H, W]."""
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def input_for(session: Session, size: Size) -> NDArray[Any]:
    """Noise [N, 3, H, W] with the type and size that an exported network takes; where it takes any, N is 1
    and H and W are `size`."""
    count, height, width = session.shape
    size = (height or size[0], width or size[1])
    pixels = torch.from_numpy(noise(size)).permute(2, 0, 1)[None]
    images = example(size) if session.dtype == "float32" else pixels
    return np.ascontiguousarray(images.expand(count or 1, -1, -1, -1).numpy())


def noise(size: Size) -> Image:
    """An image [H, W, 3] of noise."""
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


def set_threads(threads: int) -> None:
    """Let torch use `threads` threads within an operation, and run one operation at a time."""
    torch.set_num_threads(threads)
    with contextlib.suppress(RuntimeError):  # torch accepts this once per process
        torch.set_num_interop_threads(1)
