"""Average precision and recall of boxes, as COCO's evaluation defines them, for any class map.

AP is the mean precision at 101 recalls, averaged over the IoU thresholds .50, .55, ..., .95 and over the
classes; a class without objects has no AP (NaN) and is left out of the mean. Crowds and objects marked
difficult are neither hits nor misses. All numbers equal those of pycocotools (`det.eval.average_precision`).
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from det.boxes import Detections
from det.data.dataset import DetectionSplit
from det.eval import average_precision
from det.eval.average_precision import Curves, Objects
from det.eval.object_limits import SCORED_PER_CLASS, ObjectLimits, over_limits, scored_limits
from det.eval.results_table import results_table
from det.eval.true_positives import OperatingPoint, best_threshold, image_scores, match_detections
from engine.data.class_map import ClassMap
from engine.image_records import ImageRecords

State = dict[str, NDArray[Any]]


class _ImageDetections(NamedTuple):
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]


class DetectionEvaluator:
    """Collects the detections of a split and scores them; needs 28 bytes per detection.

    Args:
        classes: the dataset's classes; the split's labels are their indices.
        split: the ground truth of all images; only images that were seen are scored.
        name_of: index -> name of the image, for `worst` and messages.
        predicted_classes: the classes whose indices are predicted, if not `classes`; they are translated by
            name, and detections of classes that the dataset does not have are not counted.
        predicted: how the predictions were made, for the protocol.
        limits: on the boxes of an image; the table names images with more objects.
        max_detections: increasing limits per image and class; AP is at the last one (default: 1, 10, 100).
        backend: `hotcoco`, `pycocotools`, or `auto`: hotcoco if it is installed.

    Raises:
        ValueError: if the limits are not positive and increasing, or the backend is unknown.
    """

    main_metric = "map"
    worst_by = "lowest F1 (0 to 1, at IoU .5)"

    def __init__(
        self,
        *,
        classes: ClassMap,
        split: DetectionSplit,
        name_of: Callable[[int], str] = str,
        predicted_classes: ClassMap | None = None,
        predicted: str = "",
        limits: ObjectLimits | None = None,
        max_detections: Sequence[int] | None = None,
        backend: str = "auto",
    ) -> None:
        if max_detections is None:
            max_detections = scored_limits(limits.scored_per_class if limits else SCORED_PER_CLASS)
        scored = list(max_detections)
        if not scored or scored[0] < 1 or scored != sorted(set(scored)):
            raise ValueError(f"max_detections must be increasing and positive, not {scored}")
        self.classes, self.split, self._predicted = classes, split, predicted
        self.limits, self.max_detections = limits, scored
        self.backend = average_precision.choose_backend(backend)
        self._name_of = name_of
        known = {name: index for index, name in enumerate(classes.names)}
        self._data_index = np.array(
            [known.get(name, -1) for name in (predicted_classes or classes).names], np.int64
        )
        self.reset()

    def reset(self) -> None:
        self._by_image: ImageRecords[_ImageDetections] = ImageRecords(self._name_of)
        self._not_finite = 0
        self._clear_results()

    def update(self, outputs: Sequence[Detections], batch: Mapping[str, Any]) -> None:
        """Count the detections of a batch.

        Detections that are not finite are left out and mentioned in the protocol.

        Args:
            outputs: per image, in pixels of the original image.
            batch: contains "index" [N].

        Raises:
            ValueError: if the number of images differs, an index or a label is out of range, or an image was
                counted already.
        """
        indices = torch.as_tensor(batch["index"]).tolist()
        if len(outputs) != len(indices):
            raise ValueError(f"got detections for {len(outputs)} images, but {len(indices)} indices")
        for index in indices:
            if not 0 <= index < len(self.split):
                raise ValueError(f"index must be in 0..{len(self.split) - 1}, got {index}")
            self._by_image.check_new(index)
        for index, detections in zip(indices, self._to_arrays(outputs), strict=True):
            self._by_image.add(index, detections)
        self._clear_results()

    def _to_arrays(self, outputs: Sequence[Detections]) -> list[_ImageDetections]:
        """On the CPU (one transfer per batch), with labels translated to the dataset's classes."""
        if not outputs:
            return []
        columns = zip(*outputs, strict=True)
        parts = (torch.cat(list(column)).detach().cpu() for column in columns)
        boxes, scores, labels = (
            part.to(dtype).numpy()
            for part, dtype in zip(parts, (torch.float32, torch.float32, torch.int64), strict=True)
        )
        count = len(self._data_index)
        if len(labels) and not 0 <= labels.min() <= labels.max() < count:
            raise ValueError(f"labels must be in 0..{count - 1}, got {labels.min()}..{labels.max()}")
        labels = self._data_index[labels]
        finite = np.isfinite(boxes).all(axis=1) & np.isfinite(scores)
        self._not_finite += int((~finite).sum())
        kept = finite & (labels >= 0)
        counts = [len(detections.scores) for detections in outputs]
        by_image = [_split_rows(values, counts) for values in (boxes, scores, labels, kept)]
        return [
            _ImageDetections(box[keep], score[keep], label[keep])
            for box, score, label, keep in zip(*by_image, strict=True)
        ]

    def state(self) -> State:
        """Everything counted so far, as plain arrays."""
        indices = sorted(self._by_image)
        images = [self._by_image[index] for index in indices]
        return {
            "index": np.array(indices, np.int64),
            "count": np.array([len(image.scores) for image in images], np.int64),
            "boxes": np.concatenate([np.zeros((0, 4), np.float32), *(image.boxes for image in images)]),
            "scores": np.concatenate([np.zeros(0, np.float32), *(image.scores for image in images)]),
            "labels": np.concatenate([np.zeros(0, np.int64), *(image.labels for image in images)]),
            "not_finite": np.array(self._not_finite, np.int64),
        }

    def merge(self, states: Sequence[State]) -> None:
        """Replace everything counted so far with the sum of `states`.

        Raises:
            ValueError: if an image is in two of them.
        """
        self.reset()
        for state in states:
            columns = (_split_rows(state[name], state["count"]) for name in ("boxes", "scores", "labels"))
            for index, *detections in zip(state["index"].tolist(), *columns, strict=True):
                self._by_image.add_from_process(index, _ImageDetections(*detections))
            self._not_finite += int(state["not_finite"])
        self._clear_results()

    def compute(self) -> dict[str, Any]:
        """Results by name, in 0..1; NaN if there is nothing to score.

        map, map_50, map_75, map_small, map_medium, map_large; ar_1, ar_10, ar_100 (`max_detections`),
        ar_small, ar_medium, ar_large; ap/<class>; best_f1 (at IoU .5) and its score threshold,
        best_f1_threshold; num_images, num_objects, num_detections, num_classes_present, protocol.
        """
        per_class = {
            f"ap/{name}": self.curves.ap(category=index) for index, name in enumerate(self.classes.names)
        }
        counted = self.truth.category_ids[~self.truth.ignored]
        best = self.operating_point
        return {
            **average_precision.summarize(self.curves, self.max_detections),
            **per_class,
            "best_f1": best.f1 if best else float("nan"),
            "best_f1_threshold": best.threshold if best else float("nan"),
            "num_images": len(self._by_image),
            "num_objects": len(counted),
            "num_detections": len(self.detections),
            "num_classes_present": len(np.unique(counted)),
            "protocol": self._protocol(),
        }

    @cached_property
    def detections(self) -> NDArray[np.float64]:
        """COCO's results array [D, 7]: image id, x, y, width, height, score, category id; ordered by the
        index of the image."""
        state = self.state()
        boxes = state["boxes"].astype(np.float64)
        rows = np.empty((len(boxes), 7))
        rows[:, 0] = np.repeat(self.split.image_ids[state["index"]], state["count"])
        rows[:, 1:3], rows[:, 3:5] = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
        rows[:, 5], rows[:, 6] = state["scores"], np.array(self.classes.ids)[state["labels"]]
        return rows

    @cached_property
    def truth(self) -> Objects:
        """The objects in the images that were seen."""
        split = self.split
        seen = np.zeros(len(split), bool)
        seen[list(self._by_image)] = True
        counts = np.diff(split.offsets)
        rows = np.repeat(seen, counts)
        boxes = split.boxes[rows].astype(np.float64)
        return Objects(
            image_ids=np.repeat(split.image_ids, counts)[rows].astype(np.int64),
            category_ids=np.array(self.classes.ids, np.int64)[split.labels[rows]],
            boxes=np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1),
            areas=split.areas[rows].astype(np.float64),
            crowd=split.crowd[rows],
            ignored=split.ignored[rows] | split.crowd[rows],
        )

    @cached_property
    def curves(self) -> Curves:
        """Precision, recall and scores by IoU, class, area and limit."""
        return average_precision.accumulate(
            self.detections,
            self.truth,
            image_ids=self.split.image_ids[sorted(self._by_image)].tolist(),
            category_ids=self.classes.ids,
            max_detections=self.max_detections,
            backend=self.backend,
        )

    @cached_property
    def matches(self) -> NDArray[np.int64]:
        """[D]: the row of `truth` that each detection hits at IoU .5; see `match_detections`."""
        return match_detections(self.detections, self.truth)

    @cached_property
    def operating_point(self) -> OperatingPoint | None:
        """The score threshold with the best F1 at IoU .5; None if no detection is correct."""
        return best_threshold(self.detections[:, 5], self.matches, int((~self.truth.ignored).sum()))

    def worst(self, count: int) -> list[tuple[str, int, float]]:
        """The images with the lowest F1 at IoU .5 and the `operating_point`'s threshold: (name, index, F1).

        Among images with the same F1, those with more mistakes come first. Images without objects and without
        detections have no F1.
        """
        threshold = self.operating_point.threshold if self.operating_point else 0.5
        index_of = {image: index for index, image in enumerate(self.split.image_ids.tolist())}
        scores = image_scores(self.detections, self.truth, self.matches, threshold)
        ranked = sorted((f1, -mistakes, index_of[image]) for image, f1, mistakes in scores)
        return [(self._name_of(index), index, f1) for f1, _, index in ranked[:count]]

    def table(self) -> str:
        """The results as text: one line per class, then COCO's 12 numbers; if AP is 0, a diagnosis."""
        crowded = over_limits(self.split, self.limits, images=self._by_image) if self.limits else []
        return "\n".join([results_table(self), *crowded])

    def to_coco(self) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The detections in COCO's results format, and the ground truth in COCO's annotation format.

        Both use the dataset's own image and category ids.
        """
        split = self.split
        images = [
            {
                "id": int(split.image_ids[index]),
                "file_name": os.fsdecode(split.names[index] + os.path.splitext(split.images[index])[1]),
                "height": int(split.sizes[index, 0]),
                "width": int(split.sizes[index, 1]),
            }
            for index in sorted(self._by_image)
        ]
        categories = [
            {"id": id_, "name": name} for id_, name in zip(self.classes.ids, self.classes.names, strict=True)
        ]
        annotations = average_precision.truth_to_coco(self.truth)
        ground_truth = {"images": images, "categories": categories, "annotations": annotations}
        return average_precision.detections_to_coco(self.detections), ground_truth

    def _clear_results(self) -> None:
        """Drop the cached results, which are only valid until the next update."""
        for name in ("detections", "truth", "curves", "matches", "operating_point"):
            self.__dict__.pop(name, None)

    def _protocol(self) -> str:
        num_images, num_annotated = len(self._by_image), len(self.split)
        part = "" if num_images == num_annotated else f" of {num_annotated}"
        limits = ", ".join(map(str, self.max_detections))
        text = (
            f"COCO box AP by {self.backend} over {num_images}{part} images: 101 recalls, mean over IoU "
            f".50:.05:.95 and over classes with objects; at most {limits} detections per image and class; "
            "crowds and difficult objects neither hit nor miss"
        )
        if self._not_finite:
            text += f"; {self._not_finite} detections that were not finite left out"
        return f"{text}; {self._predicted}" if self._predicted else text


def _split_rows(values: NDArray[Any], counts: Sequence[int] | NDArray[np.int64]) -> list[NDArray[Any]]:
    """Rows [D, ...] -> those of each image."""
    return np.split(values, np.cumsum(counts, dtype=np.int64))[:-1]
