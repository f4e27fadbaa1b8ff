"""Line and scatter charts as SVG text."""

import math
from collections.abc import Mapping, Sequence
from html import escape

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
    text_at,
)

Point = tuple[float, float]

_MOST_POINTS = 400  # of a line
_MOST_DOTS = 3000
_MARKED = 40  # lines of at most this many points show each of them


def line_chart(
    series: Mapping[str, Sequence[Point]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    x_range: Point | None = None,
    y_range: Point | None = None,
    guides: Mapping[str, Sequence[Point]] | None = None,
    marks: Sequence[tuple[float, float, str]] = (),
) -> str:
    """One line per series of (x, y); long series are thinned, with their extremes kept.

    Args:
        x_range, y_range: ends of the axes; default: the first and last x, and round numbers around the y.
        guides: name -> dashed line for comparison, such as the diagonal.
        marks: (x, y, text) of points to emphasize.
    """
    lines = {name: _thinned([p for p in points if _finite(p)]) for name, points in series.items()}
    drawn = [p for points in [*lines.values(), *(guides or {}).values()] for p in points]
    y_scale = Scale(*y_range) if y_range else Scale.around([y for _, y in drawn])
    legend, height = axes.legend([*lines, *(guides or {})], TOP + 14)
    x_scale = Scale(*x_range) if x_range else _tight([x for x, _ in drawn])
    frame = Frame.fitted(x_scale, y_scale, top=TOP + 8 + height, height=PLOT_HEIGHT)
    parts = [text_at(4, TOP - 4, y_label, style="label"), legend, frame.axes(x_label)]
    for index, (name, points) in enumerate([*lines.items(), *(guides or {}).items()]):
        style = f"line {axes.color(index)}" + ("" if index < len(lines) else " dashed")
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (frame.point(*p) for p in points))
        parts.append(f'<polyline points="{path}" class="{style}"><title>{escape(name)}</title></polyline>')
        if index < len(lines) and len(points) <= _MARKED:
            parts += [_dot(frame, p, f"{axes.color(index)}", 2.5) for p in points]
    parts += [_mark(frame, (x, y), text) for x, y, text in marks]
    points_drawn = sum(map(len, lines.values()))
    bottom = frame.top + frame.height + BELOW
    return axes.chart("".join(parts), title=title, height=bottom, points=points_drawn)


def scatter_chart(
    points: Sequence[Point] | Mapping[str, Sequence[Point]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log: bool = False,
    x_guides: Mapping[str, float] | None = None,
    y_guides: Mapping[str, float] | None = None,
) -> str:
    """A dot per point, or per point of each series; at most 3000 evenly chosen dots are drawn.

    Args:
        log: logarithmic axes (powers of two); points that are not positive are left out.
        x_guides, y_guides: name -> value of a dashed line across the chart, such as the strides of a network.
    """
    series = points if isinstance(points, Mapping) else {"": points}
    usable = {
        name: [p for p in values if _finite(p) and (not log or min(p) > 0)] for name, values in series.items()
    }
    step = max(1, math.ceil(sum(map(len, usable.values())) / _MOST_DOTS))
    shown = {name: values[::step] for name, values in usable.items()}
    drawn = [p for values in shown.values() for p in values]
    x_scale = Scale.around([*(x for x, _ in drawn), *(x_guides or {}).values()], log=log)
    y_scale = Scale.around([*(y for _, y in drawn), *(y_guides or {}).values()], log=log)
    legend, height = axes.legend(list(shown), TOP + 14)
    frame = Frame.fitted(x_scale, y_scale, top=TOP + 8 + height, height=1.4 * PLOT_HEIGHT)
    parts = [text_at(4, TOP - 4, y_label, style="label"), legend, frame.axes(x_label)]
    for index, values in enumerate(shown.values()):
        parts += [_dot(frame, p, f"dot {axes.color(index)}", 2.0) for p in values]
    parts += _guides(frame, x_guides or {}, y_guides or {})
    bottom = frame.top + frame.height + BELOW
    return axes.chart("".join(parts), title=title, height=bottom, points=len(drawn))


def _guides(frame: Frame, x_guides: Mapping[str, float], y_guides: Mapping[str, float]) -> list[str]:
    right, bottom, parts = frame.left + frame.width, frame.top + frame.height, []
    for name, value in x_guides.items():
        x = frame.point(value, frame.y.low)[0]
        parts += [line_at(x, frame.top, x, bottom, "guide")]
        parts += [text_at(x + 3, frame.top + 9, name, style="tick value")]
    for name, value in y_guides.items():
        y = frame.point(frame.x.low, value)[1]
        parts += [line_at(frame.left, y, right, y, "guide")]
        parts += [text_at(right, y - 3, name, "end", "tick value")]
    return parts


def _mark(frame: Frame, point: Point, text: str) -> str:
    """A ring around a point, and its text: above it, or below it at the top of the chart."""
    x, y = frame.point(*point)
    above = y - frame.top > 20
    half = letters_width(text) / 2
    middle = min(max(x, frame.left + half + 2), WIDTH - half - 2)
    label = text_at(middle, y - 10 if above else y + 19, text, "middle", "label value")
    return _dot(frame, point, "mark", 4.5) + label


def _dot(frame: Frame, point: Point, style: str, radius: float) -> str:
    x, y = frame.point(*point)
    tip = f"<title>{number(point[0])}, {number(point[1])}</title>" if "dot" not in style else ""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" class="{style}">{tip}</circle>'


def _finite(point: Point) -> bool:
    return math.isfinite(point[0]) and math.isfinite(point[1])


def _tight(values: Sequence[float]) -> Scale:
    """A scale that ends at the smallest and the largest value."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    return Scale(low, high) if high > low else Scale(low - 0.5, low + 0.5)


def _thinned(points: list[Point]) -> list[Point]:
    """At most about 400 points: of each run of successive points, the lowest and the highest."""
    if len(points) <= _MOST_POINTS:
        return points
    size = math.ceil(2 * len(points) / _MOST_POINTS)
    kept: list[Point] = []
    for start in range(0, len(points), size):
        run = points[start : start + size]
        kept += sorted({min(run, key=lambda p: p[1]), max(run, key=lambda p: p[1])})
    return kept
