"""Draws label maps: colors, overlay, legend."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from engine import fonts
from engine.data.class_map import ClassMap
from engine.data.images import count_values

Image = NDArray[np.uint8]


_PIXELS_AT_ONCE = 1 << 20


_BACKGROUND, _TEXT, _FRAME = (250, 250, 250), (25, 25, 25), (120, 120, 120)


def colorize(labels: NDArray[np.integer], classes: ClassMap) -> Image:
    """Contiguous class indices [H, W] -> RGB [H, W, 3]; other values (255) are black."""
    colored: Image = _palette(classes)[np.clip(labels, 0, 255)]
    return colored


def overlay(image: Image, labels: NDArray[np.integer], classes: ClassMap, alpha: float = 0.5) -> Image:
    """`image` [H, W, 3] tinted by `labels` [H, W]; `alpha` is the weight of the color; 255 stays untinted.

    Raises: ValueError if the sizes differ or alpha is outside 0..1.
    """
    if image.shape[:2] != labels.shape:
        raise ValueError(
            f"image {image.shape[:2]} and labels {labels.shape} must have the same (height, width)"
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in 0..1, got {alpha}")
    drawn = image.copy()
    tint(drawn, labels, classes, alpha)
    return drawn


def tint(image: Image, labels: NDArray[np.integer], classes: ClassMap, alpha: float = 0.5) -> None:
    """`overlay` on the image itself; large images are blended a few rows at a time."""
    step = max(1, _PIXELS_AT_ONCE // max(1, image.shape[1]))
    for start in range(0, len(image), step):
        rows, marks = image[start : start + step], labels[start : start + step]
        colors = colorize(marks, classes).astype(np.float32)
        mixed = (rows.astype(np.float32) * (1 - alpha) + colors * alpha + 0.5).astype(np.uint8)
        np.copyto(rows, mixed, where=((marks >= 0) & (marks < len(classes)))[..., None])


def present_classes(labels: NDArray[np.uint8], classes: ClassMap) -> list[int]:
    """The class indices that occur in `labels`, by decreasing area."""
    areas = count_values(labels)[: len(classes)]
    return [int(index) for index in np.argsort(-areas, kind="stable") if areas[index]]


def with_legend(image: Image, classes: ClassMap, present: Iterable[int] | None = None) -> Image:
    """`image` [H, W, 3] above a strip that names the colors of the classes `present` (default: all).

    The font scales with the image and is readable from a width of 200 pixels; names that do not fit are cut.
    """
    return np.concatenate([image, *legend(image.shape[1], classes, present)], axis=0)


def legend(width: int, classes: ClassMap, present: Iterable[int] | None = None) -> list[Image]:
    """The strip of `with_legend` for an image of this width; an empty list if no class is present."""
    indices = list(range(len(classes)) if present is None else present)
    if not indices:
        return []
    size = max(12, width // 40)
    names = fonts.shown_names(classes)
    font = fonts.load(size, names)
    gap, swatch = max(4, size // 2), size + 2
    fitted = [_fit(names[index], font, width - 3 * gap - swatch) for index in indices]
    cell = 2 * gap + swatch + int(max(font.getlength(name) for name in fitted))
    columns = min(len(indices), max(1, (width - gap) // cell))
    rows = -(-len(indices) // columns)
    columns = -(-len(indices) // rows)  # even out the rows
    pitch = (width - gap) // columns
    line = swatch + gap
    strip = Pillow.new("RGB", (width, rows * line + gap), _BACKGROUND)
    pen = ImageDraw.Draw(strip)
    for position, (index, name) in enumerate(zip(indices, fitted, strict=True)):
        row, column = divmod(position, columns)
        left, top = gap + column * pitch, gap + row * line
        pen.rectangle((left, top, left + swatch, top + swatch), fill=classes.colors[index], outline=_FRAME)
        pen.text((left + swatch + gap, top + swatch / 2 + 1), name, fill=_TEXT, font=font, anchor="lm")
    return [np.asarray(strip)]


def _palette(classes: ClassMap) -> Image:
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(classes)] = classes.colors
    return palette


def _fit(name: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(name) <= width:
        return name
    while name and font.getlength(name + "…") > width:
        name = name[:-1]
    return name + "…"
