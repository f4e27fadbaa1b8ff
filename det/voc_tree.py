"""Where the pictures and XML files of a Pascal VOC data set lie, whatever the folders are called."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from det.assemble import SPLIT_NAMES
from engine.errors import UserError
from engine.images import IMAGE_SUFFIXES

IMAGE_FOLDERS = ("jpegimages", "images", "image", "imgs", "img", "pictures", "photos")
XML_FOLDERS = ("annotations", "annotation", "xml", "xmls", "labels", "label", "bboxes")
_VAL_SHARE = 0.2

Stems = dict[str, str]
"""Name without suffix -> path."""


class Found(NamedTuple):
    """A split: pictures by name, XML files by name, and the names that belong to it, in order."""

    images: Stems
    xmls: Stems
    names: list[str]


def find_splits(
    root: Path, *, images: str | None, annotations: str | None, splits: Mapping[str, str] | None
) -> tuple[dict[str, Found], list[str]]:
    """The splits by name, and lines worth showing.

    `images`, `annotations`: folders below `root` or below that of a split; None: the usual names, else that
    folder itself. `splits`: split -> list (a path, or a name in ImageSets/Main) or folder; None: the lists of
    ImageSets/Main, else folders named as splits, else a fifth of the names for val, by their hash.

    Raises: UserError where there are no pictures or no XML files.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; check data.root")
    chosen = dict(splits) if splits else _usual_splits(root)
    found = {split: _split(root, place, images, annotations) for split, place in chosen.items()}
    if found:
        return found, []
    everything = _by_folders(root, images, annotations)
    return _divided(root, everything)


def _usual_splits(root: Path) -> dict[str, str]:
    lists = root / "ImageSets" / "Main"
    exists = {
        "list": lambda name: (lists / f"{name}.txt").is_file(),
        "folder": lambda name: (root / name).is_dir(),
        "inner folder": lambda name: any((folder / name).is_dir() for folder in _named(root, IMAGE_FOLDERS)),
    }
    for is_there in exists.values():
        names = {split: next(filter(is_there, options), None) for split, options in SPLIT_NAMES.items()}
        if names["train"] is None and is_there("trainval"):
            names["train"] = "trainval"
        if any(names.values()):
            return {split: name for split, name in names.items() if name is not None}
    return {}


def _split(root: Path, place: str, images: str | None, annotations: str | None) -> Found:
    if os.path.isdir(root / place):
        return _by_folders(root / place, images, annotations)
    path = next(
        (p for p in (root / place, root / "ImageSets/Main" / f"{place}.txt") if os.path.isfile(p)), None
    )
    if path is not None:
        everything = _by_folders(root, images, annotations)
        return everything._replace(names=_read_list(path))
    pictures, xmls = (folder / place for folder in _folders(root, images, annotations))
    if pictures.is_dir() and xmls.is_dir():
        return _pair(pictures, xmls)
    raise UserError(f"{root / place}: no such folder or list; check data.source.splits")


def _by_folders(base: Path, images: str | None, annotations: str | None) -> Found:
    pictures, xmls = _folders(base, images, annotations)
    return _pair(pictures, xmls)


def _folders(base: Path, images: str | None, annotations: str | None) -> tuple[Path, Path]:
    """The folders of pictures and of XML files, which may be one and the same."""
    for named in filter(None, (images, annotations)):
        if not os.path.isdir(base / named):
            raise UserError(f"{base / named}: no such folder; check data.source.images and .annotations")
    pictures = base / images if images else next(_named(base, IMAGE_FOLDERS), base)
    beside = base if any(base.glob("*.xml")) else pictures
    return pictures, base / annotations if annotations else next(_named(base, XML_FOLDERS), beside)


def _named(base: Path, usual: tuple[str, ...]) -> Iterator[Path]:
    """The sub-folders with one of these names, in any case, in the order of the names."""
    inside = {entry.name.lower(): Path(entry.path) for entry in os.scandir(base) if entry.is_dir()}
    return (inside[name] for name in usual if name in inside)


def _pair(images: Path, xmls: Path) -> Found:
    pictures, files = _stems(images, IMAGE_SUFFIXES), _stems(xmls, (".xml",))
    if not pictures:
        hint = next((path.parent for path in images.glob("*/*/Annotations")), None) or next(
            (path.parent for path in images.glob("*/Annotations")), None
        )
        remedy = f"did you mean data.root={hint}?" if hint else "name it by data.source.images"
        raise UserError(f"{images}: no pictures in this folder; {remedy}")
    return Found(pictures, files, list(pictures))


def _stems(folder: Path, suffixes: tuple[str, ...]) -> Stems:
    stems: Stems = {}
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); check the path") from None
    for name in names:
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in suffixes and not name.startswith("."):
            if stem in stems:
                raise UserError(f"{folder / name}: shares its name with {stems[stem]}; rename one")
            stems[stem] = str(folder / name)
    return stems


def _read_list(path: Path) -> list[str]:
    """The names of a list: one a line, a second column (of lists per class) and a suffix are passed over."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable list of names ({error}); write one name a line") from None
    names = []
    for line in filter(None, map(str.strip, lines)):
        name, _, second = line.rpartition(" ")
        name = name.strip() if second in ("-1", "0", "1") and name else line
        stem, suffix = os.path.splitext(name)
        names.append(stem if suffix.lower() in (*IMAGE_SUFFIXES, ".xml") else name)
    if not names:
        raise UserError(f"{path}: lists no names; fill it, or remove the file")
    return list(dict.fromkeys(names))


def _divided(root: Path, everything: Found) -> tuple[dict[str, Found], list[str]]:
    """A fifth of the names for val: by hash, so that it stays the same when pictures are added."""
    ranks = {name: _rank(name) for name in everything.names}
    if len(ranks) < 2:
        raise UserError(f"{root}: a single picture; train and val need at least one each")
    val = [name for name, rank in ranks.items() if rank < _VAL_SHARE] or [min(ranks, key=ranks.__getitem__)]
    if len(val) == len(ranks):
        val.remove(max(ranks, key=ranks.__getitem__))
    train = [name for name in everything.names if name not in set(val)]
    line = (
        f"{root}: has no splits: {len(val)} of {len(ranks)} pictures are val, by a hash of their names; "
        "decide yourself with ImageSets/Main/train.txt and val.txt, or folders train and val"
    )
    return {"train": everything._replace(names=train), "val": everything._replace(names=val)}, [line]


def _rank(name: str) -> float:
    digest = hashlib.blake2b(os.fsencode(name), digest_size=4).digest()
    return int.from_bytes(digest, "big") / 2**32
