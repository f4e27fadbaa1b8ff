"""Finds COCO's JSON files, the folders of their images, and the images, even if their names differ a bit."""

import json
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import msgspec

from engine.data.images import IMAGE_SUFFIXES, list_images
from engine.data.splits import SPLIT_NAMES, subfolders
from engine.errors import UserError, check_command, some
from engine.io.files import existing_root

_LAYOUT = (
    "expected train2017/, val2017/ and annotations/instances_train2017.json, instances_val2017.json below "
    "data.root, or data.train.images=<folder> data.train.annotations=<file>, and the same for val"
)

_OTHER_FILES = (
    *("annotations/{}.json", "{}.json", "{}/annotations.json", "{}/labels.json", "{0}/{0}.json"),
    *("annotations/{}_*.json", "annotations/*_{}.json", "{}_*.json", "*_{}.json", "instances_{}*.json"),
)
"""Where the file of a split may be, besides COCO's and Roboflow's own places."""

_INNER = ("images/{0}", "{0}/images", "images", "images/default", "default", "data", "JPEGImages", "")
"""Where the images of a split may be, besides a folder with its name."""

Given = Mapping[str, str | None] | None
"""data.train, data.val or data.test: {"images": folder, "annotations": file}."""

Pair = tuple[Path, Path | None]
"""Folder of images, and JSON file."""


class Layout(NamedTuple):
    """The pair of each split; whether train contains all images, because there are no splits; and lines about
    JSON files that are not used."""

    pairs: Mapping[str, Pair]
    whole: bool = False
    lines: Sequence[str] = ()


def unlisted(folders: Iterable[Path], listed: Iterable[str | Path]) -> list[str]:
    """The paths of the images below the folders of a dataset that no annotation file lists, sorted."""
    used = set(map(os.path.abspath, listed))
    found = {os.path.abspath(path) for folder in folders for path in list_images(folder)}
    return sorted(found - used)


def find_layout(root: str | None, given: Mapping[str, Given], *, unannotated: Sequence[str] = ()) -> Layout:
    """The folders and files of the splits that are `given`, and of others below `root`.

    Below the root, a split has annotations/instances_<split>*.json with <split>*/ or images/<split>*/; as
    exported by Roboflow, <split>/_annotations.coco.json next to its images; or a JSON file named after the
    split, in a usual place, and the folder with its images. Without these, there may be a single JSON file.

    unannotated: the splits that need no JSON file.

    Raises: UserError if there are none, or a folder or one of a pair is missing.
    """
    base = None if root is None else Path(root).expanduser()
    found = {split: _pair(split, paths or {}, base, unannotated) for split, paths in given.items()}
    pairs = {split: pair for split, pair in found.items() if pair is not None}
    if base is None:
        layout = Layout(pairs)
    elif not pairs:
        layout = _only_file(base)
    else:
        missing = [split for split in given if split not in pairs]
        lines = [line for split in missing for line in _unused(base, split)]
        searched = {split for split, paths in given.items() if not any((paths or {}).values())}
        own = {  # train_val.json is the file of train only
            split: pair
            for split, pair in pairs.items()
            if split == "train" or split not in searched or pair != pairs.get("train")
        }
        layout = Layout(own, whole=len(own) < len(pairs), lines=lines)
    if not layout.pairs:
        other = f"; for labels of another format: {check_command(base)}" if base else ""
        raise UserError(f"{base or 'data'}: no COCO annotations; {_LAYOUT}{other}")
    return layout


def _pair(split: str, paths: Mapping[str, str | None], base: Path | None, free: Sequence[str]) -> Pair | None:
    if unknown := set(paths) - {"images", "annotations"}:
        raise UserError(f"data.{split}: unknown key {min(unknown)!r}; its keys are images and annotations")
    images, annotations = (paths.get(key) for key in ("images", "annotations"))
    default = None
    if base is not None and not (images and annotations):
        default = _usual_pair(base, split, annotated=split not in free)
    folder = Path(images).expanduser() if images else default and default[0]
    file = Path(annotations).expanduser() if annotations else default and default[1]
    if folder is None and file is None:
        return None
    if folder is None or (file is None and split not in free):
        missing = "images=<folder>" if folder is None else "annotations=<file>"
        raise UserError(f"data.{split}: needs both images and annotations; set data.{split}.{missing} too")
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder; check data.{split}.images")
    return folder, file


