"""Findings about the images of a dataset, from a scan."""

import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from doctor.check.scan import Scan
from engine.contracts import Finding
from engine.data.labels.balance import LEAST_IMAGES, SIGNIFICANCE, critical
from engine.data.preprocessing import unused_range

EXCLUDE = "data.exclude=<out>/exclude.json"
"""The remedy that leaves out samples; the tool puts in the path of the file that it writes."""

_UNIFORM = 0.5  # gray levels
_BRIGHTER = 0.5  # standard deviations: a medium effect (Cohen 1988)


def image_findings(scan: Scan, pairs: NDArray[np.int64]) -> list[Finding]:
    """All findings about images. `pairs`: the near-duplicates [P, 2]."""
    return [
        *_unreadable(scan),
        *_equal(scan),
        *_near(scan, pairs),
        *_brightness(scan),
        *_kinds(scan),
    ]


def plural(count: int, noun: str, plural_noun: str = "") -> str:
    """ "1 image" or "3 images"."""
    return f"{count} {noun if count == 1 else plural_noun or f'{noun}s'}"


def be(count: int) -> str:
    return "is" if count == 1 else "are"


def _unreadable(scan: Scan) -> list[Finding]:
    kinds: dict[str, list[int]] = {}
    for file, fact in scan.errors.items():
        kinds.setdefault(fact.kind, []).append(file)
    findings = []
    for kind, files in kinds.items():
        code, what = {
            "DamagedFileError": ("damaged_image", f"{be(len(files))} damaged"),
            "MissingFile": ("missing_image", f"{'does' if len(files) == 1 else 'do'} not exist"),
        }.get(kind, ("unreadable_image", "cannot be read"))
        findings.append(
            Finding(
                code=code,
                severity="error",
                title=f"{plural(len(files), 'image')} {what}",
                count=len(files),
                examples=tuple(scan.errors[file].error.partition("; ")[0] for file in files[:3]),
                why="Training stops before the first step.",
                remedy=EXCLUDE,
                exclude=scan.by_split(files),
            )
        )
    return findings


def _equal(scan: Scan) -> list[Finding]:
    """Files with the same bytes: in two splits, and within one."""
    keys = scan.contents.copy().view("V16").ravel()
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    known = scan.contents.any(axis=1) & (scan.facts["contrast"] >= _UNIFORM)
    copies = np.flatnonzero(known & (counts[inverse] > 1))
    groups: dict[int, list[int]] = {}
    for file in copies.tolist():
        groups.setdefault(int(inverse[file]), []).append(file)
    shared = [file for rows in _shared_rows(scan) for file in rows if known[file]]
    across = {file: [file] for file in shared}
    within: list[list[int]] = []
    for group in groups.values():
        splits = {int(place) for place in scan.first_split[group]}
        if len(splits) > 1:
            across |= dict.fromkeys(group, group)
        else:
            within.append(group)
    findings = []
    if across:
        excluded = _later(scan, across)
        remedy, exclude = _leave_out(scan, excluded, f"{EXCLUDE} data.source.allow_same_files=true")
        count = sum(map(len, excluded.values()))
        findings.append(
            Finding(
                code="same_image_in_splits",
                severity="error",
                title=f"{plural(count, 'image')} {be(count)} also in an earlier split ({_counts(excluded)})",
                count=count,
                examples=tuple(_pair_text(scan, group) for group in list(across.values())[:3]),
                why="The network is scored on images that it was trained on, so training refuses to start.",
                remedy=remedy,
                exclude=exclude,
            )
        )
    if within:
        count = sum(len(group) - 1 for group in within)
        findings.append(
            Finding(
                code="copies",
                severity="note",
                title=f"{plural(count, 'image')} {be(count)} a copy of another image of the same split",
                count=count,
                examples=tuple(_pair_text(scan, group) for group in within[:3]),
                why="They count more than once in training and in the score.",
                remedy=EXCLUDE + " after adding their names",
            )
        )
    return findings


def _shared_rows(scan: Scan) -> Iterable[list[int]]:
    """For each split, the files that an earlier split contains as well."""
    first = scan.first_split
    for place, rows in enumerate(scan.rows.values()):
        yield sorted(set(rows[first[rows] < place].tolist()))


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
    """Remedy and samples to leave out, unless that would leave a split without samples."""
    emptied = [split for split, names in excluded.items() if len(names) >= len(scan.rows[split])]
    if emptied:
        return f"choose other images for {' and '.join(emptied)}", {}
    return remedy, excluded


