"""The image classification task, for the engine: batch -> losses, batch -> class scores."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cls.augment.mix import Mix
from cls.data.dataset import ClassificationDataset
from cls.eval.evaluator import ClassificationEvaluator
from cls.transforms import EvalTransform
from engine.contracts import Batch, Image
from engine.data.class_map import ClassMap
from engine.data.loader import as_tensor
from engine.data.preprocessing import Normalize
from engine.errors import no_labels
from engine.train.distillation import Distillation


class Classification(nn.Module):
    """Image classification, an `engine.contracts.Task`.

    A batch contains `image` [N, 3, h, w] uint8, `label` [N] and `index` [N].

    Args:
        model: normalized images -> class scores [N, K].
        classes: the dataset's class map.
        label_smoothing: share of the target spread evenly over the classes.
        mix: mixup and CutMix in training (None: neither).
        pixels: input normalization, `inception`, `imagenet` or `unit`.
        eval_transform: applied to an image before prediction.

    Attributes:
        distillation: a loss that pulls the scores toward a teacher's, or None.
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
        if "unlabeled" in batch:
            pixels = torch.cat([pixels, batch["unlabeled"].float()])
        all_scores = self.model(self.normalize(pixels)).float()
        scores = all_scores[: len(labels)]
        losses = {"cross_entropy": F.cross_entropy(scores, labels, label_smoothing=self.label_smoothing)}
        if self.distillation is not None:
            losses["distillation"] = self.distillation.loss(all_scores, self.distillation.scores(pixels))
        return losses

    def weight(self, batch: Batch) -> Tensor:
        """Number of images."""
        return torch.tensor(float(len(batch["image"])), device=batch["image"].device)

    def predict(self, batch: Batch) -> Tensor:
        """Class scores [N, K], before the softmax."""
        scores: Tensor = self.model(self.normalize(batch["image"]))
        return scores

    def notes(self, dataset: ClassificationDataset) -> list[str]:
        """Notes to show before training on this split: none."""
        return []

    def check_classes(self, classes: ClassMap) -> None:
        """Raises: UserError if a dataset has other classes than this task, or another order."""
        self.classes.check_same_names(classes)

    def evaluator(self, dataset: ClassificationDataset) -> ClassificationEvaluator:
        """The evaluator for a split with this task's classes.

        Raises:
            UserError: if the split has no labels.
        """
        if not dataset.has_labels:
            raise no_labels("labels", first_image=dataset.image_path(0))
        return ClassificationEvaluator(
            classes=self.classes, name_of=dataset.name, predicted=str(self.eval_transform)
        )

    @torch.inference_mode()
    def predict_image(self, image: Image) -> NDArray[np.float32]:
        """RGB [H, W, 3] -> probabilities [K]."""
        pixels = self.eval_transform(image, 0).transpose(2, 0, 1)
        scores = self.predict({"image": as_tensor(pixels)[None].to(self.normalize.device)})
        return scores[0].float().softmax(0).cpu().numpy()
