"""Losses on the two outputs of a detector: box deltas and class scores.

Both are called as loss(deltas [N, A, 4], scores [N, A, K + 1], targets), with the targets of
`det.anchors.matcher`, and return {"classification": scalar, "localization": scalar}: sums over the anchors of
the batch, divided by the number of matched anchors (at least 1). They are computed in float32, even under
autocast.
"""

from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss

from det.anchors.matcher import IGNORED_ANCHOR, Targets

Losses = dict[str, Tensor]


class Loss(Protocol):
    """The loss on a detector's two raw outputs, deltas [N, A, B] and scores [N, A, C].

    Attributes:
        activation: what turns scores into confidences.
        background_column: whether the first score is for background.
    """

    activation: Literal["sigmoid", "softmax"]
    background_column: bool

    def __call__(self, deltas: Tensor, scores: Tensor, targets: Any) -> Losses: ...


class FocalLoss(nn.Module):
    """The loss of the released configuration: sigmoid focal loss plus smooth L1, with equal weights.

    Classification: Lin et al. 2017, equation 5, over all K + 1 columns. The target is 1 in the column of an
    anchor's object, and 0 in all columns at anchors without one, including the background's
    (`encode_background_as_zeros`). Localization: smooth L1 at matched anchors, the mean of the four deltas
    (`normalize_loc_loss_by_codesize`).

    Args:
        alpha: weight of columns whose target is 1; 1 - alpha for the others.
        gamma: how strongly easy columns are down-weighted; 0 for plain cross entropy.
        delta: error at which smooth L1 turns from quadratic to linear.
        background: make the background a class of its own, whose target is 1 at anchors without an object.

    Raises:
        ValueError: if an argument is out of range.
    """

    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    background_column = True

    def __init__(
        self, *, alpha: float = 0.75, gamma: float = 2.0, delta: float = 1.0, background: bool = False
    ) -> None:
        super().__init__()
        if not 0 < alpha < 1:
            raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
        if not gamma >= 0:  # also rejects NaN
            raise ValueError(f"gamma must be at least 0, got {gamma}")
        self.alpha, self.gamma, self.delta, self.background = alpha, gamma, _positive(delta), background

    def forward(self, deltas: Tensor, scores: Tensor, targets: Targets) -> Losses:
        counted = targets.labels != IGNORED_ANCHOR
        truth = targets.labels.clamp(min=0)[..., None]  # [N, A, 1]
        is_one = torch.ones_like(truth, dtype=torch.bool) if self.background else truth > 0
        scores = scores.float()
        # Scores whose target is 1 are negated, so that lower is better everywhere.
        own = scores.gather(2, truth)
        wrong = scores.scatter(2, truth, torch.where(is_one, -own, own))
        # Powers through the logarithm, because the gradient of 0 ** gamma is infinite for gamma < 1.
        focal = torch.exp(self.gamma * F.logsigmoid(wrong)) * F.softplus(wrong)
        of_truth = (focal.gather(2, truth) * is_one)[..., 0]
        per_anchor = (1 - self.alpha) * focal.sum(2) + (2 * self.alpha - 1) * of_truth
        matches = targets.num_matched.clamp(min=1)
        return {
            "classification": torch.where(counted, per_anchor, 0).sum() / matches,
            "localization": _smooth_l1(deltas, targets, self.delta) / (4 * matches),
        }


