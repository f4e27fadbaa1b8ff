"""Opens a dataset as training does or, if training would refuse it, with relaxed rules."""

import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.contracts import DataSource, Finding
from engine.errors import UserError, collected_errors

Build = Callable[[Mapping[str, Any]], Any]
"""Changes of keys -> the data source; keys that it does not have are ignored. Raises: UserError."""

UNCHANGED = {"data.source.write_classes": False}
"""The check writes nothing into the user's folder."""


@dataclass(frozen=True)
class _Rule:
    """A rule of the readers that can be relaxed.

    key, value: the override that relaxes it. covered_by: codes of findings that report all violations.
    code: of the finding, if none of these describes it.
    """

    key: str
    value: Any
    covered_by: tuple[str, ...]
    code: str = "refused"

    @property
    def override(self) -> str:
        return f"{self.key}={str(self.value).lower()}"


UNREADABLE = (
    "damaged_image", "missing_image", "damaged_mask", "missing_mask", "mask_size", "rotated_mask",
    "unknown_values", "unreadable_image", "unreadable_mask",
)  # fmt: skip
"""Codes of findings about samples that training cannot read."""

RULES = (
    _Rule("data.on_error", "skip", UNREADABLE),
    _Rule("data.source.allow_same_names", True, ("same_image_in_splits",)),
    _Rule("data.source.allow_same_files", True, ("same_image_in_splits",)),
    _Rule("data.source.missing", "negative", ("image_without_labels",)),
    _Rule("data.source.others", "ignore", ("other_classes",)),
    _Rule("data.source.sizes", "file", ("annotated_size",), "annotated_size"),
)  # fmt: skip


@dataclass(kw_only=True)
class OpenedSource:
    """A data source to check.

    Attributes:
        source: None if it cannot be built at all.
        refusals: the reader's error for each broken rule; the rule is None if none can be relaxed.
        needed: overrides without which training does not start; empty if they do not suffice.
    """

    source: DataSource | None
    refusals: list[tuple[_Rule | None, UserError]] = field(default_factory=list)

    @property
    def needed(self) -> list[str]:
        rules = [rule for rule, _ in self.refusals]
        return [] if None in rules else [rule.override for rule in rules if rule is not None]

    def findings(self, known: set[str]) -> list[Finding]:
        """An error for each refusal that the codes in `known` do not describe."""
        return [
            _refused(rule, error)
            for rule, error in self.refusals
            if rule is None or known.isdisjoint(rule.covered_by)
        ]


def open_source(build: Build) -> OpenedSource:
    """Build the source with all rules; if that fails, without any, and find out which ones are broken.

    If no override helps, the source lacks what its readers refuse, such as rows that are not boxes.
    """
    try:
        return OpenedSource(source=build(UNCHANGED))
    except UserError as error:
        first = error
    relaxed = UNCHANGED | {rule.key: rule.value for rule in RULES}
    with collected_errors() as faults:
        try:
            source = build(relaxed)
        except UserError as error:
            different = {str(each): each for each in (*faults, first, error)}
            return OpenedSource(source=None, refusals=[(None, each) for each in different.values()])
    known = {str(fault) for fault in faults}
    broken = [
        (rule, _error(build, {k: v for k, v in relaxed.items() if k != rule.key}, known)) for rule in RULES
    ]
    refusals: list[tuple[_Rule | None, UserError]] = [(None, fault) for fault in faults]
    refusals += [
        (_orientation(build, relaxed, error, known) or rule, error) for rule, error in broken if error
    ]
    if not refusals:  # one rule includes another: find the one that suffices
        sufficient = (rule for rule in RULES if not _error(build, UNCHANGED | {rule.key: rule.value}, known))
        refusals = [(next(sufficient, None), first)]
    return OpenedSource(source=source, refusals=refusals)


def _orientation(
    build: Build, relaxed: Mapping[str, Any], error: UserError, known: Container[str]
) -> _Rule | None:
    """The override that an error about annotated sizes names, if the sizes fit images in that orientation."""
    for value in ("stored", "upright"):
        rule = _Rule("data.orientation", value, ("annotated_size",), "annotated_size")
        if rule.override in str(error) and not _error(
            build, {**relaxed, "data.source.sizes": "check", rule.key: value}, known
        ):
            return rule
    return None


def _error(build: Build, changes: Mapping[str, Any], known: Container[str]) -> UserError | None:
    """Why the source cannot be built, except the known faults; None if it can."""
    with collected_errors() as faults:
        try:
            build(changes)
        except UserError as error:
            return error
    return next((fault for fault in faults if str(fault) not in known), None)


def _refused(rule: _Rule | None, error: UserError) -> Finding:
    message = str(error)
    message, *others = re.split(r"; (?=\d+ \w+ have errors, including )", message)
    title, _, remedy = message.rpartition("; ")
    if title and others:
        title += f" ({others[0].partition(',')[0]})"
    return Finding(
        code="refused" if rule is None else rule.code,
        severity="error",
        title=title or message,
        count=max(1, len(error.files)),
        examples=error.files[:3] or (message.partition(": ")[0],),
        why="Training refuses to start.",
        remedy=(remedy if title else "") or (rule.override if rule is not None else "correct the data"),
    )
