"""The object detection task, for the engine: batch -> losses, batch -> boxes."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from det.anchors.matcher import Assigner, Assignment, Matcher
from det.boxes import Detections
from det.data.dataset import DetectionDataset
from det.eval.evaluator import DetectionEvaluator
from det.eval.object_limits import SCORED_PER_CLASS, ObjectLimits, over_limits
from det.inference.tiles import TiledTransform, Tiling
from det.losses import FocalLoss, Loss, imitation
from det.postprocess import Postprocess
from det.transforms import EvalTransform
from engine.contracts import Batch, Image
from engine.data.class_map import ClassMap
from engine.data.preprocessing import Normalize, Size
from engine.errors import UserError, no_labels, some
from engine.train.distillation import Distillation

_DRAW_THRESHOLD = 0.4

_TILES_AT_ONCE = 8

_SET = "task.draw_threshold"


class Detection(nn.Module):
    """Object detection: a box and class scores at each anchor.

    A training batch contains `image` [N, 3, h, w] uint8, `boxes` (N tensors [M, 4], xyxy in pixels) and
    `labels` (N tensors [M]); an evaluation batch `image`, `size` [N, 2] (height, width of the file) and
    `index` [N]. Where images are divided, its `image` is N tensors [T, 3, h, w].

    Args:
        model: normalized images -> box deltas [N, A, B] and class scores [N, A, C]; its `anchors` are [A, 4],
            as fractions of the input. For SSDLite, B is 4, and C is K + 1, the first score for background.
        classes: the dataset's class map, of K classes.
        loss: on deltas, scores and the matcher's targets.
        matcher: decides which anchor is trained on which object.
        postprocess: from deltas and scores to detections. Its coder, activation and background column must be
            those of the matcher and the loss.
        pixels: input normalization, `inception`, `imagenet` or `unit`.
        eval_transform: applied to an image before prediction.
        draw_threshold: minimum score of the boxes that are drawn and listed in summary.json; None: the one
            with the best F1 in the run's evaluation (`use_metrics`), and 0.4 before that.
        inference: how images are divided; by default, they are not.
        scored_per_class: largest number of detections per image and class that count in the evaluation.

    Raises:
        ValueError: if a number is out of range, or the model, the loss, the matcher and the post-processing
            do not agree about the meaning of the outputs.
    """

    on_part: Callable[[int, int], None] = staticmethod(lambda done, total: None)

    def __init__(
        self,
        *,
        model: nn.Module,
        classes: ClassMap,
        eval_transform: EvalTransform,
        loss: Loss | None = None,
        matcher: Assigner | None = None,
        postprocess: Postprocess | None = None,
        pixels: str = "inception",
        draw_threshold: float | None = None,
        inference: Tiling | None = None,
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
        self.loss: Loss = loss or FocalLoss()
        self.matcher: Assigner = matcher or Matcher()
        self.postprocess, self.inference = postprocess or Postprocess(), inference or Tiling()
        self.resize = eval_transform
        self.eval_transform = (
            eval_transform if self.inference.tiles is None else TiledTransform(eval_transform, self.inference)
        )
        self.normalize = Normalize(pixels)
        self._distillation: Distillation | None = None
        self._check_encodings()

    def _check_encodings(self) -> None:
        loss, postprocess = self.loss, self.postprocess
        if postprocess.activation != loss.activation:
            raise ValueError(
                f"{type(loss).__name__} trains scores for a {loss.activation}; set "
                f"task.postprocess.activation={loss.activation}, not {postprocess.activation}"
            )
        of_model = getattr(self.model, "background_column", loss.background_column)
        if not loss.background_column == postprocess.background_column == of_model:
            raise ValueError(
                f"the network's scores {_column(of_model)}, those that {type(loss).__name__} trains "
                f"{_column(loss.background_column)}, those that task.postprocess reads "
                f"{_column(postprocess.background_column)}; leave out loss= to use the model's own"
            )
        if type(self.matcher.coder) is not type(postprocess.coder):
            raise ValueError(
                f"task.matcher encodes boxes with {type(self.matcher.coder).__name__}, but task.postprocess "
                f"decodes them with {type(postprocess.coder).__name__}; set the same coder in both"
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
        """Losses by name, each the mean over the matched anchors or the objects; see the matcher.

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
        assignment = self._assignment(batch)
        losses: dict[str, Tensor] = self.loss(deltas, scores, assignment.given(deltas, scores))
        if self._distillation is not None:
            theirs = self._distillation.scores(batch["image"].float())
            differences = self._imitation(deltas, scores, *theirs) / assignment.weight
            losses["distillation"] = self._distillation.weight * differences
        return losses

    @property
    def distillation(self) -> Distillation | None:
        """The teacher to imitate, with a weight; its other options do not apply.

        Raises:
            UserError: when set, if the teacher's anchors or the meaning of its scores differ.
        """
        return self._distillation

    @distillation.setter
    def distillation(self, chosen: Distillation | None) -> None:
        if chosen is not None:
            _check_teacher(chosen.teacher, self)
        self._distillation = chosen

    def _imitation(self, deltas: Tensor, scores: Tensor, teacher_deltas: Tensor, theirs: Tensor) -> Tensor:
        decode = self.postprocess.coder.decode
        return imitation(
            scores,
            decode(deltas.float(), self.anchors),
            theirs,
            decode(teacher_deltas.float(), self.anchors),
            activation=self.loss.activation,
            background_column=self.loss.background_column,
        )

    def weight(self, batch: Batch) -> Tensor:
        """Number of matched anchors or objects in the batch, over which its losses are a mean; at least 1."""
        return self._assignment(batch).weight

    def _assignment(self, batch: Batch) -> Assignment:
        # Cached in the batch: with several micro-batches or processes, a step calls `weight` first.
        if "targets" not in batch:
            height, width = batch["image"].shape[-2:]
            scale = torch.tensor([width, height] * 2, device=batch["image"].device)
            boxes = [boxes / scale for boxes in batch["boxes"]]
            batch["targets"] = self.matcher(self.anchors, boxes, batch["labels"])
        assignment: Assignment = batch["targets"]
        return assignment

    def predict(self, batch: Batch) -> list[Detections]:
        """Detections per image, with boxes in pixels of `size`."""
        if isinstance(batch["image"], Tensor):
            return self.predict_at_once(batch["image"], batch["size"])
        return [
            self._predict_parts(tiles, (height, width))
            for tiles, (height, width) in zip(batch["image"], batch["size"].tolist(), strict=True)
        ]

    def predict_at_once(self, images: Tensor, sizes: Tensor) -> list[Detections]:
        """Images [N, 3, h, w] of `sizes` [N, 2] before they were resized -> the detections in each."""
        deltas, scores = self.model(self.normalize(images))
        return self.postprocess(deltas, scores, self.anchors, sizes)

    def _predict_parts(self, tiles: Tensor, size: Size) -> Detections:
        """The parts [T, 3, h, w] of one image -> its detections."""
        sizes = torch.tensor([part.size for part in self.inference.parts(size)], device=tiles.device)
        found = []
        for start in range(0, len(tiles), _TILES_AT_ONCE):
            group = slice(start, start + _TILES_AT_ONCE)
            found += self.predict_at_once(tiles[group], sizes[group])
            self.on_part(min(group.stop, len(tiles)), len(tiles))
        return self.inference.merge(found, size, self.postprocess)

    def notes(self, dataset: DetectionDataset) -> list[str]:
        """How well the anchors fit the objects of a split, and whether images have too many of them."""
        return [
            *self.matcher.report(dataset.split, self.anchors, self.eval_transform.size),
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
        pixels = np.moveaxis(self.eval_transform(image), -1, -3)
        tensor = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.normalize.device)
        size = torch.tensor([image.shape[:2]], device=tensor.device)
        (detections,) = self.predict({"image": tensor[None] if tensor.ndim == 3 else [tensor], "size": size})
        return Detections(*(part.cpu() for part in detections))


def _check_teacher(teacher: nn.Module, student: Detection) -> None:
    theirs, ours = getattr(getattr(teacher, "model", teacher), "anchors", None), student.anchors
    if not isinstance(theirs, Tensor):
        raise UserError("distill.teacher: for task=det, the teacher must be the folder of a detection run")
    if theirs.shape != ours.shape or not torch.allclose(theirs.cpu(), ours.cpu(), atol=1e-6):
        raise UserError(
            f"distill.teacher: its anchors ({len(theirs)}) differ from this network's ({len(ours)}); train "
            "both with the same model=, data.size and anchors"
        )
    task = getattr(teacher, "task", None)
    if isinstance(task, Detection) and _meaning(task) != _meaning(student):
        raise UserError(
            "distill.teacher: its outputs do not mean the same; train both with the same loss= and coder"
        )


def _meaning(task: Detection) -> tuple[Any, ...]:
    """What a network's scores and deltas stand for: equal for a teacher and its student."""
    loss, coder = task.loss, task.postprocess.coder
    trains_background = getattr(loss, "background", None)
    return loss.activation, loss.background_column, trains_background, type(coder), coder.describe()


def _column(present: bool) -> str:
    return "have a column for background" if present else "have none"