def _usual_pair(base: Path, split: str, *, annotated: bool) -> tuple[Path, Path] | None:
    """The folder and file of a split in one of the usual layouts; prefers 2017 to other years."""
    existing_root(base)
    entries = [*_list(str(base)), *_list(str(base / "annotations"))]
    spellings = (spelling for name in SPLIT_NAMES[split] for spelling in _cases(name))
    for name in (name for name in spellings if any(name in entry for entry in entries)):
        roboflow = base / name / "_annotations.coco.json"
        if roboflow.is_file():
            return roboflow.parent, roboflow
        for kind in ("instances",) if annotated else ("instances", "image_info"):
            files = sorted(
                base.glob(f"annotations/{kind}_{name}*.json"), key=lambda p: ("2017" not in p.name, p)
            )
            for file in files:
                tag = file.stem.removeprefix(f"{kind}_")
                for folder in (base / tag, base / "images" / tag, base / name, base / "images" / name):
                    if folder.is_dir() and not (folder / "images").is_dir():
                        return folder, file
            if files:
                return _folder_of(base, files[0], split, name), files[0]
        for pattern in _OTHER_FILES:
            files = [path for path in sorted(base.glob(pattern.format(name))) if _rank(path)]
            if len(files) == 1:
                return _folder_of(base, files[0], split, name), files[0]
    return None


def _unused(base: Path, split: str) -> list[str]:
    """A line about the JSON files that are named like a split, but are not used for it."""
    spellings = [spelling for name in SPLIT_NAMES[split] for spelling in _cases(name)]
    places = [base.glob(pattern.format(name)) for name in spellings for pattern in _OTHER_FILES]
    if not (files := sorted({path.relative_to(base).as_posix() for found in places for path in found})):
        return []
    why = "several fit" if any(_rank(base / file) for file in files) else "no list of images in it"
    return [f"{split}: not read from {some(files)} ({why}); set data.{split}.annotations=<file>"]


def _cases(name: str) -> tuple[str, str, str]:
    return name, name.capitalize(), name.upper()


def _folder_of(base: Path, file: Path, split: str, name: str = "") -> Path:
    """The folder with the images of a file, for a split with this `name`."""
    names = _file_names(file)
    parents = dict.fromkeys((file.parent, base))
    tag = file.stem.removeprefix("instances_").removeprefix("image_info_")
    tags = list(dict.fromkeys((name, tag, *_cases(name.lower())))) if name else []
    places = [*tags, *(place.format(tag).strip("/") for place in _INNER for tag in (tags or [""]))]
    if not names:  # the error is that of the file
        return base
    usual = [parent / place for place in places for parent in parents]
    inner = [base / below for below in subfolders(base)]
    inner += [folder / below for folder in inner for below in subfolders(folder)]
    if (best := folder_with(usual, names)) is not None:
        return best
    remedy = f"data.{split}.images" if name else f"data.train.images=<folder> data.train.annotations={file}"
    remedy += "" if name else ", and the same for val"
    if (best := folder_with(inner, names)) is not None:
        paths = find_paths(best, names)
        for folder in inner:
            if None not in (other := find_paths(folder, names)) and other != paths:
                raise UserError(f"{file}: both {best} and {folder} have its images; set {remedy}")
        return best
    folder = base / (name and file.stem.removeprefix("instances_"))
    missing = f"{base / name / names[0]}: no such file, nor in images/" if folder.is_dir() else ""
    raise UserError(f"{missing or f'{folder}: no such folder'}, but {file} needs its images; set {remedy}")


def _only_file(base: Path) -> Layout:
    """The only JSON file with annotations, such as Label Studio's result.json or CVAT's
    annotations/instances_default.json, and the folder of its images; empty if there is none."""
    files = [*sorted(base.glob("*.json")), *sorted(base.glob("annotations/*.json"))]
    ranks = {file: _rank(file) if len(files) > 1 else 2 for file in files}
    files = [file for file, rank in ranks.items() if rank and rank == max(ranks.values())]
    others = [file for file in ranks if file not in files]
    if len(files) > 1:
        names = some([file.relative_to(base).as_posix() for file in files])
        raise UserError(
            f"{base}: {len(files)} JSON files with annotations, none named after a split ({names}); {_LAYOUT}"
        )
    if not files:
        return Layout({})
    names = some([file.relative_to(base).as_posix() for file in others])
    noun = "1 JSON file" if len(others) == 1 else f"{len(others)} JSON files"
    lines = [f"{noun} without COCO's images and categories left out ({names})"] if others else []
    return Layout({"train": (_folder_of(base, files[0], "train"), files[0])}, whole=True, lines=lines)


class _Image(msgspec.Struct, gc=False):
    file_name: Any = None


class _Content(msgspec.Struct):
    images: list[_Image] | None = None
    categories: list[Any] | None = None


def _content(file: Path) -> _Content:
    """The images and categories in a JSON file.

    Raises: msgspec.ValidationError if there is something else, ValueError if it is not readable JSON.
    """
    try:
        data = file.read_bytes().removeprefix(b"\xef\xbb\xbf")
        return msgspec.json.decode(data, type=_Content)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:  # such as NaN, which Python reads
        return msgspec.convert(json.loads(data), type=_Content)
    except (OSError, RecursionError) as error:
        raise ValueError(error) from None


