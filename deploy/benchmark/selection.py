"""Which runtimes a benchmark measures, and the files that they run."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy.benchmark.measurement import Contestant, example, set_threads
from deploy.benchmark.paper_rows import BenchmarkRow
from deploy.formats.export import export
from deploy.formats.runtimes import FORMATS, SUFFIXES, require
from engine.config.instantiate import nearest
from engine.errors import UserError

EAGER = "eager"


RUNTIMES = (EAGER, *FORMATS)


NEEDS = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "litert": ("litert_torch", "ai_edge_litert"),
    "executorch": ("executorch",),
}
"""Modules that a runtime needs beside torch."""


def chosen(wanted: Sequence[str], *, device: str) -> tuple[list[str], list[str]]:
    """Names, or `all`, -> (runtimes to measure, in the order of RUNTIMES; remarks on what `all` leaves out).

    Raises:
        UserError: an unknown name, a library that is not installed, or a runtime that is not for `device`.
    """
    on_cpu = device == "cpu"
    if "all" in wanted:
        reasons = {
            name: _reason(name) if on_cpu or name == EAGER else "it runs on the CPU" for name in RUNTIMES
        }
        left_out = [f"runtime {name} left out: {reason}" for name, reason in reasons.items() if reason]
        return [name for name in RUNTIMES if not reasons[name]], left_out
    for name in wanted:
        if name not in RUNTIMES:
            known = [*RUNTIMES, "all"]
            raise UserError(f"runtime={name}: there are {', '.join(known)}{nearest(str(name), known)}")
        if not on_cpu and name != EAGER:
            raise UserError(f"runtime={name} runs on the CPU, not on {device}; give device=cpu")
        for module in NEEDS.get(name, ()):
            require(module, name)
    if not wanted:
        raise UserError(f"runtime is empty; give one or more of {', '.join(RUNTIMES)}, or all")
    return [name for name in RUNTIMES if name in wanted], []


def _reason(name: str) -> str:
    """Why a runtime cannot be used here; empty where it can."""
    missing = [module for module in NEEDS.get(name, ()) if importlib.util.find_spec(module) is None]
    if missing:
        return f"{missing[0]} is not installed"
    if name == "aot_inductor" and not any(shutil.which(compiler) for compiler in ("c++", "g++", "clang++")):
        return "it needs a C++ compiler"
    return ""


class Exported:
    """Exported files of rows, each written once.

    folder: where they go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def contestant(self, row: BenchmarkRow, runtime: str, **options: Any) -> Contestant:
        """A row on a runtime, exported where the runtime asks for it.

        Raises: UserError where the export fails.
        """
        file = None if runtime == EAGER else self._file(row, runtime, options["threads"])
        return Contestant(row=row, runtime=runtime, file=file, **options)

    def _file(self, row: BenchmarkRow, runtime: str, threads: int) -> Path:
        # Inductor compiles for the number of threads that torch has.
        stem = row.name.replace("/", "_") + (f"_{threads}" if runtime == "aot_inductor" else "")
        path = self.folder / f"{stem}{SUFFIXES[runtime]}"
        if not path.exists():
            set_threads(threads)
            task: Any = row.task
            model, images = task.model.eval(), example(row.size)
            names = ("deltas", "scores") if row.room == "det" else ("scores",)
            export(model, images, path, format=runtime, names=names, metadata={})
        return path


def files_by_name(text: str) -> dict[str, Path]:
    """`a.onnx,b.xml`, also in brackets -> files by as much of their path as tells them apart."""
    # One text, as all paths; and every export is called `model`.
    texts = text.removeprefix("[").removesuffix("]").split(",")
    files = list(dict.fromkeys(Path(text.strip()).absolute() for text in texts if text.strip()))
    count = 1
    while len({file.parts[-count:] for file in files}) < len(files):
        count += 1
    return {"/".join(file.parts[-count:]): file for file in files}
