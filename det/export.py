"""Detection for export, with or without post-processing; and a task that predicts with the file.

The post-processing is that of `det.postprocess` in a fixed number of steps of fixed size: TensorFlow's and
torchvision's do not export to every runtime, or only for a single image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import box_iou

from det.boxes import Detections, areas, to_pixels
from det.postprocess import FIRST_LOOK, Postprocess
from det.task import Detection
from engine.contracts import Batch, Image

OUTPUTS = {"raw": ("deltas", "scores"), "detections": ("boxes", "scores", "labels", "exact")}
COMPARED = {"raw": ("deltas", "scores"), "detections": ()}
"""Outputs whose values are compared. Not those of suppression: if an overlap is near the threshold, rounding
can decide which box is kept."""
SAME_IOU, SAME_SCORE = 0.9, 0.01
"""Two boxes of a class are the same detection if they overlap at least this much, and their scores differ by
at most this much."""


class ExportedDetection(nn.Module):
    """The module to export: normalization, network and, with `output=detections`, post-processing.

    Args:
        task: with its trained model.
        output: `raw`, the network's box deltas [N, A, 4] and class scores [N, A, K + 1]; or
            `detections`, see `Suppression`.
        look, steps: see `Suppression`.
        normalize: whether the graph normalizes images in 0..255; else it takes normalized images.
        dtype: of images in 0..255, `uint8` or `float32`; normalized images are float32.

    Raises:
        ValueError: if an option is unknown or out of range.
    """

    def __init__(
        self,
        *,
        task: Detection,
        output: str = "raw",
        look: int = FIRST_LOOK,
        steps: int = 16,
        normalize: bool = True,
        dtype: str = "uint8",
    ) -> None:
        super().__init__()
        if output not in OUTPUTS:
            raise ValueError(f"output must be raw or detections for detection, got {output!r}")
        if dtype not in ("uint8", "float32"):
            raise ValueError(f"dtype must be uint8 or float32 for detection, got {dtype!r}")
        self.model, self.classes, self.eval_transform = task.model, task.classes, task.eval_transform
        self.normalize, self.postprocess = task.normalize, task.postprocess
        self.normalized, self.dtype = normalize, dtype if normalize else "float32"
        self.output, self.names, self.compared = output, OUTPUTS[output], COMPARED[output]
        self.suppression = Suppression(postprocess=task.postprocess, look=look, steps=steps)

    @property
    def anchors(self) -> Tensor:
        """float32 [A, 4], xyxy as fractions of the input."""
        anchors: Tensor = self.model.anchors  # type: ignore[assignment]
        return anchors

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images [N, 3, h, w] -> the outputs that `names` lists."""
        deltas, scores = self.model(self.normalize(images) if self.normalized else images)
        if self.output == "raw":
            return deltas, scores
        if self.postprocess.activation == "sigmoid":
            confidences = scores[..., 1:].float().sigmoid()
        else:
            confidences = scores.float().softmax(-1)[..., 1:]
        boxes = self.postprocess.coder.decode(deltas.float(), self.anchors.float()).clamp(0, 1)
        detections: tuple[Tensor, ...] = self.suppression(boxes, confidences)
        return detections

    def transform(self, image: Image) -> Image:
        """RGB [H, W, 3] -> the network's input [h, w, 3]."""
        return self.eval_transform(image)

    def agreement(self, ours: Sequence[NDArray[Any]], theirs: Sequence[NDArray[Any]]) -> float:
        """Share of the detections that both outputs have in common; 1 if neither has any."""
        pairs = list(zip(self._detections(ours), self._detections(theirs), strict=True))
        total = sum(max(len(a.labels), len(b.labels)) for a, b in pairs)
        return sum(_count_common(a, b) for a, b in pairs) / total if total else 1.0

    def _detections(self, outputs: Sequence[NDArray[Any]]) -> list[Detections]:
        tensors = [torch.from_numpy(np.asarray(output)) for output in outputs]
        sizes = torch.ones(len(tensors[0]), 2)
        if self.output == "detections":
            boxes, scores, labels = tensors[:3]
            return unpadded(boxes, scores, labels, sizes)
        deltas, scores = tensors
        return self.postprocess(deltas, scores, self.anchors.cpu(), sizes)


