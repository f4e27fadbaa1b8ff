"""Detection as it ships: raw heads or finished detections, and a shipped file in the task's place.

The post-processing is that of `det.postprocess`, without steps whose number or size depends on the data:
TensorFlow's and torchvision's do not export to every runtime, or only for one image.
"""

from __future__ import annotations

import functools
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
from engine.contracts import Batch

OUTPUTS = {"raw": ("deltas", "scores"), "detections": ("boxes", "scores", "labels", "exact")}
COMPARED = {"raw": ("deltas", "scores"), "detections": ()}
"""Outputs whose numbers are compared: of two boxes that overlap as much as is allowed, rounding decides."""
SAME_IOU, SAME_SCORE = 0.9, 0.01
"""Two boxes of a class are the same detection from this overlap on, and up to this difference of scores."""


class Export(nn.Module):
    """What is captured: normalization, network, and, for `detections`, what follows it.

    Args:
        task: with its trained model.
        output: `raw`, offsets [N, A, 4] and class scores [N, A, K + 1] as the network gives them; or
            `detections`, see `Suppression`.
        look: see `Suppression`.
        steps: see `Suppression`.
        normalize: whether images are 0..255, or normalized already.
        dtype: of images 0..255, `uint8` or `float32`; normalized ones are float32.

    Raises:
        ValueError: an unknown option.
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
        self.normalizer, self.postprocess = task.normalize, task.postprocess
        self.normalized, self.dtype = normalize, dtype if normalize else "float32"
        self.output, self.names, self.compared = output, OUTPUTS[output], COMPARED[output]
        self.suppress = Suppression(postprocess=task.postprocess, look=look, steps=steps)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images [N, 3, h, w] -> what `names` says."""
        deltas, scores = self.model(self.normalizer(images) if self.normalized else images)
        if self.output == "raw":
            return deltas, scores
        if self.postprocess.activation == "sigmoid":
            rated = scores[..., 1:].float().sigmoid()
        else:
            rated = scores.float().softmax(-1)[..., 1:]
        boxes = self.postprocess.coder.decode(deltas.float(), self.model.anchors.float()).clamp(0, 1)
        return self.suppress(boxes, rated)

    def transform(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """RGB [H, W, 3] -> what the network is given, [h, w, 3]."""
        return self.eval_transform(picture)

    def agreement(self, ours: Sequence[NDArray[Any]], theirs: Sequence[NDArray[Any]]) -> float:
        """Share of the detections that both outputs hold; 1 where neither holds any."""
        found = [self._detections(outputs) for outputs in (ours, theirs)]
        pairs = [_shared(*pair) for pair in zip(*found, strict=True)]
        total = sum(max(len(a.labels), len(b.labels)) for a, b in zip(*found, strict=True))
        return sum(pairs) / total if total else 1.0

    def _detections(self, outputs: Sequence[NDArray[Any]]) -> list[Detections]:
        tensors = [torch.from_numpy(np.asarray(output)) for output in outputs]
        if self.output == "detections":
            return finished(*tensors[:3], torch.ones(len(tensors[0]), 2))
        sizes = torch.ones(len(tensors[0]), 2)
        return self.postprocess(*tensors, self.model.anchors.cpu(), sizes)


class Suppression(nn.Module):
    """`Postprocess.select` for N images at once, as a fixed number of fixed steps.

    Greedy suppression keeps a box unless a better one that is kept itself covers it. Read as an equation this
    has one solution, and repeating "kept, unless covered by one that is kept so far" reaches it after as many
    steps as the longest chain of boxes of which each decides about the next.

    Args:
        postprocess: thresholds and limits.
        look: best pairs of anchor and class that are looked at.
        steps: of the repetition.

    Raises:
        ValueError: a number below 1.
    """

    earlier: Tensor

    def __init__(self, *, postprocess: Postprocess, look: int = FIRST_LOOK, steps: int = 16) -> None:
        super().__init__()
        for name, value in (("look", look), ("steps", steps)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.limits, self.steps = postprocess, steps
        self.look = max(look, postprocess.max_detections)
        earlier = torch.ones(self.look, self.look, dtype=torch.bool).triu(1)
        self.register_buffer("earlier", earlier, persistent=False)

    def forward(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """boxes [N, A, 4] as fractions of the image, scores [N, A, K] -> D detections of each, best first.

        Returns:
            boxes [N, D, 4], scores [N, D], labels [N, D] int64 (where there are fewer: 0, 0 and -1), and
            exact [N] bool: whether the steps and the look were enough, so that the detections are those of
            `Postprocess`.
        """
        classes, total = scores.shape[2], scores.shape[1] * scores.shape[2]
        look, wanted = min(self.look, total), min(self.limits.max_detections, total)
        best, index = scores.flatten(1).topk(look)
        labels = index % classes
        places = boxes.gather(1, (index // classes)[..., None].expand(-1, -1, 4))
        valid = best > self.limits.score_threshold
        # [N, better, worse]: pairs of one class
        rivals = self.earlier[:look, :look] & (labels[:, :, None] == labels[:, None, :])
        allowed = valid
        if self.limits.candidates is not None:
            allowed = allowed & (rivals.float().sum(1) < self.limits.candidates)
        covers = (rivals & (overlaps(places) > self.limits.iou_threshold)).float()
        kept, settled = self._settle(allowed, covers)
        kept = kept & (areas(places) > 0)
        if (
            self.limits.per_class is not None and self.limits.per_class < wanted
        ):  # else there is no such rival
            kept = kept & (_among(kept, rivals.float()) < self.limits.per_class)
        enough = kept.sum(1) >= wanted
        exact = settled & (enough | (valid.sum(1) < look) if look < total else torch.ones_like(enough))
        order = torch.arange(look, 0, -1, device=boxes.device)
        chosen, first = (kept * order).topk(wanted)
        there = chosen > 0
        return (
            places.gather(1, first[..., None].expand(-1, -1, 4)) * there[..., None],
            best.gather(1, first) * there,
            torch.where(there, labels.gather(1, first), -1),
            exact,
        )

    def _settle(self, allowed: Tensor, covers: Tensor) -> tuple[Tensor, Tensor]:
        """allowed [N, M] and covers [N, better, worse] -> kept [N, M], and whether it changes no more [N]."""
        kept = before = allowed
        for _ in range(self.steps):
            before, kept = kept, allowed & (_among(kept, covers) == 0)
        return kept, (kept == before).all(1)


def _among(chosen: Tensor, pairs: Tensor) -> Tensor:
    """How many of those that are chosen [N, M] each is paired with [N, M, M] -> [N, M] float."""
    return (chosen.float()[:, None] @ pairs)[:, 0]


def overlaps(boxes: Tensor) -> Tensor:
    """Boxes [N, M, 4] -> intersection over union of each two [N, M, M]; 0 where both are empty."""
    left, top, right, bottom = (side[:, :, None] for side in boxes.unbind(-1))  # side by side: faster
    widths = (torch.minimum(right, right.mT) - torch.maximum(left, left.mT)).clamp(min=0)
    heights = (torch.minimum(bottom, bottom.mT) - torch.maximum(top, top.mT)).clamp(min=0)
    shared = widths * heights
    sizes = areas(boxes)
    return shared / (sizes[:, :, None] + sizes[:, None, :] - shared).clamp(min=1e-12)


def finished(boxes: Tensor, scores: Tensor, labels: Tensor, sizes: Tensor) -> list[Detections]:
    """What `Suppression` gives for images of `sizes` [N, 2] (height, width) -> boxes in their pixels."""
    found = []
    for part, rated, named, (height, width) in zip(boxes, scores, labels, sizes.tolist(), strict=True):
        there = named >= 0
        found.append(Detections(to_pixels(part[there], (height, width)), rated[there], named[there]))
    return found


def _shared(ours: Detections, theirs: Detections) -> int:
    """How many of our detections are among theirs, each counted once."""
    same = box_iou(ours.boxes, theirs.boxes) >= SAME_IOU
    same &= ours.labels[:, None] == theirs.labels[None]
    same &= (ours.scores[:, None] - theirs.scores[None]).abs() <= SAME_SCORE
    count = 0
    for row in same:
        if row.any():
            same[:, int(row.float().argmax())] = False
            count += 1
    return count


def run_artifact(*, task: Detection, artifact: Any) -> Detection:
    """`task`, predicting with a shipped file (`deploy.artifact.Artifact`) in place of its model.

    Raises:
        UserError: the file is of another task or of other classes.
    """
    artifact.check("det", task.classes.names)
    anchors = task.model.anchors
    task.model = artifact
    task.normalize = artifact.normalize(task.normalize)
    if artifact.output == "detections":
        task.predict = functools.partial(_predict_finished, task)
    else:
        artifact.register_buffer("anchors", anchors, persistent=False)
    return task.eval()


def _predict_finished(task: Detection, batch: Batch) -> list[Detections]:
    boxes, scores, labels, _ = task.model(task.normalize(batch["image"]))
    return finished(boxes, scores, labels, batch["size"])
