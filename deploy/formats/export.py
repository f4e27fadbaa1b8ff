"""From an `nn.Module` to a file that ships: the graph is captured once, by torch.export, and then written.

The module takes images [N, 3, H, W] and gives a tensor or a tuple of them. Every format keeps the metadata
that it is given inside of the file.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as fx_config

from deploy.formats.runtimes import FORMATS, METADATA
from deploy.formats.session import INPUT, LEAST_SIZE, first_line, require
from engine.errors import UserError

OPSET = 20


HALF_FROM = 64
"""Tensors of fewer numbers (biases, anchors of a coder) stay float32 in a file with half precision."""


def export(
    module: nn.Module,
    example: Tensor,
    path: Path,
    *,
    format: str,
    names: Sequence[str],
    dynamic_batch: bool = False,
    dynamic_size: bool = False,
    metadata: Mapping[str, str],
    precision: str = "fp32",
) -> Path:
    """Write a module as a file of some format.

    Args:
        module: images -> a tensor, or a tuple of tensors.
        example: images [N, 3, H, W] as it will be given, uint8 or float32; fixes what is not dynamic.
        path: of the file; its folder is made.
        format: one of `runtimes.FORMATS`.
        names: of the outputs.
        dynamic_batch, dynamic_size: whether N, and H and W, may be any number.
        metadata: texts that travel in the file; `input` and `outputs` are added, and with `dynamic_size` the
            smallest size for which the graph holds.
        precision: `fp32`, or `fp16` for weights that are stored in half the bytes (ONNX, OpenVINO) and
            computed with in float32.

    Returns:
        `path`.

    Raises:
        UserError: an unknown format or option, a library that is not installed, a network that cannot have a
            dynamic size, or a file that cannot be written.
    """
    if format not in FORMATS:
        raise UserError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    if precision not in ("fp32", "fp16"):
        raise UserError(f"precision must be fp32 or fp16, got {precision!r}")
    if precision == "fp16" and format not in ("onnx", "openvino"):
        raise UserError(f"precision=fp16 is for format=onnx and format=openvino, not {format}")
    if (dynamic_batch or dynamic_size) and format in ("litert", "executorch"):
        raise UserError(f"format={format}: its files have a fixed batch and size here; give dynamic=none")
    shape = [
        None if dynamic_batch else example.shape[0],
        3,
        *([None] * 2 if dynamic_size else example.shape[2:]),
    ]
    given = {"name": INPUT, "shape": shape, "dtype": str(example.dtype).removeprefix("torch.")}
    texts = {**metadata, "input": json.dumps(given), "outputs": json.dumps(list(names))}
    module = _Named(module).eval()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _quiet():
            program = capture(module, example, dynamic_batch=dynamic_batch, dynamic_size=dynamic_size)
            if dynamic_size:
                texts[LEAST_SIZE] = json.dumps(_least_size(program))
            _WRITERS[format](program, path, names=tuple(names), metadata=texts, precision=precision)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another out=") from None
    return path


def capture(
    module: nn.Module, example: Tensor, *, dynamic_batch: bool = False, dynamic_size: bool = False
) -> ExportedProgram:
    """The module's graph.

    Raises:
        UserError: the module's computation depends on what shall be dynamic.
    """
    free: dict[int, Any] = {}
    if dynamic_batch:
        free[0] = Dim.DYNAMIC
        # Sizes 0 and 1 are taken for constants.
        example = example if example.shape[0] > 1 else example.expand(2, -1, -1, -1).contiguous()
    if dynamic_size:
        free |= {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    try:
        # Oblivious: a pooled map of one row is a case like any other, not one with a guard of its own.
        oblivious = fx_config.patch(backed_size_oblivious=bool(free))  # type: ignore[attr-defined]
        with torch.no_grad(), oblivious:
            program = torch.export.export(module, (example,), dynamic_shapes={INPUT: free} if free else None)
            # A window that grows with the image is not refused but taken for a constant, with a guard.
            program.module()(_other(example, free))
        return program
    except Exception as error:
        if not free:
            raise
        what = "size" if dynamic_size else "batch"
        raise UserError(
            f"dynamic={what}: this network computes with its input's {what} ({first_line(error)[:120]}); "
            f"export with dynamic={'batch' if dynamic_size else 'none'}"
        ) from None


def _least_size(program: ExportedProgram) -> list[int]:
    """[height, width] from which on the graph is the module; a smaller image may not fill a window of it."""
    (image,) = (node for node in program.graph.nodes if node.op == "placeholder" and node.name == INPUT)
    ranges = program.range_constraints
    sides = (side.node.expr for side in image.meta["val"].shape[2:])
    return [int(ranges[side].lower) for side in sides]


def _other(example: Tensor, free: Mapping[int, Any]) -> Tensor:
    """Zeros that differ from the example wherever they may."""
    more = {0: 1, 2: 32, 3: 64}
    grown = [count + (more[axis] if axis in free else 0) for axis, count in enumerate(example.shape)]
    return example.new_zeros(*grown)


class _Named(nn.Module):
    """Gives the input its name, and keeps the module as it is."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Any:
        return self.module(images)


