"""The object detection task, for the engine: batch -> losses, batch -> boxes."""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from det.anchors.coverage import anchor_report
from det.anchors.matcher import Matcher, Targets
from det.boxes import Detections
from det.data.dataset import DetectionDataset
from det.eval.evaluator import DetectionEvaluator
from det.eval.object_limits import SCORED_PER_CLASS, ObjectLimits, over_limits
from det.losses import FocalLoss, MultiboxLoss
from det.postprocess import Postprocess
from det.transforms import EvalTransform
from engine.contracts import Batch, Image
from engine.data.class_map import ClassMap
from engine.data.preprocessing import Normalize
from engine.errors import UserError, no_labels, some

_DRAW_THRESHOLD = 0.4

_SET = "task.draw_threshold"


class Detection(nn.Module):
    """Object detection with anchors.

    A training batch contains `image` [N, 3, h, w] uint8, `boxes` (N tensors [M, 4], xyxy in pixels) and
    `labels` (N tensors [M]); an evaluation batch `image`, `size` [N, 2] (height, width of the file) and
    `index` [N].

    Args:
        model: normalized images -> box deltas [N, A, 4] and class scores [N, A, K + 1]; its `anchors` are
            [A, 4], as fractions of the input.
        classes: the dataset's class map, of K classes.
        loss: on deltas, scores and the matcher's targets.
        matcher: decides which anchor is trained on which object.
        postprocess: from deltas and scores to detections.
        pixels: input normalization, `inception`, `imagenet` or `unit`.
        eval_transform: applied to an image before prediction.
        draw_threshold: minimum score of the boxes that are drawn and listed in summary.json; None: the one
            with the best F1 in the run's evaluation (`use_metrics`), and 0.4 before that.
        scored_per_class: largest number of detections per image and class that count in the evaluation.

    Raises:
        ValueError: if a number is out of range, or the loss and the post-processing use different
            activations.
    """

    distillation = None  # not supported

    def __init__(
        self,
        *,
        model: nn.Module,
        classes: ClassMap,
        eval_transform: EvalTransform,
        loss: FocalLoss | MultiboxLoss | None = None,
        matcher: Matcher | None = None,
        postprocess: Postprocess | None = None,
        pixels: str = "inception",
        draw_threshold: float | None = None,
        scored_per_class: int = SCORED_PER_CLASS,
    ) -> None:
        super().__init__()
        if draw_threshold is not None and not 0 <= draw_threshold <= 1:
            raise ValueError(f"draw_threshold is a score and must be in 0..1, got {draw_threshold}")
        if scored_per_class < 1:
            raise ValueError(f"scored_per_class must be at least 1, got {scored_per_class}")
        self.scored_per_class = scored_per_class
        self.model, self.classes = model, classes
        self.draw_threshold = _DRAW_THRESHOLD if draw_threshold is None else draw_threshold
        self.threshold_source = "the default" if draw_threshold is None else _SET
        self.loss, self.matcher = loss or FocalLoss(), matcher or Matcher()
        self.postprocess, self.eval_transform = postprocess or Postprocess(), eval_transform
        self.normalize = Normalize(pixels)
        activation = "softmax" if isinstance(self.loss, MultiboxLoss) else "sigmoid"
        if self.postprocess.activation != activation:
            raise ValueError(
                f"{type(self.loss).__name__} trains scores for a {activation}; set "
                f"task.postprocess.activation={activation}, not {self.postprocess.activation}"
            )

    def use_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Use the score with the best F1 as `draw_threshold`, unless it is set.

        metrics: those of the evaluation that chose the weights.
        """
        threshold = metrics.get("best_f1_threshold")
        if not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
            return
        if self.threshold_source != _SET:
            self.draw_threshold = float(threshold)
            self.threshold_source = "the best F1 of the run's evaluation"

    @property
    def anchors(self) -> Tensor:
        """float32 [A, 4], xyxy as fractions of the input."""
        return cast(Tensor, self.model.anchors)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses by name, each the mean over the matched anchors.

        Raises:
            UserError: if the images do not have the size that the anchors are for, or are so small that batch
                norm has a single value.
        """
        count, _, height, width = batch["image"].shape
        if self.training and count == 1 and max(height, width) <= 32:
            raise UserError(
                f"one image of {height} x {width} gives batch norm a single value per channel at stride 32; "
                "increase data.size or trainer.batch"
            )
        deltas, scores = self.model(self.normalize(batch["image"]))
        if deltas.shape[1] != len(self.anchors):
            raise UserError(
                f"the augmentation produces images of {height} x {width}, but the anchors are for another "
                "size; set only data.size, not augment.size or model.input_size"
            )
        losses: dict[str, Tensor] = self.loss(deltas, scores, self._targets(batch))
        return losses

    def weight(self, batch: Batch) -> Tensor:
        """Number of matched anchors in the batch, over which its losses are a mean; at least 1."""
        return self._targets(batch).num_matched.clamp(min=1)

    def _targets(self, batch: Batch) -> Targets:
        # Cached in the batch: with several micro-batches or processes, a step calls `weight` first.
        if "targets" not in batch:
            height, width = batch["image"].shape[-2:]
            scale = torch.tensor([width, height] * 2, device=batch["image"].device)
            boxes = [boxes / scale for boxes in batch["boxes"]]
            batch["targets"] = self.matcher(self.anchors, boxes, batch["labels"])
        targets: Targets = batch["targets"]
        return targets

    def predict(self, batch: Batch) -> list[Detections]:
        """Detections per image, with boxes in pixels of `size`."""
        deltas, scores = self.model(self.normalize(batch["image"]))
        return self.postprocess(deltas, scores, self.anchors, batch["size"])

    def notes(self, dataset: DetectionDataset) -> list[str]:
        """How well the anchors fit the objects of a split, and whether images have too many of them."""
        return [
            *anchor_report(dataset.split, self.anchors, self.eval_transform.size, self.matcher),
            *over_limits(dataset.split, self.object_limits),
        ]

    @property
    def object_limits(self) -> ObjectLimits:
        """The limits on the objects of an image."""
        chosen = self.postprocess
        return ObjectLimits(chosen.max_detections, chosen.per_class, self.scored_per_class)

    def check_classes(self, classes: ClassMap) -> None:
        """Raises: UserError if the dataset has classes that this task was not trained on."""
        unknown = [name for name in classes.names if name not in self.classes.names]
        if unknown:
            raise UserError(
                f"this dataset has classes that the run was not trained on ({some(unknown)}); use data with "
                "the run's classes, or some of them"
            )

    def evaluator(self, dataset: DetectionDataset) -> DetectionEvaluator:
        """The evaluator for a split with the classes of this task, or some of them.

        Raises:
            UserError: if the split has no annotations.
        """
        if not dataset.has_labels:
            raise no_labels("boxes", first_image=dataset.image_path(0))
        return DetectionEvaluator(
            classes=dataset.classes,
            split=dataset.split,
            name_of=dataset.name,
            predicted_classes=self.classes,
            predicted=f"{self.eval_transform}, {self.postprocess}",
            limits=self.object_limits,
        )

    @torch.inference_mode()
    def predict_image(self, image: Image) -> Detections:
        """RGB [H, W, 3] -> detections, with boxes in its pixels, on the CPU."""
        pixels = self.eval_transform(image)
        tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
        size = torch.tensor([image.shape[:2]])
        device = self.normalize.device
        (detections,) = self.predict({"image": tensor.to(device), "size": size.to(device)})
        return Detections(*(part.cpu() for part in detections))
