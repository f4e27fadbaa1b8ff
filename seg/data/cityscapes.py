"""Cityscapes as distributed: `leftImg8bit/` and `gtFine/` side by side, 19 scored classes.

Masks of label ids are read directly, without a preparation step. Whether a mask contains label ids or
training ids is detected from its content, because files with the wrong name are common.
"""

import itertools
import os
from collections import Counter
from pathlib import Path

import numpy as np
from cityscapesscripts.helpers.labels import labels as _LABELS

from engine.data.class_map import IGNORE, UNKNOWN, ClassMap
from engine.data.images import read_labels
from engine.data.splits import check_leaks
from engine.errors import UserError, raise_or_collect
from engine.io.files import evenly_spaced, is_hidden, pack_paths, same_content
from seg.data.dataset import LabelReader, SegmentationSource, SegmentationSplit

OFFICIAL_COUNTS = {"train": 2975, "val": 500, "test": 1525}


_MASKS_SAMPLED = 24  # per split; a mask of 2 megapixels decodes in about 5 ms


_IMAGE_END = "_leftImg8bit.png"


_MASK_END = {"labelIds": "_gtFine_labelIds.png", "labelTrainIds": "_gtFine_labelTrainIds.png"}


_INSTANCE_END = "_gtFine_instanceIds.png"


_DOWNLOAD = (
    "Cityscapes needs a manual download: 1. register at https://www.cityscapes-dataset.com, 2. download "
    "leftImg8bit_trainvaltest.zip (11 GB) and gtFine_trainvaltest.zip (241 MB), 3. unpack both into one "
    "folder, 4. set data.root to that folder, which now contains leftImg8bit/ and gtFine/"
)


# Mean area in pixels of an instance of each class, the weights of the instance-level IoU of the official
# evaluation (1024 x 2048 pixels).
_INSTANCE_AREAS = {
    "person": 3462.4756337644,
    "rider": 3930.4788056518,
    "car": 12794.0202738185,
    "truck": 27855.1264367816,
    "bus": 35732.1511111111,
    "train": 67583.7075812274,
    "motorcycle": 6298.7200839748,
    "bicycle": 4672.3249222261,
}


_SCORED = sorted((label for label in _LABELS if not label.ignoreInEval), key=lambda label: label.trainId)


CITYSCAPES_CLASSES = ClassMap(
    names=tuple(label.name for label in _SCORED),
    ids=tuple(label.id for label in _SCORED),
    colors=tuple(label.color for label in _SCORED),
    ignore=tuple(label.id for label in _LABELS if label.ignoreInEval and label.id >= 0),
    categories=tuple(label.category for label in _SCORED),
    instance_areas=tuple(_INSTANCE_AREAS.get(label.name, 0.0) for label in _SCORED),
)


_TRAIN_IDS = frozenset((*range(len(_SCORED)), IGNORE))


_LABEL_IDS = frozenset((*CITYSCAPES_CLASSES.ids, *CITYSCAPES_CLASSES.ignore))


