"""Finds the folders of images and masks of each split, in common layouts."""

import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from engine.data.images import IMAGE_SUFFIXES, list_images
from engine.data.splits import SPLIT_NAMES, read_names, split_folders, split_of, subfolders
from engine.errors import UserError, check_command, some
from engine.io.files import walk_files

UNDIVIDED = ""
"""The key of a set without splits."""


IMAGE_FOLDERS = (
    "images", "image", "imgs", "img", "jpegimages", "imgdir", "photos", "pictures", "originals",
)  # fmt: skip
MASK_FOLDERS = (
    "masks", "mask", "segmentationclass", "labels", "label", "anndir", "annotations", "annotation", "annots",
    "annot", "groundtruth", "gt", "segmentation", "segmentations",
)  # fmt: skip
"""Names in lower case, without separators, of the folders of images and of masks."""


_LIST_FOLDERS = ("ImageSets/Segmentation", "ImageSets", ".")


_LAYOUT = (
    "expected images/train and masks/train (and val), images and masks, train/images and train/masks, or "
    "JPEGImages and SegmentationClass; for other names, set data.source.images=<folder> and "
    "data.source.masks=<folder>"
)


class Folders(NamedTuple):
    """Where the files of a split are; the same folder twice if the masks are next to their images.

    names: the images in the split, from a list (None: all).
    at_root: whether the images are in data.root itself.
    """

    images: Path
    masks: Path
    names: tuple[str, ...] | None = None
    at_root: bool = False


def find_folders(base: Path, *, images: str | None = None, masks: str | None = None) -> dict[str, Folders]:
    """The folders of each split, or those of a set without splits (`UNDIVIDED`).

    images, masks: names of the folders below `base`; by default, the usual ones.

    Raises: UserError if there are none, or the layout is ambiguous.
    """
    if found := _find(base, images, masks):
        return found
    inner = list(islice((each for each in _inner(base) if _has_both(each)), 2))
    if len(inner) == 2 and all(map(_is_of_one_image, inner)):
        first = inner[0].name
        raise UserError(
            f"{inner[0].parent}: a folder for each image ({first}/images, {first}/masks) is not read; put "
            "all images into one folder, images, and one mask of class ids per image, with the same name, "
            "into another, masks (docs/guides/data.md has a script)"
        )
    hint = f"; did you mean data.root={inner[0]}?" if inner else f"; {_LAYOUT}"
    raise UserError(f"{base}: no folder of images with masks{hint}")


def _has_both(base: Path) -> bool:
    try:
        return any(folders.images != folders.masks for folders in _find(base).values())
    except UserError:
        return False


def _is_of_one_image(base: Path) -> bool:
    return all(len(list_images(folders.images)) == 1 for folders in _find(base).values())


def _find(base: Path, images: str | None = None, masks: str | None = None) -> dict[str, Folders]:
    parts = _parts(base, images, masks)
    image_folder, mask_folder = parts.get((None, "images")), parts.get((None, "masks"))
    if image_folder is not None:
        return _in_kinds(base, image_folder, mask_folder or image_folder)
    found = {}
    for split in SPLIT_NAMES:
        whole = parts.get((split, None))
        inner = _parts(whole) if whole is not None else {}
        own = parts.get((split, "images")) or inner.get((None, "images")) or whole
        if own is not None:
            beside = parts.get((split, "masks")) or inner.get((None, "masks")) or own
            found[split] = Folders(own, beside)
    if found:
        return found
    return {UNDIVIDED: Folders(base, mask_folder or base, at_root=True)} if _images_in(base) else {}


def _in_kinds(base: Path, images: Path, masks: Path) -> dict[str, Folders]:
    """Splits as subfolders of the image and mask folders, or as lists of names."""
    splits = split_folders(images)
    if splits:
        mask_splits = split_folders(masks)
        flat = not mask_splits and masks != images
        return {
            split: Folders(images / name, masks if flat else masks / mask_splits.get(split, name))
            for split, name in splits.items()
        }
    lists = _lists(base)
    return {split: Folders(images, masks, names) for split, names in lists.items()} or {
        UNDIVIDED: Folders(images, masks)
    }


def _parts(
    base: Path, images: str | None = None, masks: str | None = None
) -> dict[tuple[str | None, str | None], Path]:
    """(split, kind) -> subfolder, from its name: `train`, `masks`, `train_images`, `valannot`."""
    parts: dict[tuple[str | None, str | None], Path] = {}
    order = {name: rank for rank, name in enumerate((*IMAGE_FOLDERS, *MASK_FOLDERS))}
    for name in sorted(subfolders(base), key=lambda name: order.get(_plain(name), 99)):
        part = _split_and_kind(_plain(name))
        if part == (None, None) or (part[1] == "masks" and not _holds_images(base / name)):
            continue
        if part[1] == "masks" and part in parts and masks is None:
            raise UserError(
                f"{base}: {parts[part].name}/ and {name}/ could both be the masks; set data.source.masks to "
                "one of them"
            )
        parts.setdefault(part, base / name)
    for kind, chosen in (("images", images), ("masks", masks)):
        if chosen is not None:
            if not (base / chosen).is_dir():
                raise UserError(f"{base / chosen}: no such folder; check data.source.{kind}")
            parts[None, kind] = base / chosen
    return parts


