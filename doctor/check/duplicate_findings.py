"""Findings about identical images and near-duplicates, across splits or within one."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from doctor.check.scan import Scan
from engine.contracts import Finding
from engine.errors import counted

EXCLUDE = "data.exclude=<out>/exclude.json"
"""The remedy that leaves out samples; the tool fills in the folder of the file that it writes."""

UNIFORM = 0.5
"""Gray levels; images with less contrast count as a single color."""


def equal_images(scan: Scan) -> list[Finding]:
    """Files with the same bytes: in two splits, and within one. Images of a single color may occur twice."""
    known = scan.contents.any(axis=1) & (scan.facts["contrast"] >= UNIFORM)
    across, within = _groups(scan, known)
    return [*_across(scan, across), *_within(scan, within)]


def _groups(scan: Scan, known: NDArray[np.bool_]) -> tuple[dict[int, list[int]], list[list[int]]]:
    """File -> all files like it, for those in several splits; and the groups of copies in one split."""
    keys = scan.contents.copy().view("V16").ravel()
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    groups: dict[int, list[int]] = {}
    for file in np.flatnonzero(known & (counts[inverse] > 1)).tolist():
        groups.setdefault(int(inverse[file]), []).append(file)
    across = {file: [file] for file in _in_several_splits(scan) if known[file]}
    within = []
    for group in groups.values():
        if len(set(scan.first_split[group].tolist())) > 1:
            across |= dict.fromkeys(group, group)
        else:
            within.append(group)
    return across, within


def _in_several_splits(scan: Scan) -> list[int]:
    """The files that are themselves in more than one split."""
    first, found = scan.first_split, set[int]()
    for place, rows in enumerate(scan.rows.values()):
        found |= set(rows[first[rows] < place].tolist())
    return sorted(found)


def _across(scan: Scan, groups: Mapping[int, list[int]]) -> list[Finding]:
    if not groups:
        return []
    excluded = _later(scan, groups)
    remedy, exclude = _leave_out(scan, excluded, f"{EXCLUDE} data.source.allow_same_files=true")
    count = sum(map(len, excluded.values()))
    return [
        Finding(
            code="same_image_in_splits",
            severity="error",
            title=f"{counted(count, 'image')} {be(count)} also in an earlier split ({_counts(excluded)})",
            count=count,
            examples=tuple(_pair_text(scan, group) for group in _distinct(groups.values())[:3]),
            why="The network is scored on images that it was trained on, so training refuses to start.",
            remedy=remedy,
            exclude=exclude,
        )
    ]


def _distinct(groups: Iterable[list[int]]) -> list[list[int]]:
    return [list(group) for group in dict.fromkeys(map(tuple, groups))]


def _within(scan: Scan, groups: Sequence[list[int]]) -> list[Finding]:
    if not groups:
        return []
    count = sum(len(group) - 1 for group in groups)
    return [
        Finding(
            code="copies",
            severity="note",
            title=f"{counted(count, 'image')} {'is a copy' if count == 1 else 'are copies'} of another image "
            "in the same split",
            count=count,
            examples=tuple(_pair_text(scan, group) for group in groups[:3]),
            why="They count more than once in training and in the score.",
            remedy="delete the copies, or list their names in a JSON file and set data.exclude=<file>",
        )
    ]


def _later(scan: Scan, files: Iterable[int]) -> dict[str, tuple[str, ...]]:
    """The samples of all splits but the first that a file's copies are in."""
    keys = scan.contents.copy().view("V16").ravel()
    chosen = np.array(sorted(files), np.int64)
    _, group = np.unique(keys[chosen], return_inverse=True)
    earliest = np.full(int(group.max(initial=-1)) + 1, len(scan.rows))
    np.minimum.at(earliest, group, scan.first_split[chosen])
    of_file = dict(zip(chosen.tolist(), earliest[group].tolist(), strict=True))
    found = {}
    for place, split in enumerate(scan.rows):
        later = [file for file, first in of_file.items() if first < place]
        if names := scan.samples_of(split, later):
            found[split] = names
    return found


def _leave_out(
    scan: Scan, excluded: Mapping[str, tuple[str, ...]], remedy: str
) -> tuple[str, Mapping[str, tuple[str, ...]]]:
    """Remedy and samples to leave out, unless they are most of a split."""
    repeated = [split for split, names in excluded.items() if scan.is_most(split, len(names))]
    if repeated:
        return f"choose other images for {' and '.join(repeated)}", {}
    return remedy, excluded


def similar_images(scan: Scan, pairs: NDArray[np.int64]) -> list[Finding]:
    """Near-duplicates `pairs` [P, 2]: in two splits, and within one."""
    first = scan.first_split
    crosses = first[pairs[:, 0]] != first[pairs[:, 1]]
    return [*_similar_across(scan, pairs[crosses]), *_similar_within(scan, pairs[~crosses])]


def _similar_across(scan: Scan, pairs: NDArray[np.int64]) -> list[Finding]:
    if not len(pairs):
        return []
    first = scan.first_split
    later = pairs[np.arange(len(pairs)), first[pairs].argmax(axis=1)]
    places = first[later]
    excluded = {
        split: scan.samples_of(split, sorted(set(later[places == place].tolist())))
        for place, split in enumerate(scan.rows)
        if (places == place).any()
    }
    remedy, exclude = _leave_out(scan, excluded, EXCLUDE)
    count = sum(map(len, excluded.values()))
    return [
        Finding(
            code="near_duplicates_in_splits",
            severity="warning",
            title=f"{_near_duplicates(count)} of an image in an earlier split ({_counts(excluded)})",
            count=count,
            examples=tuple(_pair_text(scan, pair) for pair in _one_per_file(pairs, later)),
            why="The score is too optimistic: the network was trained on almost the same images, such as "
            "re-saved photos or frames of one video.",
            remedy=remedy,
            exclude=exclude,
        )
    ]


def _similar_within(scan: Scan, pairs: NDArray[np.int64]) -> list[Finding]:
    if not len(pairs):
        return []
    count = len(set(pairs[:, 1].tolist()))
    return [
        Finding(
            code="near_duplicates",
            severity="note",
            title=f"{_near_duplicates(count)} of another image in the same split",
            count=count,
            examples=tuple(_pair_text(scan, pair) for pair in _one_per_file(pairs, pairs[:, 1])),
            why="They add little to training and weigh more in the score; often, they are video frames.",
            remedy="keep each video in one split; to use fewer frames, list their names in a JSON file "
            "and set data.exclude=<file>",
        )
    ]


def _near_duplicates(count: int) -> str:
    return f"{counted(count, 'image')} {'is a near-duplicate' if count == 1 else 'are near-duplicates'}"


def _one_per_file(pairs: NDArray[np.int64], files: NDArray[np.int64]) -> list[list[int]]:
    _, at = np.unique(files, return_index=True)
    return [[int(file) for file in pairs[row]] for row in sorted(at)[:3]]


def _counts(excluded: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"{split} {len(names)}" for split, names in excluded.items())


def _pair_text(scan: Scan, files: Sequence[int]) -> str:
    ordered = sorted(files, key=lambda file: (-int(scan.first_split[file]), file))
    one, other = ordered[0], ordered[-1]
    return scan.path(one) if one == other else f"{scan.path(one)} and {scan.path(other)}"


def be(count: int) -> str:
    return "is" if count == 1 else "are"
