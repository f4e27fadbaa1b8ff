"""Which runtimes a benchmark measures, and the files that they run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from backbones.count import weightless
from deploy import formats
from deploy.benchmark.candidate import example, set_threads
from deploy.benchmark.rows import BenchmarkRow
from deploy.eager import EAGER
from deploy.export.module import export_module
from engine.config import extensions
from engine.data.preprocessing import Size
from engine.errors import UserError, nearest

RUNTIMES = (EAGER, *formats.runtimes())


def choose_runtimes(wanted: Sequence[str], *, device: str) -> tuple[list[str], list[str]]:
    """Names, or `all`, -> (runtimes to measure, eager PyTorch first; notes on those that `all` leaves out).

    Raises:
        UserError: if a name is unknown, a library is not installed, or a runtime does not support `device`.
    """
    if not wanted:
        raise UserError(f"runtime is empty; set one or more of {', '.join(RUNTIMES)}, or all")
    on_cpu = device == "cpu"
    if "all" in wanted:
        reasons = {
            name: formats.find(name).missing() if on_cpu else "it runs on the CPU"
            for name in formats.runtimes()
        }
        remarks = [f"runtime {name} left out: {reason}" for name, reason in reasons.items() if reason]
        return [EAGER, *(name for name, reason in reasons.items() if not reason)], remarks
    for name in wanted:
        if name != EAGER:
            _check(name, device=device)
    return sorted(dict.fromkeys(wanted), key=lambda name: name != EAGER), []


def _check(name: str, *, device: str) -> None:
    if name not in RUNTIMES and extensions.owner(name) is None:
        known = [*RUNTIMES, "all"]
        hint = "; TensorRT is not measured" if name in formats.TENSORRT else nearest(name, known)
        raise UserError(
            f"runtime must be one of {', '.join(known)} (or your own format, with extend=<its folder>), "
            f"got {name!r}{hint}"
        )
    if device != "cpu":
        raise UserError(f"runtime={name} runs on the CPU, not on {device}; set device=cpu")
    formats.check_installed(name, key="runtime", to_run=True)


class ExportCache:
    """Exported networks of rows, each written once.

    folder: where the files go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, row: BenchmarkRow, format: str, *, threads: int) -> Path:
        """The file of a row's network. Raises: UserError if the export fails."""
        # Inductor compiles for the number of threads that torch has.
        stem = row.name.replace("/", "_") + (f"_{threads}" if format == "aot_inductor" else "")
        path = self.folder / f"{stem}{formats.find(format).SUFFIX}"
        if not path.exists():
            set_threads(threads)
            assert row.predictor is not None
            model: nn.Module = row.predictor.model.eval()  # type: ignore[union-attr, operator]
            names = [f"output{number}" for number in range(num_outputs(model, row.size))]
            export_module(model, example(row.size), path, format=format, names=names, metadata={})
        return path


def num_outputs(model: nn.Module, size: Size) -> int:
    """How many tensors a network returns for images of `size`."""
    with torch.no_grad():
        outputs = weightless(model)(torch.empty(1, 3, *size, device="meta"))
    return 1 if isinstance(outputs, torch.Tensor) else len(outputs)


def files_by_name(text: str) -> dict[str, Path]:
    """`a.onnx,b.xml`, with or without brackets -> files by name, the shortest unique end of each path."""
    # The option is a single string, as all paths are, and every exported file is called `model`.
    texts = text.removeprefix("[").removesuffix("]").split(",")
    files = list(dict.fromkeys(Path(text.strip()).absolute() for text in texts if text.strip()))
    count = 1
    while len({file.parts[-count:] for file in files}) < len(files):
        count += 1
    return {"/".join(file.parts[-count:]): file for file in files}
