"""Findings about the images of a dataset, from a scan."""

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from doctor.check.duplicate_findings import EXCLUDE, UNIFORM, be, equal_images, similar_images
from doctor.check.scan import Scan
from engine.contracts import Finding
from engine.data.labels.balance import LEAST_IMAGES, SIGNIFICANCE, critical
from engine.data.preprocessing import range_notes
from engine.errors import counted

_BRIGHTER = 0.5  # standard deviations: a medium effect (Cohen 1988)


def image_findings(scan: Scan, pairs: NDArray[np.int64]) -> list[Finding]:
    """All findings about images. `pairs`: the near-duplicates [P, 2]."""
    return [
        *_unreadable(scan),
        *equal_images(scan),
        *similar_images(scan, pairs),
        *_brightness(scan),
        *_kinds(scan),
    ]


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
        exclude = scan.by_split(files)
        most = [split for split, names in exclude.items() if scan.is_most(split, len(names))]
        findings.append(
            Finding(
                code=code,
                severity="error",
                title=f"{counted(len(files), 'image')} {what}",
                count=len(files),
                examples=tuple(scan.errors[file].error.partition("; ")[0] for file in files[:3]),
                why="Training stops before the first step.",
                remedy=_remedy(code, [scan.errors[file].error for file in files], len(scan.facts), most),
                exclude=exclude,
            )
        )
    return findings


def _remedy(code: str, errors: Sequence[str], count: int, most: Sequence[str]) -> str:
    """For files with these errors, of `count` images: that of the first one if they are only of a kind that
    is not read, instead of leaving them out, and alone if they are most of a split."""
    own = errors[0].partition("; ")[2]
    if code != "unreadable_image" or not own:
        return f"replace them: they are most of {' and '.join(most)}" if most else EXCLUDE
    return own if most or len(errors) == count else f"{own}; or {EXCLUDE}"


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
            title=f"train and val differ in mean brightness: {brighter} {values[brighter].mean():.0f}, "
            f"{darker} {values[darker].mean():.0f} (of 255)",
            count=1,
            examples=(scan.path(int(rows[far])),),
            why="The splits were taken under different conditions, so the network is scored on images unlike "
            "those it was trained on.",
            remedy="augment.color=0.4, or split the images into train and val at random",
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
                    title=f"{counted(len(files), 'image')} {what}",
                    count=len(files),
                    examples=tuple(scan.path(int(file)) for file in files[:3]),
                    why=why,
                    remedy=remedy,
                )
            )

    use, other = ("rotated upright", "stored") if scan.upright else ("read as stored", "upright")
    note(
        "exif_rotation",
        facts["orientation"] > 1,
        "with an EXIF or TIFF rotation",
        f"They are {use}, and masks and boxes must match.",
        f"data.orientation={other}, if the labels match the {other} images",
    )
    note(
        "several_pages",
        facts["pages"] > 1,
        "with several pages or frames",
        "Only the first of each is read.",
        "save the other pages as separate files",
    )
    note(
        "uniform_image",
        facts["contrast"] < UNIFORM,
        "of a single color",
        "There is nothing to learn from them.",
        "delete them, or list their names in a JSON file and set data.exclude=<file>",
    )
    gray = np.isin(facts["mode"], [b"L", b"LA", b"1", b"I;16"])
    if (gray & read).any() and (~gray & read).any():
        few, what = (gray, "in grayscale") if gray.sum() * 2 <= read.sum() else (~gray, "in color")
        note(
            "mixed_colors",
            few & read,
            f"{what}, unlike the others",
            "The network sees a grayscale image as three equal channels.",
            "no action needed if you will predict images of both kinds",
        )
    deep = [scan.path(int(file)) for file in np.flatnonzero(facts["deep"] & read)]
    lines = range_notes(deep, scan.pixel_range) if deep else []
    for line in lines:
        findings.append(
            Finding(
                code="unused_range",
                severity="warning",
                title=f"{counted(len(deep), 'image')} with more than 8 bits "
                + ("use little of the range" if scan.pixel_range is None else "do not fit data.pixel_range"),
                count=len(deep),
                examples=(os.path.relpath(line.partition(": ")[0]),),
                why=line.partition(": ")[2],
                remedy="data.pixel_range=[<black>,<white>], with the values that become 0 and 255",
            )
        )
    return findings
