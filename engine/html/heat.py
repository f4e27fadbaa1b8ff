"""Heat maps as SVG text."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import ArrayLike

from engine.html import axes
from engine.html.axes import TOP, WIDTH, letters_width, number, shorten, text_at

_WRITTEN = 26  # values are written into the cells of labeled heat maps with at most this many columns
_ROW_LABELS, _COLUMN_LABELS = 120.0, 90.0  # the most space for them
_SLOPE = 0.5, 0.866  # cosine and sine of the angle of column labels, 60 degrees


def heat_map(
    matrix: ArrayLike,
    *,
    title: str,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    row_title: str = "",
    column_title: str = "",
) -> str:
    """A cell per value of a matrix of non-negative numbers, darker for larger values; values of small
    labeled matrices are written into their cells. NaN: an empty cell.

    row_title, column_title: what rows and columns are, such as "label" and "prediction".
    """
    values = np.asarray(matrix, np.float64)
    subtitle = f"rows: {row_title}, columns: {column_title}" if row_title or column_title else ""
    grid = _Grid.fitted(values.shape[1], row_labels, column_labels, top=TOP + (14 if subtitle else 0))
    highest = max(float(np.nanmax(values, initial=0)), 1e-12)
    parts = [text_at(4, TOP - 4, subtitle, style="tick"), grid.labels(row_labels, column_labels)]
    for (row, column), value in np.ndenumerate(values):
        if math.isfinite(value):
            names = [part[i] for part, i in ((row_labels, row), (column_labels, column)) if part]
            parts.append(grid.cell(row, column, float(value), highest, " → ".join(names)))
    return axes.chart(
        "".join(parts),
        title=title,
        height=grid.top + values.shape[0] * grid.tall + 6,
        width=grid.width,
        points=int(np.isfinite(values).sum()),
    )


@dataclass(frozen=True)
class _Grid:
    """Where the cells are, each `side` wide and `tall` high, and the width of the chart."""

    left: float
    top: float
    side: float
    tall: float
    width: float
    written: bool

    @classmethod
    def fitted(cls, columns: int, rows: Sequence[str], names: Sequence[str], *, top: float) -> "_Grid":
        left = min(_ROW_LABELS, 10 + max(map(letters_width, rows), default=0))
        longest = min(_COLUMN_LABELS, max(map(letters_width, names), default=0))
        last = min(_COLUMN_LABELS, letters_width(names[-1])) * _SLOPE[0] if names else 0.0
        written = bool(rows) and columns <= _WRITTEN
        least = 21.0 if written else 12.0 if rows else 3.0
        side = max(least, (WIDTH - left - last - 4) / max(1, columns))
        return cls(
            left=left,
            top=top + longest * _SLOPE[1],
            side=side,
            tall=min(side, 30.0) if rows else side,
            width=max(float(WIDTH), left + columns * side + last + 4),
            written=written,
        )

    def labels(self, rows: Sequence[str], columns: Sequence[str]) -> str:
        parts = []
        for row, label in enumerate(rows):
            y = self.top + (row + 0.5) * self.tall + 4
            text = text_at(self.left - 5, y, shorten(label, self.left - 6), "end", "label")
            parts.append(f"<g><title>{escape(label)}</title>{text}</g>")
        for column, label in enumerate(columns):
            x = self.left + (column + 0.5) * self.side + 3
            text = text_at(0, 0, shorten(label, _COLUMN_LABELS), style="label")
            parts.append(
                f'<g transform="translate({x:.1f} {self.top - 4:.1f}) rotate(-60)">'
                f"<title>{escape(label)}</title>{text}</g>"
            )
        return "".join(parts)

    def cell(self, row: int, column: int, value: float, highest: float, name: str) -> str:
        x, y = self.left + column * self.side, self.top + row * self.tall
        share = min(1.0, value / highest)
        tip = f"{name}: {number(value)}" if name else number(value)
        rect = (
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{self.side:.1f}" height="{self.tall:.1f}" class="cell" '
            f'fill-opacity="{0.04 + 0.96 * share:.3f}"><title>{escape(tip)}</title></rect>'
        )
        if not self.written or share < 0.005:  # smaller values would only be clutter
            return rect
        text = number(value, 2) if value < 99.5 else number(round(value), 3)
        style = "tick on" if share > 0.5 else "tick"
        return rect + text_at(x + self.side / 2, y + self.tall / 2 + 4, text, "middle", style)
