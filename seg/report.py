"""Segmentation results for people: overlays, id masks, and the tables and charts of an evaluation."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from engine.contracts import Image
from engine.data.images import write_png
from engine.data.loader import SampleKey
from engine.plots import save_confusion_matrix
from engine.sample_images import save_samples, save_worst
from seg.data.dataset import SegmentationDataset
from seg.drawing import overlay, present_classes, with_legend
from seg.eval.evaluator import SegmentationEvaluator
from seg.task import Segmentation

Labels = NDArray[np.uint8]
"""Class indices [H, W]; 255: ignored."""


class SegmentationReporter:
    """Draws and saves what `task` predicts."""

    def __init__(self, task: Segmentation) -> None:
        self.task, self.classes = task, task.classes

    def draw(self, image: Image, labels: Labels, *, legend: bool = True, all_classes: bool = False) -> Image:
        """`image` tinted by `labels`, above a legend of the classes in it (or of all classes)."""
        tinted = overlay(image, labels, self.classes)
        if not legend:
            return tinted
        shown = None if all_classes else present_classes(labels, self.classes)
        return with_legend(tinted, self.classes, shown)

    def draw_sample(self, dataset: SegmentationDataset, index: int) -> Image:
        """Image, prediction and, if known, ground truth side by side, above one legend."""
        self.task.eval()
        image = dataset.read_pixels(dataset.image_path(index))
        labels = self.task.predict_image(image)
        panels, shown = [image, overlay(image, labels, self.classes)], labels
        if (truth := dataset[SampleKey(index, 0)].get("label")) is not None:
            panels.append(overlay(image, truth.numpy(), self.classes))
            shown = np.concatenate([labels, truth.numpy()])
        return with_legend(np.concatenate(panels, axis=1), self.classes, present_classes(shown, self.classes))

    def per_image(self, outputs: Tensor) -> list[Labels]:
        """Class indices of a batch [N, H, W] -> those of each image."""
        return list(outputs.cpu().numpy())

    def save_prediction(self, labels: Labels, out: Path, name: str) -> dict[str, Any]:
        """Write `masks/<name>.png` with the dataset's ids; returns the image's entry in summary.json."""
        write_png(out / "masks" / f"{name}.png", self._to_ids(labels))
        values, counts = np.unique(labels, return_counts=True)
        order = np.argsort(-counts)
        shares = {self.classes.names[values[i]]: round(float(counts[i]) / labels.size, 6) for i in order}
        return {"mask": f"masks/{name}.png", "size": list(labels.shape), "classes": shares}

    def save_samples(self, dataset: SegmentationDataset, folder: Path, *, count: int) -> None:
        """Draw `count` samples spread over a split."""
        save_samples(self.draw_sample, dataset, folder, count=count)

    def save_evaluation(
        self, evaluator: SegmentationEvaluator, dataset: SegmentationDataset, out: Path, *, worst: int
    ) -> None:
        """Write the per-class table, the confusion matrix and the `worst` images with the lowest mIoU."""
        (out / "per_class.txt").write_text(evaluator.table() + "\n", encoding="utf-8")
        save_confusion_matrix(evaluator.confusion, self.classes, out / "confusion.png", of="pixels")
        save_worst(self.draw_sample, dataset, out / "worst", evaluator.worst(worst))

    def _to_ids(self, labels: Labels) -> NDArray[Any]:
        """Class indices -> ids of the dataset (label ids for Cityscapes), uint8 or uint16."""
        ids = np.array(self.classes.ids, np.uint8 if max(self.classes.ids) < 256 else np.uint16)
        id_map: NDArray[Any] = ids[labels]
        return id_map
