"""Reads CVAT's XML ("CVAT for images 1.1"): many images and their shapes in one file, as boxes.

The file is read in one pass, without entities or document types, so its size does not matter.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np

from det.data.cleaning import ROTATED, around_rotated, says_ignored
from engine.errors import UserError

_BOXES = ("box", "polygon", "ellipse", "mask")


_WITHOUT_BOX = ("polyline", "points", "cuboid", "skeleton", "tag")


_MAX_DEPTH = 50


Box = tuple[float, float, float, float]


@dataclass
class CvatShape:
    """A shape. box: xyxy in pixels, NaN if a number is not finite; ignored: marked difficult or ignore.

    tag, values: the name and the attributes of its element, if `read` was asked to keep them.
    """

    label: str
    box: Box
    ignored: bool = False
    tag: str = ""
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass
class CvatImage:
    """An image: `name` may contain folders, `subset` is empty if there is none, `size` is (height, width).

    findings: what was left out or changed, as (noun, what) for `AnnotationIssues.add`.
    """

    name: str
    subset: str
    size: tuple[int, int] | None
    shapes: list[CvatShape] = field(default_factory=list)
    findings: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class CvatFile:
    """The labels of a file in their order, and its images."""

    labels: list[str] = field(default_factory=list)
    images: list[CvatImage] = field(default_factory=list)


def read(path: str | Path, *, keep_values: bool = False) -> CvatFile:
    """Read and check a file.

    keep_values: keep the attributes of every shape, from which its outline can be read.

    Raises: UserError naming the file and the faulty line.
    """
    reader = _Reader(Path(path), keep_values)
    try:
        with open(path, "rb") as file:
            reader.parser.ParseFile(file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except UserError:
        raise
    except (expat.ExpatError, LookupError, ValueError) as error:  # LookupError: an unknown encoding
        raise UserError(f"{path}: not valid XML ({error}); export the annotations again") from None
    if not reader.content.images:
        raise UserError(f"{path}: contains no images; export the task again as CVAT for images 1.1")
    return reader.content


class _Reader:
    """Builds the content while the parser reports elements."""

    def __init__(self, path: Path, keep_values: bool) -> None:
        self.path, self.content, self._keep_values = path, CvatFile(), keep_values
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self.parser.EntityDeclHandler = self._reject_declaration
        self.parser.StartElementHandler, self.parser.EndElementHandler = self._start, self._end
        self.parser.CharacterDataHandler = self._text_handler
        self._path: list[str] = []
        self._text = ""
        self._label: dict[str, str] = {}
        self._attribute = ""

    def _where(self) -> str:
        return f"{self.path}: line {self.parser.CurrentLineNumber}"

    def _reject_declaration(self, *_: Any) -> None:
        raise UserError(
            f"{self.path}: declares a document type or entities, which annotations do not need; remove them"
        )

    def _text_handler(self, text: str) -> None:
        self._text += text

    def _start(self, tag: str, values: dict[str, str]) -> None:
        self._path.append(tag)
        self._text = ""
        if len(self._path) > _MAX_DEPTH:
            raise UserError(
                f"{self.path}: nested more than {_MAX_DEPTH} levels deep; export the annotations again"
            )
        if self._path[0] != "annotations":
            raise UserError(f"{self.path}: contains <{tag:.40}>, not CVAT's <annotations>; remove this file")
        if self._path == ["annotations", "track"]:
            raise UserError(
                f"{self.path}: contains tracks of a video; export the task as CVAT for images 1.1"
            )
        if self._path == ["annotations", "image"]:
            self.content.images.append(self._image(values))
        elif len(self._path) == 3 and self._path[:2] == ["annotations", "image"]:
            self._shape(tag, values)
        elif tag == "label" and "meta" in self._path:
            self._label = {}
        elif tag == "attribute":
            self._attribute = values.get("name", "")

    def _end(self, tag: str) -> None:
        self._path.pop()
        text = self._text.strip()
        self._text = ""
        if "meta" in self._path and self._path[-1] == "label" and tag in ("name", "type", "parent"):
            self._label[tag] = text
        elif tag == "label" and "meta" in self._path:
            self._add_label()
        elif tag == "attribute" and self._path[:2] == ["annotations", "image"] and len(self._path) == 3:
            shapes = self.content.images[-1].shapes
            if self._path[-1] in _BOXES and shapes:
                shapes[-1].ignored |= says_ignored(self._attribute, text)

    def _add_label(self) -> None:
        """Add a label of the task, unless it is part of a skeleton or a tag for whole images."""
        name = self._label.get("name", "")
        if self._label.get("parent") or self._label.get("type") in ("tag", "skeleton"):
            return
        if not name or not name.isprintable():
            raise UserError(f"{self._where()}: a label without a name; export the annotations again")
        if name not in self.content.labels:  # tasks of a project list the same labels
            self.content.labels.append(name)

    def _image(self, values: Mapping[str, str]) -> CvatImage:
        name = values.get("name", "")
        if not name.strip() or not name.isprintable():
            raise UserError(f"{self._where()}: an image without a name; export the annotations again")
        sides = [self._number(values, side, "image") for side in ("height", "width") if side in values]
        size = None
        if len(sides) == 2 and all(sides):
            if not all(0 < side < 2**31 and side == int(side) for side in sides):
                raise UserError(f"{self._where()}: height and width of the image must be numbers of pixels")
            size = (int(sides[0]), int(sides[1]))
        return CvatImage(name, values.get("subset", ""), size)

    def _shape(self, tag: str, values: Mapping[str, str]) -> None:
        image = self.content.images[-1]
        if tag not in _BOXES:
            if tag in _WITHOUT_BOX:
                noun = "point shape" if tag == "points" else tag
                image.findings.append((noun, "without a box: left out"))
            return
        label = values.get("label", "").strip()
        if not label or not label.isprintable():
            raise UserError(f"{self._where()}: a {tag} without a label; add the name of its class")
        shape = CvatShape(label, self._box(tag, values))
        if self._keep_values:
            shape.tag, shape.values = tag, dict(values)
        image.shapes.append(shape)
        if tag == "box" and self._number(values, "rotation", tag, 0.0) % 180:
            image.findings.append(("box", ROTATED))

    def _box(self, tag: str, values: Mapping[str, str]) -> Box:
        if tag == "polygon":
            return self._around(values.get("points", ""))
        if tag == "mask":
            left, top, width, height = (
                self._number(values, key, tag) for key in ("left", "top", "width", "height")
            )
            return left, top, left + width, top + height
        angle = math.radians(self._number(values, "rotation", tag, 0.0))
        if tag == "ellipse":
            x, y, across, down = (self._number(values, key, tag) for key in ("cx", "cy", "rx", "ry"))
            width = math.hypot(across * math.cos(angle), down * math.sin(angle))
            height = math.hypot(across * math.sin(angle), down * math.cos(angle))
            return x - width, y - height, x + width, y + height
        x1, y1, x2, y2 = (self._number(values, key, tag) for key in ("xtl", "ytl", "xbr", "ybr"))
        if angle % math.pi == 0 or not all(map(math.isfinite, (x1, y1, x2, y2, angle))):
            return x1, y1, x2, y2
        left, top, right, bottom = around_rotated(np.array([[x1, y1, x2, y2]]), np.array([angle]))[0].tolist()
        return left, top, right, bottom

    def _around(self, text: str) -> Box:
        """The box around the points "x,y;x,y"."""
        try:
            points = np.array([[float(n) for n in point.split(",")] for point in text.split(";")])
        except ValueError:
            points = np.empty((0, 0))
        if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
            raise UserError(
                f"{self._where()}: points of a polygon must be at least three x,y separated by semicolons, "
                f"got {text!r:.40}; export the annotations again"
            )
        if not np.isfinite(points).all():
            return (math.nan,) * 4
        (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        return left, top, right, bottom

    def _number(self, values: Mapping[str, str], key: str, tag: str, default: float | None = None) -> float:
        """A number, NaN if it is not finite."""
        text = values.get(key)
        if text is None and default is not None:
            return default
        try:
            value = float(text or "")
        except ValueError:
            article = "an" if tag[0] in "aei" else "a"
            raise UserError(
                f"{self._where()}: {key} of {article} {tag} must be a number, got {text or 'nothing':.40}; "
                "export the annotations again"
            ) from None
        return value if abs(value) < 1e300 else math.nan
