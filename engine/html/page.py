"""A report as one HTML file that needs no network: sections of text, tables, charts, images and findings."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from engine.contracts import Finding, Image
from engine.errors import UserError
from engine.io.files import write_text

if TYPE_CHECKING:
    from jinja2 import Template

_LONGEST = 960
"""Pixels of the longer side of an image: sharp enough to zoom in, small enough for a page of 50."""


_WIDE, _WIDEST = 440, 720
"""Charts of a greater width take two columns, or a whole row."""

_PANELS = 1.8
"""Images that are on average this much wider than high are taken for several panels side by side."""


@dataclass(frozen=True)
class _Block:
    kind: str
    content: Any
    caption: str = ""


@dataclass(frozen=True)
class _Section:
    title: str
    intro: str
    blocks: list[_Block] = field(default_factory=list)


_NUMBER = re.compile(r"[-+]?[\d.,]+( ± [\d.,]+)?%?")


class Page:
    """Collects the parts of a report, in their order, and writes them as one file.

    All methods but `write` return the page. Texts are plain text: characters such as `<` are shown as such.
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title, self.subtitle = title, subtitle
        self.sections: list[_Section] = []

    def section(self, title: str, intro: str = "") -> Self:
        """Start a section; what is added afterwards belongs to it."""
        self.sections.append(_Section(title, intro))
        return self

    def text(self, text: str) -> Self:
        """Add a paragraph."""
        return self._add("text", text)

    def chart(self, svg: str, caption: str = "") -> Self:
        """Add a chart of `engine.html.charts`; successive charts share a row if there is room."""
        blocks = self.sections[-1].blocks if self.sections else []
        if not blocks or blocks[-1].kind != "charts":
            self._add("charts", [])
        width = float(svg.partition('viewBox="0 0 ')[2].partition(" ")[0])
        style = "" if width <= _WIDE else "wide" if width <= _WIDEST else "widest"
        self.sections[-1].blocks[-1].content.append((svg, caption, style))
        return self

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> Self:
        """Add a table. Columns most of whose cells are numbers, or texts such as "12.3%", are aligned to
        the right; floats have four significant digits."""
        cells = [[_cell(value) for value in row] for row in rows]
        numeric = [
            2 * sum(number for _, number in column) > len(column) for column in zip(*cells, strict=True)
        ]
        texts = [[text for text, _ in row] for row in cells]
        return self._add("table", (columns, numeric or [False] * len(columns), texts), caption)

    def images(self, images: Iterable[tuple[Image | Path, str]], *, longest: int = _LONGEST) -> Self:
        """Add RGB images or image files with captions; they are reduced to `longest` pixels (panels side by
        side: one and a half times that)."""
        from engine.html.thumbnails import data_uri

        shown = []
        for image, text in images:
            panels = isinstance(image, np.ndarray) and image.shape[1] > _PANELS * image.shape[0]
            shown.append((data_uri(image, longest=longest * 3 // 2 if panels else longest), text, panels))
        style = "images panels" if 2 * sum(panels for _, _, panels in shown) > len(shown) else "images"
        return self._add("images", (style, shown))

    def findings(self, findings: Sequence[Finding]) -> Self:
        """Add what a check found, in the given order."""
        return self._add("findings", list(findings))

    def code(self, text: str) -> Self:
        """Add commands or other text to copy."""
        return self._add("code", text)

    def html(self) -> str:
        """The page as text."""
        return _template().render(page=self)

    def write(self, path: Path) -> None:
        """Write the page. Raises: UserError if the file cannot be written."""
        try:
            write_text(path, self.html())
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from None

    def _add(self, kind: str, content: Any, caption: str = "") -> Self:
        if not self.sections:
            self.section("")
        self.sections[-1].blocks.append(_Block(kind, content, caption))
        return self


def _cell(value: Any) -> tuple[str, bool]:
    """The text of a table's cell, and whether it is aligned like a number."""
    if value is None or str(value) == "nan":
        return "–", True
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value), bool(_NUMBER.fullmatch(str(value)))
    return (f"{value:,}" if isinstance(value, int) else f"{value:.4g}"), True


def _template() -> "Template":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("engine.html", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html")
