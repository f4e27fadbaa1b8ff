"""Label Studio: the JSON and JSON-MIN exports, which list tasks; coordinates are percentages of the image."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from doctor.convert.geometry import corners, ellipse, turned
from doctor.convert.readers.label_studio_brush import decode_brush
from doctor.convert.records import Bitmap, Box, Geometry, Polygons, Report, Sample, Shape, Source
from engine.data.coco_layout import find_paths, folder_with
from engine.data.images import IMAGE_SUFFIXES
from engine.data.splits import subfolders
from engine.data.survey.files import survey
from engine.data.survey.kinds import kind_of_json
from engine.errors import UserError

_LABELS = ("rectanglelabels", "polygonlabels", "ellipselabels", "brushlabels")
_OTHERS = ("keypointlabels", "choices", "textarea", "labels", "relation")
_UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")
"""What an upload puts before the name of a file."""


_UNANNOTATED, _REPLACED = "image", "annotation"
_UNUSED = {
    _UNANNOTATED: "not annotated, or skipped: left out",
    _REPLACED: "of an image with a later one, or with a ground truth: left out",
}
"""Why a task or an annotation is not used."""


class _Task(NamedTuple):
    """name: of the image; regions: what was drawn on it."""

    name: str
    regions: Sequence[Mapping[str, Any]]


def read(root: Path) -> Source:
    """The images of all tasks that were annotated or submitted without objects; others are left out.

    Raises: UserError if there is no export, several, or no image of it is in the folder.
    """
    files = [path for path in survey(root).files(".json") if kind_of_json(path).format == "label_studio"]
    if len(files) != 1:
        raise UserError(f"{root}: {len(files)} Label Studio exports; keep only one JSON file in the folder")
    tasks, unused = _tasks(_load(files[0]), files[0])
    names = [task.name for task in tasks]
    if not names:
        raise UserError(f"{files[0]}: no task was annotated")
    places = [root, *(root / name for name in subfolders(root))]
    places += [place / name for place in places[1:] for name in subfolders(place)]
    plain = [_UPLOADED.sub("", os.path.basename(name)) for name in names]
    folder = folder_with(places, names) or folder_with(places, plain)
    if folder is None:
        raise UserError(
            f"{root}: no image {names[0]}, nor another that {files[0].name} lists; add the images"
        )
    paths = [
        first or second
        for first, second in zip(find_paths(folder, names), find_paths(folder, plain), strict=True)
    ]
    return Source(
        title="Label Studio",
        count=len(tasks),
        samples=lambda report: _samples(tasks, paths, files[0], report, unused),
    )


def _load(file: Path) -> list[Any]:
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not valid JSON ({error!s:.100}); export it again") from None
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise UserError(f"{file}: not a list of tasks; export it as JSON or JSON-MIN")
    return content


def _tasks(content: Sequence[Mapping[str, Any]], file: Path) -> tuple[list[_Task], list[tuple[str, str]]]:
    """The annotated tasks, and what is not used (its kind, and the image's name).

    The last annotation of each image counts, unless one is the ground truth.
    """
    by_image: dict[str, _Task] = {}
    unused: list[tuple[str, str]] = []
    for number, entry in enumerate(content, start=1):
        data = entry.get("data", entry)
        name = _image(data if isinstance(data, dict) else entry)
        if not name:
            raise UserError(f"{file}: task {number} has no image; export a project of images")
        if "annotations" not in entry and "completions" not in entry:  # JSON-MIN
            drawn = [{"result": [each for value in entry.values() for each in _dicts(value)]}]
        else:
            drawn = _dicts(entry.get("annotations", entry.get("completions")))
            drawn = [each for each in drawn if not each.get("was_cancelled") and not each.get("skipped")]
        if not drawn:
            unused.append((_UNANNOTATED, name))
            continue
        chosen = next((each for each in drawn if each.get("ground_truth")), drawn[-1])
        unused += [(_REPLACED, name)] * (len(drawn) - 1 + (name in by_image))
        by_image[name] = _Task(name, _dicts(chosen.get("result")))
    annotated = [(what, name) for what, name in unused if what != _UNANNOTATED or name not in by_image]
    return list(by_image.values()), annotated


def _dicts(values: Any) -> list[dict[str, Any]]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def _image(data: Mapping[str, Any]) -> str:
    """The value that names an image."""
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    suffixed = (text for text in texts.values() if text.partition("?d=")[2].lower().endswith(IMAGE_SUFFIXES))
    plain = (text for text in texts.values() if text.partition("?")[0].lower().endswith(IMAGE_SUFFIXES))
    return next(suffixed, None) or next(plain, None) or texts.get("image", "")


def _samples(
    tasks: Sequence[_Task],
    paths: Sequence[str | None],
    file: Path,
    report: Report,
    unused: Sequence[tuple[str, str]],
) -> Iterator[Sample]:
    for what, image in unused:
        report.add(what, _UNUSED[what], [os.path.basename(image)])
    for task, path in zip(tasks, paths, strict=True):
        if path is None:
            report.unreadable.append(
                f"{task.name}: {file.name} lists this image, but it is not in the folder"
            )
            continue
        name, shapes, size = os.path.basename(path), [], None
        for region in task.regions:
            try:
                if found := _shape(region):
                    shape, size, others = found
                    shapes.append(shape)
                    report.add("label", "after the first of a region: left out", [name] * others)
                elif region.get("type") not in ("choices", "textarea", "relation"):
                    report.add("region", "without an area or a label: left out", [name])
            except (AttributeError, KeyError, TypeError, ValueError, IndexError, OverflowError):
                report.add("region", "that cannot be read: left out", [name])
        yield Sample(
            image=Path(path),
            name=os.path.splitext(name)[0],
            split="",
            size=size,
            shapes=shapes,
            origin=f"{file} ({name})",
        )


def _shape(region: Mapping[str, Any]) -> tuple[Shape, tuple[int, int], int] | None:
    """The shape of a region, (height, width) of its image, and the number of labels besides the first; None
    if it has no area or no label."""
    value = region.get("value", region)
    kind = next((key for key in _LABELS if value.get(key)), None)
    if kind is None:
        return None
    height, width = int(region["original_height"]), int(region["original_width"])
    label = str(value[kind][0]).strip()
    shape = Shape(label, _geometry(kind, value, height, width))
    return shape, (height, width), len(value[kind]) - 1


def _geometry(kind: str, value: Mapping[str, Any], height: int, width: int) -> Geometry:
    scale, angle = np.array([width, height]) / 100, float(value.get("rotation") or 0)
    if kind == "brushlabels":
        return Bitmap(0, 0, decode_brush(value["rle"], height, width))
    if kind == "polygonlabels":
        return Polygons((np.array(value["points"], np.float64).reshape(-1, 2) * scale,))
    x, y = (np.array([float(value["x"]), float(value["y"])]) * scale).tolist()
    if kind == "ellipselabels":
        across, down = (np.array([float(value["radiusX"]), float(value["radiusY"])]) * scale).tolist()
        return ellipse(x, y, across, down, angle)
    sides = (np.array([float(value["width"]), float(value["height"])]) * scale).tolist()
    box = Box(x, y, x + sides[0], y + sides[1])
    return Polygons((turned(corners(box), angle, (x, y)),)) if angle % 360 else box
