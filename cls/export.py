"""Classification for export: images -> class scores; and a task that predicts with the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import Tensor, nn

from cls.task import Classification
from engine.contracts import Image


class ExportedClassification(nn.Module):
    """Normalization and network: an `engine.contracts.ExportedTask`.

    Args:
        task: with its trained model.
        output: `logits`, class scores [N, K] before the softmax.
        normalize: whether the graph normalizes images in 0..255; else it takes normalized images.
        dtype: of images in 0..255, `uint8` or `float32`; normalized images are float32.

    Raises:
        ValueError: if an option is unknown.
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
        self.normalize, self.output = task.normalize, output
        self.normalized, self.dtype = normalize, dtype if normalize else "float32"
        self.names = self.compared = ("logits",)
        self.decoding = {"in_graph": False, "activation": "softmax"}
        self.decoder = Path(__file__).with_name("decode.py")

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] -> [N, K]."""
        scores: Tensor = self.model(self.normalize(images) if self.normalized else images)
        return scores

    def transform(self, image: Image) -> Image:
        """RGB [H, W, 3] -> the network's input, [h, w, 3]."""
        return self.eval_transform(image, 0)

    def agreement(self, ours: Sequence[NDArray[Any]], theirs: Sequence[NDArray[Any]]) -> float:
        """Share of the images with the same class in both outputs, in 0..1."""
        return float((ours[0].argmax(1) == theirs[0].argmax(1)).mean())


class ClassificationWithFile(Classification):
    """`task`, predicting with an exported file (`deploy.artifact.Artifact`) instead of its model.

    Raises:
        UserError: if the file is for another task or other classes.
    """

    def __init__(self, *, task: Classification, artifact: Any) -> None:
        artifact.check("cls", task.classes.names)
        super().__init__(
            model=artifact,
            classes=task.classes,
            eval_transform=task.eval_transform,
            label_smoothing=task.label_smoothing,
            mix=task.mix,
        )
        self.normalize = artifact.normalize(task.normalize)
        self.eval()