def cityscapes(*, root: str, on_error: str = "fail", allow_same_files: bool = False) -> SegmentationSource:
    """The official tree under `root`; any split can be missing, and the test split needs no masks.

    on_error: with `skip`, damaged and missing files, and masks of the rarer kind of ids, are left to
    `engine.data.unreadable`, which reads every file.
    allow_same_files: whether splits may share images.

    Raises: UserError, with the remedy, if the tree is missing, an image has no mask, a mask has no image,
    some masks contain label ids and others training ids, or two splits share an image (unless it has a single
    color).
    """
    base = Path(root).expanduser()
    splits: dict[str, SegmentationSplit] = {}
    present = [split for split in OFFICIAL_COUNTS if (base / "leftImg8bit" / split).is_dir()]
    kind_by_name = _kind_by_name(base, present)
    for split in present:
        files = _find_split(base, split, kind_by_name, skips=on_error == "skip")
        if files is not None:
            splits[split] = files
    if not splits:
        raise UserError(
            f"{base}: no images in leftImg8bit/{{train,val,test}}/<city>/*{_IMAGE_END}. {_DOWNLOAD}"
        )
    kind = _kind_by_content(splits, on_error) or kind_by_name
    warnings = [
        f"{base}: {len(files)} {split} images, the official split has {OFFICIAL_COUNTS[split]}"
        for split, files in splits.items()
        if len(files) != OFFICIAL_COUNTS[split]
    ]
    warnings += _without_instances(base, splits)
    images = {split: files.images for split, files in splits.items()}
    pairs = itertools.combinations(images.values(), 2)
    if not allow_same_files and any(any(same_content(first, second)) for first, second in pairs):
        lines = check_leaks(images, override="data.source.allow_same_files=true")
        warnings += [f"{base}: {line}" for line in lines]
    if kind != kind_by_name:
        warnings.append(f"{base}: the files *{_MASK_END[kind_by_name]} contain {kind} and are read as such")
    counts = ", ".join(f"{split} {len(files)}" for split, files in splits.items())
    return SegmentationSource(
        classes=CITYSCAPES_CLASSES,
        splits=splits,
        read_label=label_reader(kind),
        description=f"Cityscapes at {base} ({counts}; masks of {kind}, {len(CITYSCAPES_CLASSES)} classes)",
        warnings=warnings,
    )


def label_reader(kind: str) -> LabelReader:
    """A reader of masks of "labelIds" or "labelTrainIds" as the 19 contiguous classes."""
    remedy = f"not among Cityscapes' {kind}; restore the file from gtFine_trainvaltest.zip"
    if kind == "labelIds":
        return LabelReader(classes=CITYSCAPES_CLASSES, remedy=remedy)
    table = np.full(65536, UNKNOWN, np.uint8)
    table[sorted(_TRAIN_IDS)] = sorted(_TRAIN_IDS)
    return LabelReader(classes=CITYSCAPES_CLASSES, remedy=remedy, table=table)


def mask_kind(path: str) -> str | None:
    """The kind of ids in a mask: "labelIds", "labelTrainIds", or None if its values could be either.

    Only label ids have the values 19..33 (traffic light, vegetation, sky, car, ...), and only training ids
    have 255 (everything not scored), so practically every real mask is one or the other.

    Raises: UserError if its values can be neither.
    """
    mask = read_labels(path)
    if mask.ndim == 3:
        raise UserError(
            f"{path}: a color image, not ids; use *{_MASK_END['labelIds']} of gtFine_trainvaltest.zip"
        )
    values = set(np.unique(mask).tolist())
    fits = [kind for kind, ids in (("labelIds", _LABEL_IDS), ("labelTrainIds", _TRAIN_IDS)) if values <= ids]
    if not fits:
        unknown = sorted(values - _LABEL_IDS)
        raise UserError(
            f"{path}: values {unknown[:5]} are not label ids (0..33), and its values are not all training "
            "ids (0..18, 255) either; restore it from gtFine_trainvaltest.zip"
        )
    return fits[0] if len(fits) == 1 else None


def _files(base: Path, folder: str, split: str, end: str) -> dict[str, str]:
    """{"frankfurt_000000_000294": path} of the files <folder>/<split>/<city>/*<end>, sorted."""
    paths: dict[str, str] = {}
    parent = base / folder / split
    if not parent.is_dir():
        return paths
    for city in sorted(os.listdir(parent)):
        if is_hidden(city) or not (parent / city).is_dir():
            continue
        for name in sorted(os.listdir(parent / city)):
            if name.endswith(end) and not is_hidden(name):
                paths[name.removesuffix(end)] = str(parent / city / name)
    return paths


def _kind_by_name(base: Path, splits: list[str]) -> str:
    """Label ids if there are any, because training ids are derived from them."""
    any_ids = any(_files(base, "gtFine", split, _MASK_END["labelIds"]) for split in splits)
    return "labelIds" if any_ids else "labelTrainIds"


