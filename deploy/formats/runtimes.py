"""One small interface to every runtime: images in, a list of arrays out.

A session is opened by the suffix of its file; `eager` puts PyTorch itself under the same interface. The
libraries are optional and imported when they are needed. All of them run on the CPU, in float32 unless told
otherwise, with as many threads as asked for.
"""

from __future__ import annotations

import functools
import json
import os
import zipfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deploy.formats.session import INPUT, Arrays, Session, first_line, require
from engine.errors import UserError

__all__ = [
    "FORMATS",
    "INPUT",
    "METADATA",
    "SUFFIXES",
    "Arrays",
    "Session",
    "eager",
    "onnxruntime",
    "open_session",
    "require",
]


FORMATS = ("onnx", "openvino", "torch_export", "aot_inductor", "litert", "executorch")


SUFFIXES = {
    "onnx": ".onnx",
    "openvino": ".xml",
    "torch_export": ".pt2",
    "aot_inductor": ".aoti.pt2",
    "litert": ".tflite",
    "executorch": ".pte",
}
"""The suffix of each format's file."""


METADATA = "metadata.json"
"""Where formats that are, or end in, a zip archive keep their metadata."""


def open_session(path: Path, *, threads: int = 1, precision: str = "fp32") -> Session:
    """Load an exported file in its runtime.

    Args:
        path: its suffix says the format: `.onnx`, `.xml` (OpenVINO, with its `.bin` beside it), `.pt2`
            (torch.export or AOTInductor), `.tflite` or `.pte`.
        threads: of the runtime's own pool; AOTInductor's and PyTorch's is that of the process.
        precision: of the arithmetic, `fp32` or, for OpenVINO alone, `bf16` or `fp16`. OpenVINO's own default
            is bf16 on CPUs that have it, which changes results (argmax agreement 0.95 where float32 has 1).

    Raises:
        UserError: no such file, another suffix, a runtime that is not installed, or a file it refuses.
    """
    if threads < 1:
        raise UserError(f"threads must be at least 1, got {threads}")
    if not path.is_file():
        raise UserError(f"{path}: no such file; export one with tools/export.py")
    if path.suffix not in _OPENERS:
        raise UserError(f"{path}: no exported network; its suffix must be one of {', '.join(_OPENERS)}")
    if precision != "fp32" and path.suffix != ".xml":
        raise UserError(
            f"precision={precision}: only OpenVINO computes in less than it was given, not {path}"
        )
    try:
        if path.suffix == ".xml":
            return _open_openvino(path, threads, precision)
        return _OPENERS[path.suffix](path, threads)
    except UserError:
        raise
    except Exception as error:  # each library has exceptions of its own
        raise UserError(f"{path}: cannot be loaded ({first_line(error)}); export it anew") from None


def eager(module: nn.Module, *, threads: int = 1, names: Sequence[str] = ()) -> Session:
    """PyTorch itself, on the CPU, as a session: the module's own outputs, one or a tuple of them.

    A module that says what it takes (`dtype`, `names`) is taken at its word.
    """
    found = tuple(names or getattr(module, "names", ()))
    dtype = getattr(module, "dtype", None)
    runtime = f"PyTorch {version('torch')}"
    return Session(run=_torch_run(module.eval(), threads), output_names=found, runtime=runtime, dtype=dtype)


