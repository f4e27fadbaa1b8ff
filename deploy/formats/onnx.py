"""ONNX, run by ONNX Runtime."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from deploy.binary_files import write_bytes
from deploy.libraries import first_line, not_installed, require
from deploy.session import INPUT, Session, without_channels
from engine.errors import UserError

SUFFIX = ".onnx"
LIBRARIES = ("onnx", "onnxscript", "onnxruntime")
INSTALL = "pip install -e '.[onnx]'"
WEIGHT_PRECISIONS = ("fp32", "fp16")
COMPUTE_PRECISIONS = ("fp32",)
DYNAMIC = True

OPSET = 20
OPSETS = range(13, 24)
"""The first and last opset that can be written."""
_HARDSWISH_OPSET = 14
"""The first opset with h-swish as an operator."""
_EXPORTED_OPSET = 18  # the oldest that PyTorch writes; older ones need a conversion
MIN_HALF_SIZE = 64
"""Tensors with fewer elements (biases, the coder's variances) stay float32 in a half-precision file."""


def missing() -> str:
    return not_installed(LIBRARIES)


def write(
    program: ExportedProgram, path: Path, *, names: tuple[str, ...], metadata: dict[str, str], precision: str
) -> None:
    onnx = require("onnx", INSTALL)
    require("onnx.version_converter", INSTALL)
    require("onnxscript", INSTALL)
    opset = int(metadata.get("opset", OPSET))
    with _quiet():
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=max(opset, _EXPORTED_OPSET),
            input_names=[INPUT],
            output_names=list(names),
            verbose=False,
        )
    assert exported is not None
    model = exported.model_proto
    if opset < _EXPORTED_OPSET:
        model = _converted(onnx, model, opset)
    model.ir_version = onnx.helper.find_min_ir_version_for(model.opset_import)  # older runtimes refuse newer
    name_dimensions(model.graph)
    if precision == "fp16":
        _store_in_half_precision(onnx, model)
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    write_bytes(path, model.SerializeToString())


def open(path: Path, *, threads: int, precision: str) -> Session:
    session = inference_session(str(path), threads=threads)
    (images,) = session.get_inputs()
    return Session(
        run=lambda array: session.run(None, {images.name: array}),
        output_names=tuple(output.name for output in session.get_outputs()),
        runtime=f"ONNX Runtime {onnxruntime().__version__}",
        dtype={"tensor(uint8)": "uint8"}.get(images.type, "float32"),
        shape=without_channels([side if isinstance(side, int) else None for side in images.shape]),
        metadata=dict(session.get_modelmeta().custom_metadata_map),
    )


def inference_session(graph: str | bytes, *, threads: int) -> Any:
    """An ONNX Runtime session for a file or a graph in memory, on the CPU."""
    library = onnxruntime()
    options = library.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # errors that it logs are also raised
    return library.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def onnxruntime() -> Any:
    """ONNX Runtime without its telemetry (on by default since 1.29), which writes to the user's cache."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return require("onnxruntime", INSTALL)


def _converted(onnx: Any, model: Any, opset: int) -> Any:
    """The model, converted to an older opset."""
    for node in model.graph.node:  # the attribute below is new in 18; the converter keeps it
        kept = [entry for entry in node.attribute if entry.name != "noop_with_empty_axes" or entry.i]
        node.ClearField("attribute")
        node.attribute.extend(kept)
    try:
        if opset < _HARDSWISH_OPSET:
            older = _without_hardswish(onnx, onnx.version_converter.convert_version(model, _HARDSWISH_OPSET))
            onnx.checker.check_model(older)
            return older
        return onnx.version_converter.convert_version(model, opset)
    except (RuntimeError, onnx.checker.ValidationError) as error:
        newer = range(max(opset + 1, _HARDSWISH_OPSET), _EXPORTED_OPSET)
        oldest = next((each for each in newer if _can_be_converted(onnx, model, each)), _EXPORTED_OPSET)
        raise UserError(
            f"opset={opset}: this network cannot be converted ({first_line(error)}); set opset={oldest} or "
            "newer"
        ) from None


def _without_hardswish(onnx: Any, model: Any) -> Any:
    """The model of opset 14 as one of opset 13, which the converter cannot write.

    New in opset 14: h-swish, `allowzero` of Reshape, which matters only for empty tensors, and more integer
    types. The checker refuses anything else.
    """
    nodes = []
    for node in model.graph.node:
        if node.op_type == "HardSwish":
            (x,), (y,) = node.input, node.output
            gate = f"{y}.gate"
            nodes.append(onnx.helper.make_node("HardSigmoid", [x], [gate], alpha=1 / 6, beta=0.5))
            nodes.append(onnx.helper.make_node("Mul", [x, gate], [y], name=node.name))
            continue
        kept = [entry for entry in node.attribute if entry.name != "allowzero"]
        node.ClearField("attribute")
        node.attribute.extend(kept)
        nodes.append(node)
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    (main,) = (entry for entry in model.opset_import if not entry.domain)
    main.version = _HARDSWISH_OPSET - 1
    return model


def _can_be_converted(onnx: Any, model: Any, opset: int) -> bool:
    try:
        onnx.version_converter.convert_version(model, opset)
    except RuntimeError:
        return False
    return True


def name_dimensions(graph: Any) -> None:
    """Give dynamic dimensions short names: `batch`, `height` and `width` for the input, else
    `<output>_<axis>`. PyTorch's names are expressions of up to 62,000 characters.
    """
    (images,) = graph.input
    sides = zip(("batch", "channels", "height", "width"), _dimensions(images), strict=True)
    known = {side.dim_param: name for name, side in sides if side.dim_param}
    for value in (images, *graph.output):
        for axis, side in enumerate(_dimensions(value)):
            if side.dim_param:
                side.dim_param = known.get(side.dim_param, f"{value.name}_{axis}")
    fixed = [value for value in graph.value_info if not any(side.dim_param for side in _dimensions(value))]
    graph.ClearField("value_info")  # runtimes infer the rest again
    graph.value_info.extend(fixed)


def _dimensions(value: Any) -> Any:
    return value.type.tensor_type.shape.dim


def _store_in_half_precision(onnx: Any, model: Any) -> None:
    """Store large float32 constants as float16, each followed by a cast that runtimes fold at load time."""
    constants, casts = [], []
    for constant in model.graph.initializer:
        values = onnx.numpy_helper.to_array(constant)
        if values.dtype != "float32" or values.size < MIN_HALF_SIZE:
            constants.append(constant)
            continue
        half = f"{constant.name}.half"
        constants.append(onnx.numpy_helper.from_array(values.astype("float16"), half))
        casts.append(onnx.helper.make_node("Cast", [half], [constant.name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    for field, entries in (("initializer", constants), ("node", nodes)):
        model.graph.ClearField(field)
        getattr(model.graph, field).extend(entries)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
