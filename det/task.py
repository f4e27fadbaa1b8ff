"""Object detection as the engine sees it: batch -> losses, batch -> boxes."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from det.anchors.coverage import anchor_report
from det.anchors.matcher import Matcher, Targets
from det.boxes import Detections
from det.data.dataset import DetectionDataset
from det.eval.evaluator import DetectionEvaluator
from det.losses import FocalLoss, MultiboxLoss
from det.postprocess import Postprocess
from det.report import overlay, precision_recall_curves
from det.transforms import EvalTransform
from engine.contracts import Batch
from engine.data.class_map import ClassMap
from engine.data.images import read_image, write_png
from engine.data.preprocessing import Normalize
from engine.errors import UserError
from engine.io.files import flat_name, spread


class Detection(nn.Module):
    """Object detection with anchors.

    A training batch holds `image` [N, 3, h, w] uint8, `boxes` (N tensors [M, 4], xyxy in pixels) and `labels`
    (N tensors [M]); for evaluation `image`, `size` [N, 2] (height, width of the file) and `index` [N].

    Args:
        model: normalized images -> box offsets [N, A, 4] and class scores [N, A, K + 1], with its `anchors`.
        classes: the data set's class map, of K classes.
        loss: on offsets and scores, given what each anchor should say.
        matcher: which anchor answers for which box.
        postprocess: from offsets and scores to boxes.
        pixels: input normalization, `inception` or `imagenet`.
        eval_transform: what happens to a picture before it is predicted.
        shown: the score from which boxes are drawn and listed by `predict`.

    Raises:
        ValueError: `shown` out of range, or scores that are trained as something else than they are read as.
    """

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
        shown: float = 0.4,
    ) -> None:
        super().__init__()
        if not 0 <= shown <= 1:
            raise ValueError(f"shown is a score in 0..1, got {shown}")
        self.model, self.classes, self.shown = model, classes, shown
        self.loss, self.matcher = loss or FocalLoss(), matcher or Matcher()
        self.postprocess, self.eval_transform = postprocess or Postprocess(), eval_transform
        self.normalize = Normalize(pixels)
        wanted = "softmax" if isinstance(self.loss, MultiboxLoss) else "sigmoid"
        if self.postprocess.activation != wanted:
            raise ValueError(
                f"{type(self.loss).__name__} trains scores for a {wanted}: give "
                f"task.postprocess.activation={wanted}, got {self.postprocess.activation}"
            )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses by name, each the mean over the matched anchors.

        Raises: ValueError for images of another size than the anchors are made for, or too few values for
        batch norm.
        """
        count, _, height, width = batch["image"].shape
        if self.training and count == 1 and max(height, width) <= 32:
            raise ValueError(
                f"one image of {height} x {width} leaves batch norm a single value on the map of stride 32: "
                "raise data.size, or trainer.batch"
            )
        deltas, scores = self.model(self.normalize(batch["image"]))
        if deltas.shape[1] != len(self.model.anchors):
            raise ValueError(
                f"the augmentation makes images of {height} x {width}, and the anchors are made for another "
                "size: set data.size, and leave augment.size and model.input_size to it"
            )
        return self.loss(deltas, scores, self._targets(batch))

    def weight(self, batch: Batch) -> Tensor:
        """Matched anchors of the batch, over which its losses are a mean; at least 1."""
        return self._targets(batch).num_matched.clamp(min=1)

    def _targets(self, batch: Batch) -> Targets:
        if (
            "targets" not in batch
        ):  # a step with several micro-batches or processes asks for the weights first
            height, width = batch["image"].shape[-2:]
            scale = torch.tensor([width, height] * 2, device=batch["image"].device)
            boxes = [boxes / scale for boxes in batch["boxes"]]
            batch["targets"] = self.matcher(self.model.anchors, boxes, batch["labels"])
        return batch["targets"]

    def predict(self, batch: Batch) -> list[Detections]:
        """Boxes per image, in pixels of `size`."""
        deltas, scores = self.model(self.normalize(batch["image"]))
        return self.postprocess(deltas, scores, self.model.anchors, batch["size"])

    def notes(self, dataset: DetectionDataset) -> list[str]:
        """What is worth knowing about a split before training: objects that no anchor can learn."""
        height, width = self.eval_transform.size
        return anchor_report(dataset.annotations, self.model.anchors, (height, width), self.matcher)

    def check_classes(self, classes: ClassMap) -> None:
        """Raises: UserError where a data set has classes that this task does not know."""
        unknown = [name for name in classes.names if name not in self.classes.names]
        if unknown:
            raise UserError(
                f"the run was trained on other classes than this data set has: it does not know "
                f"{', '.join(unknown[:4])}{' ...' if len(unknown) > 4 else ''}"
            )

    def evaluator(self, dataset: DetectionDataset) -> DetectionEvaluator:
        """The evaluator for a split of this task's data, or of a data set with some of its classes.

        Raises:
            ValueError: the split is not annotated.
        """
        if not dataset.has_labels:
            raise ValueError(
                f"{dataset.image_path(0)}: this split has no boxes to score against; add them, choose "
                "another data.split, or use tools/predict.py with input=<its folder>"
            )
        return DetectionEvaluator(
            classes=dataset.classes,
            annotations=dataset.annotations,
            names=dataset.name,
            predicted_classes=self.classes,
            predicted=f"{self.eval_transform}, {self.postprocess}",
        )

    @torch.inference_mode()
    def predict_image(self, image: NDArray[np.uint8]) -> Detections:
        """RGB [H, W, 3] -> boxes in its pixels."""
        pixels = self.eval_transform(image)
        tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
        size = torch.tensor([image.shape[:2]])
        device = self.normalize.device
        found = self.predict({"image": tensor.to(device), "size": size.to(device)})[0]
        return Detections(*(part.cpu() for part in found))

    def picture(
        self, image: NDArray[np.uint8], found: Detections, *, legend: bool = True, all_classes: bool = False
    ) -> NDArray[np.uint8]:
        """`image` with its boxes; `legend`: with names and scores."""
        return overlay(image, found, self.classes, threshold=self.shown, names=legend)

    def save_prediction(self, found: Detections, out: Path, name: str) -> dict[str, Any]:
        """The image's part of the summary: every box from the score `shown` on."""
        return {
            "detections": [
                {
                    "class": self.classes.names[label],
                    "category_id": self.classes.ids[label],
                    "score": round(score, 4),
                    "box_xyxy": [round(side, 2) for side in box],
                }
                for box, score, label in zip(*(part.tolist() for part in found), strict=True)
                if score >= self.shown
            ]
        }

    def save_samples(self, dataset: DetectionDataset, folder: Path, *, count: int) -> None:
        """Draw predictions for `count` images spread over a split."""
        for index in spread(len(dataset), count) if count else []:
            self.save_sample(dataset, index, folder / f"{flat_name(dataset.name(index))}.png")

    def save_sample(self, dataset: DetectionDataset, index: int, path: Path) -> None:
        """Draw one sample of a split: image, prediction and truth."""
        self.eval()
        image = read_image(dataset.image_path(index))
        boxes, labels, ignored = dataset.annotations.of(index)
        kept = ~ignored
        truth = Detections(
            torch.from_numpy(boxes[kept]), torch.ones(int(kept.sum())), torch.from_numpy(labels[kept]).long()
        )
        panels = [
            image,
            self.picture(image, self.predict_image(image)),
            overlay(image, truth, dataset.classes, threshold=0, scores=False),
        ]
        write_png(path, np.concatenate(panels, axis=1))

    def save_report(
        self, evaluator: DetectionEvaluator, dataset: DetectionDataset, out: Path, *, worst: int
    ) -> None:
        """Write the per-class table, precision-recall curves, detections.json and the worst images."""
        evaluator.save(out)
        precision_recall_curves(evaluator, out / "precision_recall.png")
        for rank, (name, index, score) in enumerate(evaluator.worst(worst), start=1):
            self.save_sample(dataset, index, out / "worst" / f"{rank:02d}_{score:.3f}_{flat_name(name)}.png")