def _split_and_kind(plain: str) -> tuple[str | None, str | None]:
    """The split in a folder's name, and whether it has images or masks; None if the name does not say."""
    for split, name in ((split, name) for split, names in SPLIT_NAMES.items() for name in reversed(names)):
        for rest in {plain.removeprefix(name), plain.removesuffix(name)} - {plain}:
            if not rest or _kind(rest):
                return split, _kind(rest)
    return None, _kind(plain)


def _kind(plain: str) -> str | None:
    return "images" if plain in IMAGE_FOLDERS else "masks" if plain in MASK_FOLDERS else None


def _plain(name: str) -> str:
    return re.sub(r"[_\-. ]", "", name.lower())


def _lists(base: Path) -> dict[str, tuple[str, ...]]:
    """Split -> the names in a list such as ImageSets/Segmentation/train.txt."""
    for place in _LIST_FOLDERS:
        files = {path.stem.lower(): path for path in sorted((base / place).glob("*.txt"))}
        named = {split: [n for n in names if n in files] for split, names in SPLIT_NAMES.items()}
        found = {split: tuple(read_names(files[names[0]])) for split, names in named.items() if names}
        if "train" not in found and "trainval" in files:
            names = read_names(files["trainval"])
            found = {"train": tuple(name for name in names if name not in found.get("val", ()))} | found
        if found:
            return found
    return {}


def without_mask_folder(folders: Folders) -> tuple[str, str]:
    """What is next to a folder of images that has no mask folder, and what to do about it; "" if unknown."""
    images, annotations = folders.images, _annotations_in(folders.images)
    if annotations:
        base = images if folders.at_root else images.parent
        reason = f"{images.name}/ has no masks, but {some(annotations, 2)}; "
        return reason, f"run {check_command(base)}"
    if split_of(images.name) is not None and _kind(_plain(images.parent.name)) == "images":
        images = images.parent  # images/train: the masks would be next to images/
    for parent in (images.parent, images):
        for name in subfolders(parent):
            files = sorted(walk_files(parent / name)) if _split_and_kind(_plain(name))[1] == "masks" else []
            if not files or _holds_images(parent / name):
                continue
            if files[0].lower().endswith((".xml", ".json", ".txt")):
                return f"{name}/ has no masks, but {some(files, 2)}; ", f"run {check_command(parent)}"
            return f"{name}/ has files that are not read: {some(files, 2)}; ", "convert them to PNG"
    if "masks" in {_kind(_plain(name)) for name in subfolders(images.parent)}:  # above data.root
        return "", f"the images have masks next to {images.name}/: set data.root={images.parent}"
    reason = f"{images.name}/ has no mask folder next to it; "
    beside = [n for n in subfolders(images.parent) if n != images.name and _holds_images(images.parent / n)]
    if beside and split_of(images.name) is None:
        root = f"data.root={images.parent} data.source.images={images.name} " if folders.at_root else ""
        masks = f"{root}data.source.masks={beside[0]}"
        return reason, f"if the masks are in {' or '.join(beside[:3])}, set {masks}"
    inner = [name for name in subfolders(images) if _holds_images(images / name)]
    if len(inner) < 2:
        return reason, ""
    return reason, (
        f"if two of {some(inner)} are images and masks, set data.source.images=<folder> and "
        "data.source.masks=<folder>, as paths below data.root"
    )


def _annotations_in(folder: Path) -> list[str]:
    """Files of an annotation tool that have the names of the images next to them."""
    names = sorted(walk_files(folder))
    stems = {name.rpartition(".")[0] for name in names if name.lower().endswith(IMAGE_SUFFIXES)}
    return [
        n for n in names if n.lower().endswith((".json", ".xml", ".txt")) and n.rpartition(".")[0] in stems
    ]


def _holds_images(folder: Path) -> bool:
    return any(name.lower().endswith(IMAGE_SUFFIXES) for name in walk_files(folder))


def _images_in(folder: Path) -> bool:
    return any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.iterdir())


def _inner(base: Path) -> Iterable[Path]:
    """Folders up to two levels below."""
    for name in subfolders(base):
        yield base / name
        yield from (base / name / below for below in subfolders(base / name))
