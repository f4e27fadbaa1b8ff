"""The semantic segmentation task, for the engine: batch -> losses, batch -> label maps."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from engine.contracts import Batch, Image
from engine.data.class_map import IGNORE, ClassMap
from engine.data.images import image_size
from engine.data.preprocessing import Normalize, Size
from engine.errors import UserError, no_labels, some
from engine.io.files import evenly_spaced
from engine.train.distillation import Distillation
from seg.data.dataset import SegmentationDataset
from seg.eval.evaluator import SegmentationEvaluator
from seg.inference import views
from seg.inference.tiles import Area, Grid, Network, Pixels, Resized, Whole
from seg.losses import CrossEntropy, Dice, Lovasz
from seg.transforms import EvalTransform

_SIZES_CHECKED = 8  # images


_SMALL_SHARE = 0.1


class Segmentation(nn.Module):
    """Semantic segmentation, an `engine.contracts.Task`.

    A batch contains `image` [N, 3, h, w] uint8, `label` [N, H, W] uint8 (255: ignored) and `index` [N].

    Args:
        model: normalized images -> class scores at some stride.
        classes: the dataset's class map.
        loss: per-pixel loss; its `weight(labels)` is the number of pixels that it averages over.
        dice: factor on an additional Dice loss; 0: none.
        lovasz: factor on an additional Lovász loss; 0: none.
        auxiliary: factor on the cross entropy of the head's auxiliary classifiers, if it has any.
        pixels: input normalization, `inception`, `imagenet` or `unit`.
        align_corners: how scores are resized to the labels.
        inference: how label maps are predicted (None: from the whole image, once).
        eval_transform: applied to an image before prediction (None: nothing).

    Attributes:
        distillation: a loss that pulls the scores toward a teacher's, or None.
        on_part: called with the number of windows predicted so far, and the total for the image.
    """

    distillation: Distillation | None = None
    memory_remedy = "predict it in windows, or in smaller windows: inference.window=[512,512]"
    on_part: Callable[[int, int], None] = staticmethod(lambda done, total: None)

    def __init__(
        self,
        *,
        model: nn.Module,
        classes: ClassMap,
        loss: CrossEntropy | None = None,
        dice: float = 0.0,
        lovasz: float = 0.0,
        auxiliary: float = 0.4,
        pixels: str = "inception",
        align_corners: bool = True,
        inference: Inference | None = None,
        eval_transform: EvalTransform | None = None,
    ) -> None:
        super().__init__()
        for name, factor in (("dice", dice), ("lovasz", lovasz), ("auxiliary", auxiliary)):
            if factor < 0:
                raise ValueError(f"{name} must be at least 0 (no such loss), got {factor}")
        head = getattr(model, "head", None)
        if auxiliary not in (0, 0.4) and getattr(head, "auxiliary", None) is None:
            raise ValueError(
                "auxiliary has no effect: the head has no auxiliary classifier; choose model=multi_scale, or "
                "leave it out"
            )
        weights = None if loss is None else loss.class_weights
        if weights is not None and len(weights) != len(classes):
            raise ValueError(
                f"loss.class_weights must have one weight per class ({', '.join(classes.names)}: "
                f"{len(classes)}), got {len(weights)}"
            )
        self.model, self.classes = model, classes
        self.loss = loss or CrossEntropy()
        self.dice, self.dice_loss = dice, Dice()
        self.lovasz, self.lovasz_loss = lovasz, Lovasz()
        self.auxiliary = auxiliary
        self.align_corners, self.inference = align_corners, inference or Inference()
        self.eval_transform = eval_transform or EvalTransform()
        self.normalize = Normalize(pixels)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses by name, each the mean over the counted pixels; for distillation, unlabeled pixels count."""
        labels, pixels = batch["label"].long(), batch["image"]
        if "unlabeled" in batch:
            pixels = torch.cat([pixels, batch["unlabeled"]])
        with self._recorded_features() as features:
            outputs = self._training_scores(self.normalize(pixels))
        all_scores, *auxiliary = (
            resize(scores, labels.shape[-2:], align_corners=self.align_corners) for scores in outputs
        )
        scores = all_scores[: len(labels)]
        losses = {"cross_entropy": self.loss(scores, labels)}
        if auxiliary:  # also with factor 0: each parameter needs a gradient in data-parallel training
            others = torch.stack([self.loss(other[: len(labels)], labels) for other in auxiliary])
            losses["auxiliary"] = self.auxiliary * others.sum()
        if self.dice:
            losses["dice"] = self.dice * self.dice_loss(scores, labels)
        if self.lovasz:
            losses["lovasz"] = self.lovasz * self.lovasz_loss(scores, labels)
        if (teaching := self.distillation) is not None:
            targets, theirs = teaching.scores_and_features(pixels.float())
            targets = resize(targets, labels.shape[-2:], align_corners=self.align_corners)
            counted = F.pad(labels != IGNORE, (0, 0, 0, 0, 0, len(pixels) - len(labels)), value=True)
            losses["distillation"] = teaching.loss(all_scores, targets, counted)
            if features:
                losses["distillation"] = losses["distillation"] + teaching.feature_loss(features, theirs)
        return losses

    def _recorded_features(self) -> contextlib.AbstractContextManager[list[Tensor]]:
        teaching = self.distillation
        return contextlib.nullcontext([]) if teaching is None else teaching.features_of(self.model)

    def _training_scores(self, images: Tensor) -> tuple[Tensor, ...]:
        own: Callable[[Tensor], tuple[Tensor, ...]] | None = getattr(self.model, "training_scores", None)
        return own(images) if own else (self.model(images),)

    def weight(self, batch: Batch) -> Tensor:
        """Number of counted pixels, or the sum of their class weights."""
        return self.loss.weight(batch["label"].long())

    def predict(self, batch: Batch) -> Tensor:
        """Class indices [N, H, W] uint8, at `size` (height, width), or that of `label`."""
        return self.inference.labels(
            self.model,
            batch["image"],
            output_size(batch),
            normalize=self.normalize,
            align_corners=self.align_corners,
            on_part=self.on_part,
        )

    @torch.inference_mode()
    def predict_image(self, image: Image) -> NDArray[np.uint8]:
        """RGB [H, W, 3] -> class indices [H, W], both at the image's own size."""
        return self.predict(self.batch_of(image))[0].cpu().numpy()

    def batch_of(self, image: Image) -> Batch:
        """RGB [H, W, 3] -> the batch that `predict` takes."""
        pixels, _ = self.eval_transform(image, None, 0)
        images = torch.from_numpy(np.require(pixels, requirements=["W"])).permute(2, 0, 1)[None]
        return {"image": images.to(self.normalize.device), "size": image.shape[:2]}

    def notes(self, dataset: SegmentationDataset) -> list[str]:
        """Lines to show before training about classes without weight, and if a crop covers only a small part
        of this split's images.

        Raises: UserError if the losses count the pixels of a single class.
        """
        return [*self._without_weight(), *small_crop(dataset)]

    def _without_weight(self) -> list[str]:
        weights = self.loss.class_weights
        if weights is None or (weights > 0).all():
            return []
        names = [
            name for name, weight in zip(self.classes.names, weights.tolist(), strict=True) if not weight
        ]
        line = f"task.loss.class_weights: {some(names)} {'has' if len(names) == 1 else 'have'} weight 0"
        if self.dice or self.lovasz:
            return [f"{line}: only the Dice and Lovász losses count these pixels"]
        if len(names) == len(self.classes) - 1 and self.distillation is None:
            raise UserError(f"{line}, so only one class would be learned; at least two need a weight above 0")
        return [
            f"{line} and will never be predicted; to ignore these pixels, list the class ids under ignore in "
            "classes.json"
        ]

    def check_classes(self, classes: ClassMap) -> None:
        """Raises: UserError if a dataset has other classes than this task, or another order."""
        self.classes.check_same_names(classes)

    def evaluator(self, dataset: SegmentationDataset) -> SegmentationEvaluator:
        """The evaluator for a split with this task's classes.

        Raises:
            UserError: if the split has no masks.
        """
        if not dataset.has_labels:
            raise no_labels("masks", first_image=dataset.image_path(0))
        predicted = f"{self.eval_transform}, {self.inference}"
        return SegmentationEvaluator(classes=self.classes, name_of=dataset.name, predicted=predicted)


