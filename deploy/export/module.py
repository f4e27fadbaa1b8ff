"""Exports an `nn.Module` to a file: captures its graph and writes it in a format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from deploy import formats
from deploy.capture import NamedInput, capture, min_size, quiet
from deploy.metadata import describe_graph
from deploy.session import MIN_SIZE
from engine.errors import UserError


def export_module(
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
    """Write a module and metadata as a file of the given format.

    Args:
        module: images -> a tensor, or a tuple of tensors.
        example: images [N, 3, H, W], uint8 or float32, like the file's inputs; fixes sizes that are not
            dynamic.
        path: the file to write; its folder is created.
        format: a name that `deploy.formats.find` knows.
        names: names of the outputs.
        dynamic_batch, dynamic_size: whether N, or H and W, can vary.
        metadata: strings to store in the file; `input` and `outputs` are added and, with `dynamic_size`, the
            smallest size for which the graph is valid.
        precision: `fp32`, or `fp16` to store weights in half the bytes (the arithmetic stays float32).

    Returns:
        `path`.

    Raises:
        UserError: if the format is unknown or does not have the option, if a library is not installed, if the
            network cannot have a dynamic size, or if the file cannot be written.
    """
    formats.check(format, precision=precision, dynamic=dynamic_batch or dynamic_size)
    texts = {
        **metadata,
        **describe_graph(
            shape=[
                None if dynamic_batch else example.shape[0],
                3,
                *([None] * 2 if dynamic_size else example.shape[2:]),
            ],
            dtype=str(example.dtype).removeprefix("torch."),
            names=names,
        ),
    }
    named = NamedInput(module).eval()
    remedy = str(getattr(module, "size_remedy", "export with dynamic=batch and images of one size"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with quiet():
            program = capture(
                named,
                example,
                dynamic_batch=dynamic_batch,
                dynamic_size=dynamic_size,
                size_remedy=remedy,
            )
            if dynamic_size:
                texts[MIN_SIZE] = json.dumps(min_size(program))
            formats.find(format).write(program, path, names=tuple(names), metadata=texts, precision=precision)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another out=") from None
    return path
