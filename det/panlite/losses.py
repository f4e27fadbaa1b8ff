"""The loss of PANLite: scores that predict the quality of boxes, and distances as distributions."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss

from det.anchors.matcher import IGNORED_ANCHOR
from det.boxes import mean_distances
from det.losses import Losses
from det.panlite.assignment import AlignedTargets


class QualityLoss(nn.Module):
    """Quality focal loss, GIoU loss and distribution focal loss (Generalized Focal Loss, Li et al., 2020).

    Classification: binary cross entropy of each score with the quality of the cell for this class (0 at cells
    of other classes and of none), times |quality - score| ** gamma. Localization and distribution: 1 - GIoU
    (Rezatofighi et al., 2019) of the predicted box, and the cross entropy of the logits of the two bins
    around each true distance, averaged over the four; at assigned cells, weighted by their quality.

    All three are sums over the batch, divided by its number of objects (at least 1), computed in float32.

    Args:
        gamma: how strongly scores that are nearly right are down-weighted.
        box_weight, distribution_weight: factors on the last two losses.

    Raises:
        ValueError: if a number is below 0.
    """

    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    background_column = False

    def __init__(
        self, *, gamma: float = 2.0, box_weight: float = 2.0, distribution_weight: float = 0.5
    ) -> None:
        super().__init__()
        values = {"gamma": gamma, "box_weight": box_weight, "distribution_weight": distribution_weight}
        for name, value in values.items():
            if not value >= 0:  # also rejects NaN
                raise ValueError(f"{name} must be at least 0, got {value}")
        self.gamma, self.box_weight, self.distribution_weight = gamma, box_weight, distribution_weight

    def forward(self, deltas: Tensor, scores: Tensor, targets: AlignedTargets) -> Losses:
        """Distance logits [N, A, 4 * bins] and scores [N, A, K] -> losses by name."""
        assigned = targets.labels > 0
        quality, logits = targets.quality[assigned], deltas[assigned].float()
        distances = targets.deltas[assigned]
        box_errors = generalized_box_iou_loss(_around(mean_distances(logits)), _around(distances))
        objects = targets.num_objects.clamp(min=1)
        return {
            "classification": self._classification(scores.float(), targets) / objects,
            "localization": self.box_weight * (quality * box_errors).sum() / objects,
            "distribution": self.distribution_weight
            * (quality * distribution_focal(logits, distances)).sum()
            / objects,
        }

    def _classification(self, scores: Tensor, targets: AlignedTargets) -> Tensor:
        truth = torch.zeros_like(scores)
        own = (targets.labels - 1).clamp(min=0)[..., None]
        truth.scatter_(2, own, targets.quality[..., None])
        losses = F.binary_cross_entropy_with_logits(scores, truth, reduction="none")
        losses = (truth - scores.sigmoid()).abs() ** self.gamma * losses
        return losses[targets.labels != IGNORED_ANCHOR].sum()


def distribution_focal(logits: Tensor, distances: Tensor) -> Tensor:
    """Logits [P, 4 * bins] and true distances [P, 4] -> loss [P], the mean over the four sides.

    A distance between the bins i and i + 1 has the targets i + 1 - distance and distance - i there; one
    outside 0..bins - 1 is moved to the nearest of the two.
    """
    logits = logits.reshape(len(logits), 4, logits.shape[-1] // 4).log_softmax(dim=-1)
    last = logits.shape[-1] - 1
    distances = distances.clamp(0, last)
    lower = distances.floor().clamp(max=last - 1)
    of_lower, of_upper = (-logits.gather(-1, (lower + step).long()[..., None])[..., 0] for step in (0, 1))
    upper_share = distances - lower
    return (of_lower * (1 - upper_share) + of_upper * upper_share).mean(dim=-1)


def _around(distances: Tensor) -> Tensor:
    """Distances (left, top, right, bottom) [P, 4] -> boxes around the origin, xyxy."""
    return torch.cat([-distances[:, :2], distances[:, 2:]], dim=1)