class Suppression(nn.Module):
    """`Postprocess.select` for N images at once, as a fixed number of steps of fixed size.

    Greedy suppression keeps a box unless it overlaps too much with a better box that is kept. Here all boxes
    are kept at first, and each step drops those covered by a better box that the previous step kept. This
    converges to the same result in as many steps as the longest chain of boxes in which each one decides
    about the next.

    Args:
        postprocess: thresholds and limits.
        look: number of pairs of anchor and class, best first, that are considered.
        steps: number of steps.

    Raises:
        ValueError: if a number is below 1.
    """

    is_better: Tensor
    """bool [better, worse]; candidates are ordered by score."""

    def __init__(self, *, postprocess: Postprocess, look: int = FIRST_LOOK, steps: int = 16) -> None:
        super().__init__()
        for name, value in (("look", look), ("steps", steps)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.limits, self.steps = postprocess, steps
        self.look = max(look, postprocess.max_detections)
        is_better = torch.ones(self.look, self.look, dtype=torch.bool).triu(1)
        self.register_buffer("is_better", is_better, persistent=False)

    def forward(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Boxes [N, A, 4] as fractions of the image, scores [N, A, K] -> D detections per image, best first.

        Returns:
            boxes [N, D, 4], scores [N, D] and labels [N, D] int64, padded with 0, 0 and -1 if needed;
            exact [N] bool: whether `steps` and `look` were large enough for the result to equal that of
            `Postprocess`.
        """
        classes, total = scores.shape[2], scores.shape[1] * scores.shape[2]
        look, wanted = min(self.look, total), min(self.limits.max_detections, total)
        best, index = scores.flatten(1).topk(look)
        labels = index % classes
        candidates = boxes.gather(1, (index // classes)[..., None].expand(-1, -1, 4))
        valid = best > self.limits.score_threshold
        same_class = labels[:, :, None] == labels[:, None, :]
        better_of_class = self.is_better[:look, :look] & same_class  # [N, better, worse]
        allowed = valid
        if self.limits.candidates is not None:
            allowed = allowed & (better_of_class.float().sum(1) < self.limits.candidates)
        covers = (better_of_class & (batched_iou(candidates) > self.limits.iou_threshold)).float()
        kept, settled = self._settle(allowed, covers)
        kept = kept & (areas(candidates) > 0)
        # A limit per class that is at least the limit per image has no effect.
        if self.limits.per_class is not None and self.limits.per_class < wanted:
            kept = kept & (_count_paired(kept, better_of_class.float()) < self.limits.per_class)
        enough = kept.sum(1) >= wanted
        exact = settled & (enough | (valid.sum(1) < look) if look < total else torch.ones_like(enough))
        order = torch.arange(look, 0, -1, device=boxes.device)
        rank, first = (kept * order).topk(wanted)
        filled = rank > 0
        return (
            candidates.gather(1, first[..., None].expand(-1, -1, 4)) * filled[..., None],
            best.gather(1, first) * filled,
            torch.where(filled, labels.gather(1, first), -1),
            exact,
        )

    def _settle(self, allowed: Tensor, covers: Tensor) -> tuple[Tensor, Tensor]:
        """allowed [N, M] and covers [N, better, worse] -> kept [N, M], and whether the last step changed
        nothing [N]."""
        kept = before = allowed
        for _ in range(self.steps):
            before, kept = kept, allowed & (_count_paired(kept, covers) == 0)
        return kept, (kept == before).all(1)


def _count_paired(chosen: Tensor, pairs: Tensor) -> Tensor:
    """How many of the chosen [N, M] each box is paired with, by pairs [N, M, M] -> float [N, M]."""
    return (chosen.float()[:, None] @ pairs)[:, 0]


def batched_iou(boxes: Tensor) -> Tensor:
    """Boxes [N, M, 4] -> intersection over union of each two in an image [N, M, M]; 0 if both are empty."""
    # One tensor per coordinate is faster than slices of [..., 4].
    left, top, right, bottom = (side[:, :, None] for side in boxes.unbind(-1))
    widths = (torch.minimum(right, right.mT) - torch.maximum(left, left.mT)).clamp(min=0)
    heights = (torch.minimum(bottom, bottom.mT) - torch.maximum(top, top.mT)).clamp(min=0)
    intersections = widths * heights
    sizes = areas(boxes)
    unions = sizes[:, :, None] + sizes[:, None, :] - intersections
    return intersections / unions.clamp(min=1e-12)


def unpadded(boxes: Tensor, scores: Tensor, labels: Tensor, sizes: Tensor) -> list[Detections]:
    """The outputs of `Suppression`, and image sizes [N, 2] (height, width) -> detections in pixels."""
    detections = []
    for index, (height, width) in enumerate(sizes.tolist()):
        filled = labels[index] >= 0
        pixels = to_pixels(boxes[index][filled], (height, width))
        detections.append(Detections(pixels, scores[index][filled], labels[index][filled]))
    return detections


def _count_common(ours: Detections, theirs: Detections) -> int:
    """How many of our detections are among theirs; each of theirs counts once."""
    same = box_iou(ours.boxes, theirs.boxes) >= SAME_IOU
    same &= ours.labels[:, None] == theirs.labels[None]
    same &= (ours.scores[:, None] - theirs.scores[None]).abs() <= SAME_SCORE
    count = 0
    for row in same:
        if row.any():
            same[:, int(row.float().argmax())] = False
            count += 1
    return count


class DetectionWithFile(Detection):
    """`task`, predicting with an exported file instead of its model.

    Args:
        task: a detection task with the classes of the file.
        artifact: the file, a `deploy.artifact.Artifact`.

    Raises:
        UserError: if the file is for another task, or has other classes.
    """

    file_anchors: Tensor

    def __init__(self, *, task: Detection, artifact: Any) -> None:
        artifact.check("det", task.classes.names)
        super().__init__(
            model=artifact,
            classes=task.classes,
            eval_transform=task.eval_transform,
            loss=task.loss,
            matcher=task.matcher,
            postprocess=task.postprocess,
            draw_threshold=task.draw_threshold,
        )
        self.threshold_source = task.threshold_source
        self.normalize = artifact.normalize(task.normalize)
        self.register_buffer("file_anchors", task.anchors, persistent=False)
        self.eval()

    @property
    def anchors(self) -> Tensor:
        return self.file_anchors

    def predict(self, batch: Batch) -> list[Detections]:
        """Detections per image, with boxes in pixels of `size`."""
        if self.model.output == "raw":
            return super().predict(batch)
        boxes, scores, labels, _ = self.model(self.normalize(batch["image"]))
        return unpadded(boxes, scores, labels, batch["size"])
