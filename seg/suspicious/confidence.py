"""How sure the network is of its prediction and of a label, pixel by pixel."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.contracts import Batch
from engine.data.class_map import IGNORE
from seg.task import Segmentation, output_size


class Confidence(NamedTuple):
    """Of one image, all [H, W]: the predicted class uint8, its probability, and that of the label (float32;
    0 where the label is ignored)."""

    predicted: NDArray[np.uint8]
    of_prediction: NDArray[np.float32]
    of_label: NDArray[np.float32]


@torch.inference_mode()
def confidence(task: Segmentation, batch: Batch) -> list[Confidence]:
    """The confidences of a batch with `image` [N, 3, h, w] and `label` [N, H, W], at the labels' size.

    Probabilities exist for one tile of a large image at a time.
    """
    size, labels = output_size(batch), batch["label"]
    shape = (len(labels), *size)
    predicted = torch.empty(shape, dtype=torch.uint8)
    chosen, given = torch.empty(shape), torch.empty(shape)
    for area, scores in task.inference.scores_by_area(
        task.model, batch["image"], size, normalize=task.normalize, align_corners=task.align_corners
    ):
        probabilities = _probabilities(scores, single_pass=task.inference.is_single_pass)
        label = area.of(labels).long().to(probabilities.device)[:, None]
        counted = label != IGNORE
        of_label = probabilities.gather(1, label.where(counted, torch.zeros_like(label))) * counted
        highest, index = probabilities.max(1)
        area.of(predicted).copy_(index)
        area.of(chosen).copy_(highest)
        area.of(given).copy_(of_label[:, 0])
    return [
        Confidence(*(part.numpy() for part in parts)) for parts in zip(predicted, chosen, given, strict=True)
    ]


def _probabilities(scores: Tensor, *, single_pass: bool) -> Tensor:
    """Class scores, or probabilities summed over several views, [N, K, H, W] -> probabilities."""
    scores = scores.float()
    return scores.softmax(1) if single_pass else scores / scores.sum(1, keepdim=True)
