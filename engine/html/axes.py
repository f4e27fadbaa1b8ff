"""Scales with round ticks, and the frame, axes and legend of an SVG chart."""

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 360
"""Width of a chart in SVG units: about the pixels of a phone, so that text of size 11 is legible there."""

TOP, PLOT_HEIGHT, BELOW = 36.0, 170.0, 40.0
"""Space for the title, height of a plotting area, and space for the labels below it, in SVG units."""

COLORS = 8
"""Number of series colors in template.html."""

_LETTER = 6.1  # average width of a letter at font size 11
_TITLE = 1.25  # width of a title, which is bold and of size 12.5, relative to that


def letters_width(text: str) -> float:
    """The approximate width of a text; Chinese, Japanese and Korean letters count twice."""
    return _LETTER * sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def shorten(text: str, width: float) -> str:
    """`text`, cut to fit a width."""
    if letters_width(text) <= width:
        return text
    while text and letters_width(text) > width - _LETTER:
        text = text[:-1]
    return text.rstrip() + "…"


def text_at(x: float, y: float, text: str, anchor: str = "start", style: str = "") -> str:
    """An SVG text; `style` is a class of template.html."""
    name = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{name}>{escape(text)}</text>'


def line_at(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{style}"/>'


def number(value: float, digits: int = 4) -> str:
    """A number in at most `digits` significant digits; thousands and millions as `12k` and `3.4M`."""
    if not math.isfinite(value):
        return "–"
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= factor:
            return f"{value / (1e3 if suffix == 'k' else factor):.{digits}g}{suffix}"
    return f"{value:.{digits}g}" if value == 0 or abs(value) >= 1e-3 else f"{value:.2g}"


@dataclass(frozen=True)
class Scale:
    """Maps values from low..high to 0..1, linearly or by their logarithms."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def around(cls, values: Iterable[float], *, log: bool = False, zero: bool = False) -> "Scale":
        """A scale that contains all finite values (with `log`: all positive ones), and 0 if `zero`; its ends
        are round numbers."""
        finite = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
        low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
        if log:
            low, high = (low, high) if finite else (1.0, 10.0)
            return cls(
                2.0 ** math.floor(math.log2(low)),
                2.0 ** max(math.ceil(math.log2(high)), math.floor(math.log2(low)) + 1),
                log=True,
            )
        low, high = (min(low, 0.0), max(high, 0.0)) if zero else (low, high)
        if high - low <= 1e-9 * max(abs(low), abs(high)):
            low, high = (low - abs(low) / 2, high + abs(high) / 2) if high or low else (0.0, 1.0)
        step = _round_step(high - low, 4)
        return cls(math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step)

    def at(self, value: float) -> float:
        """Where a value lies, 0..1; values outside are moved to the nearest end."""
        value = min(max(value, self.low), self.high)
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, count: int = 4) -> list[float]:
        """About `count` round values: multiples of 1, 2 or 5 times a power of ten, or powers of two."""
        if self.log:
            first, last = round(math.log2(self.low)), round(math.log2(self.high))
            return [2.0**power for power in range(first, last + 1, max(1, math.ceil((last - first) / 6)))]
        step = _round_step(self.high - self.low, count)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(index * step, 12) for index in range(first, last + 1)]


def _round_step(span: float, count: int) -> float:
    """The smallest of 1, 2, 5, 10 times a power of ten that divides `span` into at most about `count`."""
    power = 10.0 ** math.floor(math.log10(span / count))
    return next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= count + 0.5)


@dataclass(frozen=True)
class Frame:
    """The plotting area of a chart, and its axes."""

    x: Scale
    y: Scale
    left: float
    top: float
    width: float
    height: float

    @classmethod
    def fitted(cls, x: Scale, y: Scale, *, top: float, height: float) -> "Frame":
        """A frame across the chart whose left margin has room for the labels of the y axis."""
        left = 10 + max(letters_width(number(tick)) for tick in y.ticks())
        return cls(x, y, left, top, WIDTH - left - 14, height)

    def point(self, x: float, y: float) -> tuple[float, float]:
        """SVG coordinates of a value."""
        return self.left + self.x.at(x) * self.width, self.top + (1 - self.y.at(y)) * self.height

    def axes(self, x_label: str) -> str:
        """Grid lines, tick labels and the label of the x axis (the y axis's is above the frame)."""
        parts, bottom, right = [], self.top + self.height, self.left + self.width
        for tick in self.y.ticks():
            y = self.point(self.x.low, tick)[1]
            parts += [line_at(self.left, y, right, y, "grid")]
            parts += [text_at(self.left - 5, y + 4, number(tick), "end", "tick")]
        ticks = self.x.ticks(5)
        for tick in ticks:
            x, label = self.point(tick, self.y.low)[0], number(tick)
            anchor = "end" if x + letters_width(label) / 2 > WIDTH else "middle"
            parts += [line_at(x, bottom, x, bottom + 4, "axis")]
            parts += [text_at(x, bottom + 16, label, anchor, "tick")]
        parts += [line_at(self.left, bottom, right, bottom, "axis")]
        parts += [text_at(self.left + self.width / 2, bottom + 32, x_label, "middle", "label")]
        return "".join(parts)


def legend(names: Sequence[str], y: float) -> tuple[str, float]:
    """The names of the series beside their colors, in as many lines as needed; returns (SVG, height).
    A single series without a name needs none."""
    if not any(names):
        return "", 0.0
    parts, x, top = [], 4.0, y
    for index, name in enumerate(names):
        name = shorten(name, WIDTH - 40)
        width = letters_width(name) + 26
        if x > 4 and x + width > WIDTH:
            x, y = 4.0, y + 16
        parts += [f'<rect x="{x:.1f}" y="{y - 9:.1f}" width="10" height="10" rx="2" class="{color(index)}"/>']
        parts += [text_at(x + 14, y, name, style="label")]
        x += width
    return "".join(parts), y - top + 22


def color(index: int) -> str:
    """The style of a series."""
    return f"s{index % COLORS}"


def chart(body: str, *, title: str, height: float, points: int, width: float = WIDTH) -> str:
    """An SVG with its title at the top. `points`: how many values it shows (attribute `data-points`)."""
    empty = "" if points else text_at(width / 2, height / 2, "no values", "middle", "tick value")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" data-points="{points}" role="img" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" style="--width: {width:.0f}" aria-label="{escape(title)}">'
        f"{text_at(4, 15, shorten(title, (width - 8) / _TITLE), style='title')}{body}{empty}</svg>"
    )