def small_crop(dataset: SegmentationDataset) -> list[str]:
    """A line if a training crop covers less than a tenth of an image (in a sample of the split)."""
    crop, scale = (getattr(getattr(dataset, "transform", None), name, None) for name in ("crop", "scale"))
    if crop is None or scale is None:
        return []
    sizes = []
    for index in evenly_spaced(len(dataset), _SIZES_CHECKED):
        with contextlib.suppress(UserError):  # reported when the image is read
            sizes.append(image_size(dataset.image_path(index)))
    typical = math.sqrt(scale[0] * scale[1])
    shares = [min(1, crop[0] / typical / h) * min(1, crop[1] / typical / w) for h, w in sizes]
    if not shares or (share := float(np.median(shares))) >= _SMALL_SHARE:
        return []
    height, width = sizes[len(sizes) // 2]
    factor = 2 * min(crop) / min(height, width)
    return [
        f"a training crop of {crop[0]}x{crop[1]} covers {share:.1%} of an image ({height}x{width}), so the "
        f"network sees little context; set data.image_scale={factor:.1g}, which shrinks the images in "
        "training and prediction, or a larger data.crop"
    ]


class Inference:
    """Class scores at full resolution: in one pass, or averaged over scales, a mirror image and windows.

    Args:
        scales: factors on the image; with several, or with `flip`, probabilities are averaged.
        flip: also score the mirrored image.
        window: (height, width) of a sliding window (None: the whole image).
        overlap: share of a window that overlaps its neighbor, in [0, 1).

    Raises:
        ValueError: if there is no scale, a scale is not positive, the window is smaller than 32 pixels, or
            the overlap is outside [0, 1).
    """

    def __init__(
        self,
        *,
        scales: list[float] | tuple[float, ...] = (1.0,),
        flip: bool = False,
        window: list[int] | tuple[int, int] | None = None,
        overlap: float = 1 / 3,
    ) -> None:
        if not scales or min(scales) <= 0:
            raise ValueError(f"inference.scales must be positive numbers, got {list(scales)}")
        if window is not None and (len(window) != 2 or min(window) < 32):
            raise ValueError(
                f"inference.window must be [height, width] of at least 32 pixels, got {list(window)}"
            )
        if not 0 <= overlap < 1:
            raise ValueError(f"inference.overlap must be in [0, 1), got {overlap}")
        self.scales, self.flip, self.window, self.overlap = tuple(scales), flip, window, overlap

    @property
    def is_single_pass(self) -> bool:
        """Whether the scores are the network's own: the whole image, once."""
        return self.scales == (1.0,) and not self.flip and self.window is None

    def __str__(self) -> str:
        parts = [
            "scales " + "/".join(f"{scale:g}" for scale in self.scales),
            "flip" if self.flip else "no flip",
        ]
        return ", ".join(parts + ([f"window {self.window[0]}x{self.window[1]}"] if self.window else []))

    def __call__(self, network: Network, images: Tensor, size: Size, *, align_corners: bool) -> Tensor:
        """Normalized images [N, 3, h, w] -> class scores or summed probabilities [N, K, *size]."""
        scores: Tensor | None = None
        for area, part in self._tiles(network, Whole(images), size, align_corners):
            if scores is None:
                scores = part if area.size == size else part.new_empty(*part.shape[:2], *size)
            area.of(scores).copy_(part)
        assert scores is not None
        return scores

    def labels(
        self,
        network: Network,
        images: Tensor,
        size: Size,
        *,
        normalize: Network,
        align_corners: bool,
        on_part: Callable[[int, int], None] = lambda done, total: None,
    ) -> Tensor:
        """Images uint8 [N, 3, h, w] -> class indices uint8 [N, *size].

        For large images, scores exist for one tile at a time; with a window, so does the normalized image.

        Args:
            on_part: called with the number of windows that are done, and the total.
        """
        labels = torch.empty(len(images), *size, dtype=torch.uint8, device=images.device)
        pixels = Pixels(images, normalize)
        for area, scores in self._tiles(network, pixels, size, align_corners, on_part):
            area.of(labels).copy_(scores.argmax(1))
        return labels

    def scores_by_area(
        self, network: Network, images: Tensor, size: Size, *, normalize: Network, align_corners: bool
    ) -> Iterator[tuple[Area, Tensor]]:
        """Images uint8 [N, 3, h, w] -> the areas of an image of `size`, each with its scores, or with
        probabilities summed over the views, [N, K, height, width]."""
        return self._tiles(network, Pixels(images, normalize), size, align_corners)

    def _tiles(
        self,
        network: Network,
        pixels: Grid,
        size: Size,
        align_corners: bool,
        on_part: Callable[[int, int], None] = lambda done, total: None,
    ) -> Iterator[tuple[Area, Tensor]]:
        """The areas of the image at `size`, with scores or summed probabilities [N, K, height, width]."""
        scored = views.views(
            network,
            pixels,
            scales=self.scales,
            flip=self.flip,
            window=None if self.window is None else (self.window[0], self.window[1]),
            overlap=self.overlap,
            align_corners=align_corners,
            on_part=on_part,
        )
        for area in views.areas(scored[0], size):
            if self.is_single_pass:
                yield area, Resized(scored[0].scores, size, align_corners=align_corners).part(area)
                continue
            total: Tensor | None = None
            for view in scored:
                probabilities = view.probabilities(area, size, align_corners)
                total = probabilities if total is None else total + probabilities
            assert total is not None
            yield area, total


def output_size(batch: Batch) -> Size:
    """(height, width) at which a batch is predicted: its `size`, or that of its labels."""
    height, width = batch["size"] if "size" in batch else batch["label"].shape[-2:]
    return height, width


def resize(values: Tensor, size: Size, *, align_corners: bool) -> Tensor:
    """Bilinear: [N, C, h, w] -> [N, C, *size]."""
    if tuple(values.shape[-2:]) == tuple(size):
        return values
    return F.interpolate(values, size, mode="bilinear", align_corners=align_corners)