def _rank(file: Path) -> int:
    """2 for a file with images and categories (or damage, which is reported later), 1 with images, else 0."""
    try:
        content = _content(file)
    except msgspec.ValidationError:
        return 0
    except ValueError:
        return 2 if file.is_file() else 0
    return (content.images is not None) * (1 + (content.categories is not None))


def _file_names(file: Path) -> list[str]:
    """The names of the images in a JSON file; none if it is damaged, which is reported when it is read."""
    try:
        images = _content(file).images or ()
    except ValueError:  # also a ValidationError
        return []
    return [image.file_name for image in images if isinstance(image.file_name, str)]


def image_paths(file: Path, folder: Path, names: Sequence[str], *, skips: bool) -> list[str | None]:
    """The path of each image that a JSON file lists (`find_paths`).

    skips: accept missing images (None), unless all are missing.

    Raises: UserError if images are missing, or two names lead to the same one.
    """
    paths = find_paths(folder, names)
    absent = [name for name, path in zip(names, paths, strict=True) if path is None]
    if absent and (not skips or len(absent) == len(names)):
        remedy = "check the image folder"
        if len(absent) < len(names):
            remedy += ", remove them from that file, or set data.on_error=skip"
        raise UserError(
            f"{os.path.join(folder, absent[0])}: no such file ({len(absent)} of {len(names)} images of "
            f"{file} are missing); {remedy}"
        )
    path, count = Counter(path for path in paths if path is not None).most_common(1)[0]
    if count > 1:
        raise UserError(f"{file}: images: {path} is listed {count} times; merge the entries into one")
    return paths


def spelled_differently(names: Sequence[str], paths: Sequence[str | None]) -> list[str]:
    """The names that differ from the names of their files."""
    return [
        os.path.basename(name)
        for name, path in zip(names, paths, strict=True)
        if path is not None and os.path.basename(path) != os.path.basename(name.replace("\\", "/"))
    ]


def folder_with(folders: Sequence[Path], names: Sequence[str]) -> Path | None:
    """The first of the folders with the most of the images; None if none of them has any."""
    found = {
        folder: sum(path is not None for path in find_paths(folder, names))
        for folder in dict.fromkeys(folders)
        if folder.is_dir()
    }
    best = max(found, key=found.__getitem__, default=None)
    return best if best is not None and found[best] else None


def find_paths(folder: Path, names: Sequence[str]) -> list[str | None]:
    """The path of each name below `folder`, else that of its last part; None for a missing file.

    Names with another case or suffix than the file's, without one, with %20 for a space or accents in another
    form, and addresses are accepted.
    """
    listed: dict[str, _Folder] = {}  # one listing per folder instead of a check per file
    paths = []
    for name in names:
        slashed = name.replace("\\", "/")
        plain = unquote(slashed).rpartition("?d=")[2].partition("?")[0]  # Label Studio: /data/local-files/?d=
        inner = (name, slashed, os.path.basename(slashed), plain, os.path.basename(plain))
        places = [os.path.join(folder, each) for each in dict.fromkeys(inner)]
        for parent in map(os.path.dirname, places):
            if parent not in listed:
                listed[parent] = _Folder(parent)
        exact = (place for place in places if os.path.basename(place) in listed[os.path.dirname(place)].names)
        path = next(exact, None)
        for place in places if path is None else ():
            parent, last = os.path.split(place)
            path = path or listed[parent].similar(last)
        paths.append(path)
    return paths


class _Folder:
    """The files of a folder, by their names and, if it is needed, by their names in lower case."""

    def __init__(self, path: str) -> None:
        self.path, self.names = path, _list(path)
        self._simplified: dict[str, list[str]] | None = None

    def similar(self, name: str) -> str | None:
        """The image of this name, except for case, suffix, percent signs and the form of accents; None if not
        exactly one."""
        if self._simplified is None:
            self._simplified = defaultdict(list)
            for other in self.names:
                if (plain := _plain(other)).endswith(IMAGE_SUFFIXES):
                    for key in {plain, os.path.splitext(plain)[0]}:
                        self._simplified[key].append(other)
        plain = _plain(unquote(name))
        stem, suffix = os.path.splitext(plain)
        for key in (plain, stem if suffix in IMAGE_SUFFIXES else plain):
            if len(matches := self._simplified.get(key, [])) == 1:
                return os.path.join(self.path, matches[0])
        return None


def _plain(name: str) -> str:
    """In lower case, with accents as parts of their letters; macOS writes them separately (NFD)."""
    return unicodedata.normalize("NFC", name).lower()


def _list(folder: str) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()