def _write_onnx(
    program: ExportedProgram, path: Path, *, names: tuple[str, ...], metadata: dict[str, str], precision: str
) -> None:
    onnx = require("onnx", "onnx")
    require("onnxscript", "onnx")
    made = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=list(names),
        verbose=False,
    )
    assert made is not None
    model = made.model_proto
    if precision == "fp16":
        _halve(onnx, model)
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    _write(path, model.SerializeToString())


def _halve(onnx: Any, model: Any) -> None:
    """Store the large float32 constants in float16, each behind a cast that runtimes fold when they load."""
    kept, casts = [], []
    for constant in model.graph.initializer:
        values = onnx.numpy_helper.to_array(constant)
        if values.dtype != "float32" or values.size < HALF_FROM:
            kept.append(constant)
            continue
        half = f"{constant.name}.half"
        kept.append(onnx.numpy_helper.from_array(values.astype("float16"), half))
        casts.append(onnx.helper.make_node("Cast", [half], [constant.name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    for field, values in (("initializer", kept), ("node", nodes)):
        model.graph.ClearField(field)
        getattr(model.graph, field).extend(values)


def _write_openvino(
    program: ExportedProgram, path: Path, *, names: tuple[str, ...], metadata: dict[str, str], precision: str
) -> None:
    ov = require("openvino", "openvino")
    model = ov.convert_model(program)
    shape = json.loads(metadata["input"])["shape"]
    model.reshape([-1 if side is None else side for side in shape])
    model.inputs[0].get_tensor().set_names({INPUT})
    for output, name in zip(model.outputs, names, strict=True):
        output.get_tensor().set_names({name})
    model.set_rt_info(json.dumps(metadata), ["metadata", "export"])
    ov.save_model(model, path, compress_to_fp16=precision == "fp16")


def _write_torch(program: ExportedProgram, path: Path, *, metadata: dict[str, str], **_: Any) -> None:
    torch.export.save(program, path, extra_files={METADATA: json.dumps(metadata)})


def _write_compiled(program: ExportedProgram, path: Path, *, metadata: dict[str, str], **_: Any) -> None:
    options = {"aot_inductor.metadata": {"export": json.dumps(metadata)}, "freezing": True}
    try:
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)
    except Exception as error:
        raise UserError(
            f"format=aot_inductor: not compiled ({first_line(error)}); it needs a C++ compiler, or use "
            "format=torch_export"
        ) from None


def _write_litert(program: ExportedProgram, path: Path, *, metadata: dict[str, str], **_: Any) -> None:
    library = require("litert_torch", "litert")
    example = tuple(program.example_inputs[0]) if program.example_inputs else ()
    library.convert(program.module(), example).export(str(path))
    _append(path, metadata)


def _write_executorch(program: ExportedProgram, path: Path, *, metadata: dict[str, str], **_: Any) -> None:
    exir = require("executorch.exir", "executorch")
    xnnpack = require("executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch")
    lowered = exir.to_edge_transform_and_lower(program, partitioner=[xnnpack.XnnpackPartitioner()])
    _write(path, lowered.to_executorch().buffer)
    _append(path, metadata)


_WRITERS: dict[str, Any] = {
    "onnx": _write_onnx,
    "openvino": _write_openvino,
    "torch_export": _write_torch,
    "aot_inductor": _write_compiled,
    "litert": _write_litert,
    "executorch": _write_executorch,
}


def _append(path: Path, metadata: dict[str, str]) -> None:
    # A zip archive is read from its end and a flatbuffer from its start: LiteRT's own way of keeping files.
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(METADATA, json.dumps(metadata))
    _write(path, path.read_bytes() + buffer.getvalue())


def _write(path: Path, content: bytes) -> None:
    handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except OSError:
        Path(partial).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' notes on their own workings, which a user can do nothing about."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
