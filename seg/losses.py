"""Losses on label maps, in which pixels labeled 255 are ignored."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.data.class_map import IGNORE


class CrossEntropy(nn.Module):
    """Cross entropy per pixel, averaged over the counted pixels.

    Args:
        class_weights: one factor per class, none negative and not all 0 (None: 1 for all).
        label_smoothing: share of the target spread evenly over the classes.
        ohem: online hard example mining: average over this share of the counted pixels, the hardest ones;
            None: over all.
        ohem_threshold: pixels whose true class has a lower probability than this are always among the hard.

    Raises:
        ValueError: if an argument is out of range; on the first call, if there is not one weight per class.
    """

    def __init__(
        self,
        *,
        class_weights: list[float] | None = None,
        label_smoothing: float = 0.0,
        ohem: float | None = None,
        ohem_threshold: float = 0.7,
    ) -> None:
        super().__init__()
        if ohem is not None and not 0 < ohem <= 1:
            raise ValueError(f"ohem must be a share of the pixels in (0, 1], got {ohem}")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        if class_weights is not None and not _are_weights(class_weights):
            raise ValueError(
                f"class_weights must be numbers of at least 0, and not all 0, got {list(class_weights)}"
            )
        self.label_smoothing, self.ohem, self.ohem_threshold = label_smoothing, ohem, ohem_threshold
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)
        self.class_weights: Tensor | None

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """logits [N, K, H, W] and labels [N, H, W] in 0..K-1 or 255 -> scalar."""
        if self.class_weights is not None and len(self.class_weights) != logits.shape[1]:
            raise ValueError(f"{len(self.class_weights)} class_weights for {logits.shape[1]} classes")
        losses = F.cross_entropy(
            logits.float(),
            labels,
            weight=self.class_weights,
            ignore_index=IGNORE,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )
        if self.ohem is not None:
            return self._hardest(losses, logits, labels)
        return losses.sum() / self.weight(labels).clamp(min=1e-12)

    def weight(self, labels: Tensor) -> Tensor:
        """What the mean is divided by: the number of counted pixels, or the sum of their class weights."""
        if self.class_weights is None:
            return (labels != IGNORE).sum().float()
        # Summing over all pixels, zeros included, would save CUDA a synchronization, but round differently.
        return self.class_weights[labels[labels != IGNORE]].sum()

    def _hardest(self, losses: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        counted = labels != IGNORE
        if not bool(counted.any()):
            return losses.sum() * 0.0
        losses = losses[counted]
        with torch.no_grad():
            truth = logits.float().softmax(1).gather(1, labels.clamp(max=logits.shape[1] - 1).unsqueeze(1))
            hard = (truth.squeeze(1)[counted] < self.ohem_threshold).sum()
            num_hardest = max(int(losses.numel() * self.ohem), int(hard), 1)  # type: ignore[operator]
        return losses.topk(num_hardest).values.mean()


def _are_weights(values: list[float]) -> bool:
    return all(0 <= value < math.inf for value in values) and any(value > 0 for value in values)


class Dice(nn.Module):
    """1 - the mean soft Dice coefficient of the classes in the batch (Milletari et al., 2016)."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """logits [N, K, H, W] and labels [N, H, W] -> scalar."""
        num_classes = logits.shape[1]
        counted = (labels != IGNORE).flatten()
        truth = labels.flatten().masked_fill(~counted, 0)
        # One row per pixel, the memory layout of channels-last scores: rows are faster to sum.
        probabilities = logits.float().permute(0, 2, 3, 1).reshape(-1, num_classes).softmax(1)
        weight = counted.to(probabilities.dtype)
        of_truth = probabilities.gather(1, truth[:, None]).squeeze(1) * weight
        overlap = probabilities.new_zeros(num_classes).index_add(0, truth, of_truth)
        sizes = torch.bincount(truth[counted], minlength=num_classes)
        total = sizes + weight @ probabilities
        dice = (2 * overlap / total.clamp(min=1e-6))[sizes > 0]
        return 1 - dice.mean() if len(dice) else logits.sum() * 0.0


class Lovasz(nn.Module):
    """The Lovász-softmax loss, a surrogate of 1 - mIoU (Berman et al., arXiv 1705.08790).

    For each class in the batch, the errors |truth - probability| of the counted pixels are sorted, largest
    first, and weighted by how much each increases the Jaccard loss; the mean over these classes is returned.

    Args:
        max_pixels: in a larger batch, only every nth counted pixel is used, since sorting all of them can
            take longer than the rest of a step. n is odd, so that these are not always in the same columns.
    """

    def __init__(self, *, max_pixels: int = 50_000) -> None:
        super().__init__()
        if max_pixels < 1:
            raise ValueError(f"max_pixels must be at least 1, got {max_pixels}")
        self.max_pixels = max_pixels

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """logits [N, K, H, W] and labels [N, H, W] -> scalar."""
        used = (labels.flatten() != IGNORE).nonzero().squeeze(1)
        used = used[:: math.ceil(max(len(used), 1) / self.max_pixels) // 2 * 2 + 1]
        truth = labels.flatten()[used]
        scores = logits.permute(0, 2, 3, 1).reshape(-1, logits.shape[1])[used]
        probabilities = scores.float().softmax(1)
        classes = torch.unique(truth).tolist()
        if not classes:
            return logits.sum() * 0.0
        losses = []
        for number in classes:
            is_class = (truth == number).float()
            errors, order = (is_class - probabilities[:, number]).abs().sort(descending=True)
            hits = is_class[order]
            size = hits.sum()
            jaccard = 1 - (size - hits.cumsum(0)) / (size + (1 - hits).cumsum(0))
            steps = torch.cat([jaccard[:1], jaccard.diff()])
            losses.append((errors * steps).sum())
        return torch.stack(losses).mean()
