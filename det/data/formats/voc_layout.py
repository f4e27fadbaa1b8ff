"""Finds the images of a dataset like Pascal VOC, with an annotation file for each, under various names."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from engine.data.images import IMAGE_SUFFIXES, find_images, left_out
from engine.data.splits import SPLIT_NAMES, as_listed, divide, read_names, split_of
from engine.errors import UserError, counted, some
from engine.io.files import existing_root, walk_files

IMAGE_FOLDERS = ("jpegimages", "images", "image", "imgs", "img", "pictures", "photos")


FILE_FOLDERS = (
    *("annotations", "annotation", "annots", "xml", "xmls", "json", "jsons", "labelme", "labels", "label"),
    "bboxes",
)
"""Usual names of the folders of annotation files."""


_LIST_FOLDERS = ("ImageSets/Main", "ImageSets", ".")
"""Where lists of names are, below the root."""


_LISTED = ("trainval", "training", "train", "validation", "valid", "val", "testing", "test")
"""Parts of the names of lists in the root, which may hold other text files."""


Stems = dict[str, str]
"""Name without suffix -> path."""


class SplitFiles(NamedTuple):
    """The files of a split: images by name, annotation files by name, and the split's names in order."""

    images: Stems
    annotations: Stems
    names: list[str]
    unread: Sequence[str] = ()
    """Lines about the files in the folder of images that are neither images nor annotations, and about images
    in subfolders that are not read."""


def find_splits(
    root: Path,
    *,
    images: str | None,
    annotations: str | None,
    splits: Mapping[str, str] | None,
    suffix: str = ".xml",
) -> tuple[dict[str, SplitFiles], list[str]]:
    """The files of each split, and warnings to show before training.

    Args:
        images, annotations: folders below `root` or a split's folder. Default: one with a usual name, else
            the folder itself, else the only one in it that has such files.
        splits: split -> list (a path, or a name in ImageSets/Main) or folder. Default: the lists in
            ImageSets/Main, else folders named after splits, else lists in ImageSets or the root. Without a
            list for train, trainval without val is used. Without val, a fifth of train, or of all images, is
            used as val.
        suffix: of annotation files, in lower case.

    Raises:
        UserError: if there are no images or no annotation files.
    """
    files, whole = find_undivided(root, images=images, annotations=annotations, splits=splits, suffix=suffix)
    unread = list(dict.fromkeys(line for split in files.values() for line in split.unread))
    unread += _other_folders(root, IMAGE_FOLDERS, IMAGE_SUFFIXES, "images", images)
    unread += _other_folders(root, FILE_FOLDERS, (suffix,), "annotations", annotations)
    unread += _folders_in_no_split(root, files, suffix)
    unread += _unused_lists(root) if whole else []
    if "val" in files or "train" not in files:
        return files, unread
    divided, lines = _divide(root, files["train"], what="" if whole else "train")
    others = {split: part for split, part in files.items() if split != "train"}
    return divided | others, [*unread, *lines]


def _folders_in_no_split(root: Path, files: Mapping[str, SplitFiles], suffix: str) -> list[str]:
    """A line about the folders in `root` with images and annotation files, of which no split uses any."""
    used = {Path(path).relative_to(root).parts[0] for part in files.values() for path in part.images.values()}
    others = [
        folder.name
        for folder in _subfolders(root).values()
        if folder.name not in used and _has_files(folder, IMAGE_SUFFIXES) and _has_files(folder, (suffix,))
    ]
    if not others or any((root / name).is_file() for name in used):
        return []
    return [f"{root}: folders with images and {suffix} files, but in no split, left out: {some(others)}"]


def _unused_lists(root: Path) -> list[str]:
    """A line about lists in other places or of other names than those of splits, such as box_train.txt, and
    how to use them."""
    places = [root / "ImageSets" / "Main", root / "ImageSets", *root.glob("ImageSets/[!M]*/")]
    paths = [path for place in places for path in sorted(place.glob("*.txt"))]
    paths += [path for path in sorted(root.glob("*/*.txt")) if split_of(path.stem) and path not in paths]
    names = [path.stem if path.parent == places[0] else str(path.relative_to(root)) for path in paths]
    names += [
        path.name for path in sorted(root.glob("*.txt")) if any(word in path.stem.lower() for word in _LISTED)
    ]
    if not names:
        return []
    train, val = (next((n for n in names if _is_for(n, split)), "<list>") for split in ("train", "val"))
    return [
        f"{root}: lists that are not used: {some(names)}; to use them, set "
        f"'data.source.splits={{train: {train}, val: {val}}}'"
    ]


