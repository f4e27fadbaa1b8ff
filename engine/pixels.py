"""From pixels to what a network was trained on."""

import torch
from torch import Tensor, nn

PIXELS = {
    "inception": ((127.5,) * 3, (127.5,) * 3),  # the paper's code: (2 / 255) x - 1
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),  # torchvision's weights
}
"""Mean and standard deviation of the pixels (0..255) that a network was trained with."""


class Normalise(nn.Module):
    """uint8 [N, 3, H, W] -> float, as the network takes it.

    Args:
        pixels: `inception` or `imagenet`.

    Raises:
        ValueError: another name.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, pixels: str) -> None:
        super().__init__()
        if pixels not in PIXELS:
            raise ValueError(f"pixels must be one of {', '.join(PIXELS)}, got {pixels!r}")
        mean, std = PIXELS[pixels]
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.mean.device

    def forward(self, images: Tensor) -> Tensor:
        return (images.float() - self.mean) / self.std
