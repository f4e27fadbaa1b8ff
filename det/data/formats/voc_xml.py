"""Reads a Pascal VOC annotation file, without entities or document types, and checks every value."""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from det.data.cleaning import ROTATED, says_ignored
from engine.errors import UserError

_MAX_BYTES = 8_000_000  # about 25,000 objects


_MAX_DEPTH = 50


_SIDES = ("xmin", "ymin", "xmax", "ymax")


_ATTRIBUTES = "attributes/attribute"
"""CVAT's, in an <object>."""


_PLACES = ("left_top", "right_top", "right_bottom", "left_bottom")


_CORNERS = tuple(f"{axis}_{place}" for place in _PLACES for axis in "xy")
"""Elements of the <robndbox> of DIOR-R."""


class VocObject(NamedTuple):
    """One object; `box` is xyxy as written, NaN if a number is not finite.

    `angle`: by which the box is turned about its center, in radians.
    """

    name: str
    box: tuple[float, float, float, float]
    difficult: bool
    angle: float = 0


class VocFile(NamedTuple):
    """The content of one file; `size` is (height, width) of the image, None if it is missing or zero.

    `findings`: what was left out or changed, as (noun, what) for `AnnotationIssues.add`.
    """

    size: tuple[int, int] | None
    objects: list[VocObject]
    findings: Sequence[tuple[str, str]] = ()


def read(path: str | Path) -> VocFile:
    """Read and check a file. Raises: UserError naming the file and the element that is missing or wrong."""
    root = _parse(Path(path))
    nodes = [*root.findall("object"), *root.findall("objects/object")]
    objects = [_object(node, f"{path}: object {number}") for number, node in enumerate(nodes, 1)]
    return VocFile(_size(root, str(path)), objects, list(_findings(nodes)))


def _findings(nodes: Iterable[Element]) -> Iterator[tuple[str, str]]:
    for node in nodes:
        yield from [("box", "after the first of its <object>: left out")] * (len(node.findall("bndbox")) - 1)
        if node.find("bndbox") is None and node.find(f"robndbox/{_CORNERS[0]}") is not None:
            yield "box", ROTATED
        for place, where in (("bndbox/angle", " in <bndbox>"), ("angle", ""), ("rotation", "")):
            if _text(node, place).strip("0.,"):
                yield "box", f"with <{place.rpartition('/')[2]}>{where}: the angle is ignored"


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if len(content) > _MAX_BYTES:
        raise UserError(
            f"{path}: over {_MAX_BYTES // 10**6} MB, too large for the annotations of one image; remove it"
        )
    return content


def _parse(path: Path) -> Element:
    builder, depth = TreeBuilder(), 0

    def reject_declaration(*_: Any) -> None:
        raise UserError(
            f"{path}: declares a document type or entities, which annotations do not need; remove them"
        )

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            raise UserError(
                f"{path}: nested more than {_MAX_DEPTH} levels deep; export the annotations again"
            )
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = reject_declaration
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(_content(path), True)
    except UserError:
        raise
    except (expat.ExpatError, LookupError, ValueError) as error:  # LookupError: an unknown encoding
        raise UserError(f"{path}: not valid XML ({error}); export the annotations again") from None
    root = builder.close()
    if root.tag != "annotation":
        raise UserError(
            f"{path}: contains <{root.tag!s:.40}>, not Pascal VOC's <annotation>; remove the file"
        )
    return root


def _object(node: Element, where: str) -> VocObject:
    name = _text(node, "name")
    if not name or not name.isprintable():
        raise UserError(f"{where}: has no <name>; add the name of its class")
    box, angle = _box(node, f"{where} ({name!r:.40})", where)
    difficult = _text(node, "difficult").lower()
    if difficult not in ("", "0", "1", "false", "true"):
        raise UserError(f"{where}: <difficult> must be 0 or 1, got {difficult!r:.40}")
    attributes = ((_text(item, "name"), _text(item, "value")) for item in node.iterfind(_ATTRIBUTES))
    tags = ((tag, _text(node, tag)) for tag in ("difficult", "ignore"))
    ignored = any(says_ignored(*said) for said in (*tags, *attributes))
    return VocObject(name, box, ignored, angle)


def _box(node: Element, named: str, where: str) -> tuple[tuple[float, float, float, float], float]:
    """The box, and its angle in radians: CVAT's attribute `rotation` (degrees) or roLabelImg's <robndbox>."""
    if (box := node.find("bndbox")) is not None:
        x1, y1, x2, y2 = (_number(box, side, where) for side in _SIDES)
        turned = (item for item in node.iterfind(_ATTRIBUTES) if _text(item, "name") == "rotation")
        attribute = next(turned, None)
        angle = 0.0 if attribute is None else _number(attribute, "value", f"{where}: attribute rotation")
        return (x1, y1, x2, y2), math.radians(angle % 180)
    if (box := node.find("robndbox")) is not None and box.find(_CORNERS[0]) is not None:
        xs, ys = ([_number(box, f"{axis}_{corner}", where) for corner in _PLACES] for axis in "xy")
        finite = all(map(math.isfinite, (*xs, *ys)))
        return (min(xs), min(ys), max(xs), max(ys)) if finite else (math.nan,) * 4, 0.0
    if box is not None:
        x, y, width, height, angle = (_number(box, tag, where) for tag in ("cx", "cy", "w", "h", "angle"))
        if abs(angle) > 2 * math.pi:
            raise UserError(
                f"{where}: <angle> must be in radians, between -6.28 and 6.28, got {angle:g}; "
                "multiply degrees by 0.0174533"
            )
        return (x - width / 2, y - height / 2, x + width / 2, y + height / 2), angle
    raise UserError(f"{named}: has no <bndbox>; draw its box or remove the object")


def _size(root: Element, where: str) -> tuple[int, int] | None:
    node = root.find("size")
    if node is None or not _text(node, "height") or not _text(node, "width"):
        return None
    height, width = (_number(node, side, f"{where}: size") for side in ("height", "width"))
    if height == 0 or width == 0:
        return None
    if not all(0 < side < 2**31 and side == int(side) for side in (height, width)):
        raise UserError(f"{where}: <size> must be whole numbers of pixels, got {height:g} x {width:g}")
    return int(height), int(width)


def _number(node: Element, tag: str, where: str) -> float:
    text = _text(node, tag)
    try:
        value = float(text.replace(",", "."))  # some programs write decimal commas
    except ValueError:
        raise UserError(f"{where}: <{tag}> must be a number, got {text!r:.40}") from None
    return value if math.isfinite(value) else math.nan


def _text(node: Element, tag: str) -> str:
    return (node.findtext(tag) or "").strip()