def _is_for(name: str, split: str) -> bool:
    """Whether the last of the words `_LISTED` in a list's name is the split, as in trainval_train.txt."""
    words = re.findall("|".join(_LISTED), Path(name).stem.lower())
    return bool(words) and words[-1] in SPLIT_NAMES[split]


def find_undivided(
    root: Path,
    *,
    images: str | None = None,
    annotations: str | None = None,
    splits: Mapping[str, str] | None = None,
    suffix: str = ".xml",
) -> tuple[dict[str, SplitFiles], bool]:
    """The files of each split that exists, and whether there are none, so that train has all images.

    The arguments and errors are those of `find_splits`.
    """
    existing_root(root)
    for split, place in (splits or {}).items():
        if not isinstance(place, str) or not place:
            raise UserError(f"data.source.splits.{split}: must be a folder or a list of names, got {place!r}")
    places = dict(splits) if splits else _usual_splits(root, images)
    files = {split: _split_files(root, place, images, annotations, suffix) for split, place in places.items()}
    if not splits and "val" in files and places.get("train", "").lower().endswith("trainval.txt"):
        val = set(files["val"].names)
        if rest := [name for name in files["train"].names if name not in val]:
            files["train"] = files["train"]._replace(names=rest)
    if files:
        return files, False
    return {"train": _all_files(root, images, annotations, suffix)}, True


def _usual_splits(root: Path, images: str | None) -> dict[str, str]:
    outer = [root / images] if images else list(_named(root, IMAGE_FOLDERS))
    inner = [_subfolders(folder) for folder in outer if folder.is_dir()]
    lists = [
        {
            path.stem.lower(): path.relative_to(root).as_posix()
            for path in sorted((root / place).glob("*.txt"))
        }
        for place in _LIST_FOLDERS
    ]
    folders = ({name: path.name for name, path in each.items()} for each in (_subfolders(root), *inner))
    for places in (lists[0], *folders, *lists[1:]):
        names = {
            split: next((places[name] for name in usual if name in places), None)
            for split, usual in SPLIT_NAMES.items()
        }
        names["train"] = names["train"] or places.get("trainval")
        if any(names.values()):
            return {split: name for split, name in names.items() if name is not None}
    return {}


def _split_files(
    root: Path, place: str, images: str | None, annotations: str | None, suffix: str
) -> SplitFiles:
    base = root / place
    if base.is_dir():
        image_folder = _image_folder(base, images)
        file_folder = _file_folder(base, annotations, image_folder, suffix)
        file_folder = file_folder or _shared_file_folder(root, place, annotations)
        return _pair(root, image_folder, file_folder or image_folder, suffix)
    path = next((p for p in (base, root / "ImageSets/Main" / f"{place}.txt") if p.is_file()), None)
    if path is not None:
        files = _all_files(root, images, annotations, suffix)
        return files._replace(names=as_listed(read_names(path), files.images))
    image_folder = _image_folder(root, images) / place
    if image_folder.is_dir():
        file_folder = _shared_file_folder(root, place, annotations)
        file_folder = file_folder or _file_folder(root, annotations, image_folder, suffix)
        return _pair(root, image_folder, file_folder or image_folder, suffix)
    raise UserError(f"{base}: no such folder or list; check data.source.splits")


def _all_files(base: Path, images: str | None, annotations: str | None, suffix: str) -> SplitFiles:
    image_folder = _image_folder(base, images)
    file_folder = _file_folder(base, annotations, image_folder, suffix)
    if annotations and file_folder is None:
        raise UserError(f"{base / annotations}: no such folder; check data.source.annotations")
    return _pair(base, image_folder, file_folder or image_folder, suffix)


def _image_folder(base: Path, chosen: str | None) -> Path:
    if chosen:
        if not (base / chosen).is_dir():
            raise UserError(f"{base / chosen}: no such folder; check data.source.images")
        return base / chosen
    if (usual := next(_named(base, IMAGE_FOLDERS), None)) is not None:
        return usual
    return base if _has_files(base, IMAGE_SUFFIXES) else _only_folder(base, IMAGE_SUFFIXES) or base


