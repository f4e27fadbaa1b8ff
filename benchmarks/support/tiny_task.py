"""A task of a few convolutions, for benchmarks of the training loop itself."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 19
Batch = dict[str, Tensor]


def tiny_network() -> nn.Module:
    """Two convolutions, at the input's resolution."""
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, CLASSES, 1)]
    return nn.Sequential(*layers)


def random_batch(model: nn.Module, size: tuple[int, int], num_images: int) -> Batch:
    """Noise of `size` (height, width), with a label for each score of the model."""
    images = torch.randn(num_images, 3, *size).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        grid = model(images).shape[-2:]
    return {"image": images, "label": torch.randint(0, CLASSES, (num_images, *grid))}


class PixelTask(nn.Module):
    """Cross entropy at the network's own resolution, and no metrics."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {"cross_entropy": F.cross_entropy(self.model(batch["image"]), batch["label"])}

    def weight(self, batch: Batch) -> Tensor:
        return torch.tensor(float(batch["label"].numel()))

    def evaluator(self, dataset: Any) -> "NoMetrics":
        return NoMetrics()


class NoMetrics:
    """An evaluator with nothing to count."""

    main_metric = "score"

    def reset(self) -> None: ...

    def update(self, outputs: Any, batch: Any) -> None: ...

    def state(self) -> dict[str, Any]:
        return {}

    def merge(self, states: list[dict[str, Any]]) -> None: ...

    def compute(self) -> dict[str, Any]:
        return {"score": 0.0}


class UnreadSplit(list[Any]):
    """An evaluation split that is never read."""

    has_labels = True