def onnxruntime() -> Any:
    """ONNX Runtime without its telemetry, on by default from 1.29 on, which writes to the user's cache."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return require("onnxruntime", "onnx")


@functools.cache
def openvino_core() -> Any:
    """OpenVINO's core, one for the whole process.

    A core's CPU plugin gives the thread a stack for signal handlers and, when it is destroyed, puts back the
    one before it, which may have been freed with another core by then: the next signal (a loader's worker
    that ends) would kill the process.
    """
    return require("openvino", "openvino").Core()


def _open_onnx(path: Path, threads: int) -> Session:
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # what it logs as an error, it raises as well
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    names = tuple(output.name for output in session.get_outputs())
    return Session(
        run=lambda images: session.run(None, {taken.name: images}),
        output_names=names,
        runtime=f"ONNX Runtime {ort.__version__}",
        dtype={"tensor(uint8)": "uint8"}.get(taken.type, "float32"),
        shape=_sides([side if isinstance(side, int) else None for side in taken.shape]),
        metadata=dict(session.get_modelmeta().custom_metadata_map),
    )


def _open_openvino(path: Path, threads: int, precision: str = "fp32") -> Session:
    ov = require("openvino", "openvino")
    hints = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
    if precision not in hints:
        raise UserError(f"precision must be one of {', '.join(hints)}, got {precision!r}")
    core = openvino_core()
    model = core.read_model(path)
    options = {
        "INFERENCE_PRECISION_HINT": hints[precision],
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # several sessions in one process would all be pinned to the same core
    }
    compiled = core.compile_model(model, "CPU", options)
    request = compiled.create_infer_request()
    (taken,) = compiled.inputs
    outputs = tuple(compiled.outputs)

    def run(images: NDArray[Any]) -> Arrays:
        request.infer([images], share_inputs=True)
        return [np.array(request.get_tensor(output).data) for output in outputs]

    kept = ["metadata", "export"]
    return Session(
        run=run,
        output_names=tuple(output.get_any_name() for output in outputs),
        runtime=f"OpenVINO {version('openvino')}" + ("" if precision == "fp32" else f" {precision}"),
        dtype="uint8" if taken.get_element_type() == ov.Type.u8 else "float32",
        shape=_sides([side.get_length() if side.is_static else None for side in taken.partial_shape]),
        metadata=json.loads(model.get_rt_info(kept).astype(str)) if model.has_rt_info(kept) else {},
    )


def _open_torch(path: Path, threads: int) -> Session:
    with zipfile.ZipFile(path) as archive:
        compiled = any("/aotinductor/" in name for name in archive.namelist())
    if compiled:
        # Machine code: as with any program, open only what you made or trust.
        package = torch._inductor.aoti_load_package(str(path), run_single_threaded=threads == 1)
        metadata = json.loads(package.get_metadata().get("export", "{}"))
        return _torch_session(package, threads, metadata, "AOTInductor")
    extra = {METADATA: ""}
    module = torch.export.load(path, extra_files=extra).module()
    return _torch_session(module, threads, json.loads(extra[METADATA] or "{}"), "torch.export")


def _torch_session(module: Callable[..., Any], threads: int, metadata: dict[str, str], kind: str) -> Session:
    given = json.loads(metadata.get("input", "{}"))
    return Session(
        run=_torch_run(module, threads),
        output_names=tuple(json.loads(metadata.get("outputs", "[]"))),
        runtime=f"{kind}, PyTorch {version('torch')}",
        dtype=given.get("dtype", "float32"),
        shape=_sides(given.get("shape", [None] * 4)),
        metadata=metadata,
    )


def _torch_run(module: Callable[..., Any], threads: int) -> Callable[[NDArray[Any]], Arrays]:
    def run(images: NDArray[Any]) -> Arrays:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        with torch.inference_mode():
            outputs = module(torch.from_numpy(images))
        return [output.numpy() for output in ((outputs,) if isinstance(outputs, Tensor) else outputs)]

    return run


def _open_litert(path: Path, threads: int) -> Session:
    library = require("ai_edge_litert.interpreter", "litert")
    interpreter = library.Interpreter(model_path=str(path), num_threads=threads)
    (taken,) = interpreter.get_input_details()
    interpreter.allocate_tensors()
    metadata = _appended(path)
    indices = [output["index"] for output in interpreter.get_output_details()]

    def run(images: NDArray[Any]) -> Arrays:
        interpreter.set_tensor(taken["index"], images)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in indices]

    return Session(
        run=run,
        output_names=tuple(json.loads(metadata.get("outputs", "[]"))),
        runtime=f"LiteRT {version('ai-edge-litert')}",
        dtype=np.dtype(taken["dtype"]).name,
        shape=_sides(taken["shape"].tolist()),
        metadata=metadata,
    )


def _open_executorch(path: Path, threads: int) -> Session:
    runtime = require("executorch.runtime", "executorch")
    pool = require("executorch.extension.pybindings.portable_lib", "executorch")
    # Its pool can only be sized before a program runs; once one has, a resize aborts the process.
    if threads != _pool_size.get("threads"):
        if _pool_size:
            raise UserError(f"ExecuTorch runs with {_pool_size['threads']} threads in this process already")
        pool._unsafe_reset_threadpool(threads)
        _pool_size["threads"] = threads
    program = runtime.Runtime.get().load_program(path)
    method = program.load_method("forward")
    metadata = _appended(path)
    given = json.loads(metadata.get("input", "{}"))
    return Session(
        run=lambda images: [output.numpy().copy() for output in method.execute([torch.from_numpy(images)])],
        output_names=tuple(json.loads(metadata.get("outputs", "[]"))),
        runtime=f"ExecuTorch {version('executorch')}",
        dtype=given.get("dtype", "float32"),
        shape=_sides(given.get("shape", [None] * 4)),
        metadata=metadata,
    )


_pool_size: dict[str, int] = {}


def _appended(path: Path) -> dict[str, str]:
    """The metadata of a flatbuffer: in a zip archive at its end, as LiteRT's convention has it."""
    if not zipfile.is_zipfile(path):
        return {}
    with zipfile.ZipFile(path) as archive:
        found = archive.read(METADATA) if METADATA in archive.namelist() else b"{}"
    return dict(json.loads(found))


_OPENERS: dict[str, Callable[..., Session]] = {
    ".onnx": _open_onnx,
    ".xml": _open_openvino,
    ".pt2": _open_torch,
    ".tflite": _open_litert,
    ".pte": _open_executorch,
}


def _sides(shape: Sequence[int | None]) -> tuple[int | None, int | None, int | None]:
    """[N, 3, H, W] -> (N, H, W)"""
    return shape[0], shape[2], shape[3]
