"""Charts as PNG files: the curves of a training, a confusion matrix."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.data.class_map import ClassMap
from engine.fonts import chart_names
from engine.train.run_log import is_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def save_curves(rows: list[dict[str, Any]], metric: str, path: Path) -> None:
    """Plot the training loss (left axis) and a metric between 0 and 1, in percent (right axis), against the
    step, from rows of the log."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    train = [row for row in rows if row["kind"] == "train" and is_number(row.get("loss"))]
    scores = [
        (row["step"], 100 * row[metric])
        for row in rows
        if row["kind"] == "eval" and is_number(row.get(metric))
    ]
    figure, axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
    axis.plot(
        [row["step"] for row in train],
        [row["loss"] for row in train],
        color="tab:gray",
        label="training loss",
    )
    axis.set(xlabel="step", ylabel="training loss")
    right = axis.twinx()
    if scores:
        right.plot(*zip(*scores, strict=True), color="tab:blue", marker="o", label=metric)
        best = max(scores, key=lambda score: score[1])
        for score, place in ((best, (0, 8)), *([] if best[0] == scores[-1][0] else [(scores[-1], (0, -14))])):
            text = f"{'best ' if score is best else 'last '}{score[1]:.1f}%"
            right.annotate(text, score, textcoords="offset points", xytext=place, ha="right")
    right.set(ylabel=f"{metric}, %", ylim=(0, 100))
    figure.legend(loc="upper center", ncols=2, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def save_confusion_matrix(
    matrix: NDArray[np.integer], classes: ClassMap, path: str | Path, *, of: str
) -> None:
    """Plot a confusion matrix, in percent of each row.

    matrix: [C, C] or [C, C + 1] (last column: no class predicted). Rows are labels, columns are predictions.
    Rows without labels are left empty. of: the unit that is counted (pixels, images).

    Raises: ValueError for any other shape.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count, names = len(classes), chart_names(classes)
    if matrix.shape not in ((count, count), (count, count + 1)):
        raise ValueError(
            f"the matrix must be [{count}, {count}] or [{count}, {count + 1}], got {matrix.shape}"
        )
    if matrix.shape[1] > count and not matrix[:, count].any():
        matrix = matrix[:, :count]
    percent = percent_of_rows(matrix)
    columns = [*names, "(none)"][: matrix.shape[1]]
    side = max(4.5, 0.42 * count + 2.2)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    cells = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    axes.set_xticks(range(len(columns)), columns, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(count), names, fontsize=8)
    axes.set_xlabel("prediction")
    axes.set_ylabel("label")
    if count <= 40:
        _write_cells(axes, percent)
    bar = figure.colorbar(cells, ax=axes, label=f"% of the label's {of}", fraction=0.04, pad=0.02)
    bar.ax.tick_params(labelsize=8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, bbox_inches="tight", pad_inches=0.15)


def percent_of_rows(matrix: NDArray[np.integer]) -> NDArray[np.float64]:
    """A confusion matrix in percent of each row; rows without labels become NaN."""
    sums = matrix.sum(1, keepdims=True).astype(np.float64)
    percent: NDArray[np.float64] = np.divide(
        100.0 * matrix, sums, out=np.full(matrix.shape, np.nan), where=sums > 0
    )
    return percent


def _write_cells(axes: "Axes", percent: NDArray[np.float64]) -> None:
    """Write the values of at least 0.5 %; smaller ones would only be clutter."""
    for (row, column), value in np.ndenumerate(percent):
        if value >= 0.5:
            color = "white" if value > 55 else "black"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color=color)
