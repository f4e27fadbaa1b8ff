"""Supervisely: a project of datasets, each with `img` and `ann`, one JSON file per image."""

import base64
import binascii
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from doctor.convert.geometry import corners, turned, with_holes
from doctor.convert.records import Bitmap, Box, Geometry, Polygons, Report, Sample, Shape, Source
from engine.data.images import find_images, left_out
from engine.data.splits import split_of
from engine.errors import UserError
from engine.io.files import is_hidden

_MOST_BYTES = 1 << 28  # of a decompressed mask


def read(root: Path) -> Source:
    """All images of all datasets. If each dataset is named like a split, they are the splits.

    Raises: UserError if there is no dataset.
    """
    datasets = [ann.parent for ann in sorted(root.rglob("ann")) if (ann.parent / "img").is_dir()]
    datasets = [path for path in datasets if not any(map(is_hidden, path.relative_to(root).parts))]
    if not datasets:
        raise UserError(f"{root}: not a Supervisely dataset, which has the folders img and ann")
    splits = {dataset: split_of(dataset.name) or "" for dataset in datasets}
    if not all(splits.values()):
        splits = dict.fromkeys(splits, "")
    files = {dataset: find_images(dataset / "img") for dataset in datasets}
    images = {dataset: found for dataset, (found, _) in files.items()}
    unread = [line for dataset, (_, others) in files.items() for line in left_out(dataset / "img", others)]
    return Source(
        title="Supervisely",
        count=sum(map(len, images.values())),
        samples=lambda report: _all_samples(root, images, splits, unread, report),
        labels=_labels(root / "meta.json"),
    )


def _labels(meta: Path) -> list[str]:
    """The classes of a project; none if there is no meta.json, as in a single dataset."""
    if not meta.is_file():
        return []
    try:
        return [str(entry["title"]) for entry in _load(meta)["classes"]]
    except (KeyError, TypeError):
        raise UserError(f"{meta}: has no list of classes with titles; download the project again") from None


def _all_samples(
    root: Path,
    images: Mapping[Path, list[Path]],
    splits: Mapping[Path, str],
    unread: Sequence[str],
    report: Report,
) -> Iterator[Sample]:
    for line in unread:
        report.note(line)
    for dataset, paths in images.items():
        yield from _samples(root, dataset, paths, splits[dataset], report)


def _samples(root: Path, dataset: Path, images: list[Path], split: str, report: Report) -> Iterator[Sample]:
    for image in images:
        inner = image.relative_to(dataset / "img")
        places = (dataset / "ann" / f"{inner}.json", dataset / "ann" / inner.with_suffix(".json"))
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            report.add("image", "without a JSON file: left out", [image.name])
            continue
        try:
            content = _load(file)
            size = (int(content["size"]["height"]), int(content["size"]["width"]))
            shapes = list(_shapes(content, size, file, report))
        except UserError as error:
            report.unreadable.append(str(error))
            continue
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            report.unreadable.append(f"{file}: not a Supervisely annotation ({error!r:.60})")
            continue
        name = (
            str(dataset.relative_to(root) / inner.with_suffix(""))
            if not split
            else str(inner.with_suffix(""))
        )
        yield Sample(image=image, name=name, split=split, size=size, shapes=shapes, origin=str(file))


def _load(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not valid JSON ({error!s:.100}); download the project again") from None


def _shapes(content: Mapping[str, Any], size: tuple[int, int], file: Path, report: Report) -> Iterator[Shape]:
    for entry in content["objects"]:
        geometry = _geometry(entry, size, file)
        if geometry is None:
            kind = entry.get("geometryType")
            report.add("shape", f"without an area ({kind!s:.20}): left out", [file.name])
        else:
            yield Shape(str(entry["classTitle"]), geometry)


def _geometry(entry: Mapping[str, Any], size: tuple[int, int], file: Path) -> Geometry | None:
    """The shape of an object; None for points and lines. Projects before 2019 have no geometryType."""
    kind = entry.get("geometryType") or ("bitmap" if entry.get("bitmap") else "polygon")
    if kind == "bitmap":
        return _bitmap(entry["bitmap"], file)
    if kind not in ("polygon", "rectangle", "oriented_bbox"):
        return None
    points = entry["points"]
    outer = _points(points["exterior"] if isinstance(points, dict) else points)
    if kind != "polygon":
        box = Box(*outer.min(axis=0).tolist(), *outer.max(axis=0).tolist())
        angle = math.degrees(float(entry.get("angle") or 0)) if kind == "oriented_bbox" else 0.0
        center = ((box.left + box.right) / 2, (box.top + box.bottom) / 2)
        return Polygons((turned(corners(box), angle, center),)) if angle % 180 else box
    return with_holes(outer, [_points(hole) for hole in entry["points"].get("interior") or ()], size)


def _points(values: Any) -> NDArray[np.float64]:
    points = np.array(values, np.float64).reshape(-1, 2)
    if not len(points) or not (np.abs(points) < 1e6).all():
        raise ValueError("points of a shape")
    return points


def _bitmap(entry: Mapping[str, Any], file: Path) -> Bitmap:
    """A PNG image, compressed once more and in base 64; its alpha channel, if it has one, is the mask."""
    try:
        data = zlib.decompressobj().decompress(base64.b64decode(entry["data"]), _MOST_BYTES)
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except (zlib.error, binascii.Error, cv2.error):
        pixels = None
    if pixels is None:
        raise UserError(f"{file}: a bitmap cannot be decoded; download the project again")
    left, top = entry["origin"]
    mask = pixels if pixels.ndim == 2 else pixels[..., -1] if pixels.shape[2] == 4 else pixels.max(axis=2)
    return Bitmap(int(left), int(top), mask > 0)
