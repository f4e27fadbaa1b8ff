"""OpenVINO's IR: `.xml`, with the weights in a `.bin` next to it."""

import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.export import ExportedProgram

from deploy.libraries import not_installed, require
from deploy.session import INPUT, Arrays, Session, without_channels
from engine.errors import UserError

SUFFIX = ".xml"
LIBRARIES = ("openvino",)
INSTALL = "pip install -e '.[openvino]'"
WEIGHT_PRECISIONS = ("fp32", "fp16")
COMPUTE_PRECISIONS = ("fp32", "bf16", "fp16")
DYNAMIC = True

_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_METADATA = ["metadata", "export"]
"""Path of the metadata in the model's runtime information."""


def missing() -> str:
    return not_installed(LIBRARIES)


def write(
    program: ExportedProgram, path: Path, *, names: tuple[str, ...], metadata: dict[str, str], precision: str
) -> None:
    ov = load_library()
    model = ov.convert_model(program)
    shape = json.loads(metadata["input"])["shape"]
    model.reshape([-1 if side is None else side for side in shape])
    model.inputs[0].get_tensor().set_names({INPUT})
    for output, name in zip(model.outputs, names, strict=True):
        output.get_tensor().set_names({name})
    set_metadata(model, metadata)
    ov.save_model(model, path, compress_to_fp16=precision == "fp16")


def open(path: Path, *, threads: int, precision: str) -> Session:
    ov = load_library()
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise UserError(f"{path}: its weights are missing ({weights.name}); copy them next to it")
    model = core().read_model(path)
    compiled = _compiled(model, threads=threads, precision=precision)
    request = compiled.create_infer_request()
    (images,) = compiled.inputs
    outputs = tuple(compiled.outputs)

    def run(array: NDArray[Any]) -> Arrays:
        request.infer([array], share_inputs=True)
        return [np.array(request.get_tensor(output).data) for output in outputs]

    return Session(
        run=run,
        output_names=tuple(output.get_any_name() for output in outputs),
        runtime=f"OpenVINO {version('openvino')}" + ("" if precision == "fp32" else f" {precision}"),
        dtype="uint8" if images.get_element_type() == ov.Type.u8 else "float32",
        shape=without_channels(
            [side.get_length() if side.is_static else None for side in images.partial_shape]
        ),
        metadata=metadata_of(model),
    )


def load_program(program: ExportedProgram, *, threads: int) -> Callable[[Sequence[NDArray[Any]]], Any]:
    """A program of any inputs, converted in memory and compiled: arrays -> its outputs."""
    model = load_library().convert_model(program)
    request = _compiled(model, threads=threads, precision="fp32").create_infer_request()
    return lambda arrays: request.infer(list(arrays), share_inputs=True, share_outputs=True)


def _compiled(model: Any, *, threads: int, precision: str) -> Any:
    options = {
        # The default is bf16 on CPUs that support it, which changes results (argmax agreement 0.95, f32: 1).
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # several sessions in one process would all be pinned to the same core
    }
    return core().compile_model(model, "CPU", options)


def set_metadata(model: Any, metadata: Mapping[str, str]) -> None:
    model.set_rt_info(json.dumps(dict(metadata)), _METADATA)


def metadata_of(model: Any) -> dict[str, str]:
    """The metadata that `set_metadata` wrote; empty if the model has none."""
    if not model.has_rt_info(_METADATA):
        return {}
    return dict(json.loads(model.get_rt_info(_METADATA).astype(str)))


def load_library() -> Any:
    """OpenVINO without its telemetry, which reports each conversion unless the user has opted out, and cannot
    be imported without a home folder."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as if not installed
    return require("openvino", INSTALL)


@functools.cache
def core() -> Any:
    """OpenVINO's core, one for the whole process.

    A core's CPU plugin gives the thread a stack for signal handlers and, when it is destroyed, restores the
    previous one, which may have been freed with another core by then: the next signal (when a DataLoader
    worker ends) would kill the process.
    """
    return load_library().Core()
