"""Top-1 and top-5 accuracy, per class and per image."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.data.class_map import ClassMap
from engine.errors import counted, padded, text_width
from engine.image_records import ImageRecords

State = dict[str, NDArray[Any]]


MAX_LISTED = 60
"""With more classes, the table lists only the lowest, and the confusion matrix is not drawn."""


class Records(NamedTuple):
    """Per image [N]: its place in the dataset, its label and predicted class, and the probability of each."""

    position: NDArray[np.int64]
    label: NDArray[np.int64]
    predicted: NDArray[np.int64]
    of_label: NDArray[np.float64]
    of_prediction: NDArray[np.float64]


class ClassificationEvaluator:
    """Top-1 and top-5 accuracy: an `engine.contracts.Evaluator`.

    name_of: index -> name of the sample, for `worst` and messages. predicted: how predictions were made, for
    the protocol. Memory: five numbers per image.
    """

    main_metric = "top1"
    worst_by = "lowest probability of the true class (0 to 1)"

    def __init__(
        self, *, classes: ClassMap, name_of: Callable[[int], str] = str, predicted: str = ""
    ) -> None:
        self.classes, self._name_of, self._predicted = classes, name_of, predicted
        self.reset()

    def reset(self) -> None:
        # label, prediction, rank, probabilities of the label and of the prediction
        self._rows: ImageRecords[tuple[int, int, int, float, float]] = ImageRecords(self._name_of)

    def update(self, outputs: Any, batch: Mapping[str, Any]) -> None:
        """Count a batch: scores [N, K] (before the softmax), `label` [N] and `index` [N].

        The label's rank is the number of classes with a higher score, or the same and a lower index. Scores
        that are not numbers rank last.

        Raises: ValueError if a shape is wrong, a label is not a class, or an image was counted already.
        """
        scores = _array(outputs).astype(np.float64)
        labels, indices = _array(batch["label"]).astype(np.int64), _array(batch["index"])
        count = len(self.classes)
        if scores.shape != (len(labels), count) or indices.shape != labels.shape:
            raise ValueError(
                f"scores {scores.shape}, labels {labels.shape} and index {indices.shape} must be "
                f"[N, {count}], [N] and [N]"
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < count:
            raise ValueError(f"labels must be in 0..{count - 1}, got {labels.min()}..{labels.max()}")
        probabilities, order = _softmax(scores), np.argsort(-_finite(scores), axis=1, kind="stable")
        ranks = (order == labels[:, None]).argmax(1)
        for row, index in enumerate(indices.tolist()):
            label = int(labels[row])
            rank = int(ranks[row]) if np.isfinite(scores[row, label]) else count
            first = int(order[row, 0])
            chances = float(probabilities[row, label]), float(probabilities[row, first])
            self._rows.add(index, (label, first, rank, *chances))

    def state(self) -> State:
        """Everything counted so far, as plain arrays."""
        indices = sorted(self._rows)
        rows = [self._rows[index] for index in indices]
        return {
            "index": np.array(indices, np.int64),
            "counts": np.array([row[:3] for row in rows], np.int64).reshape(-1, 3),
            "probability": np.array([row[3:] for row in rows], np.float64).reshape(-1, 2),
        }

    def merge(self, states: Sequence[State]) -> None:
        """Replace everything counted so far with the sum of `states`.

        Raises: ValueError if an image was counted in two of them.
        """
        self.reset()
        for state in states:
            for index, counts, probability in zip(
                state["index"].tolist(), state["counts"].tolist(), state["probability"].tolist(), strict=True
            ):
                self._rows.add_from_process(index, (*counts, *probability))

    @property
    def confusion(self) -> NDArray[np.int64]:
        """[K, K]: rows are labels, columns are predictions."""
        counts, size = self.state()["counts"], len(self.classes)
        return np.bincount(counts[:, 0] * size + counts[:, 1], minlength=size * size).reshape(size, size)

    def compute(self) -> dict[str, Any]:
        """Flat results in 0..1, NaN if there is nothing to score.

        top1, top5, mean_class_accuracy (over the classes that occur), accuracy/<class>, num_images,
        num_classes_present, protocol.
        """
        counts = self.state()["counts"]
        labels, ranks, size = counts[:, 0], counts[:, 2], len(self.classes)
        totals = np.bincount(labels, minlength=size)
        hits = np.bincount(labels[ranks == 0], minlength=size)
        by_class = np.divide(hits, totals, out=np.full(size, np.nan), where=totals > 0)
        present = int((totals > 0).sum())
        return {
            "top1": _share(ranks < 1),
            "top5": _share(ranks < 5),
            "mean_class_accuracy": float(np.nanmean(by_class)) if present else float("nan"),
            **{
                f"accuracy/{name}": float(value)
                for name, value in zip(self.classes.names, by_class, strict=True)
            },
            "num_images": len(ranks),
            "num_classes_present": present,
            "protocol": f"{present} of {size} classes present"
            + (f"; {self._predicted}" if self._predicted else ""),
        }

    def records(self) -> Records:
        """What is known about each image, ordered by index."""
        state = self.state()
        label, prediction, _ = state["counts"].T
        return Records(state["index"], label, prediction, *state["probability"].T)

    def worst(self, count: int) -> list[tuple[str, int, float]]:
        """(name, index, probability of the true class), lowest first; only wrong predictions."""
        wrong = sorted(
            (row[3], index) for index, row in self._rows.items() if row[2] > 0 and np.isfinite(row[3])
        )
        return [(self._name_of(index), index, probability) for probability, index in wrong[:count]]

    def confused(self, count: int) -> list[tuple[str, str, int]]:
        """(label, prediction, number of images) of the most frequent confusions."""
        matrix = self.confusion.copy()
        np.fill_diagonal(matrix, 0)
        best = np.argsort(-matrix, axis=None, kind="stable")[:count]
        pairs = [divmod(int(flat), len(self.classes)) for flat in best]
        names = self.classes.names
        return [
            (names[row], names[column], int(matrix[row, column]))
            for row, column in pairs
            if matrix[row, column]
        ]

    def table(self) -> str:
        """The results as text: a line per class (of many, only the lowest), then the means."""
        results, totals = self.compute(), self.confusion.sum(1)
        scores = [(results[f"accuracy/{name}"], name, totals[i]) for i, name in enumerate(self.classes.names)]
        if len(scores) > MAX_LISTED:
            scores = sorted((row for row in scores if not np.isnan(row[0])), key=lambda row: row[0])[:20]
        width = max(len("mean of classes"), *(text_width(name) for _, name, _ in scores), 0)
        lines = [f"{'class':<{width}}  top-1 %  images"]
        lines += [f"{padded(name, width)}   {_percent(score)}  {total:6d}" for score, name, total in scores]
        if len(scores) < len(self.classes):
            lines.append(f"(the {len(scores)} lowest of {len(self.classes)} classes)")
        lines.append("-" * len(lines[0]))
        for title, key in (("top-1", "top1"), ("top-5", "top5"), ("mean of classes", "mean_class_accuracy")):
            lines.append(f"{title:<{width}}   {_percent(results[key])}")
        lines.append(
            f"{results['num_classes_present']} of {len(self.classes)} classes, "
            f"{counted(results['num_images'], 'image')}"
        )
        return "\n".join(lines)


def _array(values: Any) -> NDArray[Any]:
    if not hasattr(values, "detach"):
        return np.asarray(values)
    values = values.detach().cpu()
    array: NDArray[Any] = (
        values.float() if values.is_floating_point() else values
    ).numpy()  # NumPy has no bfloat16
    return array


def _finite(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(scores), scores, -np.inf)


def _softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        powers: NDArray[np.float64] = np.exp(scores - scores.max(1, keepdims=True, initial=-np.inf))
        shares: NDArray[np.float64] = powers / powers.sum(1, keepdims=True)
    return shares


def _share(hits: NDArray[np.bool_]) -> float:
    return float(hits.mean()) if len(hits) else float("nan")


def _percent(value: float) -> str:
    return "  n/a" if np.isnan(value) else f"{100 * value:5.2f}".rjust(6)
