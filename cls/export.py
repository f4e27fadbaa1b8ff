"""Classification as it ships: images -> class scores, and a shipped file in the task's place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from cls.task import Classification


class Export(nn.Module):
    """What is captured: normalization and network.

    Args:
        task: with its trained model.
        output: `logits`, class scores [N, K] before the softmax.
        normalize: whether images are 0..255, or normalized already.
        dtype: of images 0..255, `uint8` or `float32`; normalized ones are float32.

    Raises:
        ValueError: an unknown option.
    """

    def __init__(
        self, *, task: Classification, output: str = "logits", normalize: bool = True, dtype: str = "uint8"
    ) -> None:
        super().__init__()
        if output != "logits":
            raise ValueError(f"output must be logits for classification, got {output!r}")
        if dtype not in ("uint8", "float32"):
            raise ValueError(f"dtype must be uint8 or float32 for classification, got {dtype!r}")
        self.model, self.classes, self.eval_transform = task.model, task.classes, task.eval_transform
        self.normalizer, self.output = task.normalize, output
        self.normalized, self.dtype = normalize, dtype if normalize else "float32"
        self.names = self.compared = ("logits",)

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] -> [N, K]."""
        scores: Tensor = self.model(self.normalizer(images) if self.normalized else images)
        return scores

    def transform(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """RGB [H, W, 3] -> what the network is given, [h, w, 3]."""
        return self.eval_transform(picture, 0)

    def agreement(self, ours: Sequence[NDArray[Any]], theirs: Sequence[NDArray[Any]]) -> float:
        """Share of the images of which two outputs name the same class."""
        return float((ours[0].argmax(1) == theirs[0].argmax(1)).mean())


def run_artifact(*, task: Classification, artifact: Any) -> Classification:
    """`task`, predicting with a shipped file (`deploy.artifact.Artifact`) in place of its model.

    Raises:
        UserError: the file is of another task or of other classes.
    """
    artifact.check("cls", task.classes.names)
    task.model = artifact
    task.normalize = artifact.normalize(task.normalize)
    return task.eval()
