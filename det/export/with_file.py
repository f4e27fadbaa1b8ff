"""The detection task around an exported file."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from det.boxes import Detections
from det.export.suppression import unpadded
from det.task import Detection
from engine.contracts import Batch


class DetectionWithFile(Detection):
    """`task`, predicting with an exported file instead of its model.

    Args:
        task: a detection task with the classes of the file.
        artifact: the file, a `deploy.artifact.Artifact`.

    Raises:
        UserError: if the file is for another task, or has other classes.
    """

    file_anchors: Tensor

    def __init__(self, *, task: Detection, artifact: Any) -> None:
        artifact.check("det", task.classes.names)
        super().__init__(
            model=artifact,
            classes=task.classes,
            eval_transform=task.eval_transform,
            loss=task.loss,
            matcher=task.matcher,
            postprocess=task.postprocess,
            draw_threshold=task.draw_threshold,
        )
        self.threshold_source = task.threshold_source
        self.normalize = artifact.normalize(task.normalize)
        self.register_buffer("file_anchors", task.anchors, persistent=False)
        self.eval()

    @property
    def anchors(self) -> Tensor:
        return self.file_anchors

    def predict(self, batch: Batch) -> list[Detections]:
        """Detections per image, with boxes in pixels of `size`."""
        if self.model.output == "raw":
            return super().predict(batch)
        boxes, scores, labels, _ = self.model(self.normalize(batch["image"]))
        return unpadded(boxes, scores, labels, batch["size"])
