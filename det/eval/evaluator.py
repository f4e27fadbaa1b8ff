"""Average precision and recall of boxes, as COCO's evaluation defines them, for any class map.

AP is the area under the precision-recall curve at 101 recalls, the mean over the IoU thresholds .50, .55 to
.95 and over the classes; a class without objects has no AP (NaN) and is left out of the mean. Crowds and
objects marked difficult are neither hits nor misses. The numbers are those of pycocotools (`coco_eval`).
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from det.boxes import Detections
from det.eval import average_precision
from det.eval.average_precision import Curves, Objects
from det.eval.matching import OperatingPoint, best_threshold, image_scores, match
from det.eval.table import results_table
from engine.data.class_map import ClassMap

if TYPE_CHECKING:
    from det.data.dataset import Annotations


State = dict[str, NDArray[Any]]


class _Found(NamedTuple):
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]


class DetectionEvaluator:
    """reset / update / compute; `state` and `merge` gather the parts of several processes.

    Memory: 28 bytes per detection.

    Args:
        classes: the data set's classes; `annotations` holds their indices.
        annotations: the truth, for all images of the split; only images that were seen are scored.
        names: image names for `worst`, as a sequence or a function of the index.
        predicted_classes: the classes whose indices are predicted, where they are others than `classes`; they
            are translated by name, and what the data set does not know is not counted.
        predicted: how the predictions were made, for the protocol.
        max_detections: rising limits on the detections per image and class; AP is at the last one.
        backend: `hotcoco`, `pycocotools`, or `auto`: hotcoco where it is installed.

    Raises:
        ValueError: limits that are not positive and rising, or an unknown backend.
    """

    main_metric = "map"

    def __init__(
        self,
        *,
        classes: ClassMap,
        annotations: "Annotations",
        names: Callable[[int], str] | Sequence[str] | None = None,
        predicted_classes: ClassMap | None = None,
        predicted: str = "",
        max_detections: Sequence[int] = (1, 10, 100),
        backend: str = "auto",
    ) -> None:
        limits = list(max_detections)
        if not limits or limits[0] < 1 or limits != sorted(set(limits)):
            raise ValueError(f"max_detections must be rising positive numbers like 1, 10, 100, got {limits}")
        self.classes, self.annotations, self._predicted = classes, annotations, predicted
        self.max_detections, self.backend = limits, average_precision.choose_backend(backend)
        self._name = names if callable(names) else (names.__getitem__ if names is not None else str)
        known = {name: index for index, name in enumerate(classes.names)}
        self._translated = np.array(
            [known.get(name, -1) for name in (predicted_classes or classes).names], np.int64
        )
        self.reset()

    def reset(self) -> None:
        self._by_image: dict[int, _Found] = {}
        self._not_finite = 0
        self._forget()

    def update(self, outputs: Sequence[Detections], batch: Mapping[str, Any]) -> None:
        """Take the detections of a batch.

        outputs: per image, in pixels of the original image. batch: "index" [N]. Boxes and scores that are not
        finite are left out and mentioned in the protocol. Raises: ValueError for a wrong number of images, an
        index or a label out of range, and an image that was counted already.
        """
        indices = torch.as_tensor(batch["index"]).tolist()
        if len(outputs) != len(indices):
            raise ValueError(f"got detections for {len(outputs)} images, but {len(indices)} indices")
        for index in indices:
            if not 0 <= index < len(self.annotations.image_ids):
                raise ValueError(f"no image {index}: {len(self.annotations.image_ids)} images are annotated")
            if index in self._by_image or indices.count(index) > 1:
                raise ValueError(
                    f"image {index} ({self._name(index)}) was counted already; call reset() first"
                )
        self._by_image |= zip(indices, self._to_arrays(outputs), strict=True)
        self._forget()

    def _to_arrays(self, outputs: Sequence[Detections]) -> list[_Found]:
        """One transfer per batch from the device; classes of the data set."""
        if not outputs:
            return []
        columns = zip(*outputs, strict=True)
        parts = (torch.cat(list(column)).detach().cpu() for column in columns)
        boxes, scores, labels = (
            part.to(dtype).numpy()
            for part, dtype in zip(parts, (torch.float32, torch.float32, torch.int64), strict=True)
        )
        count = len(self._translated)
        if len(labels) and not 0 <= labels.min() <= labels.max() < count:
            raise ValueError(f"labels must be in 0..{count - 1}, got {labels.min()}..{labels.max()}")
        labels = self._translated[labels]
        finite = np.isfinite(boxes).all(axis=1) & np.isfinite(scores)
        self._not_finite += int((~finite).sum())
        kept = finite & (labels >= 0)
        counts = [len(found.scores) for found in outputs]
        by_image = zip(*(_split(values, counts) for values in (boxes, scores, labels, kept)), strict=True)
        return [_Found(box[keep], score[keep], label[keep]) for box, score, label, keep in by_image]

    def state(self) -> State:
        """What has been counted, as plain arrays."""
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
        """Replace what has been counted by the sum of `states`.

        Raises: ValueError when an image was counted in two of them.
        """
        self.reset()
        for state in states:
            columns = (_split(state[name], state["count"]) for name in ("boxes", "scores", "labels"))
            for index, *found in zip(state["index"].tolist(), *columns, strict=True):
                if index in self._by_image:
                    raise ValueError(f"image {index} ({self._name(index)}) was counted by two processes")
                self._by_image[index] = _Found(*found)
            self._not_finite += int(state["not_finite"])
        self._forget()

    def compute(self) -> dict[str, Any]:
        """Flat results in 0..1, NaN where there is nothing to score.

        map, map_50, map_75, map_small, map_medium, map_large; ar_1, ar_10, ar_100 (`max_detections`),
        ar_small, ar_medium, ar_large; ap/<class>; num_images, num_objects, num_detections,
        num_classes_present, protocol.
        """
        per_class = {
            f"ap/{name}": self.curves.ap(category=index) for index, name in enumerate(self.classes.names)
        }
        counted = self.truth.category_ids[~self.truth.ignored]
        return {
            **average_precision.summarize(self.curves, self.max_detections),
            **per_class,
            "num_images": len(self._by_image),
            "num_objects": len(counted),
            "num_detections": len(self.found),
            "num_classes_present": len(np.unique(counted)),
            "protocol": self._protocol(),
        }

    @cached_property
    def found(self) -> NDArray[np.float64]:
        """[D, 7] as COCO has it: image id, x, y, width, height, score, category id; by index of the image."""
        state = self.state()
        boxes = state["boxes"].astype(np.float64)
        rows = np.empty((len(boxes), 7))
        rows[:, 0] = np.repeat(self.annotations.image_ids[state["index"]], state["count"])
        rows[:, 1:3], rows[:, 3:5] = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
        rows[:, 5], rows[:, 6] = state["scores"], np.array(self.classes.ids)[state["labels"]]
        return rows

    @cached_property
    def truth(self) -> Objects:
        """The objects of the images that were seen."""
        source = self.annotations
        seen = np.zeros(len(source.image_ids), bool)
        seen[list(self._by_image)] = True
        counts = np.diff(source.first)
        rows = np.repeat(seen, counts)
        boxes = source.boxes[rows].astype(np.float64)
        return Objects(
            image_ids=np.repeat(source.image_ids, counts)[rows].astype(np.int64),
            category_ids=np.array(self.classes.ids, np.int64)[source.labels[rows]],
            boxes=np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1),
            areas=source.areas[rows].astype(np.float64),
            crowd=source.crowd[rows],
            ignored=source.ignored[rows] | source.crowd[rows],
        )

    @cached_property
    def curves(self) -> Curves:
        """Precision, recall and scores by IoU, class, area and limit; classes in their order."""
        return average_precision.accumulate(
            self.found,
            self.truth,
            image_ids=self.annotations.image_ids[sorted(self._by_image)].tolist(),
            category_ids=self.classes.ids,
            max_detections=self.max_detections,
            backend=self.backend,
        )

    @cached_property
    def matches(self) -> NDArray[np.int64]:
        """[D]: the row of `truth` that each row of `found` found at IoU .5, or a mark of `matches`."""
        return match(self.found, self.truth)

    @cached_property
    def operating_point(self) -> OperatingPoint | None:
        """The score threshold with the best F1 at IoU .5; None where nothing was found."""
        return best_threshold(self.found[:, 5], self.matches, int((~self.truth.ignored).sum()))

    def worst(self, count: int) -> list[tuple[str, int, float]]:
        """(name, index, F1), lowest first: F1 of the image at IoU .5, above the `operating_point`'s score.

        Of images with the same F1 the one with more mistakes comes first. Images without objects are left
        out where nothing was found in them.
        """
        threshold = self.operating_point.threshold if self.operating_point else 0.5
        index_of = {image: index for index, image in enumerate(self.annotations.image_ids.tolist())}
        scores = image_scores(self.found, self.truth, self.matches, threshold)
        ranked = sorted((f1, -mistakes, index_of[image]) for image, f1, mistakes in scores)
        return [(self._name(index), index, f1) for f1, _, index in ranked[:count]]

    def table(self) -> str:
        """The results as text: one line per class, then COCO's 12 numbers; what is wrong where AP is 0."""
        return results_table(self)

    def save(self, folder: Path) -> None:
        """Write per_class.txt, and detections.json and ground_truth.json, with which anyone can score again.

        Both are in COCO's formats, with the data set's own image and category ids.
        """
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "per_class.txt").write_text(self.table() + "\n", encoding="utf-8")
        _write_json(folder / "detections.json", average_precision.found_json(self.found))
        source = self.annotations
        images = [
            {
                "id": int(source.image_ids[index]),
                "file_name": os.fsdecode(source.names[index] + os.path.splitext(source.images[index])[1]),
                "height": int(source.sizes[index, 0]),
                "width": int(source.sizes[index, 1]),
            }
            for index in sorted(self._by_image)
        ]
        categories = [
            {"id": number, "name": name}
            for number, name in zip(self.classes.ids, self.classes.names, strict=True)
        ]
        annotations = average_precision.truth_json(self.truth)
        content = {"images": images, "categories": categories, "annotations": annotations}
        _write_json(folder / "ground_truth.json", content)

    def _forget(self) -> None:
        """Results are computed once, until something is counted."""
        for name in ("found", "truth", "curves", "matches", "operating_point"):
            self.__dict__.pop(name, None)

    def _protocol(self) -> str:
        num_images, num_annotated = len(self._by_image), len(self.annotations.image_ids)
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


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")  # on one line: there may be 500,000 boxes


def _split(values: NDArray[Any], counts: Sequence[int] | NDArray[np.int64]) -> list[NDArray[Any]]:
    """Rows by image."""
    return np.split(values, np.cumsum(counts, dtype=np.int64))[:-1]
