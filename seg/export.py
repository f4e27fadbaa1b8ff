"""Segmentation for export: images -> class scores or label maps; and a task that predicts with the file."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.contracts import Batch, Image
from engine.data.preprocessing import Size
from engine.errors import UserError
from seg.heads import GatePool
from seg.task import Segmentation, output_size, resize


class ExportedSegmentation(nn.Module):
    """Normalization, network and post-processing: an `engine.contracts.ExportedTask`.

    Args:
        task: with its trained model.
        output: `logits`, class scores [N, K, h, w] float32; or `argmax`, label maps [N, h, w] uint8.
        full_size: True: the output has the size of the input; False: of the network's grid (1/8 for LR-ASPP).
        upsample: what is enlarged for `argmax` at full size: `logits` (as in PyTorch) or `labels` (by nearest
            neighbor: K times less work, with edges on the network's grid).
        normalize: whether the graph normalizes images in 0..255; else it takes normalized images.
        dtype: of images in 0..255, `uint8` or `float32`; normalized images are float32.

    Raises:
        ValueError: if an option is unknown, or has no effect.
    """

    size_remedy = (
        "set data.eval_size=[h,w] instead, which resizes all images to one size, or train with "
        "model.head.pool=global, whose files take images of any size"
    )
    """What to do if the network cannot have a dynamic size."""

    def __init__(
        self,
        *,
        task: Segmentation,
        output: str = "logits",
        full_size: bool = False,
        upsample: str = "logits",
        normalize: bool = True,
        dtype: str = "uint8",
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("output", output, ("logits", "argmax")),
            ("upsample", upsample, ("logits", "labels")),
            ("dtype", dtype, ("uint8", "float32")),
        ):
            if value not in known:
                raise ValueError(f"{name} must be {' or '.join(known)} for segmentation, got {value!r}")
        if upsample == "labels" and not (full_size and output == "argmax"):
            raise ValueError("upsample=labels needs output=argmax and full_size=true")
        self.model, self.classes, self.eval_transform = task.model, task.classes, task.eval_transform
        self.align_corners, self.normalize = task.align_corners, task.normalize
        self.output, self.full_size, self.upsample = output, full_size, upsample
        self.normalized, self.dtype = normalize, dtype if normalize else "float32"
        self.names = ("labels" if output == "argmax" else "logits",)
        self.compared = self.names if output == "logits" else ()
        self.raw_names: tuple[str, ...] = ()
        self.decoder = Path(__file__).with_name("decode.py")

    @property
    def fixed_size(self) -> str:
        """Why the size cannot be dynamic, and what to do; empty if it may be possible."""
        if not any(
            isinstance(part, GatePool) and part.kind == "large_kernel" for part in self.model.modules()
        ):
            return ""
        return f"the window of model.head.pool=large_kernel grows with the image; {self.size_remedy}"

    @property
    def decoding(self) -> dict[str, Any]:
        """How the output becomes label maps; see `engine.contracts.ExportedTask`."""
        return {
            "in_graph": self.output == "argmax",
            "class": "the one with the highest score, after resizing scores to the image",
            "resize": "nearest" if self.output == "argmax" else "bilinear",
            "align_corners": self.align_corners,
            "full_size": self.full_size,
            "upsample": self.upsample if self.full_size and self.output == "argmax" else None,
        }

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Images [N, 3, H, W] -> [N, K, h, w], or [N, h, w] uint8 (and scores, see `with_raw_outputs`)."""
        scores: Tensor = self.model(self.normalize(images) if self.normalized else images)
        output = self._processed(scores, images)
        return (output, scores) if self.raw_names else output

    def with_raw_outputs(self) -> ExportedSegmentation:
        """The same module; if it returns labels, it also returns the network's scores as `raw_names`."""
        module = copy.copy(self)
        module.raw_names = ("raw_logits",) if self.output == "argmax" else ()
        module.names = (*self.names, *module.raw_names)
        return module

    def _processed(self, scores: Tensor, images: Tensor) -> Tensor:
        size = (images.shape[-2], images.shape[-1])
        if self.full_size and self.upsample == "logits":
            scores = resize(scores, size, align_corners=self.align_corners)
        if self.output == "logits":
            return scores
        labels = scores.argmax(1).to(torch.uint8)
        if self.full_size and self.upsample == "labels":
            labels = resize_nearest(labels, size, align_corners=self.align_corners)
        return labels

    def transform(self, image: Image) -> Image:
        """RGB [H, W, 3] -> the network's input, [h, w, 3]."""
        pixels: Image = self.eval_transform(image, None, 0)[0]
        return pixels

    def agreement(self, ours: Sequence[NDArray[Any]], theirs: Sequence[NDArray[Any]]) -> float:
        """Share of the pixels with the same class in both outputs, in 0..1."""
        first, second = (out[0].argmax(1) if self.output == "logits" else out[0] for out in (ours, theirs))
        return float((first == second).mean())


class SegmentationWithFile(Segmentation):
    """`task`, predicting with an exported file (`deploy.artifact.Artifact`) instead of its model.

    Raises:
        UserError: if the file is for another task or other classes, or returns label maps although the task's
            inference averages scores.
    """

    def __init__(self, *, task: Segmentation, artifact: Any) -> None:
        artifact.check("seg", task.classes.names)
        if artifact.output == "argmax" and not task.inference.is_single_pass:
            raise UserError(
                f"{artifact.path}: returns label maps, but {task.inference} averages scores; export with "
                "output=logits, or use inference=whole"
            )
        super().__init__(
            model=artifact,
            classes=task.classes,
            loss=task.loss,
            dice=task.dice,
            align_corners=task.align_corners,
            inference=task.inference,
            eval_transform=task.eval_transform,
        )
        self.normalize = artifact.normalize(task.normalize)
        self.eval()

    def predict(self, batch: Batch) -> Tensor:
        """Class indices [N, H, W] uint8; label maps from the file are resized by nearest neighbor."""
        if self.model.output != "argmax":
            return super().predict(batch)
        labels = self.model(self.normalize(batch["image"]))
        return resize_nearest(labels, output_size(batch), align_corners=self.align_corners)


def resize_nearest(labels: Tensor, size: Size, *, align_corners: bool) -> Tensor:
    """Label maps [N, h, w] -> [N, *size]: each pixel takes the nearest label, on the grid of `resize`.

    Uses integers only, so every runtime gives the same result.
    """
    rows = _nearest(labels.shape[1], size[0], align_corners, labels.device)
    columns = _nearest(labels.shape[2], size[1], align_corners, labels.device)
    return labels[:, rows][:, :, columns]


def _nearest(length: int, new_length: int, align_corners: bool, device: torch.device) -> Tensor:
    """The nearest old index for each new index."""
    places = torch.arange(new_length, device=device)
    if align_corners:  # x (length - 1) / (new_length - 1), rounded
        steps = new_length - 1
        return (2 * places * (length - 1) + steps) // (2 * steps) if new_length != 1 else places
    return (2 * places + 1) * length // (2 * new_length)  # (x + 0.5) length / new_length, rounded down
