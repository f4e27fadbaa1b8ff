"""Training targets that depend on the predictions: which cells predict which object, and how well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from det.anchors.coverage import cell_report
from det.anchors.matcher import BACKGROUND, IGNORED_ANCHOR, padded_objects
from det.boxes import Coder, DistanceCoder, pairwise_iou
from det.data.dataset import DetectionSplit


class AlignedTargets(NamedTuple):
    """The targets of each cell, for a batch of N images.

    Attributes:
        labels: int64 [N, A]; 0 background, k + 1 class k, -1 ignored.
        deltas: float32 [N, A, 4], the encoded box of the cell's object; meaningless at other cells.
        quality: float32 [N, A], in 0..1: the score to predict for the object's class; 0 at other cells.
        num_objects: int64 scalar, number of objects in the batch.
    """

    labels: Tensor
    deltas: Tensor
    quality: Tensor
    num_objects: Tensor


class TaskAligned:
    """The assignment of TOOD (Feng et al., 2021, section 3.2): by how well a cell already does both tasks.

    A cell's alignment with an object is score ** alpha * IoU ** beta, of its score for the object's class and
    of its predicted box. Candidates are the cells whose center is inside the object; if there are none, the
    cell whose center is nearest to the object's. Each object is assigned to the `topk` candidates of highest
    alignment; a cell that several objects chose belongs to the one that it overlaps most. The target of the
    score is the alignment, scaled so that the highest of an object becomes its highest IoU.

    Cells inside a box with label -1 are ignored, unless they are assigned to an object.

    Args:
        topk: largest number of cells per object.
        alpha, beta: exponents of score and IoU.
        coder: how boxes are encoded.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(
        self, *, topk: int = 13, alpha: float = 1.0, beta: float = 6.0, coder: Coder | None = None
    ) -> None:
        if topk < 1:
            raise ValueError(f"topk must be at least 1, got {topk}")
        if not (alpha >= 0 and beta >= 0):  # also rejects NaN
            raise ValueError(f"alpha and beta must be at least 0, got {alpha} and {beta}")
        self.topk, self.alpha, self.beta = topk, alpha, beta
        self.coder = coder or DistanceCoder()

    def __call__(self, anchors: Tensor, boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> Candidates:
        """The objects of N images and their candidates; the arguments are those of `Matcher`."""
        padded, classes = padded_objects(anchors, boxes, labels)
        usable = (padded.isfinite() & (padded[..., 2:] > padded[..., :2]).repeat(1, 1, 2)).all(-1)
        padded = torch.where(usable[..., None], padded, 0)
        return Candidates(
            rule=self,
            anchors=anchors,
            boxes=padded,
            classes=torch.where(usable, classes, IGNORED_ANCHOR),
            inside=centers_inside(anchors, padded),
            real=usable & (classes >= 0),
        )

    def report(self, split: DetectionSplit, anchors: Tensor, input_size: Sequence[int]) -> list[str]:
        """How well the cells fit the objects of a split, in words."""
        return cell_report(split, anchors, input_size)


class Candidates:
    """The objects of a batch before they are assigned to cells; see `TaskAligned`.

    Args:
        boxes: [N, M, 4], padded.
        classes: [N, M], -1 for boxes that are ignored and for padding.
        inside: bool [N, M, A], whether a cell's center is inside a box.
        real: bool [N, M], whether this is an object to learn.
    """

    def __init__(
        self,
        *,
        rule: TaskAligned,
        anchors: Tensor,
        boxes: Tensor,
        classes: Tensor,
        inside: Tensor,
        real: Tensor,
    ) -> None:
        self.rule, self.anchors, self.boxes, self.classes = rule, anchors, boxes, classes
        self.inside, self.real = inside, real

    @property
    def weight(self) -> Tensor:
        """Number of objects, over which losses are a mean; at least 1."""
        return self.real.sum().clamp(min=1)

    @torch.no_grad()
    def given(self, deltas: Tensor, scores: Tensor) -> AlignedTargets:
        """The targets, given raw predictions [N, A, B] and [N, A, K]."""
        rule, classes = self.rule, self.classes.clamp(min=0)
        predicted = rule.coder.decode(deltas.detach().float(), self.anchors)
        iou = torch.stack(
            [pairwise_iou(*pair) for pair in zip(self.boxes, predicted, strict=True)]
        )  # [N, M, A]
        own = classes[..., None].expand(-1, -1, iou.shape[2])
        confidence = scores.detach().float().sigmoid().mT.gather(1, own)
        alignment = confidence**rule.alpha * iou**rule.beta
        chosen = self._best(torch.where(self._allowed(), alignment, -1.0))
        overlap, owner = torch.where(chosen, iou, -1.0).max(dim=1)  # [N, A]
        assigned = overlap >= 0
        chosen &= owner[:, None] == torch.arange(iou.shape[1], device=owner.device)[:, None]
        quality = _scaled(torch.where(chosen, alignment, 0), torch.where(chosen, iou, 0))
        ignored = (self.inside & (self.classes < 0)[..., None]).any(dim=1)
        own_boxes = self.boxes.gather(1, owner[..., None].expand(-1, -1, 4))
        return AlignedTargets(
            labels=torch.where(
                assigned, classes.gather(1, owner) + 1, torch.where(ignored, IGNORED_ANCHOR, BACKGROUND)
            ),
            deltas=rule.coder.encode(own_boxes, self.anchors).float(),
            quality=quality,
            num_objects=self.real.sum(),
        )

    def _allowed(self) -> Tensor:
        """bool [N, M, A]: which cells may be assigned to which object."""
        centers = (self.boxes[..., :2] + self.boxes[..., 2:]) / 2
        places = (self.anchors[:, :2] + self.anchors[:, 2:]) / 2
        nearest = (centers[:, :, None] - places).square().sum(-1).argmin(-1, keepdim=True)
        only = torch.zeros_like(self.inside).scatter_(2, nearest, True)
        return torch.where(self.inside.any(2, keepdim=True), self.inside, only) & self.real[..., None]

    def _best(self, alignment: Tensor) -> Tensor:
        """The best cells of each object, given alignments [N, M, A] with -1 at cells that are not allowed."""
        best, places = alignment.topk(min(self.rule.topk, alignment.shape[2]), dim=2)
        return torch.zeros_like(alignment, dtype=torch.bool).scatter_(2, places, best >= 0)


def centers_inside(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Whether the center of each of the anchors [A, 4] is inside each of the boxes [N, M, 4] -> [N, M, A]."""
    x, y = ((anchors[:, :2] + anchors[:, 2:]) / 2).unbind(1)
    left, top, right, bottom = boxes[..., None].unbind(2)
    return (x > left) & (x < right) & (y > top) & (y < bottom)


def _scaled(alignment: Tensor, iou: Tensor) -> Tensor:
    """Alignments and IoUs [N, M, A], 0 at cells that an object does not own -> the cells' quality [N, A].

    An object's highest alignment becomes its highest IoU.
    """
    highest = alignment.amax(2, keepdim=True).clamp(min=torch.finfo(alignment.dtype).tiny)
    return (alignment / highest * iou.amax(2, keepdim=True)).amax(dim=1)
