"""From the deltas and scores of all anchors to the detections in an image."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from det.boxes import BoxCoder, Coder, Detections, areas, to_pixels
from engine.errors import UserError

FIRST_LOOK = 1000
"""Number of (anchor, class) pairs, best first, to start with; more are considered if too few remain."""


class Postprocess:
    """Decodes boxes, suppresses overlapping ones of each class, and keeps the best.

    The defaults are the released configuration's, except for the score threshold, which is 1e-8 there: COCO's
    average precision counts every box, however low its score.

    Args:
        score_threshold: pairs of anchor and class must score more than this.
        iou_threshold: of two boxes of a class that overlap more than this, the one with the lower score is
            dropped.
        per_class: largest number of detections of one class in an image; None: any number.
        max_detections: largest number of detections in an image.
        activation: `sigmoid` of each score, or `softmax` over background and classes.
        candidates: largest number of pairs of one class that suppression considers (torchvision's
            `topk_candidates`); None: all.
        coder: how boxes are encoded.
        background_column: whether the first score is for background.

    Raises:
        ValueError: if a value is out of range.
    """

    def __init__(
        self,
        *,
        score_threshold: float = 0.01,
        iou_threshold: float = 0.6,
        per_class: int | None = 100,
        max_detections: int = 100,
        activation: str = "sigmoid",
        candidates: int | None = None,
        coder: Coder | None = None,
        background_column: bool = True,
    ) -> None:
        if activation not in ("sigmoid", "softmax"):
            raise ValueError(f"activation must be sigmoid or softmax, got {activation!r}")
        for name, share in (("score_threshold", score_threshold), ("iou_threshold", iou_threshold)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be in 0..1, got {share}")
        counts = (("per_class", per_class), ("max_detections", max_detections), ("candidates", candidates))
        for name, count in counts:
            if count is not None and count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        self.score_threshold, self.iou_threshold = score_threshold, iou_threshold
        self.per_class, self.max_detections, self.candidates = per_class, max_detections, candidates
        self.activation, self.background_column = activation, background_column
        self.coder: Coder = coder or BoxCoder()

    def __str__(self) -> str:
        return (
            f"score > {self.score_threshold:g}, IoU <= {self.iou_threshold:g}, "
            f"at most {self.max_detections} boxes"
        )

    def __call__(self, deltas: Tensor, scores: Tensor, anchors: Tensor, sizes: Tensor) -> list[Detections]:
        """Raw outputs of a detector for N images -> the detections in each.

        Args:
            deltas: [N, A, 4], or what else the coder decodes.
            scores: [N, A, K + 1], the first column for background; without this column, [N, A, K].
            anchors: [A, 4] as fractions of the input.
            sizes: [N, 2], (height, width) of the original images; boxes are in their pixels.

        Raises:
            UserError: if the images do not have the size that the anchors are for.
        """
        if deltas.shape[1] != anchors.shape[0]:
            raise UserError(
                f"the network predicts {deltas.shape[1]} boxes but has {anchors.shape[0]} anchors; set "
                "only data.size, not model.input_size or task.eval_transform.size"
            )
        scores = scores.float()
        scores = scores.sigmoid() if self.activation == "sigmoid" else scores.softmax(dim=-1)
        boxes = self.coder.decode(deltas.float(), anchors.float()).clamp(0, 1)
        return [
            self.select(to_pixels(image_boxes, (height, width)), self.of_classes(image_scores))
            for image_boxes, image_scores, (height, width) in zip(boxes, scores, sizes.tolist(), strict=True)
        ]

    def of_classes(self, scores: Tensor) -> Tensor:
        """Scores [..., K + 1] or [..., K] -> those of the classes [..., K]."""
        return scores[..., 1:] if self.background_column else scores

    def select(self, boxes: Tensor, scores: Tensor) -> Detections:
        """Boxes [A, 4] in pixels, scores [A, K] -> detections.

        Whether a pair survives depends only on better pairs, so the best pairs are considered first. The
        result is exact as soon as enough of them survive; otherwise more are considered.
        """
        total, look = scores.numel(), FIRST_LOOK
        while True:
            best, index = scores.flatten().topk(min(look, total))
            chosen = best > self.score_threshold
            best, index = best[chosen], index[chosen]
            labels = index % scores.shape[1]
            candidates = boxes[index // scores.shape[1]]
            kept = self.survivors(candidates, best, labels)[: self.max_detections]
            if len(kept) == self.max_detections or len(best) < look:  # enough, or there are no more
                return Detections(candidates[kept], best[kept], labels[kept])
            look *= 4

    def survivors(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        """Indices of the boxes to keep, ascending; the arguments are sorted, highest score first."""
        index = torch.arange(len(scores), device=scores.device)
        if self.candidates is not None:
            index = index[_rank(labels) < self.candidates]
        kept = batched_nms(boxes[index], scores[index], labels[index], self.iou_threshold)
        index = index[kept.sort().values]
        index = index[areas(boxes[index]) > 0]  # the others were outside the image
        return index if self.per_class is None else index[_rank(labels[index]) < self.per_class]


def _rank(labels: Tensor) -> Tensor:
    """The number of earlier entries with the same label, [n] -> [n]."""
    ordered, order = labels.sort(stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - torch.searchsorted(ordered, ordered)
    return rank
