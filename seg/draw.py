"""Pictures of segmentations: colours, overlay, legend, confusion."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from engine.classes import ClassMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Image = NDArray[np.uint8]
_PAPER = (250, 250, 250)
_INK = (25, 25, 25)
_FRAME = (120, 120, 120)


def colorize(labels: NDArray[np.integer], classes: ClassMap) -> Image:
    """[H, W] of contiguous indices -> RGB [H, W, 3]; whatever is no class (255) is black."""
    return _palette(classes)[np.clip(labels, 0, 255)]


def overlay(image: Image, labels: NDArray[np.integer], classes: ClassMap, alpha: float = 0.5) -> Image:
    """`image` [H, W, 3] tinted by `labels` [H, W]; `alpha` is the weight of the colour; 255 stays untinted.

    Raises: ValueError for differing sizes or alpha outside 0..1.
    """
    if image.shape[:2] != labels.shape:
        raise ValueError(
            f"image {image.shape[:2]} and labels {labels.shape} must have the same (height, width)"
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in 0..1, got {alpha}")
    colors = colorize(labels, classes)
    known = (labels >= 0) & (labels < len(classes))
    mixed = (image.astype(np.float32) * (1 - alpha) + colors.astype(np.float32) * alpha + 0.5).astype(
        np.uint8
    )
    return np.where(known[..., None], mixed, image)


def present_classes(labels: NDArray[np.integer], classes: ClassMap) -> list[int]:
    """The class indices that occur in `labels`, the largest area first."""
    inside = labels[(labels >= 0) & (labels < len(classes))]
    areas = np.bincount(inside.astype(np.int64).ravel(), minlength=len(classes))
    return [int(index) for index in np.argsort(-areas, kind="stable") if areas[index]]


def with_legend(picture: Image, classes: ClassMap, present: Iterable[int] | None = None) -> Image:
    """`picture` [H, W, 3] with a strip below that names the colours of `present` (default: all classes).

    The lettering grows with the picture and stays readable from 200 pixels of width; names that do not fit
    are cut.
    """
    indices = list(range(len(classes)) if present is None else present)
    width = picture.shape[1]
    if not indices:
        return picture.copy()
    size = int(np.clip(width / 40, 12, 34))
    font = ImageFont.load_default(size=size)
    gap, swatch = max(4, size // 2), size + 2
    names = [_fit(classes.names[index], font, width - 3 * gap - swatch) for index in indices]
    cell = 2 * gap + swatch + int(max(font.getlength(name) for name in names))
    columns = min(len(indices), max(1, (width - gap) // cell))
    rows = -(-len(indices) // columns)
    columns = -(-len(indices) // rows)  # even out the rows
    pitch = (width - gap) // columns
    line = swatch + gap
    strip = Pillow.new("RGB", (width, rows * line + gap), _PAPER)
    pen = ImageDraw.Draw(strip)
    for position, (index, name) in enumerate(zip(indices, names, strict=True)):
        row, column = divmod(position, columns)
        left, top = gap + column * pitch, gap + row * line
        pen.rectangle((left, top, left + swatch, top + swatch), fill=classes.colors[index], outline=_FRAME)
        pen.text((left + swatch + gap, top + swatch / 2 + 1), name, fill=_INK, font=font, anchor="lm")
    return np.concatenate([picture, np.asarray(strip)], axis=0)


def confusion_picture(matrix: NDArray[np.integer], classes: ClassMap, path: str | Path) -> None:
    """Write a picture of a confusion matrix, in percent of each row.

    matrix: [C, C] or [C, C + 1] (last column: no class); rows are labels, columns predictions; rows without
    labels stay empty. Raises: ValueError for another shape.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(classes)
    if matrix.shape not in ((count, count), (count, count + 1)):
        raise ValueError(
            f"the matrix must be [{count}, {count}] or [{count}, {count + 1}], got {matrix.shape}"
        )
    if matrix.shape[1] > count and not matrix[:, count].any():
        matrix = matrix[:, :count]
    sums = matrix.sum(1, keepdims=True).astype(np.float64)
    percent = np.divide(100.0 * matrix, sums, out=np.full(matrix.shape, np.nan), where=sums > 0)
    columns = [*classes.names, "(none)"][: matrix.shape[1]]
    side = max(4.5, 0.42 * count + 2.2)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shown = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    axes.set_xticks(range(len(columns)), columns, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(count), classes.names, fontsize=8)
    axes.set_xlabel("prediction")
    axes.set_ylabel("label")
    if count <= 40:
        _write_cells(axes, percent)
    bar = figure.colorbar(shown, ax=axes, label="% of the label's pixels", fraction=0.04, pad=0.02)
    bar.ax.tick_params(labelsize=8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, bbox_inches="tight", pad_inches=0.15)


def _write_cells(axes: "Axes", percent: NDArray[np.float64]) -> None:
    """Numbers from half a percent on: smaller ones only add noise."""
    for (row, column), value in np.ndenumerate(percent):
        if value >= 0.5:
            color = "white" if value > 55 else "black"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color=color)


def _palette(classes: ClassMap) -> Image:
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(classes)] = classes.colors
    return palette


def _fit(name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: int) -> str:
    if font.getlength(name) <= room:
        return name
    while name and font.getlength(name + "…") > room:
        name = name[:-1]
    return name + "…"
