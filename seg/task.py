"""Semantic segmentation as the engine sees it: batch -> losses, batch -> label maps."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.contracts import Batch
from engine.data.class_map import IGNORE, ClassMap
from engine.data.images import read_image, write_png
from engine.data.preprocessing import Normalize
from engine.data.sample_stream import Draw
from engine.errors import UserError
from engine.io.files import flat_name, spread
from engine.plots import confusion_picture
from engine.train.distillation import Distillation
from seg.data.dataset import SegmentationDataset
from seg.eval.evaluator import SegmentationEvaluator
from seg.inference import Inference, resize
from seg.losses import CrossEntropy, Dice
from seg.report import overlay, present_classes, with_legend
from seg.transforms import EvalTransform


class Segmentation(nn.Module):
    """Semantic segmentation.

    A batch holds `image` [N, 3, h, w] uint8, `label` [N, H, W] uint8 (255: not counted) and `index` [N].

    Args:
        model: normalized images -> class scores at some stride.
        classes: the data set's class map.
        loss: pixel loss; its `weight(labels)` says over how many pixels it averages.
        dice: factor on an additional Dice loss.
        pixels: input normalization, `inception` or `imagenet`.
        align_corners: how scores are resized to the labels.
        inference: how label maps are predicted (None: the whole image, once).
        eval_transform: what happens to a picture before it is predicted (None: nothing).

    Attributes:
        distillation: a loss towards a teacher's scores in training, where there is one.
    """

    distillation: Distillation | None = None

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
        eval_transform: EvalTransform | None = None,
    ) -> None:
        super().__init__()
        if dice < 0:
            raise ValueError(f"dice is a factor and must not be negative, got {dice}")
        weights = None if loss is None else loss.class_weights
        if weights is not None and len(weights) != len(classes):
            raise ValueError(
                f"loss.class_weights must hold one weight per class ({', '.join(classes.names)}: "
                f"{len(classes)}), got {len(weights)}"
            )
        self.model, self.classes = model, classes
        self.loss = loss or CrossEntropy()
        self.dice, self.dice_loss = dice, Dice()
        self.align_corners, self.inference = align_corners, inference or Inference()
        self.eval_transform = eval_transform or EvalTransform()
        self.normalize = Normalize(pixels)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses by name, each the mean over the counted pixels."""
        labels = batch["label"].long()
        scores = self.model(self.normalize(batch["image"]))
        scores = resize(scores, labels.shape[-2:], align_corners=self.align_corners)
        losses = {"cross_entropy": self.loss(scores, labels)}
        if self.dice:
            losses["dice"] = self.dice * self.dice_loss(scores, labels)
        if self.distillation is not None:
            targets = self.distillation.scores(batch["image"].float())
            targets = resize(targets, labels.shape[-2:], align_corners=self.align_corners)
            losses["distillation"] = self.distillation.loss(scores, targets, labels != IGNORE)
        return losses

    def weight(self, batch: Batch) -> Tensor:
        """Counted pixels of the batch."""
        return self.loss.weight(batch["label"].long())

    def predict(self, batch: Batch) -> Tensor:
        """Class indices [N, H, W] uint8, at `size` (height, width), or that of `label`."""
        size = tuple(batch["size"] if "size" in batch else batch["label"].shape[-2:])
        images = self.normalize(batch["image"])
        scores = self.inference(self.model, images, size, align_corners=self.align_corners)
        return scores.argmax(1).to(torch.uint8)

    def notes(self, dataset: SegmentationDataset) -> list[str]:
        """What is worth knowing about a split before training."""
        return []

    def check_classes(self, classes: ClassMap) -> None:
        """Raises: UserError where a data set has other classes than this task."""
        if classes.names != self.classes.names:
            raise UserError(
                f"the run was trained on other classes than this data set has ({', '.join(classes.names)})"
            )

    def evaluator(self, dataset: SegmentationDataset) -> SegmentationEvaluator:
        """The evaluator for a split of this task's data.

        Raises:
            ValueError: the split has no masks.
        """
        if not dataset.has_labels:
            raise ValueError(
                f"{dataset.image_path(0)}: this split has no masks to score against; add them, choose "
                "another data.split, or use tools/predict.py with input=<its folder>"
            )
        predicted = f"{self.eval_transform}, {self.inference}"
        return SegmentationEvaluator(classes=self.classes, names=dataset.name, predicted=predicted)

    @torch.inference_mode()
    def predict_image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """RGB [H, W, 3] -> class indices [H, W], both at the image's own size."""
        pixels, _ = self.eval_transform(image, None, 0)
        tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
        tensor = tensor.to(self.normalize.device)
        return self.predict({"image": tensor, "size": image.shape[:2]})[0].cpu().numpy()

    def picture(
        self,
        image: NDArray[np.uint8],
        labels: NDArray[np.uint8],
        *,
        legend: bool = True,
        all_classes: bool = False,
    ) -> NDArray[np.uint8]:
        """`image` tinted by `labels`, above a legend of the classes in it (or of all classes)."""
        tinted = overlay(image, labels, self.classes)
        if not legend:
            return tinted
        return with_legend(
            tinted, self.classes, None if all_classes else present_classes(labels, self.classes)
        )

    def save_prediction(self, labels: NDArray[np.uint8], out: Path, name: str) -> dict[str, Any]:
        """Write `masks/<name>.png` with the data set's own ids; returns the image's part of the summary."""
        write_png(out / "masks" / f"{name}.png", self.to_ids(labels))
        values, counts = np.unique(labels, return_counts=True)
        order = np.argsort(-counts)
        shares = {self.classes.names[values[i]]: round(float(counts[i]) / labels.size, 6) for i in order}
        return {"mask": f"masks/{name}.png", "size": list(labels.shape), "classes": shares}

    def to_ids(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Class indices -> ids of the data set (label ids for Cityscapes)."""
        ids = np.array(self.classes.ids)
        return ids.astype(np.uint8 if ids.max() < 256 else np.uint16)[labels]

    def save_label_ids(
        self, outputs: Tensor, batch: Batch, dataset: SegmentationDataset, folder: Path
    ) -> None:
        """Write a batch's predictions as label-id PNGs named after the images, for the Cityscapes server."""
        for labels, index in zip(outputs.cpu().numpy(), batch["index"].tolist(), strict=True):
            write_png(folder / f"{flat_name(dataset.name(index))}.png", self.to_ids(labels))

    def save_samples(self, dataset: SegmentationDataset, folder: Path, *, count: int) -> None:
        """Draw predictions for `count` images spread over a split."""
        for index in spread(len(dataset), count) if count else []:
            self.save_sample(dataset, index, folder / f"{flat_name(dataset.name(index))}.png")

    def save_sample(self, dataset: SegmentationDataset, index: int, path: Path) -> None:
        """Draw one sample of a split: image, prediction and, where known, the truth, above a legend."""
        self.eval()
        image = read_image(dataset.image_path(index))
        labels = self.predict_image(image)
        panels, shown = [image, overlay(image, labels, self.classes)], labels
        if (truth := dataset[Draw(index, 0)].get("label")) is not None:
            panels.append(overlay(image, truth.numpy(), self.classes))
            shown = np.concatenate([labels, truth.numpy()])
        picture = np.concatenate(panels, axis=1)
        write_png(path, with_legend(picture, self.classes, present_classes(shown, self.classes)))

    def save_report(
        self, evaluator: SegmentationEvaluator, dataset: SegmentationDataset, out: Path, *, worst: int
    ) -> None:
        """Write the per-class table, the confusion matrix as a picture, and the worst images."""
        (out / "per_class.txt").write_text(evaluator.table() + "\n", encoding="utf-8")
        confusion_picture(evaluator.confusion, self.classes, out / "confusion.png", of="pixels")
        for rank, (name, index, score) in enumerate(evaluator.worst(worst), start=1):
            self.save_sample(dataset, index, out / "worst" / f"{rank:02d}_{score:.3f}_{flat_name(name)}.png")
