"""Detection results for people: images with boxes, and the tables and charts of an evaluation."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from det.boxes import Detections
from det.data.dataset import DetectionDataset
from det.drawing import overlay
from det.eval.charts import save_charts
from det.eval.evaluator import DetectionEvaluator
from det.task import Detection
from engine.contracts import Image
from engine.sample_images import save_samples, save_worst


class DetectionReporter:
    """Draws and saves what `task` predicts: boxes that score at least `task.draw_threshold`."""

    def __init__(self, task: Detection) -> None:
        self.task, self.classes = task, task.classes

    def draw(
        self, image: Image, prediction: Detections, *, legend: bool = True, all_classes: bool = False
    ) -> Image:
        """`image` with its boxes; `legend`: with their class names and scores. `all_classes` has no effect,
        since names are written on the boxes."""
        return overlay(image, prediction, self.classes, threshold=self.task.draw_threshold, names=legend)

    def draw_sample(self, dataset: DetectionDataset, index: int) -> Image:
        """Image, prediction and ground truth (without ignored objects) side by side."""
        self.task.eval()
        image = dataset.read_pixels(dataset.image_path(index))
        boxes, labels, ignored = dataset.split.objects(index)
        shown = ~ignored
        truth = Detections(
            torch.from_numpy(boxes[shown]),
            torch.ones(int(shown.sum())),
            torch.from_numpy(labels[shown]).long(),
        )
        panels = [
            image,
            self.draw(image, self.task.predict_image(image)),
            overlay(image, truth, dataset.classes, threshold=0, scores=False),
        ]
        return np.concatenate(panels, axis=1)

    def per_image(self, outputs: list[Detections]) -> list[Detections]:
        """The detections of each image, on the CPU."""
        return [Detections(*(part.cpu() for part in detections)) for detections in outputs]

    def save_prediction(self, prediction: Detections, out: Path, name: str) -> dict[str, Any]:
        """The image's entry in summary.json; writes no file."""
        rows = zip(*(part.tolist() for part in prediction), strict=True)
        return {
            "detections": [
                {
                    "class": self.classes.names[label],
                    "category_id": self.classes.ids[label],
                    "score": round(score, 4),
                    "box_xyxy": [round(side, 2) for side in box],
                }
                for box, score, label in rows
                if score >= self.task.draw_threshold
            ]
        }

    def save_samples(self, dataset: DetectionDataset, folder: Path, *, count: int) -> None:
        """Draw `count` samples spread over a split."""
        save_samples(self.draw_sample, dataset, folder, count=count)

    def save_evaluation(
        self, evaluator: DetectionEvaluator, dataset: DetectionDataset, out: Path, *, worst: int
    ) -> None:
        """Write the per-class table, detections and ground truth in COCO's formats, the precision-recall
        curves, and the `worst` images with the lowest F1."""
        save_coco_files(evaluator, out)
        (out / "per_class.txt").write_text(evaluator.table() + "\n", encoding="utf-8")
        save_charts(evaluator, out / "precision_recall.png")
        save_worst(self.draw_sample, dataset, out / "worst", evaluator.worst(worst))


def save_coco_files(evaluator: DetectionEvaluator, out: Path) -> None:
    """Write detections.json and ground_truth.json, which any COCO evaluation reads.

    Ids of images and categories are those of the dataset.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name, content in zip(("detections", "ground_truth"), evaluator.to_coco(), strict=True):
        # On one line: there may be 500,000 boxes.
        (out / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
