"""The post-processing of `det.postprocess` in a fixed number of steps of fixed size, for every runtime.

TensorFlow's and torchvision's NMS do not export to every runtime, or only for a single image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from det.boxes import Detections, areas, to_pixels
from det.postprocess import FIRST_LOOK, Postprocess


class Suppression(nn.Module):
    """`Postprocess.select` for N images at once, as a fixed number of steps of fixed size.

    Greedy suppression keeps a box unless it overlaps too much with a better box that is kept. Here all boxes
    are kept at first, and each step drops those covered by a better box that the previous step kept. This
    converges to the same result in as many steps as the longest chain of boxes in which each one decides
    whether the next is kept.

    Args:
        postprocess: thresholds and limits.
        look: number of best pairs of anchor and class that are considered.
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
    """How many of the chosen boxes [N, M] each box is paired with, given pairs [N, M, M] -> float [N, M]."""
    return (chosen.float()[:, None] @ pairs)[:, 0]


def batched_iou(boxes: Tensor) -> Tensor:
    """Boxes [N, M, 4] -> IoU of all pairs in an image [N, M, M]; 0 if both boxes are empty."""
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
