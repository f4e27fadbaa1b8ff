"""Semantic segmentation as the engine sees it: batch -> losses, batch -> label maps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.classes import ClassMap
from engine.data import Draw
from engine.images import read_image, write_png
from engine.task import Batch
from seg.dataset import SegmentationDataset, spread
from seg.draw import overlay, present_classes, with_legend
from seg.evaluator import SegmentationEvaluator
from seg.inference import Inference, resize
from seg.losses import CrossEntropy, Dice

# Mean and standard deviation of the pixels (0..255) that a network was trained with.
PIXELS = {
    "inception": ((127.5,) * 3, (127.5,) * 3),  # the paper's code: (2 / 255) x - 1
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),  # torchvision's weights
}


class Segmentation(nn.Module):
    """Semantic segmentation.

    A batch holds `image` [N, 3, h, w] uint8, `label` [N, H, W] uint8 (255: not counted) and `index` [N].

    Args:
        model: normalised images -> class scores at some stride.
        classes: the data set's class map.
        loss: pixel loss; its `weight(labels)` says over how many pixels it averages.
        dice: factor on an additional Dice loss.
        pixels: input normalisation, `inception` or `imagenet`.
        align_corners: how scores are resized to the labels.
        inference: how label maps are predicted (None: the whole image, once).
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        classes: ClassMap,
        loss: CrossEntropy | None = None,
        dice: float = 0.0,
        pixels: str = "inception",
        align_corners: bool = True,
        inference: Inference | None = None,
    ) -> None:
        super().__init__()
        if pixels not in PIXELS:
            raise ValueError(f"pixels must be one of {', '.join(PIXELS)}, got {pixels!r}")
        if dice < 0:
            raise ValueError(f"dice is a factor and must not be negative, got {dice}")
        self.model, self.classes = model, classes
        self.loss = loss or CrossEntropy()
        self.dice, self.dice_loss = dice, Dice()
        self.align_corners, self.inference = align_corners, inference or Inference()
        mean, std = PIXELS[pixels]
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses by name, each the mean over the counted pixels."""
        labels = batch["label"].long()
        scores = self.model(self.normalise(batch["image"]))
        scores = resize(scores, labels.shape[-2:], align_corners=self.align_corners)
        losses = {"cross_entropy": self.loss(scores, labels)}
        if self.dice:
            losses["dice"] = self.dice * self.dice_loss(scores, labels)
        return losses

    def weight(self, batch: Batch) -> Tensor:
        """Counted pixels of the batch."""
        return self.loss.weight(batch["label"].long())

    def predict(self, batch: Batch) -> Tensor:
        """Class indices [N, H, W] uint8, at the size of `label`, or else of `image`."""
        size = tuple(batch["label"].shape[-2:] if "label" in batch else batch["image"].shape[-2:])
        images = self.normalise(batch["image"])
        scores = self.inference(self.model, images, size, align_corners=self.align_corners)
        return scores.argmax(1).to(torch.uint8)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 [N, 3, h, w] -> float, as the network takes it."""
        return (images.float() - self.mean) / self.std

    def evaluator(self, dataset: SegmentationDataset) -> SegmentationEvaluator:
        """The evaluator for a split of this task's data."""
        return SegmentationEvaluator(classes=self.classes, names=dataset.name)

    def save_samples(self, dataset: SegmentationDataset, folder: Path, *, count: int) -> None:
        """Draw predictions for `count` images spread over a split: image, prediction and, where known, the truth."""
        for index in spread(len(dataset), count) if count else []:
            self.save_picture(dataset, index, folder / f"{dataset.name(index).replace('/', '_')}.png")

    @torch.inference_mode()
    def save_picture(self, dataset: SegmentationDataset, index: int, path: Path) -> None:
        """Draw one sample of a split: image, prediction and, where known, the truth, above a legend."""
        self.eval()
        sample = dataset[Draw(index, 0)]
        batch = {name: value[None].to(self.mean.device) for name, value in sample.items() if name != "index"}
        labels = self.predict(batch)[0].cpu().numpy()
        image = read_image(dataset.image_path(index))
        panels = [image, overlay(image, labels, self.classes)]
        present = present_classes(labels, self.classes)
        if "label" in sample:
            truth = sample["label"].numpy()
            panels.append(overlay(image, truth, self.classes))
            present = sorted({*present, *present_classes(truth, self.classes)})
        write_png(path, with_legend(np.concatenate(panels, axis=1), self.classes, present))


def class_weights(classes: ClassMap, weights: Mapping[str, float]) -> list[float]:
    """Weights by class name -> a list in the order of the class map; classes that are not named weigh 1."""
    unknown = set(weights) - set(classes.names)
    if unknown:
        raise ValueError(f"class weights for unknown classes {sorted(unknown)}; there are {', '.join(classes.names)}")
    return [float(weights.get(name, 1.0)) for name in classes.names]


def summary(labels: Any, classes: ClassMap) -> dict[str, float]:
    """Share of the image that each predicted class covers, largest first."""
    values, counts = torch.as_tensor(labels).unique(return_counts=True)
    shares = {classes.names[int(v)]: int(c) / labels.size for v, c in zip(values, counts, strict=True)}
    return dict(sorted(shares.items(), key=lambda item: -item[1]))
