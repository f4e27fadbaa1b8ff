"""Detection results for people: images with boxes, and the tables and charts of an evaluation."""

import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from det.boxes import Detections
from det.data.dataset import DetectionDataset
from det.drawing import draw_boxes, overlay
from det.eval.charts import save_charts
from det.eval.evaluator import DetectionEvaluator
from det.task import Detection
from engine.contracts import Image
from engine.html.page import Page
from engine.report.suspicious import Place, Suspicion, ranked
from engine.sample_images import draw_frames, panel_size, resize_panel, save_samples, save_worst, side_by_side

_LOWEST_SHOWN = 0.01
"""The lowest `task.draw_threshold` that is suggested."""


class DetectionReporter:
    """Draws and saves what `task` predicts: boxes that score at least `task.draw_threshold`."""

    def __init__(self, task: Detection) -> None:
        self.task, self.classes = task, task.classes
        self._num_predicted, self._num_empty, self._num_full, self._highest = 0, 0, 0, 0.0

    def draw(
        self, image: Image, prediction: Detections, *, legend: bool = True, all_classes: bool = False
    ) -> Image:
        """`image` with its boxes; `legend`: with their class names and scores. `all_classes` has no effect,
        since names are written on the boxes."""
        return overlay(image, prediction, self.classes, threshold=self.task.draw_threshold, names=legend)

    def draw_sample(
        self, dataset: DetectionDataset, index: int, frames: Sequence[tuple[int, int, int, int]] = ()
    ) -> Image:
        """Image, prediction and ground truth (no ignored objects) side by side; large images are reduced.

        frames: boxes, in pixels of the image, to emphasize on the image alone.
        """
        self.task.eval()
        image = dataset.read_pixels(dataset.image_path(index))
        found = self.task.predict_image(image)
        size = panel_size(image)
        height, width = image.shape[:2]
        scale = torch.tensor([size[1] / width, size[0] / height] * 2)
        image = resize_panel(image, size)
        framed = draw_frames(image, [np.multiply(frame, scale.numpy()) for frame in frames])
        boxes, labels, ignored = dataset.split.objects(index)
        shown = ~ignored
        truth = Detections(
            torch.from_numpy(boxes[shown]) * scale,
            torch.ones(int(shown.sum())),
            torch.from_numpy(labels[shown]).long(),
        )
        return side_by_side(
            [
                ("image", framed),
                (
                    f"prediction, scores >= {self.task.draw_threshold:.2g}",
                    self.draw(image, found._replace(boxes=found.boxes * scale)),
                ),
                ("ground truth", overlay(image, truth, dataset.classes, threshold=0, scores=False)),
            ]
        )

    def draw_onto(self, image: Image, prediction: Detections, *, legend: bool = True) -> list[Image]:
        """Draw on `image` itself if it is writable and contiguous; returns the drawing."""
        drawn = np.require(image, requirements=["C", "W"])
        draw_boxes(drawn, prediction, self.classes, threshold=self.task.draw_threshold, names=legend)
        return [drawn]

    def per_image(self, outputs: list[Detections]) -> list[Detections]:
        """The detections of each image, on the CPU."""
        return [Detections(*(part.cpu() for part in detections)) for detections in outputs]

    label_kinds = ("coco", "yolo")

    def confident(
        self, image: Image, prediction: Detections, min_score: float
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
        """The boxes [n, 4] (xyxy in pixels) and class indices [n] that score at least `min_score`."""
        chosen = prediction.scores >= min_score
        if not bool(chosen.any()):
            return None
        return prediction.boxes[chosen].numpy(), prediction.labels[chosen].numpy()

    def save_prediction(self, prediction: Detections, out: Path, name: str) -> dict[str, Any]:
        """The image's entry in summary.json; writes no file."""
        best = max(prediction.scores.tolist(), default=0.0)
        self._num_predicted += 1
        shown = prediction.labels[prediction.scores >= self.task.draw_threshold]
        limits = self.task.object_limits
        of_class = int(shown.bincount().max()) if len(shown) else 0
        self._num_full += len(shown) >= limits.predicted or of_class >= (limits.predicted_per_class or np.inf)
        if best < self.task.draw_threshold:
            self._num_empty += 1
            self._highest = max(self._highest, best)
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

    def prediction_notes(self) -> list[str]:
        """After all predictions: the minimum score of the boxes shown, and how many images have none."""
        threshold = self.task.draw_threshold
        line = f"boxes with a score of at least {threshold:.3g} are shown ({self.task.threshold_source})"
        if not self._num_empty:
            return [f"{line}; task.draw_threshold= changes it", *self._full()]
        none = f"{line}; {self._num_empty} of {self._num_predicted} images have none"
        if self._highest < _LOWEST_SHOWN:
            return [f"{none}, and no box has a score of {_LOWEST_SHOWN}: train longer", *self._full()]
        lower = max(_LOWEST_SHOWN, math.floor(self._highest * 50) / 50)
        return [
            f"{none} (highest score {self._highest:.2f}): task.draw_threshold={min(lower, threshold):.2g} "
            "shows more",
            *self._full(),
        ]

    def _full(self) -> list[str]:
        """A line if images show as many boxes as can be predicted."""
        if not self._num_full:
            return []
        limits = self.task.object_limits
        per_class = f" or {limits.predicted_per_class} of a class" if limits.predicted_per_class else ""
        return [
            f"{self._num_full} of {self._num_predicted} images show {limits.predicted} boxes{per_class}, the "
            "most that can be predicted: set task.postprocess.max_detections= and "
            "task.postprocess.per_class= (before an export, if the file returns detections)"
        ]

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

    def report(self, evaluator: DetectionEvaluator, dataset: DetectionDataset, page: Page) -> None:
        """Add the classes, the precision-recall curves, and F1 against the score threshold."""
        from det.eval.report_charts import add_detection

        add_detection(page, evaluator)

    def suspicious(
        self, evaluator: DetectionEvaluator, dataset: DetectionDataset, count: int
    ) -> list[Suspicion]:
        """The images with the most confidently contradicted boxes; an image ranks by its strongest one."""
        from det.eval.suspicious import suspicious_boxes

        suspicions = [
            Suspicion(
                name=dataset.name(index),
                index=index,
                score=places[0].score,
                places=tuple(places),
                draw=partial(self._draw_places, dataset, index, places),
            )
            for index, places in suspicious_boxes(evaluator).items()
        ]
        return ranked(suspicions, count)

    def _draw_places(self, dataset: DetectionDataset, index: int, places: Sequence[Place]) -> Image:
        """`draw_sample` with frames around the strongest contradictions."""
        return self.draw_sample(dataset, index, [p.box for p in places[:4] if p.box is not None])


def save_coco_files(evaluator: DetectionEvaluator, out: Path) -> None:
    """Write detections.json and ground_truth.json, which any COCO evaluation reads.

    Ids of images and categories are those of the dataset.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name, content in zip(("detections", "ground_truth"), evaluator.to_coco(), strict=True):
        # On one line: there may be 500,000 boxes.
        (out / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