def _find_split(base: Path, split: str, kind: str, *, skips: bool) -> SegmentationSplit | None:
    """skips: whether missing files are an error only when they are read (if not all are missing)."""
    images = _files(base, "leftImg8bit", split, _IMAGE_END)
    masks = _files(base, "gtFine", split, _MASK_END[kind])
    if not images and not masks:
        return None
    unmasked = [name for name in images if name not in masks]
    orphans = [name for name in masks if name not in images]
    if skips and images.keys() & masks.keys():
        masks |= {name: _beside(images[name], _IMAGE_END, "gtFine", _MASK_END[kind]) for name in unmasked}
        images |= {name: _beside(masks[name], _MASK_END[kind], "leftImg8bit", _IMAGE_END) for name in orphans}
        images, unmasked, orphans = dict(sorted(images.items())), [], []
    if unmasked and (masks or split != "test"):
        raise_or_collect(
            UserError(
                f"{images[unmasked[0]]}: no mask gtFine/{split}/*/{unmasked[0]}{_MASK_END['labelIds']} "
                f"({len(unmasked)} of {len(images)} {split} images have none); "
                f"unpack gtFine_trainvaltest.zip into {base}",
                files=[images[name] for name in unmasked],
            )
        )
        masks = {}
    if orphans:
        raise_or_collect(
            UserError(
                f"{masks[orphans[0]]}: no image leftImg8bit/{split}/*/{orphans[0]}{_IMAGE_END} "
                f"({len(orphans)} of {len(masks)} {split} masks have none); "
                f"unpack leftImg8bit_trainvaltest.zip into {base}",
                files=[masks[name] for name in orphans],
            )
        )
        if not images:
            return None
    instances = _files(base, "gtFine", split, _INSTANCE_END)
    return SegmentationSplit(
        images=pack_paths(list(images.values())),
        names=pack_paths(list(images)),
        labels=pack_paths([masks[name] for name in images]) if masks else None,
        instances=pack_paths([instances[name] for name in images])
        if masks and set(images) <= set(instances)
        else None,
    )


def _without_instances(base: Path, splits: dict[str, SegmentationSplit]) -> list[str]:
    """A line for each split of which only some images have instance ids."""
    lines = []
    for split, files in splits.items():
        if split == "train" or files.labels is None or files.instances is not None:
            continue
        known = _files(base, "gtFine", split, _INSTANCE_END)
        missing = [name for name in map(os.fsdecode, files.names.tolist()) if name not in known]
        if len(missing) < len(files):
            lines.append(
                f"{base}: {len(missing)} of {len(files)} {split} images, such as {missing[0]}, have no "
                f"*{_INSTANCE_END}, so iIoU is not computed; unpack gtFine_trainvaltest.zip again"
            )
    return lines


def _beside(path: str, end: str, folder: str, other_end: str) -> str:
    """The path of the mask of an image, or of the image of a mask."""
    city = Path(path).parent
    name = Path(path).name.removesuffix(end) + other_end
    return str(city.parents[2] / folder / city.parent.name / city.name / name)


def _kind_by_content(splits: dict[str, SegmentationSplit], on_error: str) -> str | None:
    """The kind of ids in most of a sample of masks; None if all could be either.

    Raises: UserError if they differ, unless damaged files are skipped.
    """
    example: dict[str, str] = {}
    tally: Counter[str] = Counter()
    for files in splits.values():
        if files.labels is None:
            continue
        for index in evenly_spaced(len(files), _MASKS_SAMPLED):
            path = os.fsdecode(files.labels[index])
            try:
                kind = mask_kind(path)
            except UserError:
                if on_error == "fail":
                    raise
                continue
            if kind is not None:
                example.setdefault(kind, path)
                tally[kind] += 1
    if len(example) > 1 and on_error == "fail":
        raise UserError(
            f"{example['labelTrainIds']} contains training ids but {example['labelIds']} contains label ids "
            f"({dict(tally)} in a sample); use one kind: restore gtFine/ from gtFine_trainvaltest.zip"
        )
    return max(tally, key=tally.__getitem__, default=None)
