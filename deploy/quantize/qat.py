"""Quantization-aware fine-tuning, with the float network's own outputs as targets.

torch.export captures the network, torchao (PT2E) inserts fake quantization into the graph, and its weights
are trained to bring its outputs close to those of the float network: images need no labels, and any task
works. Batch normalization is first folded into the convolutions, so its statistics do not change.

The tuned graph rounds the inputs of each layer with weights, but nothing between a convolution and its
activation. OpenVINO runs this in 8 bits; ONNX Runtime has no such kernels and is slower than in float.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from deploy.capture import NamedInput, capture, quiet
from deploy.formats import onnx, openvino
from deploy.libraries import require
from deploy.metadata import describe_graph
from engine.errors import UserError

INSTALL = "pip install -e '.[qat]'"


def fine_tune(
    module: nn.Module,
    images: Sequence[NDArray[Any]],
    *,
    steps: int,
    float_modules: Collection[str] = (),
    batch: int = 8,
    learning_rate: float = 1e-5,
    seed: int = 0,
    on_step: Callable[[int, float], None] = lambda step, error: None,
) -> nn.Module:
    """Returns a copy of `module` with quantized weights and rounded activations, for one image at a time.

    Args:
        module: images [1, 3, h, w] -> a tensor or a tuple of tensors; the float ones are compared.
        images: [3, h, w] each, all of the same size; also used to initialize the ranges of activations.
        steps: number of Adam steps, each over `batch` images.
        float_modules: names of modules in `module` that are not quantized.
        on_step: called with each step's number and error (power of the difference over that of the outputs).

    Raises:
        UserError: if torchao is not installed, a number is out of range, or the outputs have no gradient.
    """
    if steps < 1 or batch < 1 or not learning_rate > 0:
        raise UserError(f"qat.steps must be at least 1 and qat.lr above 0, got {steps} and {learning_rate}")
    pt2e = require("torchao.quantization.pt2e.quantize_pt2e", INSTALL)
    x86 = require("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer", INSTALL)
    inputs = [torch.from_numpy(image[None]) for image in images]
    folded = fold_batch_norm(module)
    with torch.no_grad():
        targets = [_float_outputs(folded(image)) for image in inputs]
    if not targets[0]:
        raise UserError("qat needs scores as outputs; set output=logits or output=raw")
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config(is_qat=True))
    for name in float_modules:
        quantizer.set_module_name_qconfig(name, None)
    tuned = pt2e.prepare_qat_pt2e(capture(folded, inputs[0]).module(), quantizer)
    with torch.no_grad():
        for image in inputs:
            tuned(image)
    _train(tuned, inputs, targets, steps, batch, learning_rate, seed, on_step)
    converted: nn.Module = pt2e.convert_pt2e(tuned)
    return _WithoutModes(converted)


def _train(
    tuned: nn.Module,
    inputs: Sequence[Tensor],
    targets: Sequence[list[Tensor]],
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
    on_step: Callable[[int, float], None],
) -> None:
    optimizer = torch.optim.Adam([p for p in tuned.parameters() if p.is_floating_point()], lr=learning_rate)
    generator = np.random.default_rng(seed)
    for step in range(steps):
        optimizer.zero_grad()
        error = 0.0
        for index in generator.integers(0, len(inputs), batch).tolist():
            loss = _error(_float_outputs(tuned(inputs[index])), targets[index]) / batch
            loss.backward()  # type: ignore[no-untyped-call]
            error += float(loss.detach())
        optimizer.step()
        on_step(step, error)


class _WithoutModes(nn.Module):
    """Ignores train() and eval(), which raise errors on a captured graph: it has a single mode."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, images: Tensor) -> Any:
        return self.graph(images)

    def train(self, mode: bool = True) -> _WithoutModes:
        return self


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """A copy in which each `bn` is folded into the `conv` next to it."""
    folded = copy.deepcopy(module).eval()
    for part in list(folded.modules()):
        children = dict(part.named_children())
        conv, norm = children.get("conv"), children.get("bn")
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            part.conv, part.bn = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return folded


def write_openvino(
    tuned: nn.Module, image: NDArray[Any], path: Path, *, names: Sequence[str], metadata: Mapping[str, str]
) -> Path:
    """Write the result of `fine_tune` as OpenVINO IR.

    Goes through ONNX, because OpenVINO's own converter only takes float graphs.
    """
    ov = openvino.load_library()
    example = torch.from_numpy(image[None])
    graph = describe_graph(shape=example.shape, dtype=str(image.dtype), names=names)
    with tempfile.TemporaryDirectory(prefix="int8-") as folder, quiet():
        file = Path(folder) / "tuned.onnx"
        program = capture(NamedInput(tuned).eval(), example)
        onnx.write(program, file, names=tuple(names), metadata=graph, precision="fp32")
        model = ov.convert_model(file)
    openvino.set_metadata(model, {**metadata, "precision": "int8", **graph})
    ov.save_model(model, path, compress_to_fp16=False)
    return path


def _float_outputs(outputs: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    listed = (outputs,) if isinstance(outputs, Tensor) else outputs
    return [output for output in listed if output.is_floating_point()]


def _error(outputs: list[Tensor], targets: list[Tensor]) -> Tensor:
    """Power of the difference over that of the target, summed over the outputs."""
    parts = [
        (output - target).square().mean() / target.square().mean().clamp(min=1e-12)
        for output, target in zip(outputs, targets, strict=True)
    ]
    return torch.stack(parts).sum()
