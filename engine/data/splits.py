"""Finds the split folders of a data source, splits images automatically, checks that splits share none."""

import hashlib
import itertools
import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.data.images import IMAGE_SUFFIXES, read_image
from engine.data.images.reading import read_deep
from engine.errors import UserError, some
from engine.io.files import groups_of_same_content, is_hidden, same_content
from engine.io.text import read_text

T = TypeVar("T", bound=np.generic)
S = TypeVar("S")

SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""Each split, and the accepted names of its folder or list."""


_VAL_SHARE = 0.2


_ANNOTATIONS = (".xml", ".json")


_COLUMNS = re.compile(
    rf"(.+?(?:{'|'.join(map(re.escape, IMAGE_SUFFIXES))}))\s+\S|(.+?)\s+\S+\.(?:xml|json)$",
    re.IGNORECASE,
)
"""The first of two columns of a list: the name of an image, or what stands before a file."""


_CLASS_COLUMN = re.compile(r"\s+(?:-?1|0)$")
"""The second column of per-class lists; it may also be the end of a name."""


def split_of(name: str) -> str | None:
    """The split (train, val, test) that a folder or list of this name contains; None for other names."""
    plain = name.lower()
    return next((split for split, names in SPLIT_NAMES.items() if plain in names), None)


def split_folders(folder: Path, *, is_split: Callable[[Path], bool] = Path.is_dir) -> dict[str, str]:
    """Split -> the name of its subfolder: train, val, test, then others under their own names.

    Empty if no subfolder is named like one of the three; the folder then has no splits.

    Args:
        is_split: decides whether a subfolder named like a split is one.

    Raises:
        UserError: if two subfolders are the same split, or the folder cannot be read.
    """
    names = subfolders(folder)
    known: dict[str, str] = {}
    for name in names:
        split = split_of(name)
        if split is None or not is_split(folder / name):
            continue
        if split in known:
            raise UserError(
                f"{folder}: {known[split]}/ and {name}/ are both the split {split}; merge them, or rename one"
            )
        known[split] = name
    if not known:
        return {}
    others = {name: name for name in names if name not in known.values()}
    return {split: known[split] for split in SPLIT_NAMES if split in known} | others


def subfolders(folder: Path) -> list[str]:
    """Names of the subfolders, sorted; hidden ones are left out. Raises: UserError if it cannot be read."""
    try:
        # For a symlink to itself, os.path.isdir returns False, and DirEntry.is_dir would raise.
        return sorted(n for n in os.listdir(folder) if os.path.isdir(folder / n) and not is_hidden(n))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from None


def files_beside(folder: Path) -> list[str]:
    """A line that counts and names image files next to subfolders, where none are read; hidden ones aside."""
    if not folder.is_dir():
        return []
    files = [name for name in sorted(os.listdir(folder)) if name.lower().endswith(IMAGE_SUFFIXES)]
    files = [name for name in files if not name.startswith(".") and os.path.isfile(folder / name)]
    if not files:
        return []
    noun = "image" if len(files) == 1 else "images"
    return [f"{folder}: {len(files)} {noun} beside its folders left out: {some(files)}; move them into one"]


def read_lines(path: Path, what: str) -> list[str]:
    """The lines of a list of `what`, without empty ones. Raises: UserError if it cannot be read."""
    try:
        lines = read_text(path).splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError:
        raise UserError(
            f"{path}: not UTF-8 text; write one of the {what} per line, and save it as UTF-8"
        ) from None
    return [line.strip() for line in lines if line.strip()]


def read_names(path: Path) -> list[str]:
    """The names in a list, one per line, with folders and without suffixes, each once.

    A second column with the annotation file or mask is not used; `as_listed` drops that of per-class lists.

    Raises: UserError if it cannot be read, or contains none.
    """
    names = [_listed_name(line) for line in read_lines(path, "names")]
    if not names:
        raise UserError(f"{path}: contains no names; add some, or remove the file")
    return list(dict.fromkeys(names))


def _listed_name(line: str) -> str:
    columns = _COLUMNS.match(line)
    name = (columns[1] or columns[2] if columns is not None else line).replace("\\", "/").strip("/")
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in (*IMAGE_SUFFIXES, *_ANNOTATIONS) else name


def as_listed(names: Iterable[str], known: Collection[str]) -> list[str]:
    """The names of a list as they are `known`: without the folders that these do not have, or with those that
    the list lacks, and without the second column of a per-class list. A name that is not known is reduced to
    its last part."""
    by_last: dict[str, list[str]] = defaultdict(list)
    for name in known:
        by_last[name.rpartition("/")[2]].append(name)
    found = []
    for line in names:
        name = line if line.rpartition("/")[2] in by_last else _CLASS_COLUMN.sub("", line)
        parts = [part for part in name.split("/") if part not in ("", ".", "..")] or [name]
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        same = by_last.get(parts[-1], [])
        found.append(next((end for end in ends if end in known), same[0] if len(same) == 1 else parts[-1]))
    return list(dict.fromkeys(found))


def keep_all_but(count: int, indices: Iterable[int]) -> NDArray[np.bool_]:
    """Mask bool [count]: False at `indices`, True elsewhere."""
    keep = np.ones(count, bool)
    keep[list(indices)] = False
    return keep


def rows_of(array: NDArray[T], rows: NDArray[np.int64]) -> NDArray[T]:
    """The `rows` of a non-empty `array`; for -1, a row of zeros."""
    taken = array[rows]
    taken[rows < 0] = np.zeros((), array.dtype)
    return taken


def refuse_shared_names(
    source: object,
    train: NDArray[np.bytes_],
    val: NDArray[np.bytes_],
    *,
    names: tuple[str, str] = ("train", "val"),
) -> None:
    """Check that no image is in both of two splits, called `names`, which would inflate all metrics.

    Raises: UserError, starting with `source`, if both contain an image with the same (packed) name.
    """
    shared = sorted(set(train.tolist()) & set(val.tolist()))
    both = " and ".join(names)
    if shared:
        raise UserError(
            f"{source}: {os.fsdecode(shared[0])!r} is in both {both} (as are {len(shared)} names "
            f"in total); remove it from one, or, if {both} number their files independently, set "
            "data.source.allow_same_names=true"
        )


def without_repeated(
    source: object, splits: Mapping[str, S], images_of: Callable[[S], Iterable[bytes]]
) -> tuple[dict[str, S], list[str]]:
    """The splits with images of their own, and a line, starting with `source`, for each of the others: those
    whose images (packed paths) are all in an earlier one, also by symbolic links, or as copies with the same
    names."""
    kept: dict[str, list[bytes]] = {}
    lines = []
    for split, part in splits.items():
        images = list(images_of(part))
        owner = next((other for other, earlier in kept.items() if _all_in(images, earlier)), None)
        if owner is None:
            kept[split] = images
        else:
            lines.append(
                f"{source}: {split}: all of its {len(images)} images are also in {owner}; the split is left "
                "out"
            )
    return {split: splits[split] for split in kept}, lines


def _all_in(images: list[bytes], others: list[bytes]) -> bool:
    if not images or not any(other.endswith(os.path.basename(images[0])) for other in others):
        return False
    if set(images) <= set(others):
        return True
    real = {os.path.realpath(path) for path in others}
    if all(os.path.realpath(path) in real for path in images):
        return True
    names = {os.path.basename(path) for path in others}
    if not all(os.path.basename(path) in names for path in images):
        return False
    copies = {copy for copy, _ in same_content(others, images)}
    return len(copies) == len(set(images)) and not all(map(_is_uniform, copies))


def check_leaks(splits: Mapping[str, Sequence[bytes] | NDArray[np.bytes_]], *, override: str) -> list[str]:
    """Compare the image files (packed paths) of every two splits. Returns a line about each two that share
    images of a single color, such as tiles without data, which are allowed.

    Raises: UserError, with the numbers and the `override` that allows it, if two splits share other images.
    """
    lines, shared, example = [], [], ""
    for first, second in itertools.combinations(splits, 2):
        pairs = list(same_content(splits[first], splits[second]))
        leaks = [pair for pair in pairs if not _is_uniform(pair[0])]
        if leaks:
            one, other = leaks[0]
            example = example or f"{one}: {'in two splits' if one == other else f'the same image as {other}'}"
            shared.append(f"{first} and {second} share {len(leaks)}")
        if uniform := len(pairs) - len(leaks):
            lines.append(f"{uniform} of the images of {second} have a single color and are also in {first}")
    if shared:
        raise UserError(
            f"{example} ({', '.join(shared)}); remove them from one of the splits, or set {override}"
        )
    return lines


def _is_uniform(path: str) -> bool:
    """Whether all pixels have the same stored value, or are all NaN.

    Stored values are compared because data.pixel_range is unknown here.
    """
    try:
        pixels = read_deep(path)
        if pixels is None:
            pixels = read_image(path)
    except UserError:  # reported or skipped when it is read as a sample
        return False
    first = pixels[0, 0]
    return bool(((pixels == first) | ((pixels != pixels) & (first != first))).all())


def divide(
    source: object,
    images: Mapping[str, str],
    *,
    remedy: str,
    name_of: Callable[[str], str] = str,
    what: str = "",
    narrow: Callable[[set[str]], set[str]] = set,
) -> tuple[set[str], list[str]]:
    """The names of a fifth of the images, for val, and lines to show before training.

    They are chosen by a hash of their names, so new images do not move the others. Identical images stay on
    the side of the first one.

    Args:
        source: the start of the lines.
        images: name -> path, at least one.
        name_of: the part of a name to hash; it should not change when the data are moved.
        remedy: how the user can choose the images.
        what: the split that is divided; empty if there are no splits.
        narrow: names chosen for val -> those of them that may be in val.

    Raises:
        UserError: if there are not two different images, or none may be in val.
    """
    groups = groups_of_same_content(images.values())
    leader = {path: group[0] for group in groups for path in group}
    first = {path: name for name, path in images.items()}
    ranks = {name: _rank(name_of(first[leader.get(path, path)])) for name, path in images.items()}
    levels = sorted(set(ranks.values()))
    if len(levels) < 2:
        only = "only one image" if len(images) == 1 else f"the {len(images)} images are copies of one"
        raise UserError(f"{source}: {only}; train and val need at least one each")
    limit = min(max(_VAL_SHARE, levels[1]), levels[-1])  # at least one image on either side
    val = narrow({name for name, rank in ranks.items() if rank < limit})
    for level in () if val else levels:  # then the first image that may be
        val = val or narrow({name for name, rank in ranks.items() if rank == level})
    if not val:
        raise UserError(f"{source}: too few images for a val split; add images, or {remedy}")
    of = f" of {what}" if what else ""
    lines = [
        f"{source}: no {'val' if what else 'splits'}; {len(val)} of {len(ranks)} images{of} are used as val, "
        f"chosen by a hash of their names; to choose them yourself, {remedy}"
    ]
    if groups:
        names = some([os.path.basename(path) for group in groups for path in group[1:]], 2)
        count = sum(len(group) - 1 for group in groups)
        noun = "1 image is a copy" if count == 1 else f"{count} images are copies"
        lines.append(f"{source}: {noun} of another image and on the same side of the split ({names})")
    return val, lines


def _rank(name: str) -> float:
    """A number in 0..1 from the hash of the name."""
    digest = hashlib.blake2b(os.fsencode(name), digest_size=4).digest()
    return int.from_bytes(digest, "big") / 2**32
