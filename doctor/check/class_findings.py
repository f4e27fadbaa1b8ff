"""Findings about the classes of a dataset: absent, rare, and with other shares in val than in train."""

from collections.abc import Mapping

from engine.contracts import Finding
from engine.data.class_map import ClassMap
from engine.data.labels.balance import FACTOR, SIGNIFICANCE, absent, differing, rare
from engine.data.labels.report import ClassAmounts
from engine.errors import some


def class_findings(classes: ClassMap, amounts: Mapping[str, ClassAmounts], unit: str) -> list[Finding]:
    """unit: what the amounts count: pixels, boxes or images."""
    findings = [finding for split in amounts for finding in _absent(classes, split, amounts[split])]
    if "train" in amounts:
        findings += _rare(classes, amounts["train"], unit)
    if {"train", "val"} <= amounts.keys():
        findings += _differing(classes, amounts["train"], amounts["val"], unit)
    return findings


def _absent(classes: ClassMap, split: str, amounts: ClassAmounts) -> list[Finding]:
    names = [classes.names[index] for index in absent(amounts)]
    if not names:
        return []
    noun = "class does" if len(names) == 1 else "classes do"
    in_train = split == "train"
    return [
        Finding(
            code="class_absent",
            severity="warning" if split in ("train", "val") else "note",
            title=f"{len(names)} {noun} not occur in {split}: {some(names)}",
            count=len(names),
            examples=tuple(names[:3]),
            why="The network cannot learn them." if in_train else "The score says nothing about them.",
            remedy=f"add {split} images with them, or remove them from the classes",
        )
    ]


def _rare(classes: ClassMap, amounts: ClassAmounts, unit: str) -> list[Finding]:
    indices, factor = rare(amounts)
    if not indices:
        return []
    names = [classes.names[index] for index in indices]
    verb = "class has" if len(names) == 1 else "classes have"
    return [
        Finding(
            code="imbalance",
            severity="note",
            title=f"{len(names)} {verb} less than 1% of the {unit} of the most frequent one in train: "
            f"{some(names)}",
            count=len(names),
            examples=tuple(
                f"{classes.names[index]}: in {amounts.present[index]} of {amounts.images} images"
                for index in indices[:3]
            ),
            why=f"They are learned last; the rarest has 1/{factor:.0f} of the {unit} of the most frequent.",
            remedy="more images with them" + _REMEDIES.get(unit, ""),
        )
    ]


_REMEDIES = {"pixels": ", or task.loss.class_weights=auto"}


def _differing(classes: ClassMap, train: ClassAmounts, val: ClassAmounts, unit: str) -> list[Finding]:
    indices = differing(train, val)
    if not indices:
        return []
    shares = [
        f"{classes.names[index]}: train {train.shares[index]:.2%}, val {val.shares[index]:.2%}"
        for index in indices
    ]
    noun = "class has" if len(indices) == 1 else "classes have"
    return [
        Finding(
            code="class_drift",
            severity="warning",
            title=f"{len(indices)} {noun} over {FACTOR:g} times as many {unit} per image in train as in val, "
            f"or the reverse (significant at {SIGNIFICANCE:.1%})",
            count=len(indices),
            examples=tuple(shares[:3]),
            why="The splits show other scenes, so the best checkpoint is chosen for other images than it was "
            "trained on.",
            remedy="divide the images at random, by scene or video, into train and val",
        )
    ]
