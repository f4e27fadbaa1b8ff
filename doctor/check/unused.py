"""Finds image files next to a dataset's images that no split uses."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from doctor.check.scan import Scan
from engine.contracts import Finding, Severity
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
    findings = [
        _finding(
            unused,
            "unused_images",
            "note",
            what="in no split",
            why="They are used for neither training nor evaluation.",
            remedy="add them to a split list or to the annotations, or ignore this",
        ),
        _finding(
            other_kinds,
            "unsupported_format",
            "warning",
            what="in an unsupported format",
            why="Training does not use them.",
            remedy="convert them to JPEG or PNG",
        ),
    ]
    return [finding for finding in findings if finding.count]


def covers(line: str) -> bool:
    """Whether a reader's line is about files that are all reported as in an unsupported format."""
    if not (said := re.match(r"(.+): (\d+) files? left out: ", line)):
        return False
    try:
        names = walk_files(said[1])
    except UserError:
        return False
    return sum(name.lower().endswith(PHOTOS) for name in names) == int(said[2])


def _finding(paths: list[str], code: str, severity: Severity, *, what: str, why: str, remedy: str) -> Finding:
    noun = "1 image is" if len(paths) == 1 else f"{len(paths)} images are"
    return Finding(
        code=code,
        severity=severity,
        title=f"{noun} {what}",
        count=len(paths),
        examples=tuple(paths[:3]),
        why=why,
        remedy=remedy,
    )


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
