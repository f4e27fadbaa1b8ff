"""Finds the input files of `predict` (images, folders, globs, videos), and reads and writes videos."""

import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.data.images import IMAGE_SUFFIXES, find_images
from engine.errors import UserError, counted, some

VIDEO_SUFFIXES = (
    *(".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"),
    *(".ogv", ".ts", ".vob", ".webm", ".wmv"),
)


Image = NDArray[np.uint8]

_RESULTS = f"{os.sep} (earlier predictions)"


def find_media(text: str, *, skip: Path | None = None, say: Callable[[str], None] = print) -> list[Path]:
    """The files that `text` names: one file, all images and videos below a folder, or the matches of a glob.

    Args:
        skip: a folder to leave out (the one for the results). Folders of earlier predictions below the named
            folder are left out too.
        say: called with a line that counts and names the files of a folder that are left out.

    Raises:
        UserError: if nothing matches.
    """
    try:
        files, others = _matches(Path(text).expanduser(), skip)
    except UserError:
        raise
    except (
        OSError,
        ValueError,
        RuntimeError,
    ) as error:  # e.g. a path that is too long, a NUL character, an unknown user
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"input={text}: not a valid path ({reason}); check it") from None
    if not files and skip is not None and _inside(skip)(Path(text).expanduser()):
        raise UserError(f"input={text}: is the folder for the results; choose another out=")
    kinds = " ".join(suffix.lstrip(".") for suffix in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
    noun = "path" if any(name.endswith(_RESULTS) for name in others) else "file"
    unread = f"{counted(len(others), noun)} left out: {some(others)}"
    scheme, is_address, _ = text.partition("://")
    if not files and is_address:
        raise UserError(
            f"input={scheme}://...: not a supported kind of address (rtsp, rtmp, http, udp, tcp, srt or "
            "mms); download the file and pass its path"
        )
    if not files:
        found = f" ({unread})" if others else ""
        raise UserError(
            f"input={text}: no image or video found{found}; pass a file, a folder or a glob ({kinds})"
        )
    if others:
        say(f"input={text}: {unread}; files must be {kinds}")
    return files


def _matches(path: Path, skip: Path | None) -> tuple[list[Path], list[str]]:
    """The files, and the names of those in a folder that are neither images nor videos."""
    if path.is_file():
        return [path], []
    if path.is_dir():
        found, others = find_images(path)
        videos = [path / name for name in others if is_video(Path(name))]
        files = [*found, *videos]
        if skip is not None:
            files, others = _outside(skip, path, files, others)
        earlier = _earlier_results(path, others)
        for results in earlier:
            files, others = _outside(results, path, files, others)
        others += [f"{folder.relative_to(path)}{_RESULTS}" for folder in earlier]
        return files, [name for name in others if not is_video(Path(name))]
    # Every repeated **/ would walk all folders again.
    pattern = re.sub(r"(\*\*/)+", "**/", str(path))
    found = [Path(match) for match in sorted(glob.glob(pattern, recursive=True)) if Path(match).is_file()]
    return found, []


def _outside(
    folder: Path, path: Path, files: Sequence[Path], others: Sequence[str]
) -> tuple[list[Path], list[str]]:
    """The files, and the names of others relative to `path`, that are not in `folder`."""
    is_inside = _inside(folder)
    return (
        [file for file in files if not is_inside(file)],
        [name for name in others if not is_inside(path / name)],
    )


def _earlier_results(path: Path, others: Sequence[str]) -> list[Path]:
    """The folders below `path` that `predict` wrote. others: names of files that are not images."""
    folders = [(path / name).parent for name in others if os.path.basename(name) == "summary.json"]
    return [folder for folder in folders if folder != path and (folder / "overlays").is_dir()]


def _inside(folder: Path) -> Callable[[Path], bool]:
    """Whether a path is the folder itself, or below it."""
    parent = os.path.join(os.path.realpath(folder), "")
    return lambda path: os.path.join(os.path.realpath(path), "").startswith(parent)


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def output_names(files: Sequence[Path]) -> list[str]:
    """A unique name for each file's results: its path below the folder that all files share, without the
    suffix unless only that differs."""
    shared = os.path.commonpath([file.absolute().parent for file in files]) if files else ""
    paths = [Path(os.path.relpath(file.absolute(), shared)) for file in files]
    stems = [path.with_suffix("").as_posix() for path in paths]
    counts = Counter(stems)
    names = [stem if counts[stem] == 1 else path.as_posix() for stem, path in zip(stems, paths, strict=True)]
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{number:05d}_{name}" for number, name in enumerate(names)]