class MultiboxLoss(nn.Module):
    """The loss of the SSD paper (section 2.2): softmax cross entropy with mined negatives, plus smooth L1.

    Classification: over matched anchors and, in each image, over the unmatched ones with the largest loss, up
    to `negatives` times as many. Localization: smooth L1 at matched anchors, the sum of the four deltas.
    Equal to torchvision's `SSD.compute_loss`, except for images with more than a quarter of their anchors
    matched: torchvision runs out of negatives there and counts matched anchors twice.

    Args:
        negatives: mined anchors per matched one.
        min_negatives: minimum number of mined anchors per image, so that images without objects contribute
            too. The paper has 0.
        delta: error at which smooth L1 turns from quadratic to linear.

    Raises:
        ValueError: if an argument is out of range.
    """

    activation: Literal["sigmoid", "softmax"] = "softmax"
    background_column = True

    def __init__(self, *, negatives: float = 3.0, min_negatives: int = 0, delta: float = 1.0) -> None:
        super().__init__()
        if not negatives > 0:
            raise ValueError(f"negatives must be above 0 (the SSD paper: 3), got {negatives}")
        if min_negatives < 0:
            raise ValueError(f"min_negatives must be at least 0, got {min_negatives}")
        self.negatives, self.min_negatives, self.delta = negatives, min_negatives, _positive(delta)

    def forward(self, deltas: Tensor, scores: Tensor, targets: Targets) -> Losses:
        labels = targets.labels
        losses = F.cross_entropy(
            scores.float().flatten(0, 1), labels.clamp(min=0).flatten(), reduction="none"
        ).view_as(labels)
        positive = labels > 0
        wanted = (self.negatives * positive.sum(1, keepdim=True)).clamp(min=self.min_negatives)  # [N, 1]
        hardness = losses.detach().masked_fill(labels != 0, -torch.inf)
        order = hardness.argsort(dim=1, descending=True, stable=True)
        rank = torch.arange(labels.shape[1], device=labels.device)
        mined = (rank < wanted) & (labels.gather(1, order) == 0)
        hardest = torch.where(mined, losses.gather(1, order), 0)
        matches = targets.num_matched.clamp(min=1)
        return {
            "classification": (torch.where(positive, losses, 0).sum() + hardest.sum()) / matches,
            "localization": _smooth_l1(deltas, targets, self.delta) / matches,
        }


def imitation(
    scores: Tensor,
    boxes: Tensor,
    teacher_scores: Tensor,
    teacher_boxes: Tensor,
    *,
    activation: Literal["sigmoid", "softmax"],
    background_column: bool,
    gamma: float = 2.0,
) -> Tensor:
    """How far a detector is from its teacher, summed over images and anchors.

    Scores: cross entropy with the teacher's confidences (binary for each column, or over the columns of a
    softmax), times |teacher's - own| ** gamma as in Generalized Focal Loss (Li et al., 2020), so that the
    many anchors on background, where both agree, do not count. Boxes: 1 - GIoU of the two boxes of an anchor,
    times the teacher's largest confidence in an object there.

    Args:
        scores, teacher_scores: raw, [N, A, C].
        boxes, teacher_boxes: decoded, [N, A, 4].

    Returns:
        A scalar, computed in float32.
    """
    scores, teacher_scores = scores.float(), teacher_scores.float()
    if activation == "sigmoid":
        own, wanted = scores.sigmoid(), teacher_scores.sigmoid()
        errors = F.binary_cross_entropy_with_logits(scores, wanted, reduction="none")
    else:
        own, wanted = scores.softmax(-1), teacher_scores.softmax(-1)
        errors = -wanted * scores.log_softmax(-1)
    of_scores = ((wanted - own).abs() ** gamma * errors).sum()
    confidence = wanted[..., 1:] if background_column else wanted
    of_boxes = confidence.amax(-1) * generalized_box_iou_loss(boxes.float(), teacher_boxes.float())
    total: Tensor = of_scores + of_boxes.sum()
    return total


def _smooth_l1(deltas: Tensor, targets: Targets, delta: float) -> Tensor:
    """Sum over matched anchors and the four deltas; x² / 2 up to |x| = delta."""
    errors = F.huber_loss(deltas.float(), targets.deltas, reduction="none", delta=delta).sum(2)
    return torch.where(targets.labels > 0, errors, 0).sum()


def _positive(delta: float) -> float:
    if not delta > 0:
        raise ValueError(f"delta must be above 0, got {delta}")
    return delta
