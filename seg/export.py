"""Segmentation as it ships: images -> class scores or label maps, and a shipped file in the task's place."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.contracts import Batch
from engine.errors import UserError
from seg.inference import resize
from seg.task import Segmentation

Size = tuple[int, int]


class Export(nn.Module):
    """What is captured: normalization, network, and what follows it.

    Args:
        task: with its trained model.
        output: `logits`, class scores [N, K, h, w] float32; or `argmax`, label maps [N, h, w] uint8.
        full_size: at the input's size; else on the network's grid (1/8 for LR-ASPP).
        upsample: with `argmax` at full size, what is enlarged: `logits` (as PyTorch predicts), or `labels`,
            to the nearest: K times less to do, with edges on the network's grid.
        normalize: whether images are 0..255, or normalized already.
        dtype: of images 0..255, `uint8` or `float32`; normalized ones are float32.

    Raises:
        ValueError: an unknown option, or one without effect.
    """

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
        self.align_corners, self.normalizer = task.align_corners, task.normalize
        self.output, self.full_size, self.upsample = output, full_size, upsample
        self.normalized, self.dtype = normalize, dtype if normalize else "float32"
        self.names = ("labels" if output == "argmax" else "logits",)
        self.compared = self.names if output == "logits" else ()

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] -> [N, K, h, w], or [N, h, w] uint8."""
        scores = self.model(self.normalizer(images) if self.normalized else images)
        size = (images.shape[-2], images.shape[-1])
        if self.full_size and self.upsample == "logits":
            scores = resize(scores, size, align_corners=self.align_corners)
        if self.output == "logits":
            return scores
        labels = scores.argmax(1).to(torch.uint8)
        if self.full_size and self.upsample == "labels":
            labels = nearest(labels, size, align_corners=self.align_corners)
        return labels

    def transform(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """RGB [H, W, 3] -> what the network is given, [h, w, 3]."""
        pixels: NDArray[np.uint8] = self.eval_transform(picture, None, 0)[0]
        return pixels

    def agreement(self, ours: Sequence[NDArray[Any]], theirs: Sequence[NDArray[Any]]) -> float:
        """Share of the places that two outputs label alike."""
        first, second = (out[0].argmax(1) if self.output == "logits" else out[0] for out in (ours, theirs))
        return float((first == second).mean())


def run_artifact(*, task: Segmentation, artifact: Any) -> Segmentation:
    """`task`, predicting with a shipped file (`deploy.artifact.Artifact`) in place of its model.

    Raises:
        UserError: the file's classes are others, or it gives label maps and these cannot be averaged.
    """
    artifact.check("seg", task.classes.names)
    task.model = artifact
    task.normalize = artifact.normalize(task.normalize)
    if artifact.output == "argmax":
        if str(task.inference) != "scales 1, no flip":
            raise UserError(
                f"{artifact.path}: gives label maps, and {task.inference} averages scores; export with "
                "output=logits, or use inference=whole"
            )
        task.predict = functools.partial(_predict_labels, task)
    return task.eval()


def _predict_labels(task: Segmentation, batch: Batch) -> Tensor:
    size = tuple(batch["size"] if "size" in batch else batch["label"].shape[-2:])
    labels: Tensor = task.model(task.normalize(batch["image"]))
    return nearest(labels, (size[0], size[1]), align_corners=task.align_corners)


def nearest(labels: Tensor, size: Size, *, align_corners: bool) -> Tensor:
    """Label maps [N, h, w] -> [N, *size]: each pixel takes the nearest label, on the grid of `resize`.

    In whole numbers, so that every runtime finds the same.
    """
    rows = _sources(labels.shape[1], size[0], align_corners, labels.device)
    columns = _sources(labels.shape[2], size[1], align_corners, labels.device)
    return labels[:, rows][:, :, columns]


def _sources(given: int, wanted: int, align_corners: bool, device: torch.device) -> Tensor:
    places = torch.arange(wanted, device=device)
    if align_corners:  # x (given - 1) / (wanted - 1), rounded
        steps = wanted - 1
        return (2 * places * (given - 1) + steps) // (2 * steps) if wanted != 1 else places
    return (2 * places + 1) * given // (2 * wanted)  # (x + 0.5) given / wanted, rounded down
