"""From offsets and scores of all anchors to the boxes that are found in an image."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from det.boxes import BoxCoder, Detections, areas, to_pixels

FIRST_LOOK = 1000
"""Best (anchor, class) pairs that are looked at first; more only where they leave too few detections."""


class Postprocess:
    """Decoding, suppression within each class, and the best of what is left.

    The defaults are the released configuration's but for the score threshold, which is 1e-8 there: COCO's
    average precision counts every box, however low its score.

    Args:
        score_threshold: pairs of anchor and class must score more than this.
        iou_threshold: of two boxes of a class that overlap more than this, the lower score goes.
        per_class: detections of one class in an image, at most; None: any number.
        max_detections: detections in an image, at most.
        activation: `sigmoid` of each score, or `softmax` over background and classes.
        candidates: pairs of one class that suppression looks at, at most (torchvision's `topk_candidates`);
            None: all.
        coder: how boxes are coded.

    Raises:
        ValueError: a value out of range.
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
        coder: BoxCoder | None = None,
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
        self.activation, self.coder = activation, coder or BoxCoder()

    def __str__(self) -> str:
        return (
            f"score > {self.score_threshold:g}, IoU <= {self.iou_threshold:g}, "
            f"at most {self.max_detections} boxes"
        )

    def __call__(self, deltas: Tensor, scores: Tensor, anchors: Tensor, sizes: Tensor) -> list[Detections]:
        """Raw outputs of a detector for N images -> what is found in each.

        Args:
            deltas: [N, A, 4]. scores: [N, A, K + 1], the first column for background.
            anchors: [A, 4] as fractions of the input.
            sizes: [N, 2], (height, width) of the original images, in whose pixels the boxes come back.

        Raises:
            ValueError: the outputs are those of an input of another size than the anchors'.
        """
        if deltas.shape[1] != anchors.shape[0]:
            raise ValueError(
                f"the network gave {deltas.shape[1]} boxes and has {anchors.shape[0]} anchors: "
                "give it images of its input_size"
            )
        scores = scores.float()
        scores = scores.sigmoid() if self.activation == "sigmoid" else scores.softmax(dim=-1)
        boxes = self.coder.decode(deltas.float(), anchors.float()).clamp(0, 1)
        return [
            self.select(to_pixels(found, (height, width)), rated[:, 1:])
            for found, rated, (height, width) in zip(boxes, scores, sizes.tolist(), strict=True)
        ]

    def select(self, boxes: Tensor, scores: Tensor) -> Detections:
        """boxes [A, 4] in pixels, scores [A, K] -> detections.

        Whether a pair survives depends on better pairs alone. So the best pairs are looked at first, and the
        answer is exact as soon as they leave enough detections; only else is the look widened.
        """
        total, look = scores.numel(), FIRST_LOOK
        while True:
            best, index = scores.flatten().topk(min(look, total))
            chosen = best > self.score_threshold
            best, index = best[chosen], index[chosen]
            labels = index % scores.shape[1]
            places = boxes[index // scores.shape[1]]
            kept = self._surviving(places, best, labels)[: self.max_detections]
            if len(kept) == self.max_detections or len(best) < look:  # enough, or no more to look at
                return Detections(places[kept], best[kept], labels[kept])
            look *= 4

    def _surviving(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        """Indices of those that stay, ascending; all arguments are sorted by falling score."""
        index = torch.arange(len(scores), device=scores.device)
        if self.candidates is not None:
            index = index[_rank(labels) < self.candidates]
        kept = batched_nms(boxes[index], scores[index], labels[index], self.iou_threshold)
        index = index[kept.sort().values]
        index = index[areas(boxes[index]) > 0]  # the others lie outside of the image
        return index if self.per_class is None else index[_rank(labels[index]) < self.per_class]


def _rank(labels: Tensor) -> Tensor:
    """How many earlier entries have the same label: [n] -> [n]."""
    ordered, order = labels.sort(stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - torch.searchsorted(ordered, ordered)
    return rank
