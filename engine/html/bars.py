"""Bar charts and histograms as SVG text."""

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from engine.html import axes
from engine.html.axes import (
    BELOW,
    PLOT_HEIGHT,
    TOP,
    WIDTH,
    Frame,
    Scale,
    letters_width,
    line_at,
    number,
    shorten,
    text_at,
)

_BAR, _GAP = 13.0, 7.0


def bar_chart(
    labels: Sequence[str], series: Mapping[str, Sequence[float]], *, title: str, unit: str = ""
) -> str:
    """Horizontal bars, one per label and series, with their values.

    series: name -> one value per label; the name may be empty if there is one series. unit: written after
    the values, such as "%".

    Raises: ValueError if a series has another length than `labels`.
    """
    if any(len(values) != len(labels) for values in series.values()):
        raise ValueError("each series must have one value per label")
    finite = [float(v) for values in series.values() for v in values if math.isfinite(v)]
    scale = Scale.around(finite, zero=True)
    left = min(130.0, 12 + max(map(letters_width, labels), default=0))
    room = 12 + max((letters_width(number(value, 3) + unit) for value in finite), default=0)
    width = WIDTH - left - room
    legend, height = axes.legend(list(series), TOP)
    parts, y = [legend], TOP - 8 + height
    for row, label in enumerate(labels):
        middle = y + _BAR * len(series) / 2
        parts.append(
            f"<g><title>{escape(label)}</title>"
            f"{text_at(left - 6, middle + 4, shorten(label, left - 8), 'end', 'label')}</g>"
        )
        for index, values in enumerate(series.values()):
            value = float(values[row])
            if math.isfinite(value):
                parts.append(_bar(left, y, width, scale, value, index, unit))
            y += _BAR
        y += _GAP
    x = left + scale.at(0) * width
    parts.append(line_at(x, TOP - 10 + height, x, y - _GAP + 2, "axis"))
    return axes.chart("".join(parts), title=title, height=y + 2, points=len(finite))


def _bar(left: float, y: float, width: float, scale: Scale, value: float, index: int, unit: str) -> str:
    start, end = sorted((scale.at(0), scale.at(value)))
    bar = (
        f'<rect x="{left + start * width:.1f}" y="{y:.1f}" width="{max(0.5, (end - start) * width):.1f}" '
        f'height="{_BAR - 2:.1f}" class="{axes.color(index)}"/>'
    )
    return bar + text_at(left + end * width + 4, y + _BAR - 3, number(value, 3) + unit, style="tick")


def histogram(
    values: Sequence[float],
    *,
    title: str,
    x_label: str,
    bins: int = 20,
    y_label: str = "count",
    x_range: tuple[float, float] | None = None,
) -> str:
    """How many values lie in each of `bins` intervals of equal width, between the smallest and the largest
    value, or in `x_range`."""
    finite = [float(value) for value in values if math.isfinite(value)]
    counts, edges = np.histogram(finite, bins, range=x_range)
    x_scale = Scale(float(edges[0]), float(edges[-1]))
    frame = Frame.fitted(x_scale, Scale.around(counts.tolist(), zero=True), top=TOP + 8, height=PLOT_HEIGHT)
    parts = [text_at(4, TOP - 4, y_label, style="label"), frame.axes(x_label)]
    for count, low, high in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        (x, y), (right, bottom) = frame.point(low, count), frame.point(high, 0)
        parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(0.5, right - x - 1):.1f}" height="{bottom - y:.1f}" '
            f'class="s0"><title>{number(low)} – {number(high)}: {count}</title></rect>'
        )
    return axes.chart(
        "".join(parts), title=title, height=frame.top + frame.height + BELOW, points=len(finite)
    )
