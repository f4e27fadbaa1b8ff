"""The detection task around an exported file."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from det.boxes import Detections
from det.export.suppression import unpadded
from det.postprocess import Postprocess
from det.task import Detection

_LIMITS = ("score_threshold", "iou_threshold", "per_class", "max_detections", "candidates", "activation")


class DetectionWithFile(Detection):
    """`task`, predicting with an exported file instead of its model.

    The limits of a file that returns detections are its own, whatever the task's are.

    Args:
        task: a detection task with the classes of the file.
        artifact: the file, a `deploy.artifact.Artifact`.

    Raises:
        UserError: if the file is for another task, or has other classes.
    """

    file_anchors: Tensor

    def __init__(self, *, task: Detection, artifact: Any) -> None:
        artifact.check("det", task.classes.names)
        own = task.postprocess
        super().__init__(
            model=artifact,
            classes=task.classes,
            eval_transform=task.resize,
            inference=task.inference,
            loss=task.loss,
            matcher=task.matcher,
            postprocess=own if artifact.output == "raw" else _of_file(artifact, own),
            draw_threshold=task.draw_threshold,
            scored_per_class=task.scored_per_class,
        )
        self.threshold_source = task.threshold_source
        self.normalize = artifact.normalize(task.normalize)
        self.register_buffer("file_anchors", task.anchors, persistent=False)
        self.eval()

    @property
    def anchors(self) -> Tensor:
        return self.file_anchors

    def predict_at_once(self, images: Tensor, sizes: Tensor) -> list[Detections]:
        """Images [N, 3, h, w] of `sizes` [N, 2] before they were resized -> the detections in each."""
        if self.model.output == "raw":
            return super().predict_at_once(images, sizes)
        boxes, scores, labels, _ = self.model(self.normalize(images))
        return unpadded(boxes, scores, labels, sizes)


def _of_file(artifact: Any, own: Postprocess) -> Postprocess:
    """The post-processing in a file; `own` if the file does not describe it."""
    limits = {name: artifact.decoding[name] for name in _LIMITS if name in artifact.decoding}
    if len(limits) < len(_LIMITS):
        return own
    return Postprocess(**limits, coder=own.coder, background_column=own.background_column)
