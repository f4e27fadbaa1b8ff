"""Image classification as the engine sees it: batch -> losses, batch -> class scores."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cls.augment.mix import Mix
from cls.data.dataset import ClassificationDataset
from cls.eval.evaluator import MAX_LISTED, ClassificationEvaluator
from cls.report import Line, with_lines
from cls.transforms import EvalTransform
from engine.contracts import Batch
from engine.data.class_map import ClassMap
from engine.data.images import write_png
from engine.data.preprocessing import Normalize
from engine.errors import UserError
from engine.io.files import flat_name, spread
from engine.plots import confusion_picture
from engine.train.distillation import Distillation

_SHOWN = 5


class Classification(nn.Module):
    """Image classification.

    A batch holds `image` [N, 3, h, w] uint8, `label` [N] and `index` [N].

    Args:
        model: normalized images -> class scores [N, K].
        classes: the data set's class map.
        label_smoothing: share of the target spread evenly over the classes.
        mix: mixup and CutMix in training (None: neither).
        pixels: input normalization, `inception` or `imagenet`.
        eval_transform: what happens to a picture before it is classified.

    Attributes:
        distillation: a loss towards a teacher's scores in training, where there is one.
    """

    distillation: Distillation | None = None

    def __init__(
        self,
        *,
        model: nn.Module,
        classes: ClassMap,
        eval_transform: EvalTransform,
        label_smoothing: float = 0.0,
        mix: Mix | None = None,
        pixels: str = "inception",
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        self.model, self.classes, self.eval_transform = model, classes, eval_transform
        self.label_smoothing, self.mix = label_smoothing, mix
        self.normalize = Normalize(pixels)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses by name, each the mean over the images."""
        pixels, labels = batch["image"].float(), batch["label"].long()
        if self.mix is not None and self.training:
            pixels, labels = self.mix(pixels, labels, len(self.classes))
        scores = self.model(self.normalize(pixels)).float()
        losses = {"cross_entropy": F.cross_entropy(scores, labels, label_smoothing=self.label_smoothing)}
        if self.distillation is not None:
            losses["distillation"] = self.distillation.loss(scores, self.distillation.scores(pixels))
        return losses

    def weight(self, batch: Batch) -> Tensor:
        """Images of the batch."""
        return torch.tensor(float(len(batch["image"])), device=batch["image"].device)

    def predict(self, batch: Batch) -> Tensor:
        """Class scores [N, K], before the softmax."""
        scores: Tensor = self.model(self.normalize(batch["image"]))
        return scores

    def notes(self, dataset: ClassificationDataset) -> list[str]:
        """What is worth knowing about a split before training."""
        return []

    def check_classes(self, classes: ClassMap) -> None:
        """Raises: UserError where a data set has other classes than this task."""
        if classes.names != self.classes.names:
            some = ", ".join(classes.names[:5]) + (", ..." if len(classes) > 5 else "")
            raise UserError(f"the run was trained on other classes than this data set has ({some})")

    def evaluator(self, dataset: ClassificationDataset) -> ClassificationEvaluator:
        """The evaluator for a split of this task's data.

        Raises:
            ValueError: the split has no labels.
        """
        if not dataset.has_labels:
            raise ValueError(f"{dataset.image_path(0)}: this split has no labels to score against")
        return ClassificationEvaluator(
            classes=self.classes, names=dataset.name, predicted=str(self.eval_transform)
        )

    @torch.inference_mode()
    def predict_image(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """RGB [H, W, 3] -> probabilities [K]."""
        pixels = np.ascontiguousarray(self.eval_transform(image, 0).transpose(2, 0, 1))[None]
        scores = self.predict({"image": torch.from_numpy(pixels).to(self.normalize.device)})
        return scores[0].float().softmax(0).cpu().numpy()

    def picture(
        self,
        image: NDArray[np.uint8],
        probabilities: NDArray[np.float32],
        *,
        legend: bool = True,
        all_classes: bool = False,
    ) -> NDArray[np.uint8]:
        """`image` above its most probable classes."""
        return with_lines(image, self._lines(probabilities)) if legend else image

    def save_prediction(self, probabilities: NDArray[np.float32], out: Path, name: str) -> dict[str, Any]:
        """The image's part of the summary: its most probable classes."""
        best = np.argsort(-probabilities, kind="stable")[:_SHOWN]
        return {
            "classes": [
                {
                    "name": self.classes.names[i],
                    "id": self.classes.ids[i],
                    "probability": round(float(probabilities[i]), 6),
                }
                for i in best.tolist()
            ]
        }

    def save_samples(self, dataset: ClassificationDataset, folder: Path, *, count: int) -> None:
        """Draw predictions for `count` images spread over a split."""
        for index in spread(len(dataset), count) if count else []:
            self.save_sample(dataset, index, folder / f"{flat_name(dataset.name(index))}.png")

    def save_sample(self, dataset: ClassificationDataset, index: int, path: Path) -> None:
        """Draw one sample of a split: the image, its most probable classes and, where known, its own."""
        self.eval()
        image, label = dataset.read(index), dataset.label(index)
        write_png(path, with_lines(image, self._lines(self.predict_image(image), label)))

    def _lines(self, probabilities: NDArray[np.float32], label: int | None = None) -> list[Line]:
        best = np.argsort(-probabilities, kind="stable")[:_SHOWN].tolist()
        names = self.classes.names
        lines: list[Line] = [
            (names[i], float(probabilities[i]), None if label is None else i == label) for i in best
        ]
        return lines if label is None else [(f"is: {names[label]}", None, None), *lines]

    def save_report(
        self, evaluator: ClassificationEvaluator, dataset: ClassificationDataset, out: Path, *, worst: int
    ) -> None:
        """Write the per-class table, the most confused classes, the confusion matrix and the worst images."""
        pairs = [f"{count:5d}  {label}  taken for  {other}" for label, other, count in evaluator.confused(30)]
        text = "\n".join([evaluator.table(), "", "confused most often:", *pairs])
        (out / "per_class.txt").write_text(text + "\n", encoding="utf-8")
        if len(self.classes) <= MAX_LISTED:
            confusion_picture(evaluator.confusion, self.classes, out / "confusion.png", of="images")
        for rank, (name, index, score) in enumerate(evaluator.worst(worst), start=1):
            self.save_sample(dataset, index, out / "worst" / f"{rank:02d}_{score:.3f}_{flat_name(name)}.png")
