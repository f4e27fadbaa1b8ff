"""Segmentation results for people: overlays, id masks, and the tables and charts of an evaluation."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.contracts import Image
from engine.data.class_map import IGNORE
from engine.data.images import count_values
from engine.data.loader import SampleKey
from engine.errors import UserError
from engine.html.charts import bar_chart, heat_map
from engine.html.page import Page
from engine.io.png import write_rows
from engine.plots import percent_of_rows, save_confusion_matrix
from engine.report.suspicious import Suspicion
from engine.sample_images import panel_size, resize_panel, save_samples, save_worst, side_by_side
from seg.data.dataset import SegmentationDataset
from seg.drawing import legend as draw_legend
from seg.drawing import overlay, present_classes, tint, with_legend
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
        parts = self.draw_onto(image.copy(), labels, legend=legend, all_classes=all_classes)
        return np.concatenate(parts, axis=0)

    def draw_onto(
        self, image: Image, labels: Labels, *, legend: bool = True, all_classes: bool = False
    ) -> list[Image]:
        """Tint `image` itself; returns it and the legend that belongs below it."""
        tint(image, labels, self.classes)
        if not legend:
            return [image]
        shown = None if all_classes else present_classes(labels, self.classes)
        return [image, *draw_legend(image.shape[1], self.classes, shown)]

    def draw_sample(self, dataset: SegmentationDataset, index: int) -> Image:
        """Image, prediction and any ground truth side by side above a legend; large images are reduced."""
        self.task.eval()
        image = dataset.read_pixels(dataset.image_path(index))
        size = panel_size(image)
        marks = {"prediction": self.task.predict_image(image)}
        if (truth := dataset[SampleKey(index, 0)].get("label")) is not None:
            marks["ground truth"] = truth.numpy()
        marks = {caption: resize_panel(labels, size, exact=True) for caption, labels in marks.items()}
        image = resize_panel(image, size)
        drawn = [(caption, overlay(image, labels, self.classes)) for caption, labels in marks.items()]
        shown = present_classes(np.concatenate(list(marks.values())), self.classes)
        return with_legend(side_by_side([("image", image), *drawn]), self.classes, shown)

    def per_image(self, outputs: Tensor) -> list[Labels]:
        """Class indices of a batch [N, H, W] -> one array per image."""
        return list(outputs.cpu().numpy())

    label_kinds = ("masks",)

    def check_confident(self, min_score: float) -> None:
        """Raises: UserError if the task predicts with an exported file that returns label maps."""
        if min_score > 0 and getattr(self.task.model, "output", None) == "argmax":
            raise UserError(
                "the exported file returns label maps without probabilities; set min_score=0, or export with "
                "output=logits"
            )

    def confident(self, image: Image, labels: Labels, min_score: float) -> Labels | None:
        """`labels`, with 255 where the class has a probability below `min_score`; None if that is everywhere.

        Scores the image a second time, since a prediction has no probabilities.
        """
        if min_score == 0:
            return labels
        from seg.suspicious.confidence import confidence

        unknown = torch.full((1, *image.shape[:2]), IGNORE, dtype=torch.uint8)
        (sure,) = confidence(self.task, {**self.task.batch_of(image), "label": unknown})
        certain = np.where(sure.of_prediction >= min_score, sure.predicted, np.uint8(IGNORE))
        return certain if bool((certain != IGNORE).any()) else None

    def save_prediction(self, labels: Labels, out: Path, name: str) -> dict[str, Any]:
        """Write `masks/<name>.png` with the dataset's ids, as indices of a palette of the classes' colors
        (ids above 255: as 16-bit gray); returns the image's entry in summary.json."""
        write_rows(out / "masks" / f"{name}.png", [labels], lookup=self._ids, palette=self.classes.palette)
        counts = count_values(labels)[: len(self.classes)]
        order = [int(index) for index in np.argsort(-counts, kind="stable") if counts[index]]
        shares = {self.classes.names[index]: round(float(counts[index]) / labels.size, 6) for index in order}
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

    def report(self, evaluator: SegmentationEvaluator, dataset: SegmentationDataset, page: Page) -> None:
        """Add the classes, as a table and a chart, and the confusion matrix."""
        names, results = self.classes.names, evaluator.compute()
        iou = [100 * results[f"iou/{name}"] for name in names]
        labeled, predicted = _shares(evaluator.confusion.sum(1)), _shares(evaluator.confusion.sum(0))
        page.section(
            "Classes",
            "IoU: pixels whose label and prediction are the class, as a share of those with either.",
        )
        page.chart(bar_chart(names, {"": iou}, title="IoU per class", unit="%"))
        page.chart(
            heat_map(
                percent_of_rows(evaluator.confusion)[:, : len(names)],
                title="Confusion matrix, % of the label's pixels",
                row_labels=names,
                column_labels=names,
                row_title="label",
                column_title="prediction",
            )
        )
        columns = ["class", "IoU %", "labeled pixels %", "predicted pixels %"]
        rows = zip(names, iou, labeled, predicted, strict=False)  # the last column has no name
        page.table(columns, [(name, *(f"{value:.2f}" for value in values)) for name, *values in rows])

    def suspicious(
        self, evaluator: SegmentationEvaluator, dataset: SegmentationDataset, count: int
    ) -> list[Suspicion]:
        """The images with the most confidently contradicted labels."""
        from seg.suspicious.regions import suspicious_masks

        return suspicious_masks(self.task, evaluator, dataset, count)

    @property
    def _ids(self) -> NDArray[Any]:
        """The dataset's id of each class index (the label id for Cityscapes), uint8 or uint16."""
        return np.array(self.classes.ids, np.uint8 if max(self.classes.ids) < 256 else np.uint16)


def _shares(counts: NDArray[np.integer]) -> list[float]:
    """Counts -> percent of their sum."""
    shares: list[float] = (100 * counts / max(1, int(counts.sum()))).tolist()
    return shares
