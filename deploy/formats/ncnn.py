"""ncnn, for phones and boards, converted by pnnx; one image of a fixed size at a time.

The graph is in `.ncnn.param`, the weights (and the metadata, in a zip archive at the end) are in `.ncnn.bin`.
"""

import subprocess
import tempfile
import warnings
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

SUFFIX = ".ncnn.param"
LIBRARIES = ("pnnx", "ncnn")
INSTALL = "pip install -e '.[ncnn]'"
WEIGHT_PRECISIONS = ("fp32", "fp16")
COMPUTE_PRECISIONS = ("fp32",)
DYNAMIC = False


INPUT = "in0"
"""The name that pnnx gives the input."""

_KINDS = {torch.uint8: "u8"}
"""What pnnx calls the types of inputs that are not floats."""


def missing() -> str:
    return not_installed(LIBRARIES)


def write(
    program: ExportedProgram, path: Path, *, names: tuple[str, ...], metadata: dict[str, str], precision: str
) -> None:
    images = program.example_inputs[0][0]
    if len(images) != 1:
        raise UserError("format=ncnn: it runs one image at a time; set batch=1")
    with tempfile.TemporaryDirectory(prefix="ncnn-") as folder:
        graph, weights = _converted(program, Path(folder), precision=precision)
        lines = without_cast(graph.read_text(encoding="utf-8").splitlines())
        _check_layers(
            lines,
            "if it belongs to the post-processing, export with output=logits or output=raw, which decode.py "
            "turns into predictions; otherwise use another format",
        )
        write_bytes(path, "".join(f"{line}\n" for line in lines).encode())
        write_bytes(_weights(path), weights.read_bytes())
    append_metadata(_weights(path), metadata)


def _converted(program: ExportedProgram, folder: Path, *, precision: str) -> tuple[Path, Path]:
    """The graph and the weights that pnnx writes into `folder`."""
    converter = Path(require("pnnx", INSTALL).__file__).parent / "pnnx"
    inputs = program.example_inputs[0]
    shapes = [f"[{','.join(map(str, one.shape))}]{_KINDS.get(one.dtype, 'f32')}" for one in inputs]
    trace: Any = torch.jit.trace  # without annotations
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing warns about constants
        torch.jit.save(trace(program.module(), inputs, check_trace=False), folder / "model.pt")
    options = [f"inputshape={','.join(shapes)}", f"fp16={int(precision == 'fp16')}"]
    done = subprocess.run(
        [str(converter), "model.pt", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
    )
    graph, weights = folder / "model.ncnn.param", folder / "model.ncnn.bin"
    if done.returncode or not (graph.is_file() and weights.is_file()):
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise UserError(f"format=ncnn: pnnx cannot convert this network ({last[:200]})")
    return graph, weights


def load_program(program: ExportedProgram, *, threads: int) -> Callable[[Sequence[NDArray[Any]]], Any]:
    """A program of any inputs of batch size 1, converted and loaded: arrays -> its outputs.

    Raises:
        UserError: if ncnn lacks an operator, or when called, if it cannot compute an output.
    """
    ncnn = require("ncnn", INSTALL)
    with tempfile.TemporaryDirectory(prefix="ncnn-") as folder:
        graph, _ = _converted(program, Path(folder), precision="fp32")
        _check_layers(graph.read_text(encoding="utf-8").splitlines(), "choose another runtime")
        net = require("deploy.device.runtimes.ncnn", INSTALL).open_net(graph, threads=threads)
    names = [f"in{number}" for number in range(len(program.example_inputs[0]))]
    outputs = net.output_names()

    def run(arrays: Sequence[NDArray[Any]]) -> list[Any]:
        extractor = net.create_extractor()
        for name, array in zip(names, arrays, strict=True):
            extractor.input(name, ncnn.Mat(array[0]).clone())  # layers may work in place
        results = [extractor.extract(output) for output in outputs]
        if failed := [name for name, (status, _) in zip(outputs, results, strict=True) if status]:
            raise UserError(f"ncnn cannot compute {', '.join(failed)} of this network")
        return [values for _, values in results]

    return run


def open(path: Path, *, threads: int, precision: str) -> Session:
    load = require("deploy.device.runtimes.ncnn", INSTALL).load
    if not _weights(path).is_file():
        raise UserError(f"{path}: its weights are missing ({_weights(path).name}); copy them next to it")
    return Session.described_by(
        read_appended_metadata(_weights(path)),
        run=load(path, threads=threads),
        runtime=f"ncnn {version('ncnn')}",
    )


def _weights(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".param") + ".bin")


def without_cast(lines: Sequence[str]) -> list[str]:
    """A graph without the layer that casts its bytes to floats: ncnn's images are floats.

    A line of a layer has its kind, name, numbers of inputs and outputs, and their names.
    """
    cast = next(
        (line for line in lines if line.split()[:1] == ["Tensor.to"] and line.split()[4] == INPUT), ""
    )
    if not cast:
        return list(lines)
    magic, counts, *layers = (line.split() for line in lines if line != cast)
    layers = [
        [INPUT if word == cast.split()[5] and 4 <= place < 4 + int(words[2]) else word
         for place, word in enumerate(words)]
        for words in layers
    ]  # fmt: skip
    fewer = [str(int(count) - 1) for count in counts]
    return [" ".join(words) for words in (magic, fewer, *layers)]


def _check_layers(lines: Sequence[str], remedy: str) -> None:
    """lines: of a graph, whose first two are a header. Raises: UserError if ncnn lacks one of its layers."""
    if foreign := _not_of_ncnn(lines[2:]):
        raise UserError(f"format=ncnn: ncnn has no {', '.join(foreign[:3])}; {remedy}")


def _not_of_ncnn(layers: Sequence[str]) -> list[str]:
    """The operators that pnnx could not translate: PyTorch's names have a dot or colons."""
    kinds = [line.split()[0] for line in layers if line.strip()]
    return sorted({kind for kind in kinds if "." in kind or ":" in kind})
