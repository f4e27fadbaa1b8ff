"""Suspicious masks: regions of a label that a confident prediction contradicts."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.contracts import Image
from engine.data.class_map import IGNORE, ClassMap
from engine.data.loader import SampleKey, collate
from engine.io.progress import counted_off
from engine.report.suspicious import Place, Suspicion, class_thresholds, ranked
from engine.sample_images import draw_frames, panel_size, resize_panel, side_by_side
from seg.data.dataset import SegmentationDataset
from seg.drawing import overlay, present_classes, with_legend
from seg.eval.evaluator import SegmentationEvaluator
from seg.suspicious.confidence import confidence
from seg.task import Segmentation

_MOST_EXAMINED = 200
_LEAST_SHARE = 5e-4  # of the image; smaller regions are not worth a look
_EDGE_SHARE = 0.01  # of the shorter side: thinner contradictions are edges that were drawn differently
_MOST_REGIONS = 20  # per image
_FRAMED = 4


class Region(NamedTuple):
    """A connected region whose pixels have one label and one other predicted class.

    Attributes: label, predicted (class indices), box (left, top, right, bottom in pixels), share (of the
    image), sure (mean probability of the prediction), margin (mean of that minus the label's).
    """

    label: int
    predicted: int
    box: tuple[int, int, int, int]
    share: float
    sure: float
    margin: float


def suspicious_masks(
    task: Segmentation, evaluator: SegmentationEvaluator, dataset: SegmentationDataset, count: int
) -> list[Suspicion]:
    """The `count` images with the most confidently contradicted labels.

    The 200 images with the lowest mIoU are examined, which predicts each of them once more. An image's score
    is the share of its area that is contradicted, each region weighted by its margin.
    """
    examined = [index for _, index, _ in evaluator.worst(_MOST_EXAMINED)]
    size = len(task.classes)
    sums, counts = np.zeros(size), np.zeros(size, np.int64)
    regions: dict[int, list[Region]] = {}
    for index, label, found in _confidences(task, dataset, examined):
        counted = label != IGNORE
        sums += np.bincount(label[counted], found.of_label[counted], minlength=size)
        counts += np.bincount(label[counted], minlength=size)
        regions[index] = contradicted_regions(
            label, found.predicted, found.of_prediction, found.of_prediction - found.of_label
        )
    thresholds = class_thresholds(sums, counts)
    suspicions = []
    for index, candidates in regions.items():
        sure = [region for region in candidates if region.sure >= thresholds[region.predicted]]
        if sure:
            suspicions.append(_suspicion(task, dataset, index, sure))
    return ranked(suspicions, count)


def contradicted_regions(
    label: NDArray[np.uint8],
    predicted: NDArray[np.uint8],
    sure: NDArray[np.float32],
    margin: NDArray[np.float32],
) -> list[Region]:
    """The regions of one image, all [H, W], where label and prediction differ; the largest
    `share * margin` first. Thin ones, along the edges of objects, are left out."""
    height, width = label.shape
    least = max(16, round(_LEAST_SHARE * label.size))
    side = max(3, round(_EDGE_SHARE * min(label.shape))) | 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    pairs = label.astype(np.int32) * 256 + predicted
    values, counts = np.unique(pairs[(label != predicted) & (label != IGNORE)], return_counts=True)
    regions = []
    for value in values[counts >= least].tolist():
        mask = cv2.morphologyEx((pairs == value).astype(np.uint8), cv2.MORPH_OPEN, kernel)
        number, parts, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        for part in range(1, number):
            left, top, wide, high, area = stats[part].tolist()
            if area < least:
                continue
            window = np.s_[top : top + high, left : left + wide]
            inside = parts[window] == part
            regions.append(
                Region(
                    label=value // 256,
                    predicted=value % 256,
                    box=(left, top, left + wide, top + high),
                    share=area / (height * width),
                    sure=float(sure[window][inside].mean()),
                    margin=float(margin[window][inside].mean()),
                )
            )
    return sorted(regions, key=lambda region: -region.share * region.margin)[:_MOST_REGIONS]


def _confidences(
    task: Segmentation, dataset: SegmentationDataset, indices: Sequence[int]
) -> Iterator[tuple[int, NDArray[np.uint8], Any]]:
    device = task.normalize.device
    for index in counted_off(indices, what="examining labels", unit="examined image"):
        batch = collate([dataset[SampleKey(index, 0)]])
        label = batch["label"][0].numpy()
        (found,) = confidence(task, {"image": batch["image"].to(device), "label": batch["label"]})
        yield index, label, found


def _suspicion(
    task: Segmentation, dataset: SegmentationDataset, index: int, regions: Sequence[Region]
) -> Suspicion:
    return Suspicion(
        name=dataset.name(index),
        index=index,
        score=min(1.0, sum(region.share * region.margin for region in regions)),
        places=tuple(_place(region, task.classes) for region in regions),
        draw=partial(_draw, task, dataset, index, regions),
    )


def _place(region: Region, classes: ClassMap) -> Place:
    label, predicted = classes.names[region.label], classes.names[region.predicted]
    text = (
        f"label {label}, prediction {predicted} ({region.sure:.0%} sure) on {region.share:.1%} of the image"
    )
    return Place(text, region.share * region.margin, region.box)


def _draw(task: Segmentation, dataset: SegmentationDataset, index: int, regions: Sequence[Region]) -> Image:
    """Image, label and prediction side by side, with the strongest regions framed."""
    image, label, _ = dataset.read(index)
    assert label is not None
    size = panel_size(image)
    marks = {"label": label, "prediction": task.predict_image(image)}
    marks = {name: resize_panel(mark, size, exact=True) for name, mark in marks.items()}
    image = resize_panel(image, size)
    panels = [("image", image)]
    panels += [(name, overlay(image, mark, task.classes)) for name, mark in marks.items()]
    height, width = label.shape
    scale = np.array([size[1] / width, size[0] / height] * 2)
    boxes = [np.multiply(region.box, scale) for region in regions[:_FRAMED]]
    panels = [(name, draw_frames(panel, boxes)) for name, panel in panels]
    shown = present_classes(np.concatenate(list(marks.values())), task.classes)
    return with_legend(side_by_side(panels), task.classes, shown)
