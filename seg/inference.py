"""From scores on a network's grid to scores at full resolution: plain, flipped, multi-scale, tiled."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Network = Callable[[Tensor], Tensor]


def resize(values: Tensor, size: tuple[int, int], *, align_corners: bool) -> Tensor:
    """Bilinear: [N, C, h, w] -> [N, C, *size]"""
    if tuple(values.shape[-2:]) == tuple(size):
        return values
    return F.interpolate(values, size, mode="bilinear", align_corners=align_corners)


class Inference:
    """How class scores are computed from one image.

    Args:
        scales: factors on the image; with several, or with `flip`, probabilities are averaged.
        flip: also score the mirrored image.
        window: (height, width) of a sliding window (None: the whole image at once).
        overlap: share of the window that neighbors have in common.

    Raises:
        ValueError: no scale, a scale that is not positive, a window smaller than 32, an overlap outside
            [0, 1).
    """

    def __init__(
        self,
        *,
        scales: list[float] | tuple[float, ...] = (1.0,),
        flip: bool = False,
        window: list[int] | tuple[int, int] | None = None,
        overlap: float = 1 / 3,
    ) -> None:
        if not scales or min(scales) <= 0:
            raise ValueError(f"inference.scales must be positive numbers, got {list(scales)}")
        if window is not None and (len(window) != 2 or min(window) < 32):
            raise ValueError(
                f"inference.window must be [height, width] of at least 32 pixels, got {list(window)}"
            )
        if not 0 <= overlap < 1:
            raise ValueError(f"inference.overlap must be in [0, 1), got {overlap}")
        self.scales, self.flip, self.window, self.overlap = tuple(scales), flip, window, overlap

    def __str__(self) -> str:
        parts = [
            "scales " + "/".join(f"{scale:g}" for scale in self.scales),
            "flip" if self.flip else "no flip",
        ]
        return ", ".join(parts + ([f"window {self.window[0]}x{self.window[1]}"] if self.window else []))

    def __call__(
        self, network: Network, images: Tensor, size: tuple[int, int], *, align_corners: bool
    ) -> Tensor:
        """Normalized images [N, 3, h, w] -> class scores or summed probabilities [N, K, *size]."""
        plain = self.scales == (1.0,) and not self.flip
        if plain and self.window is None:
            return resize(network(images), size, align_corners=align_corners)
        total: Tensor | None = None
        for scale in self.scales:
            height, width = (max(1, round(side * scale)) for side in images.shape[-2:])
            scaled = resize(images, (height, width), align_corners=False)
            for mirror in (False, True) if self.flip else (False,):
                scores = self._score(network, scaled.flip(-1) if mirror else scaled, align_corners)
                probabilities = resize(scores, size, align_corners=align_corners).softmax(1)
                probabilities = probabilities.flip(-1) if mirror else probabilities
                total = probabilities if total is None else total + probabilities
        assert total is not None
        return total

    def _score(self, network: Network, images: Tensor, align_corners: bool) -> Tensor:
        if self.window is None:
            return network(images)
        height, width = images.shape[-2:]
        rows, columns = min(self.window[0], height), min(self.window[1], width)
        total, count = None, images.new_zeros(1, 1, height, width)
        for top in _starts(height, rows, self.overlap):
            for left in _starts(width, columns, self.overlap):
                tile = images[..., top : top + rows, left : left + columns]
                scores = resize(network(tile), (rows, columns), align_corners=align_corners)
                if total is None:
                    total = scores.new_zeros(scores.shape[0], scores.shape[1], height, width)
                total[..., top : top + rows, left : left + columns] += scores
                count[..., top : top + rows, left : left + columns] += 1
        assert total is not None
        return total / count


def _starts(length: int, window: int, overlap: float) -> list[int]:
    # Evenly spaced so that the last window ends at the border: no tile is padded.
    number = 1 if length == window else math.ceil((length - window) / max(window * (1 - overlap), 1)) + 1
    return [round(start) for start in torch.linspace(0, length - window, number).tolist()]
