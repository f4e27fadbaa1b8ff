"""Findings about the classes of a dataset: absent, rare, and distributed differently in train and val."""

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
    if not names or not amounts.images:  # if no image could be read, nothing is known
        return []
    noun = "class does" if len(names) == 1 else "classes do"
    one, in_train = len(names) == 1, split == "train"
    them = "it" if one else "them"
    return [
        Finding(
            code="class_absent",
            severity="warning" if split in ("train", "val") else "note",
            title=f"{len(names)} {noun} not occur in {split}: {some(names)}",
            count=len(names),
            examples=tuple(names[:3]),
            why=f"The network cannot learn {them}." if in_train else f"The score does not cover {them}.",
            remedy=f"add {split} images with {them}, or remove {them} from the classes",
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
            title=f"{len(names)} {verb} less than 1% as many {unit} as the most frequent class in train: "
            f"{some(names)}",
            count=len(names),
            examples=tuple(
                f"{classes.names[index]}: in {amounts.present[index]} of {amounts.images} images"
                for index in indices[:3]
            ),
            why="Rare classes are learned poorly; the rarest has "
            f"1/{factor:.0f} as many {unit} as the most frequent.",
            remedy=_REMEDIES.get(unit, "") + f"add images with {'it' if len(names) == 1 else 'them'}",
        )
    ]


_REMEDIES = {"pixels": "task.loss.class_weights=auto or augment.class_crops=0.5, or "}


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
            f"or vice versa (significant at {SIGNIFICANCE:.1%})",
            count=len(indices),
            examples=tuple(shares[:3]),
            why="The splits show different scenes, so the best checkpoint is chosen on images unlike the "
            "training images.",
            remedy="split the images into train and val at random, by scene or video",
        )
    ]
