"""Where the pictures and XML files of a Pascal VOC data set lie, whatever the folders are called."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from det.data.assembly import SPLIT_NAMES
from engine.data.images import IMAGE_SUFFIXES
from engine.errors import UserError

IMAGE_FOLDERS = ("jpegimages", "images", "image", "imgs", "img", "pictures", "photos")


XML_FOLDERS = ("annotations", "annotation", "annots", "xml", "xmls", "labels", "label", "bboxes")


_XML = (".xml",)


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
    folder itself, else the only one in it that holds such files. `splits`: split -> list (a path, or a name
    in ImageSets/Main) or folder; None: the lists of ImageSets/Main, else folders named as splits, else a
    fifth of the names for val, by their hash.

    Raises: UserError where there are no pictures or no XML files.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; check data.root")
    for split, place in (splits or {}).items():
        if not isinstance(place, str) or not place:
            raise UserError(f"data.source.splits.{split}: must be a folder or a list of names, got {place!r}")
    chosen = dict(splits) if splits else _usual_splits(root, images)
    found = {split: _split(root, place, images, annotations) for split, place in chosen.items()}
    if found:
        return found, []
    everything = _by_folders(root, images, annotations)
    return _divided(root, everything)


def _usual_splits(root: Path, images: str | None) -> dict[str, str]:
    outer = [root / images] if images else list(_named(root, IMAGE_FOLDERS))
    inner = [_subfolders(folder) for folder in outer if folder.is_dir()]
    lists = {path.stem: path.stem for path in (root / "ImageSets/Main").glob("*.txt")}
    for folders in (None, _subfolders(root), *inner):
        there = lists if folders is None else {name: path.name for name, path in folders.items()}
        names = {
            split: next((there[name] for name in options if name in there), None)
            for split, options in SPLIT_NAMES.items()
        }
        names["train"] = names["train"] or there.get("trainval")
        if any(names.values()):
            return {split: name for split, name in names.items() if name is not None}
    return {}


def _split(root: Path, place: str, images: str | None, annotations: str | None) -> Found:
    base = root / place
    if base.is_dir():
        pictures = _pictures(base, images)
        xmls = _xmls(base, annotations, pictures)
        return _pair(pictures, xmls or _of_split(root, place, annotations) or pictures)
    path = next((p for p in (base, root / "ImageSets/Main" / f"{place}.txt") if p.is_file()), None)
    if path is not None:
        everything = _by_folders(root, images, annotations)
        return everything._replace(names=_read_list(path))
    pictures = _pictures(root, images) / place
    if pictures.is_dir():
        xmls = _of_split(root, place, annotations) or _xmls(root, annotations, pictures)
        return _pair(pictures, xmls or pictures)
    raise UserError(f"{base}: no such folder or list; check data.source.splits")


def _by_folders(base: Path, images: str | None, annotations: str | None) -> Found:
    pictures = _pictures(base, images)
    xmls = _xmls(base, annotations, pictures)
    if annotations and xmls is None:
        raise UserError(f"{base / annotations}: no such folder; check data.source.annotations")
    return _pair(pictures, xmls or pictures)


def _pictures(base: Path, named: str | None) -> Path:
    if named:
        if not (base / named).is_dir():
            raise UserError(f"{base / named}: no such folder; check data.source.images")
        return base / named
    if (usual := next(_named(base, IMAGE_FOLDERS), None)) is not None:
        return usual
    return base if _holds(base, IMAGE_SUFFIXES) else _only(base, IMAGE_SUFFIXES) or base


def _xmls(base: Path, named: str | None, pictures: Path) -> Path | None:
    """The folder of XML files below `base`, or with the pictures; None where there is none."""
    if named:
        return base / named if (base / named).is_dir() else None
    if (usual := next(_named(base, XML_FOLDERS), None)) is not None:
        return usual
    return next((folder for folder in (base, pictures) if _holds(folder, _XML)), None) or _only(base, _XML)


def _of_split(root: Path, place: str, named: str | None) -> Path | None:
    """The folder of XML files of a split, or of all splits, below `root`; None where there is none.

    Of all splits only where its name says so: those of one split must not be taken for another's.
    """
    folder = root / named if named else next(_named(root, XML_FOLDERS), None)
    if folder is not None and not folder.is_dir():
        raise UserError(f"{folder}: no such folder; check data.source.annotations")
    return folder and (folder / place if (folder / place).is_dir() else folder)


def _named(base: Path, usual: tuple[str, ...]) -> Iterator[Path]:
    """The sub-folders with one of these names, in any case, in the order of the names."""
    inside = _subfolders(base)
    return (inside[name] for name in usual if name in inside)


def _only(base: Path, suffixes: tuple[str, ...]) -> Path | None:
    """The sub-folder with files of a kind, where there is a single one."""
    holding = [folder for folder in _subfolders(base).values() if _holds(folder, suffixes)]
    return holding[0] if len(holding) == 1 else None


def _holds(folder: Path, suffixes: tuple[str, ...]) -> bool:
    return any(name.lower().endswith(suffixes) and not name.startswith(".") for name in _list(folder))


def _subfolders(base: Path) -> dict[str, Path]:
    """Name in lower case -> folder."""
    return {name.lower(): base / name for name in _list(base) if os.path.isdir(base / name)}


def _list(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); check the path") from None


def _pair(images: Path, xmls: Path) -> Found:
    pictures, files = _stems(images, IMAGE_SUFFIXES), _stems(xmls, _XML)
    if not pictures:
        hint = next((path.parent for path in images.glob("*/*/Annotations")), None) or next(
            (path.parent for path in images.glob("*/Annotations")), None
        )
        remedy = f"did you mean data.root={hint}?" if hint else "name it by data.source.images"
        raise UserError(f"{images}: no pictures in this folder; {remedy}")
    return Found(pictures, files, list(pictures))


def _stems(folder: Path, suffixes: tuple[str, ...]) -> Stems:
    stems: Stems = {}
    for name in _list(folder):
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
