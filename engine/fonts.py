"""Fonts for class names: DejaVu Sans, which comes with matplotlib, or a system font that has the letters.

DejaVu has Latin, Greek, Cyrillic, Arabic and Hebrew letters, but no Chinese, Japanese or Korean ones.
"""

import functools
import importlib.util
import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import ImageFont

from engine.data.class_map import ClassMap
from engine.errors import printable, some

_LIKELY = ("cjk", "unicode", "wqy", "msyh", "msgothic", "malgun", "simsun", "hei", "gothic", "noto", "arial")
"""Parts of the names of fonts with many letters, which are tried first."""

_FONTS_TRIED = 60


def load(size: float, texts: Iterable[str] = ()) -> ImageFont.FreeTypeFont:
    """A font of this size in pixels, with the letters of `texts` if one has them."""
    return ImageFont.truetype(_file_with(frozenset("".join(texts))), round(size))


def shown_names(classes: ClassMap) -> tuple[str, ...]:
    """The names as the font can show them: letters that no font has are left out, and a name without any
    letter left becomes `class <id>`."""
    missing = _missing(classes.names)
    if not missing:
        return tuple(map(printable, classes.names))
    names = []
    for name, id_ in zip(classes.names, classes.ids, strict=True):
        left = "".join(letter for letter in name if letter not in missing).strip()
        names.append(printable(left) if any(map(str.isalnum, left)) else f"class {id_}")
    return tuple(names)


def font_notes(classes: ClassMap) -> list[str]:
    """A line if no font has the letters of some class names."""
    missing = _missing(classes.names)
    names = [name for name in classes.names if missing.intersection(name)]
    if not names:
        return []
    shown = shown_names(classes)[classes.names.index(names[0])]
    letters = missing.intersection("".join(names))
    fonts = sorted(
        {_noto(letter) for letter in letters if unicodedata.category(letter) not in ("Mn", "Mc", "Cf")}
    )
    return [
        f"no installed font has all letters of {some(names)}: drawings show {shown!r} for {names[0]!r}; "
        f"install one that has them, such as {some(fonts or ['Noto Sans'])}"
    ]


def _noto(letter: str) -> str:
    """The Noto font that has a letter."""
    if unicodedata.category(letter) in ("So", "Sk"):
        return "Noto Emoji"
    script = unicodedata.name(letter, "CJK").split()[0]
    cjk = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "FULLWIDTH", "HALFWIDTH")
    return f"Noto Sans {'CJK' if script in cjk else script.title()}"


def chart_names(classes: ClassMap) -> list[str]:
    """The names for matplotlib, which reads formulas between dollar signs; sets its fonts."""
    names = shown_names(classes)
    file = _file_with(frozenset("".join(names)))
    if file != _dejavu():
        import matplotlib
        from matplotlib import font_manager

        font_manager.fontManager.addfont(file)
        family = font_manager.FontProperties(fname=file).get_name()
        matplotlib.rcParams["font.family"] = ["DejaVu Sans", family]
    return [name.replace("$", r"\$") for name in names]


def _missing(names: Sequence[str]) -> frozenset[str]:
    letters = frozenset("".join(names))
    return letters - _letters(_file_with(letters)) - {" "}


@functools.lru_cache(maxsize=32)
def _file_with(letters: frozenset[str]) -> str:
    """A font with these letters, or with most of them."""
    plain = frozenset(map(chr, range(32, 127)))
    if letters <= plain or letters - plain <= _letters(_dejavu()):
        return _dejavu()
    best = _dejavu()
    for file in _system_fonts():
        if letters <= _letters(file) | {" "}:
            return file
        if len(letters & _letters(file)) > len(letters & _letters(best)):
            best = file
    return best


@functools.lru_cache(maxsize=_FONTS_TRIED + 4)
def _letters(file: str) -> frozenset[str]:
    from fontTools.ttLib import TTFont

    try:
        with TTFont(file, fontNumber=0, lazy=True) as font:
            table: dict[int, Any] = font.getBestCmap() or {}
    except Exception:  # a damaged font, or an unsupported kind
        return frozenset()
    return frozenset(map(chr, table))


@functools.cache
def _dejavu() -> str:
    found = importlib.util.find_spec("matplotlib")  # importing it takes a second
    assert found is not None
    assert found.submodule_search_locations is not None
    folder = Path(next(iter(found.submodule_search_locations)))
    return str(folder / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf")


@functools.cache
def _system_fonts() -> tuple[str, ...]:
    """Font files; those likely to have many letters come first."""
    folders = ["/usr/share/fonts", "/usr/local/share/fonts", "~/.fonts", "~/.local/share/fonts"]
    if sys.platform == "darwin":
        folders = ["/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"]
    if sys.platform == "win32":
        folders = [os.path.join(os.environ.get("WINDIR", "C:\\Windows"), "Fonts")]
    files = [
        os.path.join(place, name)
        for folder in folders
        for place, _, names in os.walk(os.path.expanduser(folder))
        for name in names
        if name.lower().endswith((".ttf", ".ttc", ".otf"))
    ]
    return tuple(sorted(files, key=_preference)[:_FONTS_TRIED])


def _preference(file: str) -> tuple[bool, str]:
    name = os.path.basename(file).lower()
    return not any(part in name for part in _LIKELY), file
