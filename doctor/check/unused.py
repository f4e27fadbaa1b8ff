"""Finds image files next to a dataset's images that no split uses."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from doctor.check.scan import Scan
from engine.contracts import Finding
from engine.data.images import IMAGE_SUFFIXES
from engine.errors import UserError
from engine.io.files import walk_files

PHOTOS = (
    ".heic", ".heif", ".gif", ".jp2", ".j2k", ".jpe", ".nef", ".cr2", ".cr3", ".arw", ".dng", ".raf", ".psd",
    ".exr", ".dcm", ".ppm", ".pgm", ".pbm", ".tga",
)  # fmt: skip
"""Suffixes of unsupported image formats."""


def unused_findings(scan: Scan, splits: Mapping[str, Any]) -> list[Finding]:
    """Images that are in no split, and images in unsupported formats, next to those that are read."""
    used = {os.path.realpath(path) for path in map(os.fsdecode, scan.paths.tolist())}
    for dataset in splits.values():
        used |= {os.path.realpath(path) for path in _label_files(dataset)}
    unused, other_kinds = [], []
    for folder in _image_folders(scan):
        try:
            names = walk_files(folder)
        except UserError:
            continue
        for path in (os.path.join(folder, name) for name in names):
            if path.lower().endswith(PHOTOS):
                other_kinds.append(path)
            elif path.lower().endswith(IMAGE_SUFFIXES) and os.path.realpath(path) not in used:
                unused.append(path)
    findings = []
    if unused:
        noun = "1 image is" if len(unused) == 1 else f"{len(unused)} images are"
        findings.append(
            Finding(
                code="unused_images",
                severity="note",
                title=f"{noun} in no split",
                count=len(unused),
                examples=tuple(unused[:3]),
                why="They are used for neither training nor evaluation.",
                remedy="add them to a split list or to the annotations, or ignore this",
            )
        )
    if other_kinds:
        noun = "1 image is" if len(other_kinds) == 1 else f"{len(other_kinds)} images are"
        findings.append(
            Finding(
                code="unsupported_format",
                severity="warning",
                title=f"{noun} in an unsupported format",
                count=len(other_kinds),
                examples=tuple(other_kinds[:3]),
                why="They are silently left out.",
                remedy="convert them to JPEG or PNG",
            )
        )
    return findings


def _label_files(dataset: Any) -> Iterable[str]:
    masks = dataset.masks() if hasattr(dataset, "masks") else None
    if masks is not None:
        yield from masks.paths
        if getattr(dataset, "sample_files", None) is not None:
            yield from (path for index in range(len(dataset)) for path in dataset.sample_files(index)[1:])


def _image_folders(scan: Scan) -> list[str]:
    """The topmost folders that contain images of the splits directly."""
    folders = sorted({os.path.dirname(path) for path in map(os.fsdecode, scan.paths.tolist())})
    top: list[str] = []
    for folder in folders:
        if not any(Path(folder).is_relative_to(other) for other in top):
            top.append(folder)
    return [folder for folder in top if os.path.isdir(folder)]