def _near(scan: Scan, pairs: NDArray[np.int64]) -> list[Finding]:
    first = scan.first_split
    cross = pairs[first[pairs[:, 0]] != first[pairs[:, 1]]]
    within = pairs[first[pairs[:, 0]] == first[pairs[:, 1]]]
    findings = []
    if len(cross):
        places = first[cross]
        later = cross[np.arange(len(cross)), places.argmax(axis=1)]
        splits = list(scan.rows)
        excluded = {
            split: scan.samples_of(split, sorted(set(later[first[later] == place].tolist())))
            for place, split in enumerate(splits)
            if (first[later] == place).any()
        }
        count = sum(map(len, excluded.values()))
        remedy, exclude = _leave_out(scan, excluded, EXCLUDE)
        findings.append(
            Finding(
                code="near_duplicates_in_splits",
                severity="warning",
                title=f"{plural(count, 'image')} {be(count)} nearly the same as one of an earlier split "
                f"({_counts(excluded)})",
                count=count,
                examples=tuple(_pair_text(scan, pair) for pair in _one_per_file(cross, later)),
                why="The score is higher than on new images: such images, often frames of one video or saved "
                "again, were trained on.",
                remedy=remedy,
                exclude=exclude,
            )
        )
    if len(within):
        count = len(set(within[:, 1].tolist()))
        findings.append(
            Finding(
                code="near_duplicates",
                severity="note",
                title=f"{plural(count, 'image')} {be(count)} nearly the same as another of the same split",
                count=count,
                examples=tuple(_pair_text(scan, pair) for pair in _one_per_file(within, within[:, 1])),
                why="They add little to training and weigh more in the score; frames of one video do this.",
                remedy="keep the frames of a video in one split",
            )
        )
    return findings


def _one_per_file(pairs: NDArray[np.int64], files: NDArray[np.int64]) -> list[list[int]]:
    _, at = np.unique(files, return_index=True)
    return [[int(file) for file in pairs[row]] for row in sorted(at)[:3]]


def _counts(excluded: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"{split} {len(names)}" for split, names in excluded.items())


def _pair_text(scan: Scan, files: Sequence[int]) -> str:
    ordered = sorted(files, key=lambda file: (-int(scan.first_split[file]), file))
    one, other = ordered[0], ordered[-1]
    return scan.path(one) if one == other else f"{scan.path(one)} and {scan.path(other)}"


def _brightness(scan: Scan) -> list[Finding]:
    if not {"train", "val"} <= scan.rows.keys():
        return []
    values = {}
    for split in ("train", "val"):
        facts = scan.facts[scan.rows[split]]
        values[split] = facts["brightness"][facts["height"] > 0].astype(np.float64)
    train, val = values["train"], values["val"]
    if min(len(train), len(val)) < LEAST_IMAGES:
        return []
    error = float(np.sqrt(train.var() / len(train) + val.var() / len(val)))
    pooled = float(np.sqrt((train.var() + val.var()) / 2))
    difference = abs(float(train.mean() - val.mean()))
    if difference <= _BRIGHTER * pooled or difference <= critical(SIGNIFICANCE) * error or difference < 1:
        return []
    darker, brighter = sorted(values, key=lambda split: values[split].mean())
    far = int(np.argmax(np.abs(val - train.mean())))
    rows = scan.rows["val"][scan.facts["height"][scan.rows["val"]] > 0]
    return [
        Finding(
            code="brightness_drift",
            severity="warning",
            title=f"val and train differ in brightness: {brighter} {values[brighter].mean():.0f}, "
            f"{darker} {values[darker].mean():.0f} of 255 on average",
            count=1,
            examples=(scan.path(int(rows[far])),),
            why="The two splits were taken under other conditions, so the score says less about training.",
            remedy="mix the images of both splits, or raise augment.color",
        )
    ]


def _kinds(scan: Scan) -> list[Finding]:
    facts, read = scan.facts, scan.facts["height"] > 0
    findings = []

    def note(code: str, chosen: NDArray[np.bool_], what: str, why: str, remedy: str) -> None:
        files = np.flatnonzero(chosen & read)
        if len(files):
            findings.append(
                Finding(
                    code=code,
                    severity="note",
                    title=f"{plural(len(files), 'image')} {what}",
                    count=len(files),
                    examples=tuple(scan.path(int(file)) for file in files[:3]),
                    why=why,
                    remedy=remedy,
                )
            )

    use = "are rotated upright" if scan.upright else "are read as stored"
    note(
        "exif_turn",
        facts["orientation"] > 1,
        "with an EXIF or TIFF rotation",
        f"They {use}, so masks and boxes must fit that.",
        "data.orientation=" + ("stored" if scan.upright else "upright"),
    )
    note(
        "several_pages",
        facts["pages"] > 1,
        "with several pages or frames",
        "Only the first of each is read.",
        "save the others as files of their own",
    )
    note(
        "uniform_image",
        facts["contrast"] < _UNIFORM,
        "of a single color",
        "There is nothing to learn from them.",
        EXCLUDE + " after adding their names",
    )
    gray = np.isin(facts["mode"], [b"L", b"LA", b"1", b"I;16"])
    if (gray & read).any() and (~gray & read).any():
        few, what = (gray, "in gray") if gray.sum() * 2 <= read.sum() else (~gray, "in color")
        note(
            "mixed_colors",
            few & read,
            f"{what}, unlike the others",
            "The network sees three equal channels where a file is gray.",
            "nothing, if images of both kinds will be predicted",
        )
    deep = [scan.path(int(file)) for file in np.flatnonzero(facts["deep"] & read)]
    lines = unused_range(deep) if deep else []
    for line in lines:
        findings.append(
            Finding(
                code="unused_range",
                severity="warning",
                title=f"{plural(len(deep), 'image')} of more than 8 bits use little of the range",
                count=len(deep),
                examples=(os.path.relpath(line.partition(": ")[0]),),
                why=line.partition(": ")[2],
                remedy="data.pixel_range=[<value of black>,<value of white>]",
            )
        )
    return findings
