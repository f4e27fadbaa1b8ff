"""Mean intersection over union, as the Cityscapes evaluation defines it, for any class map.

One confusion matrix over the whole dataset (int64, at the resolution of the labels); pixels labeled
"ignore" are not counted; IoU = tp / (tp + fp + fn); a class that occurs neither in the labels nor in the
predictions has no IoU (NaN) and is left out of the mean. If there are instance ids, also the instance-level
iIoU of Cityscapes: each pixel of an instance is weighted by (mean area of the class) / (area of the
instance).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.data.class_map import IGNORE, MAX_ID, ClassMap
from engine.errors import counted, padded, text_width
from engine.image_records import ImageRecords

State = dict[str, NDArray[Any]]


_PIXELS_AT_ONCE = 1 << 23  # counted at a time: NumPy copies 8 bytes per pixel


_INSTANCE_BASE = 1000  # an instance id is (dataset id of the class) * 1000 + number; others are not instances


class SegmentationEvaluator:
    """Mean intersection over union: an `engine.contracts.Evaluator`.

    name_of: index -> name of the image, for `worst` and messages. predicted: how predictions were made, for
    the protocol. Memory: one confusion matrix, and a few numbers per image.
    """

    main_metric = "miou"
    worst_by = "lowest mIoU (0 to 1, over the classes in the image)"

    def __init__(
        self, *, classes: ClassMap, name_of: Callable[[int], str] = str, predicted: str = ""
    ) -> None:
        self.classes, self._name_of, self._predicted = classes, name_of, predicted
        self._groups = np.array(
            [[category == name for category in classes.categories] for name in classes.category_names], bool
        ).reshape(-1, len(classes))
        self._lut = classes.lut()
        self.reset()

    def reset(self) -> None:
        # The last column counts predictions that are no class: misses, but not false positives of any class.
        self._confusion = np.zeros((len(self.classes), len(self.classes) + 1), np.int64)
        self._scores: ImageRecords[float] = ImageRecords(self._name_of)
        # Weighted instance pixels are kept per image and added in the order of the images: floating-point
        # sums then do not depend on which process saw which image.
        self._weighted: dict[int, NDArray[np.float64]] = {}

    @property
    def confusion(self) -> NDArray[np.int64]:
        """[C, C + 1]: rows are labels, columns are predictions, the last one "none of the classes"."""
        return self._confusion

    def update(self, outputs: Any, batch: Mapping[str, Any]) -> None:
        """Count a batch.

        outputs: integers [N, H, W], contiguous predictions at the labels' resolution (tensor or array).
        batch: "label" uint8 [N, H, W], "index" [N], and optionally "instances" [N, H, W].

        Raises: ValueError if a shape is wrong, a label is not a class, or an image was counted already.
        """
        predictions, labels, indices = (_array(x) for x in (outputs, batch["label"], batch["index"]))
        if predictions.shape != labels.shape or labels.ndim != 3 or indices.shape != labels.shape[:1]:
            raise ValueError(
                f"predictions {predictions.shape}, labels {labels.shape} and index {indices.shape} must be "
                "[N, H, W], [N, H, W] and [N]: resize the logits to the labels first"
            )
        instances = _array(batch["instances"]) if "instances" in batch else None
        for position, index in enumerate(indices.tolist()):
            self._scores.check_new(index)
            prediction = _as_uint8(predictions[position])
            matrix = confusion_matrix(labels[position], prediction, len(self.classes))
            self._confusion += matrix
            self._scores[index] = _mean(_iou(matrix))
            if instances is not None:
                self._weighted[index] = self._weigh_instances(prediction, instances[position])

    def state(self) -> State:
        """Everything counted so far, as plain arrays."""
        indices = sorted(self._scores)
        weighted = [self._weighted[index] for index in sorted(self._weighted)]
        return {
            "confusion": self._confusion.copy(),
            "index": np.array(indices, np.int64),
            "score": np.array([self._scores[index] for index in indices], np.float64),
            "weighted_index": np.array(sorted(self._weighted), np.int64),
            "weighted": np.array(weighted, np.float64).reshape(len(weighted), 4, len(self.classes)),
        }

    def merge(self, states: Sequence[State]) -> None:
        """Replace everything counted so far with the sum of `states`.

        Raises: ValueError if an image was counted in two of them.
        """
        self.reset()
        for state in states:
            self._confusion += state["confusion"]
            for index, score in zip(state["index"].tolist(), state["score"].tolist(), strict=True):
                self._scores.add_from_process(index, score)
            self._weighted.update(zip(state["weighted_index"].tolist(), state["weighted"], strict=True))

    def compute(self) -> dict[str, Any]:
        """Flat results in 0..1, NaN if there is nothing to score.

        miou, miou_category, pixel_accuracy, iou/<class>, iou_category/<category>, with instances iiou,
        iiou_category, iiou/<class>; and num_images, num_classes_present, protocol.
        """
        names = self.classes.names
        iou, by_category = _iou(self._confusion), _iou(self._group(self._confusion))
        counted = int(self._confusion.sum())
        result: dict[str, Any] = {
            "miou": _mean(iou),
            "miou_category": _mean(by_category),
            "pixel_accuracy": np.trace(self._confusion) / counted if counted else float("nan"),
            **{f"iou/{name}": float(value) for name, value in zip(names, iou, strict=True)},
        }
        categories = self.classes.category_names
        result |= {
            f"iou_category/{name}": float(value) for name, value in zip(categories, by_category, strict=True)
        }
        if self._weighted:
            result |= self._instance_results()
        result["num_images"] = len(self._scores)
        result["num_classes_present"] = self._num_present()
        result["protocol"] = self._protocol()
        return {
            key: float(value) if isinstance(value, np.floating) else value for key, value in result.items()
        }

    def worst(self, count: int) -> list[tuple[str, int, float]]:
        """(name, index, mIoU over the image's classes), lowest first; images without labels are left out."""
        scored = sorted((score, index) for index, score in self._scores.items() if not np.isnan(score))
        return [(self._name_of(index), index, score) for score, index in scored[:count]]

    def table(self) -> str:
        """The results as text: one line per class, then the means."""
        results = self.compute()
        width = max(len("mean of categories"), *map(text_width, self.classes.names))
        has_instances = "iiou" in results
        pixels = self._confusion.sum(1)
        total = max(1, int(pixels.sum()))
        lines = [f"{'class':<{width}}   IoU %  pixels %" + ("  iIoU %" if has_instances else "")]
        for index, name in enumerate(self.classes.names):
            iou, share = _percent(results[f"iou/{name}"]), 100 * pixels[index] / total
            line = f"{padded(name, width)}  {iou}    {share:6.2f}"
            if has_instances and self.classes.instances[index]:
                line += f"  {_percent(results[f'iiou/{name}'])}"
            lines.append(line)
        lines.append("-" * len(lines[0]))
        rows = [("mean of classes", "miou", "iiou"), ("mean of categories", "miou_category", "iiou_category")]
        for title, key, instance_key in rows if self.classes.categories else rows[:1]:
            line = f"{title:<{width}}  {_percent(results[key])}" + " " * 10
            lines.append((line + (f"  {_percent(results[instance_key])}" if has_instances else "")).rstrip())
        lines.append(f"{'pixel accuracy':<{width}}  {_percent(results['pixel_accuracy'])}")
        lines.append(f"{self._present_text()}, {counted(results['num_images'], 'image')}")
        if has_instances:
            lines.append("iIoU: IoU in which every object counts the same, whatever its size (Cityscapes)")
        return "\n".join(lines)

    def _group(self, matrix: NDArray[np.int64]) -> NDArray[np.int64]:
        """[C, C + 1] -> [G, G + 1]: confusion between categories."""
        columns = np.concatenate([matrix[:, :-1] @ self._groups.T, matrix[:, -1:]], axis=1)
        grouped: NDArray[np.int64] = self._groups.astype(np.int64) @ columns
        return grouped

    def _weigh_instances(self, prediction: NDArray[np.uint8], instances: NDArray[Any]) -> NDArray[np.float64]:
        """[4, C]: weighted tp and fn for the class, then for its category, of the instances of one image."""
        sums = np.zeros((4, len(self.classes)))
        inside = instances > _INSTANCE_BASE
        ids, rows = _numbered(instances[inside])
        if not len(ids):
            return sums
        columns = len(self.classes) + 1
        predicted = np.minimum(prediction[inside], columns - 1)
        counts = np.bincount(rows * columns + predicted, minlength=len(ids) * columns).reshape(-1, columns)
        for instance_id, count in zip(ids.tolist(), counts, strict=True):
            index = int(self._lut[min(instance_id // _INSTANCE_BASE, MAX_ID)])
            if index >= len(self.classes) or not self.classes.instances[index]:
                continue
            area = int(count.sum())
            weight = self.classes.instance_areas[index] / area
            hits = int(count[index])
            sums[:2, index] += (hits * weight, (area - hits) * weight)
            if self.classes.categories:
                hits = int(count[:-1][self._group_of(index)].sum())
                sums[2:, index] += (hits * weight, (area - hits) * weight)
        return sums

    def _group_of(self, index: int) -> NDArray[np.bool_]:
        group: NDArray[np.bool_] = self._groups[
            self.classes.category_names.index(self.classes.categories[index])
        ]
        return group

    def _instance_results(self) -> dict[str, float]:
        tp, fn, group_tp, group_fn = np.array(
            [self._weighted[index] for index in sorted(self._weighted)]
        ).sum(0)
        instances = np.array(self.classes.instances)
        iiou = np.where(instances, _ratio(tp, tp + fn + _false_positives(self._confusion)), np.nan)
        # A category has an iIoU only if all of its classes have instances.
        whole = np.array([instances[group].all() for group in self._groups], bool)
        fp = _false_positives(self._group(self._confusion))
        hits, misses = self._groups @ group_tp, self._groups @ group_fn
        by_category = np.where(whole, _ratio(hits, hits + misses + fp), np.nan)
        result = {"iiou": _mean(iiou), "iiou_category": _mean(by_category)}
        names = zip(self.classes.names, iiou, instances, strict=True)
        return result | {f"iiou/{name}": float(value) for name, value, has in names if has}

    def _num_present(self) -> int:
        return int((self._confusion.sum(1) > 0).sum())

    def _present_text(self) -> str:
        scored = int((~np.isnan(_iou(self._confusion))).sum())
        text = f"{self._num_present()} of {len(self.classes)} classes present"
        if scored == self._num_present():
            return text
        return f"{text} in the labels, {scored} in the mean (predicted but absent: IoU 0)"

    def _protocol(self) -> str:
        return (
            f"pixels of {counted(len(self._scores), 'image')} counted together, at the labels' resolution; "
            "ignored pixels not counted; IoU = tp/(tp+fp+fn); classes in neither labels nor predictions are "
            "NaN and not in the mean; "
            f"{self._present_text()}" + (f"; {self._predicted}" if self._predicted else "")
        )


def confusion_matrix(
    label: NDArray[np.uint8], prediction: NDArray[np.uint8], num_classes: int
) -> NDArray[np.int64]:
    """int64 [C, C + 1] of one image [H, W]; predictions >= C go to the last column; skips labels of 255.

    Raises: ValueError if a label is neither a class nor 255.
    """
    counts = np.zeros((256, 256), np.int64)
    rows_at_once = max(1, _PIXELS_AT_ONCE // max(1, label.shape[-1]))
    for start in range(0, len(label), rows_at_once):
        pairs = label[start : start + rows_at_once].astype(np.uint16)
        pairs <<= 8
        pairs |= prediction[start : start + rows_at_once]
        counts += np.bincount(pairs.ravel(), minlength=1 << 16).reshape(256, 256)
    if counts[num_classes:IGNORE].any():
        value = num_classes + int(np.flatnonzero(counts[num_classes:IGNORE].any(1))[0])
        raise ValueError(f"label {value} is neither one of {num_classes} classes nor {IGNORE} (ignore)")
    rows = counts[:num_classes]
    outside = rows[:, num_classes:].sum(1, keepdims=True)
    return np.concatenate([rows[:, :num_classes], outside], axis=1).astype(np.int64)


def _numbered(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """The distinct values, ascending, and the index of each value among them."""
    if values.max(initial=0) >= 1 << 20:
        return np.unique(values, return_inverse=True)
    ids = np.flatnonzero(np.bincount(values))  # np.unique sorts, which takes ten times as long
    rows = np.zeros(int(values.max(initial=0)) + 1, np.intp)
    rows[ids] = np.arange(len(ids))
    return ids, rows[values]


def _array(values: Any) -> NDArray[Any]:
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)


def _as_uint8(prediction: NDArray[Any]) -> NDArray[np.uint8]:
    if prediction.dtype == np.uint8:
        return prediction
    if prediction.dtype.kind not in "iu":
        raise ValueError(f"predictions must be integers (argmax of the logits), got {prediction.dtype}")
    return np.where((prediction >= 0) & (prediction < IGNORE), prediction, IGNORE).astype(np.uint8)


def _false_positives(matrix: NDArray[np.int64]) -> NDArray[np.int64]:
    predicted: NDArray[np.int64] = matrix[:, :-1].sum(0)
    return predicted - np.diagonal(matrix)


def _iou(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """[C, C + 1] -> [C]; the row sum is tp + fn."""
    return _ratio(np.diagonal(matrix), matrix.sum(1) + _false_positives(matrix))


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    ratio: NDArray[np.float64] = np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
    return ratio


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _percent(value: float) -> str:
    return "  n/a" if np.isnan(value) else f"{100 * value:5.2f}".rjust(5)
