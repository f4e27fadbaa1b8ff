"""Measures all layers of a latency table on another device in a single connection.

For that, the table is built twice: first with a measurer that only records what it is asked to time and then,
after the device has timed all of it, with one that returns these times.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from deploy.latency_table.layer_graph import LayerGraphs
from deploy.latency_table.measurers import QUICK, WHOLE, Measurer, settings
from deploy.remote.connect import DeviceTimer
from deploy.remote.kit import Kit
from engine.io.progress import Progress, announced

T = TypeVar("T")

LEAST_AGREEMENT = 0.999
"""Least share of the numbers in a layer's output that must match PyTorch's."""


def measure_on_device(
    timer: DeviceTimer,
    *,
    threads: int,
    statistic: str = "median",
    build: Callable[[Measurer], T],
    log: Callable[[str], None],
) -> T:
    """Call `build` with a measurer whose times come from a device.

    Args:
        statistic: of the times of a layer, `median` or `min`.
        build: called twice, so it must ask for the same modules each time.

    Returns:
        The result of the second call.

    Raises:
        UserError: if the device cannot be reached or cannot run a layer, or if its outputs are wrong.
    """
    about = settings("onnx", timer.version("onnx"), threads, QUICK) | {"statistic": statistic}
    typical: Callable[[Sequence[float]], float] = min if statistic == "min" else statistics.median
    with tempfile.TemporaryDirectory(prefix="kit-") as folder:
        kit = Kit(Path(folder), threads=threads)
        with announced("writing the layers as ONNX files"):
            build(_Recorder(kit, about))
        log(f"copying {len(kit.models)} models ({kit.megabytes:.0f} MB) to {timer.device.address}")
        bar = Progress(len(kit.groups), unit="layer")
        times = timer.time(kit, show=lambda content: bar.update(content["group"]))
        bar.close()
    if "runner" in times.machine:  # it does not stop when the median is known
        counts = [len(times.seconds[name]) for name in kit.models]
        about["repeats"] = [min(counts), max(counts)]
    answers = (typical(times.seconds[name]) * 1000 for name in kit.models)
    return build(_Replay(answers, {**times.machine, **about}))


class _Recorder:
    """Adds the modules that it is asked to time to a kit."""

    def __init__(self, kit: Kit, about: dict[str, Any]) -> None:
        self.kit, self.about = kit, about
        self._graphs = LayerGraphs()

    def __call__(self, module: nn.Module, inputs: Sequence[Tensor]) -> float:
        name = f"{type(module).__name__} {len(self.kit.models)}"
        shapes = [(tuple(tensor.shape), "float32") for tensor in inputs]
        graph = self._graphs(module, inputs)
        self.kit.add(name, graph, runtime="onnx", inputs=shapes, agreement=LEAST_AGREEMENT)
        with torch.inference_mode():
            outputs = module(*map(torch.from_numpy, self.kit.inputs(name)))
        self.kit.expect(name, [output.numpy() for output in tree_leaves(outputs)])
        whole = hasattr(module, "backbone")
        self.kit.time_in_turns([name], replace(QUICK, budget_s=QUICK.budget_s * WHOLE) if whole else QUICK)
        return 0.0


class _Replay:
    """Returns the times of the modules, in the order in which they were recorded."""

    def __init__(self, answers: Iterator[float], about: Mapping[str, Any]) -> None:
        self._answers, self.about = answers, dict(about)

    def __call__(self, module: nn.Module, inputs: Sequence[Tensor]) -> float:
        return next(self._answers)
