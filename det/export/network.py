"""Detection for export, with or without post-processing."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from det.boxes import Detections
from det.export.agreement import shared
from det.export.anchors import describe_anchors
from det.export.suppression import Suppression, unpadded
from det.postprocess import FIRST_LOOK
from det.task import Detection
from engine.contracts import Image

OUTPUTS = {"raw": ("deltas", "scores"), "detections": ("boxes", "scores", "labels", "exact")}
HALF_AGREEMENT = 0.95
"""Lowest agreement that is accepted by default of half-precision weights. Of six trained PANLites, one had
only 0.964 (AP 57.4 instead of 57.6): rounding decides which of overlapping boxes with low scores are kept."""
COMPARED = {"raw": ("deltas", "scores"), "detections": ()}
"""Outputs whose values are compared. Those of NMS are not: if an IoU is near the threshold, rounding can
decide which box is kept."""


class ExportedDetection(nn.Module):
    """The module to export: normalization, network and, with `output=detections`, post-processing.

    Args:
        task: with its trained model.
        output: `detections`, see `Suppression`; or `raw`, the network's box deltas [N, A, B] and class scores
            [N, A, C]: for SSDLite, B is 4 and C is K + 1.
        look, steps: see `Suppression`.
        normalize: whether the graph normalizes images in 0..255; else it takes normalized images.
        dtype: of images in 0..255, `uint8` or `float32`; normalized images are float32.

    Raises:
        ValueError: if an option is unknown or out of range, or has no effect on the raw outputs.
    """

    def __init__(
        self,
        *,
        task: Detection,
        output: str = "detections",
        look: int = FIRST_LOOK,
        steps: int = 16,
        normalize: bool = True,
        dtype: str = "uint8",
    ) -> None:
        super().__init__()
        if output not in OUTPUTS:
            raise ValueError(f"output must be detections or raw for detection, got {output!r}")
        for name, value, default in (("look", look, FIRST_LOOK), ("steps", steps, 16)):
            if output == "raw" and value != default:
                raise ValueError(f"{name} is for output=detections; leave it out, or leave out output=raw")
        if dtype not in ("uint8", "float32"):
            raise ValueError(f"dtype must be uint8 or float32 for detection, got {dtype!r}")
        self.model, self.classes, self.eval_transform = task.model, task.classes, task.resize
        self.normalize, self.postprocess = task.normalize, task.postprocess
        self.draw_threshold = task.draw_threshold
        self.normalized, self.dtype = normalize, dtype if normalize else "float32"
        self.output, self.names, self.compared = output, OUTPUTS[output], COMPARED[output]
        self.raw_names: tuple[str, ...] = ()
        self.half_agreement = HALF_AGREEMENT
        self.decoder = Path(__file__).with_name("decode.py")
        self.suppression = Suppression(postprocess=task.postprocess, look=look, steps=steps)

    @property
    def anchors(self) -> Tensor:
        """float32 [A, 4], xyxy as fractions of the input."""
        anchors: Tensor = self.model.anchors  # type: ignore[assignment]
        return anchors

    @property
    def decoding(self) -> dict[str, Any]:
        """How raw outputs become detections; see `engine.contracts.ExportedTask`."""
        limits = self.postprocess
        return {
            "in_graph": self.output == "detections",
            "boxes": "x1, y1, x2, y2 as fractions of the image",
            "activation": limits.activation,
            "background_column": 0 if limits.background_column else None,
            "score_threshold": limits.score_threshold,
            "draw_threshold": self.draw_threshold,
            "iou_threshold": limits.iou_threshold,
            "per_class": limits.per_class,
            "candidates": limits.candidates,
            "max_detections": limits.max_detections,
            "coder": limits.coder.describe(),
            "anchors": describe_anchors(self.model, self.anchors),
        }

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images [N, 3, h, w] -> the outputs that `names` lists."""
        deltas, scores = self.model(self.normalize(images) if self.normalized else images)
        if self.output == "raw":
            return deltas, scores
        if self.postprocess.activation == "sigmoid":
            confidences = self.postprocess.of_classes(scores).float().sigmoid()
        else:
            confidences = self.postprocess.of_classes(scores.float().softmax(-1))
        boxes = self.postprocess.coder.decode(deltas.float(), self.anchors.float()).clamp(0, 1)
        detections: tuple[Tensor, ...] = self.suppression(boxes, confidences)
        return (*detections, deltas, scores) if self.raw_names else detections

    def with_raw_outputs(self) -> ExportedDetection:
        """The same module, also returning the inputs of the post-processing as `raw_names`."""
        module = copy.copy(self)
        module.raw_names = () if self.output == "raw" else ("raw_deltas", "raw_scores")
        module.names = (*self.names, *module.raw_names)
        return module

    def transform(self, image: Image) -> Image:
        """RGB [H, W, 3] -> the network's input [h, w, 3]."""
        return self.eval_transform(image)

    def agreement(self, ours: Sequence[NDArray[Any]], theirs: Sequence[NDArray[Any]]) -> float:
        """Share of the detections that both outputs have in common; see `det.export.agreement`."""
        return shared(self._detections(ours), self._detections(theirs), self.postprocess)

    def _detections(self, outputs: Sequence[NDArray[Any]]) -> list[Detections]:
        tensors = [torch.from_numpy(np.asarray(output)) for output in outputs]
        sizes = torch.ones(len(tensors[0]), 2)
        if self.output == "detections":
            boxes, scores, labels = tensors[:3]
            return unpadded(boxes, scores, labels, sizes)
        deltas, scores = tensors
        return self.postprocess(deltas, scores, self.anchors.cpu(), sizes)
