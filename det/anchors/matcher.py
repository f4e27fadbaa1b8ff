"""Training targets: which anchor predicts which object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from det.anchors.coverage import anchor_report
from det.boxes import BoxCoder, Coder, pairwise_iou
from det.data.dataset import DetectionSplit

BACKGROUND = 0


IGNORED_ANCHOR = -1


class Assignment(Protocol):
    """The objects of a batch, as far as they are assigned to anchors without looking at predictions."""

    @property
    def weight(self) -> Tensor:
        """Scalar: the number of anchors or objects over which losses are a mean; at least 1."""
        ...

    def given(self, deltas: Tensor, scores: Tensor) -> Any:
        """The targets for the loss, given a network's raw outputs [N, A, B] and [N, A, C]."""
        ...


class Assigner(Protocol):
    """Decides which anchor is trained on which object.

    Attributes:
        coder: how boxes are encoded relative to their anchors.
    """

    coder: Any

    def __call__(self, anchors: Tensor, boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> Assignment: ...

    def report(self, split: DetectionSplit, anchors: Tensor, input_size: Sequence[int]) -> list[str]:
        """Lines to print before training: how well the anchors fit the objects of a split."""
        ...


class Targets(NamedTuple):
    """The targets of each anchor, for a batch of N images.

    Attributes:
        labels: int64 [N, A]; 0 background, k + 1 class k, -1 ignored.
        deltas: float32 [N, A, 4], the encoded box of the matched object; 0 at other anchors.
        num_matched: int64 scalar, number of matched anchors in the batch.
        unmatched_objects: int64 scalar, number of objects without an anchor (except those with label -1).
    """

    labels: Tensor
    deltas: Tensor
    num_matched: Tensor
    unmatched_objects: Tensor

    @property
    def weight(self) -> Tensor:
        """Number of matched anchors, over which losses are a mean; at least 1."""
        return self.num_matched.clamp(min=1)

    def given(self, deltas: Tensor, scores: Tensor) -> Targets:
        """The targets, given raw predictions: they do not depend on them."""
        return self


class Matcher:
    """The matcher of the released configuration (`argmax_matcher` of the TensorFlow Object Detection API).

    An anchor is matched to the box that it overlaps most, if their IoU is at least `matched`. Below
    `unmatched` it is background, and in between it is ignored. With `force`, each box also claims the anchor
    that *it* overlaps most, even if the IoU is small (but not 0) or the anchor is matched to another box. The
    first one wins ties: between boxes that claim the same anchor, boxes that overlap an anchor equally, and
    equal anchors.

    Boxes with label -1 are ignored: they claim nothing, and anchors that would be background but have an IoU
    of `unmatched` or more with such a box are ignored too.

    Args:
        matched, unmatched: the two thresholds.
        force: whether each box claims its best anchor.
        coder: how boxes are encoded relative to their anchors.

    Raises:
        ValueError: if the thresholds are out of order.
    """

    def __init__(
        self,
        *,
        matched: float = 0.5,
        unmatched: float = 0.5,
        force: bool = True,
        coder: Coder | None = None,
    ) -> None:
        if not 0 < unmatched <= matched <= 1:
            raise ValueError(
                f"need 0 < unmatched <= matched <= 1, got unmatched={unmatched}, matched={matched}"
            )
        self.matched, self.unmatched, self.force = matched, unmatched, force
        self.coder: Coder = coder or BoxCoder()

    @torch.no_grad()
    def __call__(self, anchors: Tensor, boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> Targets:
        """Targets for N images.

        Args:
            anchors: [A, 4], xyxy.
            boxes: per image [M, 4], xyxy in the same unit as the anchors; empty, inverted and non-finite ones
                match nothing.
            labels: per image int64 [M], class indices from 0, or -1.

        Raises:
            ValueError: if the numbers of boxes and labels of an image differ.
        """
        padded, classes = padded_objects(anchors, boxes, labels)
        usable = (padded.isfinite() & (padded[..., 2:] > padded[..., :2]).repeat(1, 1, 2)).all(-1)
        padded = torch.where(usable[..., None], padded, 0)
        iou = pairwise_iou(padded.flatten(0, 1), anchors).view(*padded.shape[:2], -1)  # [N, M, A]
        # Ignored boxes get a negative IoU: they never win the maximum, and the minimum finds them.
        iou = iou * torch.where(classes >= 0, 1, -1)[..., None]
        best, owner = iou.max(dim=1)  # [N, A]
        owner = torch.where(best >= self.matched, owner, -1)
        excluded = (best >= self.unmatched) | (iou.amin(dim=1) <= -self.unmatched)
        if self.force:
            claimed = _claims(iou)
            owner = torch.where(claimed >= 0, claimed, owner)
        return self._targets(anchors, padded, classes, owner, excluded)

    def report(self, split: DetectionSplit, anchors: Tensor, input_size: Sequence[int]) -> list[str]:
        """How well the anchors cover the objects of a split, in words."""
        return anchor_report(split, anchors, input_size, self)

    def _targets(
        self, anchors: Tensor, boxes: Tensor, classes: Tensor, owner: Tensor, excluded: Tensor
    ) -> Targets:
        has_owner, index = owner >= 0, owner.clamp(min=0)
        rest = torch.where(excluded, IGNORED_ANCHOR, BACKGROUND)
        own_boxes = boxes.gather(1, index[..., None].expand(-1, -1, 4))
        # An anchor without a box is encoded relative to itself, which gives 0.
        deltas = self.coder.encode(torch.where(has_owner[..., None], own_boxes, anchors), anchors)
        has_anchor = torch.zeros_like(classes).scatter_reduce_(1, index, has_owner.long(), "amax")
        return Targets(
            labels=torch.where(has_owner, classes.gather(1, index) + 1, rest),
            deltas=deltas.float(),
            num_matched=has_owner.sum(),
            unmatched_objects=((classes >= 0) & (has_anchor == 0)).sum(),
        )


def padded_objects(
    anchors: Tensor, boxes: Sequence[Tensor], labels: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Boxes [N, M, 4] and labels [N, M] of all images, M at least 1, padded with boxes of label -1.

    Raises:
        ValueError: if the numbers of boxes and labels of an image differ.
    """
    for image, (rows, numbers) in enumerate(zip(boxes, labels, strict=True)):
        if len(rows) != len(numbers):
            raise ValueError(f"image {image} of the batch has {len(rows)} boxes but {len(numbers)} labels")
    one = anchors.new_zeros(1, 4)
    all_boxes = [*(rows.reshape(-1, 4).to(one) for rows in boxes), one]
    all_labels = [*(numbers.reshape(-1).to(one.device, torch.int64) for numbers in labels), one[:, 0].long()]
    return pad_sequence(all_boxes, True)[:-1], pad_sequence(all_labels, True, padding_value=-1)[:-1]


def _claims(iou: Tensor) -> Tensor:
    """The box that claims each anchor as its best: IoU [N, M, A] -> index [N, A], -1 for none."""
    images, boxes, anchors = iou.shape
    most, best = iou.max(dim=2)
    best = torch.where(most > 0, best, anchors)  # boxes that claim nothing go to an extra last column
    order = torch.arange(boxes, device=iou.device).expand(images, -1)
    first = torch.full((images, anchors + 1), boxes, device=iou.device).scatter_reduce_(
        1, best, order, "amin"
    )
    return torch.where(first < boxes, first, -1)[:, :-1]