def _file_folder(base: Path, chosen: str | None, image_folder: Path, suffix: str) -> Path | None:
    """The folder of annotation files below `base`, or that of the images; None if neither has any."""
    if chosen:
        return base / chosen if (base / chosen).is_dir() else None
    if (usual := next(_named(base, FILE_FOLDERS), None)) is not None:
        return usual
    candidates = (folder for folder in (base, image_folder) if _has_files(folder, (suffix,)))
    return next(candidates, None) or _only_folder(base, (suffix,))


def _shared_file_folder(root: Path, place: str, chosen: str | None) -> Path | None:
    """A folder of annotation files below `root`: that of the split, or one for all splits; None without one.

    Only a folder with one of the usual names is shared by all splits: the files of one split must not be
    used for another.
    """
    folder = root / chosen if chosen else next(_named(root, FILE_FOLDERS), None)
    if folder is not None and not folder.is_dir():
        raise UserError(f"{folder}: no such folder; check data.source.annotations")
    return folder and (folder / place if (folder / place).is_dir() else folder)


def _named(base: Path, usual: tuple[str, ...]) -> Iterator[Path]:
    """The subfolders with one of these names, in upper or lower case, in the order of the names."""
    inside = _subfolders(base)
    return (inside[name] for name in usual if name in inside)


def _other_folders(
    root: Path, usual: tuple[str, ...], suffixes: tuple[str, ...], key: str, chosen: str | None
) -> list[str]:
    """A line about folders with a usual name that are not used, because another one comes first."""
    folders = [folder for folder in _named(root, usual) if _has_files(folder, suffixes)]
    if chosen or len(folders) < 2:
        return []
    others = some([folder.name for folder in folders[1:]])
    return [f"{root}: {folders[0].name} is used, not {others}; to choose, set data.source.{key}="]


def _only_folder(base: Path, suffixes: tuple[str, ...]) -> Path | None:
    """The subfolder that contains files of a kind, if there is exactly one."""
    folders = [folder for folder in _subfolders(base).values() if _has_files(folder, suffixes)]
    return folders[0] if len(folders) == 1 else None


def _has_files(folder: Path, suffixes: tuple[str, ...]) -> bool:
    return any(name.lower().endswith(suffixes) and not name.startswith(".") for name in _list(folder))


def _subfolders(base: Path) -> dict[str, Path]:
    """Name in lower case -> subfolder."""
    return {name.lower(): base / name for name in _list(base) if os.path.isdir(base / name)}


def _list(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); check the path") from None


def _pair(root: Path, image_folder: Path, file_folder: Path, suffix: str) -> SplitFiles:
    images, files = _stems(root, image_folder, IMAGE_SUFFIXES), _stems(root, file_folder, (suffix,))
    if not images:
        nested = [*image_folder.glob("*/*/Annotations"), *image_folder.glob("*/Annotations")]
        hint = nested[0].parent if nested else None
        elsewhere = "add them or, to train, set data.source.images=<their folder>"  # no key of convert
        remedy = f"did you mean data.root={hint}?" if hint else elsewhere
        raise UserError(f"{image_folder}: no images in this folder; {remedy}")
    found, others = find_images(image_folder, known=(".xml", ".txt", ".json"))
    lines = left_out(image_folder, others)
    paths = [path.relative_to(root) for path in found if image_folder == root]
    if deeper := [str(path) for path in paths if len(path.parts) > 1]:
        lines.append(
            f"{root}: {counted(len(deeper), 'image')} in subfolders left out: {some(deeper)}; move all "
            "images and annotation files into one folder, such as images"
        )
    return SplitFiles(images, files, list(images), lines)


def _stems(root: Path, folder: Path, suffixes: tuple[str, ...]) -> Stems:
    """The files of a kind below a folder, by path without suffix; in `root` itself, without its folders."""
    stems: Stems = {}
    names = walk_files(folder)
    for name in names if folder != root else (name for name in names if os.sep not in name):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in suffixes:
            if stem in stems:
                raise UserError(f"{folder / name}: has the same name as {stems[stem]}; rename one")
            stems[stem] = str(folder / name)
    return stems


def _divide(root: Path, files: SplitFiles, *, what: str) -> tuple[dict[str, SplitFiles], list[str]]:
    """The files of a split as train and val (`engine.data.splits.divide`), and lines about it."""
    remedy = "add ImageSets/Main/train.txt and val.txt, or folders train and val"
    images = {name: files.images[name] for name in files.names if name in files.images}
    val, lines = divide(root, images, remedy=remedy, what=what)
    parts = {"train": [n for n in files.names if n not in val], "val": [n for n in files.names if n in val]}
    return {split: files._replace(names=names) for split, names in parts.items()}, lines
