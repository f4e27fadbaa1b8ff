"""Classification results for people: drawn probabilities, and the tables and charts of an evaluation."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cls.data.dataset import ClassificationDataset
from cls.drawing import Line, with_lines, with_lines_below
from cls.eval.evaluator import MAX_LISTED, ClassificationEvaluator
from cls.task import Classification
from engine import fonts
from engine.contracts import Image
from engine.html.page import Page
from engine.plots import save_confusion_matrix
from engine.report.suspicious import Suspicion, ranked
from engine.sample_images import panel_size, resize_panel, save_samples, save_worst

Probabilities = NDArray[np.float32]
"""One per class [K]."""


_NUM_SHOWN = 5


class ClassificationReporter:
    """Draws and saves what `task` predicts."""

    def __init__(self, task: Classification) -> None:
        self.task, self.classes = task, task.classes

    def draw(
        self, image: Image, probabilities: Probabilities, *, legend: bool = True, all_classes: bool = False
    ) -> Image:
        """`image` above its most probable classes."""
        return with_lines(image, self._lines(probabilities)) if legend else image

    def draw_onto(self, image: Image, probabilities: Probabilities, *, legend: bool = True) -> list[Image]:
        """`image` unchanged, and the classes to write below it."""
        return with_lines_below(image, self._lines(probabilities)) if legend else [image]

    def draw_sample(self, dataset: ClassificationDataset, index: int) -> Image:
        """The image above its most probable classes and, if known, its label."""
        self.task.eval()
        image, label = dataset.read(index), dataset.label(index)
        lines = self._lines(self.task.predict_image(image), label)
        return with_lines(resize_panel(image, panel_size(image)), lines)

    def per_image(self, scores: Tensor) -> list[Probabilities]:
        """Scores [N, K] before the softmax -> the probabilities of each image."""
        return list(scores.float().softmax(1).cpu().numpy())

    label_kinds = ("folders",)

    def confident(self, image: Image, probabilities: Probabilities, min_score: float) -> int | None:
        """The most probable class, if its probability is at least `min_score`."""
        best = int(probabilities.argmax())
        return best if probabilities[best] >= min_score else None

    def save_prediction(self, probabilities: Probabilities, out: Path, name: str) -> dict[str, Any]:
        """The image's entry in summary.json: its most probable classes. Writes no file."""
        return {
            "classes": [
                {
                    "name": self.classes.names[i],
                    "id": self.classes.ids[i],
                    "probability": round(float(probabilities[i]), 6),
                }
                for i in _most_probable(probabilities)
            ]
        }

    def save_samples(self, dataset: ClassificationDataset, folder: Path, *, count: int) -> None:
        """Draw `count` samples spread over a split."""
        save_samples(self.draw_sample, dataset, folder, count=count)

    def save_evaluation(
        self, evaluator: ClassificationEvaluator, dataset: ClassificationDataset, out: Path, *, worst: int
    ) -> None:
        """Write the per-class table, the most frequent confusions, the confusion matrix and the `worst`
        images: those whose label has the lowest probability."""
        pairs = [
            f"{count:5d}  {label}  predicted as  {other}" for label, other, count in evaluator.confused(30)
        ]
        text = "\n".join([evaluator.table(), "", "most frequent confusions:", *pairs])
        (out / "per_class.txt").write_text(text + "\n", encoding="utf-8")
        if len(self.classes) <= MAX_LISTED:
            save_confusion_matrix(evaluator.confusion, self.classes, out / "confusion.png", of="images")
        save_worst(self.draw_sample, dataset, out / "worst", evaluator.worst(worst))

    def report(self, evaluator: ClassificationEvaluator, dataset: ClassificationDataset, page: Page) -> None:
        """Add the classes, the confusions, and the calibration."""
        from cls.eval.report_charts import add_classification

        add_classification(page, evaluator)

    def suspicious(
        self, evaluator: ClassificationEvaluator, dataset: ClassificationDataset, count: int
    ) -> list[Suspicion]:
        """The images with the most confidently contradicted labels."""
        from cls.eval.suspicious import suspicious_labels

        suspicions = [
            Suspicion(
                name=dataset.name(index),
                index=index,
                score=place.score,
                places=(place,),
                draw=partial(self.draw_sample, dataset, index),
            )
            for index, place in suspicious_labels(evaluator).items()
        ]
        return ranked(suspicions, count)

    def _lines(self, probabilities: Probabilities, label: int | None = None) -> list[Line]:
        names = fonts.shown_names(self.classes)
        lines: list[Line] = [
            (names[i], float(probabilities[i]), None if label is None else i == label)
            for i in _most_probable(probabilities)
        ]
        return lines if label is None else [(f"label: {names[label]}", None, None), *lines]


def _most_probable(probabilities: Probabilities) -> list[int]:
    best: list[int] = np.argsort(-probabilities, kind="stable")[:_NUM_SHOWN].tolist()
    return best
