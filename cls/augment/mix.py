"""Mixup and CutMix: two images of a batch are combined into one, and so are their labels."""

from typing import Any

import torch
from torch import Tensor


class Mix:
    """Mixes the images of each batch (Zhang et al., 2018; Yun et al., 2019), with torchvision's transforms.

    Args:
        mixup: alpha of mixup's Beta distribution; 0: no mixup.
        cutmix: alpha of CutMix's; 0: no CutMix. If both are on, each batch gets one of them at random.
        probability: of mixing a batch.

    Raises: ValueError naming the argument.
    """

    def __init__(self, *, mixup: float = 0.0, cutmix: float = 0.0, probability: float = 1.0) -> None:
        for name, value in (("mixup", mixup), ("cutmix", cutmix)):
            if value < 0:
                raise ValueError(f"{name} is the alpha of a Beta distribution and must be >= 0, got {value}")
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must be in 0..1, got {probability}")
        if probability != 1 and not mixup and not cutmix:
            raise ValueError(
                "probability has no effect without mixup or cutmix; set one of them, or leave it out"
            )
        # As floats: torch cannot draw from a Beta distribution of integers.
        self.mixup, self.cutmix, self.probability = float(mixup), float(cutmix), probability

    def __call__(self, pixels: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Float pixels [N, 3, H, W] and labels [N] -> mixed pixels, and labels [N] or shares [N, K].

        Draws from torch's generator, which the training loop seeds at each step.
        """
        kinds = [name for name in ("mixup", "cutmix") if getattr(self, name)]
        if not kinds or torch.rand(()).item() >= self.probability:
            return pixels, labels
        kind = kinds[int(torch.randint(len(kinds), ()))]
        mixed, shares = self._transform(kind, num_classes)(pixels, labels)
        return mixed, shares

    def _transform(self, kind: str, num_classes: int) -> Any:
        from torchvision.transforms import v2  # takes a second to import

        if kind == "mixup":
            return v2.MixUp(alpha=self.mixup, num_classes=num_classes)
        return v2.CutMix(alpha=self.cutmix, num_classes=num_classes)
