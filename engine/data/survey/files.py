"""Which files a folder contains, and where, from a bounded number of directory entries."""

import os
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path

from engine.data.images import IMAGE_SUFFIXES
from engine.errors import UserError
from engine.io.files import is_hidden

_MOST_ENTRIES = 300_000
_MOST_FOLDERS = 5_000
_EXAMPLES = 4  # names kept per folder and suffix


@dataclass
class Survey:
    """The files below a folder; hidden ones are left out.

    Attributes:
        counts: suffix in lower case -> number of files.
        folders: folder relative to `root` ("" for `root` itself) -> suffix -> the first few names, sorted.
        unreadable: folders that could not be read.
        complete: whether all entries were counted.
    """

    root: Path
    counts: Counter[str] = field(default_factory=Counter)
    folders: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    complete: bool = True

    def files(self, suffix: str, most: int = 24) -> list[Path]:
        """Up to `most` files with this suffix, of as many folders as possible, the upper ones first."""
        groups = [(folder, kinds[suffix]) for folder, kinds in self.folders.items() if suffix in kinds]
        chosen = [
            self.root / folder / names[at]
            for at in range(_EXAMPLES)
            for folder, names in groups
            if at < len(names)
        ]
        return chosen[:most]

    def images_in(self, folder: str) -> bool:
        """Whether the folder itself contains images."""
        return any(suffix in IMAGE_SUFFIXES for suffix in self.folders.get(folder, ()))

    @property
    def num_images(self) -> int:
        return sum(self.counts[suffix] for suffix in IMAGE_SUFFIXES)


def survey(root: Path) -> Survey:
    """Look at the folder and what is below it, the upper folders first. Links are followed once.

    Raises: UserError if it is not a folder, or cannot be read.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; check the path")
    found = Survey(root)
    waiting, visited, seen = deque([""]), set[str](), 0
    while waiting:
        folder = waiting.popleft()
        if len(found.folders) >= _MOST_FOLDERS or seen >= _MOST_ENTRIES:
            found.complete = False
            break
        if (real := os.path.realpath(root / folder)) in visited:
            continue
        visited.add(real)
        try:
            names, inner = _entries(root / folder, _MOST_ENTRIES - seen)
        except OSError as error:
            if not folder:
                raise UserError(f"{root}: cannot be read ({error.strerror}); check the path") from None
            found.unreadable.append(folder)
            continue
        seen += len(names) + len(inner)
        waiting.extend(os.path.join(folder, name) for name in sorted(inner))
        found.folders[folder] = _examples(names, found.counts)
    return found


def _entries(folder: Path, most: int) -> tuple[list[str], list[str]]:
    """The names of the files and of the folders in a folder, up to `most` together."""
    files: list[str] = []
    folders: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if len(files) + len(folders) >= most:
                break
            if not is_hidden(entry.name):
                (folders if _is_folder(entry) else files).append(entry.name)
    return files, folders


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _examples(names: list[str], counts: Counter[str]) -> dict[str, list[str]]:
    by_suffix: dict[str, list[str]] = {}
    for name in names:
        suffix = os.path.splitext(name)[1].lower()
        counts[suffix] += 1
        by_suffix.setdefault(suffix, []).append(name)
    return {suffix: sorted(group)[:_EXAMPLES] for suffix, group in by_suffix.items()}
