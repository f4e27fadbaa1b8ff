"""What a file of annotations is, from parts of it: COCO's JSON file of 450 MB is not read as a whole."""

import codecs
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from engine.io.text import encoding

_PART = 1 << 18  # bytes at the start, in the middle and at the end of a file
_ROWS = 50  # of a text file


class Kind(NamedTuple):
    """The format of a file, and what its shapes are: boxes, outlines (polygons, masks), or both.

    format: coco, labelme, label_studio, supervisely, voc, cvat, cvat_video (tracks, which nothing reads), or
        empty if it is none of them.
    official: whether it is a file of the VOC challenge, which counts pixels from 1.
    """

    format: str = ""
    boxes: bool = False
    outlines: bool = False
    official: bool = False


def _has(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns))


def _keys(*names: str) -> str:
    return rf'"(?:{"|".join(names)})"\s*:'


_COCO = (_has(_keys("images") + r"\s*\["), _has(_keys("annotations", "categories") + r"\s*\["))
_LABELME = (_has(_keys("shapes") + r"\s*\["), _has(_keys("imagePath", "imageData", "imageHeight")))
_LABEL_STUDIO = (_has(_keys("rectanglelabels", "polygonlabels", "brushlabels", "ellipselabels")),)
_SUPERVISELY = (_has(_keys("objects") + r"\s*\["), _has(_keys("size") + r"\s*\{", _keys("classTitle")))

_JSON = {
    "labelme": (
        _LABELME,
        _has(_keys("shape_type") + r'\s*"(?:rectangle|rotation|oriented_rectangle)"'),
        _has(_keys("shape_type") + r'\s*"(?:polygon|circle|mask)"'),
    ),
    "label_studio": (
        _LABEL_STUDIO,
        _has(_keys("rectanglelabels")),
        _has(_keys("polygonlabels", "brushlabels", "ellipselabels")),
    ),
    "supervisely": (
        _SUPERVISELY,
        _has(_keys("geometryType") + r'\s*"(?:rectangle|oriented_bbox)"'),
        _has(_keys("geometryType") + r'\s*"(?:polygon|bitmap)"'),
    ),
    "coco": (_COCO, _has(_keys("bbox")), _has(_keys("segmentation") + r"\s*(?:\[\s*\[|\{)")),
}
"""Format -> patterns that its files have, those of boxes, those of outlines."""


def kind_of_json(path: Path) -> Kind:
    """The kind of a JSON file; an unreadable or other file has no format."""
    text = _parts(path)
    for name, (signs, boxes, outlines) in _JSON.items():
        is_list = text.lstrip().startswith("[")
        if is_list == (name == "label_studio") and all(sign.search(text) for sign in signs):
            return Kind(name, bool(boxes.search(text)), bool(outlines.search(text)))
    return Kind()


def kind_of_xml(path: Path) -> Kind:
    """The kind of an XML file; an unreadable or other file has no format."""
    text = _parts(path)
    root = re.search(r"<(annotations?)\b", text)
    if root is None:
        return Kind()
    if root[1] == "annotations":
        tracks = re.search(r"<track\b", text) and not re.search(r"<image\b", text)
        outlines = re.search(r"<(?:polygon|mask|ellipse)\b", text)
        return Kind("cvat_video" if tracks else "cvat", bool(re.search(r"<box\b", text)), bool(outlines))
    official = re.search(r"The VOC20\d\d Database|PASCAL VOC20\d\d", text)
    is_voc = re.search(r"<(?:bndbox|robndbox|filename|size)\b", text) and not re.search(r"<pt\b", text)
    return Kind("voc" if is_voc else "", boxes="<bndbox" in text, official=bool(official))


def kind_of_rows(path: Path) -> Kind:
    """The kind of a text file: yolo if its rows are a class number and at least four fractions."""
    boxes = outlines = False
    for line in _parts(path).splitlines()[:_ROWS]:
        words = line.split()
        if not words:
            continue
        if len(words) < 5 or not re.fullmatch(r"\d+(?:\.0*)?", words[0]) or not _are_fractions(words[1:5]):
            return Kind()
        polygon = len(words) >= 7 and len(words) % 2 == 1
        boxes, outlines = boxes or not polygon, outlines or polygon
    return Kind("yolo" if boxes or outlines else "", boxes, outlines)


def combined(kinds: Iterable[Kind]) -> dict[str, Kind]:
    """Format -> whether any of its files has boxes, outlines, or is official."""
    found: dict[str, Kind] = {}
    for kind in (kind for kind in kinds if kind.format):
        known = found.get(kind.format, Kind())
        flags = (old or new for old, new in zip(known[1:], kind[1:], strict=True))
        found[kind.format] = Kind(kind.format, *flags)
    return found


def _are_fractions(words: Iterable[str]) -> bool:
    try:
        return all(-1 <= float(word) <= 2 for word in words)
    except ValueError:
        return False


def _parts(path: Path) -> str:
    """The text of a file; of a large one, of its start, middle and end. Empty if it cannot be read."""
    parts = []
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            whole = size <= 3 * _PART
            for start in (0,) if whole else (0, size // 2, size - _PART):
                file.seek(start // 2 * 2)  # UTF-16 has two bytes per character: start at the first
                parts.append(file.read(size if whole else _PART))
    except OSError:
        return ""
    name = encoding(parts[0])
    if name == "utf-16":  # only the first part has the byte order mark
        name = "utf-16-le" if parts[0].startswith(codecs.BOM_UTF16_LE) else "utf-16-be"
    return "\n".join(part.decode(name, errors="replace") for part in parts).removeprefix("\ufeff")
