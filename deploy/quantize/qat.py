"""Fine-tuning with the rounding of 8 bits in the graph: towards the answers of the float network itself.

The network is captured by torch.export, torchao (PT2E) puts fake quantization into that graph, and its
weights are trained so that its outputs come near those of the float network; images need no labels, and every
task's outputs will do. Batch normalization is folded into the convolutions before: its statistics stay.

The tuned graph has rounded inputs for each layer with weights and nothing between a convolution and its
activation. OpenVINO runs that in 8 bits; ONNX Runtime has no such kernels, and is slower than in float.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from deploy.formats.export import capture, export
from deploy.formats.runtimes import require
from engine.errors import UserError


def fine_tune(
    module: nn.Module,
    images: Sequence[NDArray[Any]],
    *,
    steps: int,
    floating: Collection[str] = (),
    batch: int = 8,
    learning_rate: float = 1e-5,
    seed: int = 0,
    say: Callable[[int, float], None] = lambda step, loss: None,
) -> nn.Module:
    """A copy of `module`, for one image at a time, with quantized weights and rounded activations.

    Args:
        module: images [1, 3, h, w] -> a tensor, or a tuple of tensors of which the float ones are compared.
        images: [3, h, w] each, of one size; also those that the first ranges of activations are taken over.
        steps: of Adam, each over `batch` images.
        floating: names of modules in `module` that are not quantized.
        say: told the error of every step: power of the difference over that of the outputs.

    Raises:
        UserError: torchao is not installed, a number is out of range, or the outputs have no gradient.
    """
    if steps < 1 or batch < 1 or not learning_rate > 0:
        raise UserError(f"qat.steps must be at least 1 and qat.lr above 0, got {steps} and {learning_rate}")
    tool = require("torchao.quantization.pt2e.quantize_pt2e", "openvino")
    x86 = require("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer", "openvino")
    inputs = [torch.from_numpy(image[None]) for image in images]
    folded = fold_batch_norm(module)
    with torch.no_grad():
        targets = [_compared(folded(image)) for image in inputs]
    if not targets[0]:
        raise UserError("qat needs outputs that are scores: give output=logits or output=raw")
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config(is_qat=True))
    for name in floating:
        quantizer.set_module_name_qconfig(name, None)
    tuned = tool.prepare_qat_pt2e(capture(folded, inputs[0]).module(), quantizer)
    with torch.no_grad():
        for image in inputs:
            tuned(image)
    optimizer = torch.optim.Adam([p for p in tuned.parameters() if p.is_floating_point()], lr=learning_rate)
    generator = np.random.default_rng(seed)
    for step in range(steps):
        optimizer.zero_grad()
        error = 0.0
        for index in generator.integers(0, len(inputs), batch).tolist():
            loss = _error(_compared(tuned(inputs[index])), targets[index]) / batch
            loss.backward()  # type: ignore[no-untyped-call]
            error += float(loss.detach())
        optimizer.step()
        say(step, error)
    converted: nn.Module = tool.convert_pt2e(tuned)
    return _Captured(converted)


class _Captured(nn.Module):
    """A captured graph is for one mode: there is nothing to switch."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, images: Tensor) -> Any:
        return self.graph(images)

    def train(self, mode: bool = True) -> _Captured:
        return self


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """A copy in which each `bn` is part of the `conv` beside it."""
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
    """Write what `fine_tune` gives as OpenVINO IR, by way of ONNX: directly it converts only float graphs."""
    ov = require("openvino", "openvino")
    with tempfile.TemporaryDirectory(prefix="int8-") as folder:
        example = torch.from_numpy(image[None])
        made = Path(folder) / "tuned.onnx"
        export(tuned, example, made, format="onnx", names=names, metadata={})
        model = ov.convert_model(made)
    given = {"name": "images", "shape": list(example.shape), "dtype": str(image.dtype)}
    texts = {**metadata, "precision": "int8", "input": json.dumps(given), "outputs": json.dumps(list(names))}
    model.set_rt_info(json.dumps(texts), ["metadata", "export"])
    ov.save_model(model, path, compress_to_fp16=False)
    return path


def _compared(outputs: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    listed = (outputs,) if isinstance(outputs, Tensor) else outputs
    return [output for output in listed if output.is_floating_point()]


def _error(outputs: list[Tensor], targets: list[Tensor]) -> Tensor:
    """Power of the difference over that of the target, summed over the outputs."""
    parts = [
        (output - target).square().mean() / target.square().mean().clamp(min=1e-12)
        for output, target in zip(outputs, targets, strict=True)
    ]
    return torch.stack(parts).sum()
