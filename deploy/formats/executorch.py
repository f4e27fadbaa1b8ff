"""ExecuTorch with XNNPACK, for phones; the number and size of images are fixed."""

from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from deploy.binary_files import append_metadata, read_appended_metadata, write_bytes
from deploy.libraries import not_installed, require
from deploy.session import Session
from engine.errors import UserError

SUFFIX = ".pte"
LIBRARIES = ("executorch",)
INSTALL = "pip install -e '.[executorch]'"
WEIGHT_PRECISIONS = ("fp32",)
COMPUTE_PRECISIONS = ("fp32",)
DYNAMIC = False

_thread_pools: set[int] = set()
"""The size of the process's thread pool, once it is set."""


def missing() -> str:
    return not_installed(LIBRARIES)


def write(
    program: ExportedProgram, path: Path, *, names: tuple[str, ...], metadata: dict[str, str], precision: str
) -> None:
    write_bytes(path, _lowered(program))
    append_metadata(path, metadata)


def open(path: Path, *, threads: int, precision: str) -> Session:
    runtime = require("executorch.runtime", INSTALL)
    _set_threads(threads)
    program = runtime.Runtime.get().load_program(path)
    method = program.load_method("forward")
    return Session.described_by(
        read_appended_metadata(path),
        run=lambda images: [output.numpy().copy() for output in method.execute([torch.from_numpy(images)])],
        runtime=f"ExecuTorch {version('executorch')}",
    )


def load_program(program: ExportedProgram, *, threads: int) -> Callable[[Sequence[NDArray[Any]]], Any]:
    """A program of any inputs, lowered and loaded in memory: arrays -> its outputs."""
    runtime = require("executorch.runtime", INSTALL)
    _set_threads(threads)
    loaded = runtime.Runtime.get().load_program(_lowered(program))

    def run(arrays: Sequence[NDArray[Any]]) -> Any:
        # From the program each time: it holds the file's content, which its methods read but do not keep.
        return loaded.load_method("forward").execute([torch.from_numpy(array) for array in arrays])

    return run


def _lowered(program: ExportedProgram) -> bytes:
    exir = require("executorch.exir", INSTALL)
    xnnpack = require("executorch.backends.xnnpack.partition.xnnpack_partitioner", INSTALL)
    lowered = exir.to_edge_transform_and_lower(program, partitioner=[xnnpack.XnnpackPartitioner()])
    return bytes(lowered.to_executorch().buffer)


def _set_threads(threads: int) -> None:
    """The pool can only be sized before the first program runs; resizing it later aborts the process."""
    if threads in _thread_pools:
        return
    if _thread_pools:
        size = max(_thread_pools)
        raise UserError(f"ExecuTorch already uses {size} threads in this process; set threads={size}")
    pool = require("executorch.extension.pybindings.portable_lib", INSTALL)
    pool._unsafe_reset_threadpool(threads)
    _thread_pools.add(threads)
