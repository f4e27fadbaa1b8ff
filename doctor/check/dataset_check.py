"""Checks a dataset: builds it, reads everything, and collects the findings."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from doctor.check.cache import FactCache
from doctor.check.class_findings import class_findings
from doctor.check.image_findings import image_findings
from doctor.check.scan import Scan, scan_images
from doctor.check.source import UNREADABLE, Build, open_source
from doctor.check.unused import covers, unused_findings
from engine.contracts import DataSource, Finding, TaskInfo
from engine.data.class_map import ClassMap
from engine.data.labels.report import ExaminedSplit, LabelReport
from engine.io.progress import announced

_ORDER = ("error", "warning", "note")
_PLACEHOLDER = "<out>"


@dataclass(kw_only=True, eq=False)
class CheckedDataset:
    """The result of a check.

    Attributes:
        description: one line about the data; empty if it cannot be built.
        findings: the most severe first.
        needed: overrides without which training does not start.
        scan, labels, pairs: what was read, and the near-duplicates [P, 2]; None if the data cannot be built.
    """

    description: str
    findings: list[Finding]
    needed: list[str]
    scan: Scan | None = None
    labels: LabelReport | None = None
    classes: ClassMap | None = None
    pairs: NDArray[np.int64] | None = None

    def count(self, severity: str) -> int:
        """How many findings of a severity there are."""
        return sum(finding.severity == severity for finding in self.findings)

    @property
    def train_images(self) -> int:
        """The number of images in train; 0 if the data cannot be built."""
        return 0 if self.scan is None else len(self.scan.rows.get("train", ()))

    @property
    def can_train(self) -> bool:
        """Whether training starts with the overrides in `needed` and without the excluded samples."""
        fatal = {"no_split"} | ({"refused"} if not self.needed else set())
        if self.scan is None or not fatal.isdisjoint(finding.code for finding in self.findings):
            return False
        if any(finding.code == "same_image_in_splits" and not finding.exclude for finding in self.findings):
            return False  # to allow them would only hide that the score is wrong
        unreadable = (finding for finding in self.findings if finding.code in UNREADABLE)
        return not any(self._affects_most(f, split) for f in unreadable for split in f.exclude)

    def _affects_most(self, finding: Finding, split: str) -> bool:
        assert self.scan is not None
        return self.scan.is_most(split, len(finding.exclude[split]))

    @property
    def excluded(self) -> dict[str, dict[str, str]]:
        """Split -> sample -> why to leave it out. Findings that affect most of a split are not included."""
        samples: dict[str, dict[str, str]] = {}
        for finding in self.findings:
            for split, names in finding.exclude.items():
                if self.scan is None or self._affects_most(finding, split):
                    continue
                for name in names:
                    samples.setdefault(split, {}).setdefault(name, finding.code.replace("_", " "))
        return samples

    def status(self, *, strict: bool) -> int:
        """The exit status: 1 if there is an error or, if `strict`, a warning."""
        return int(self.count("error") > 0 or (strict and self.count("warning") > 0))

    def at(self, folder: str) -> "CheckedDataset":
        """A copy whose remedies name the report's folder."""
        findings = [replace(f, remedy=f.remedy.replace(_PLACEHOLDER, folder)) for f in self.findings]
        return replace(self, findings=findings)


def check_dataset(
    *,
    build: Build,
    build_task: Callable[[DataSource], Any],
    info: TaskInfo,
    cache: FactCache,
    eval_split: str = "val",
) -> CheckedDataset:
    """Check the data source that `build` makes.

    Args:
        build_task: source -> the task that would be trained, for the anchors of a detector.
        eval_split: the split to evaluate on (`data.split`).
        cache: remembers what was read, so that an interrupted check continues.

    Raises:
        UserError: if the task cannot be built.
    """
    with announced("reading the annotations"):
        opened = open_source(build)
    source = opened.source
    if source is None:
        return CheckedDataset(description="", findings=opened.findings(set()), needed=[])
    findings = [
        _no_split(split, source)
        for split in dict.fromkeys(("train", eval_split))
        if split not in source.splits
    ]
    datasets = {split: source.dataset(split, None) for split in source.splits}
    scan = scan_images(source, datasets, cache)
    with announced("comparing the images"):
        pairs = scan.near_duplicates()
    findings += [*image_findings(scan, pairs), *unused_findings(scan, datasets)]
    labels = None
    if info.label_check is not None:
        splits = {
            name: ExaminedSplit(dataset, scan.sizes(name), scan.contents[scan.rows[name]])
            for name, dataset in datasets.items()
        }
        task = build_task(source)
        labels = info.label_check(task=task, source=source, splits=splits, read=cache.read)
        findings += [finding for finding in labels.findings if not covers(finding.title)]
        findings += class_findings(source.classes, labels.amounts, labels.unit)
        findings += [_line(line) for line in labels.lines if not covers(line)]
    findings += opened.findings({finding.code for finding in findings})
    return CheckedDataset(
        description=source.description,
        findings=sorted(findings, key=lambda finding: (_ORDER.index(finding.severity), -finding.count)),
        needed=opened.needed,
        scan=scan,
        labels=labels,
        classes=source.classes,
        pairs=pairs,
    )


def _no_split(split: str, source: DataSource) -> Finding:
    remedies = [f"data.split={next(iter(source.splits))}"]
    lines = (line for line in source.warnings if f": {split}: " in line)
    keys = (line.rpartition("; ")[2] for line in lines if "; remove this key" in line)
    remedies += [remedy.replace("this key", f"the key {split}") for remedy in keys]
    return Finding(
        code="no_split",
        severity="error",
        title=f"no {split} split, only {', '.join(source.splits)}",
        count=1,
        examples=(),
        why="Training refuses to start.",
        remedy="add training images" if split == "train" else " or ".join(reversed(remedies)),
    )


def _line(line: str) -> Finding:
    """What a reader prints before every training."""
    title, _, remedy = line.rpartition("; ")
    return Finding(
        code="reader",
        severity="warning" if "annotations left out" in line else "note",
        title=title or line,
        count=1,
        examples=(),
        why="Training also prints this before it starts.",
        remedy=remedy if title else "",
    )
