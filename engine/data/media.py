"""Finds the input files of `predict` (images, folders, globs, videos), and reads and writes videos."""

import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.data.images import IMAGE_SUFFIXES, find_images
from engine.data.video.frames import VideoFile, frame_count
from engine.errors import UserError, some

VIDEO_SUFFIXES = (
    *(".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"),
    *(".ogv", ".ts", ".vob", ".webm", ".wmv"),
)


Image = NDArray[np.uint8]


def find_media(text: str, *, skip: Path | None = None, say: Callable[[str], None] = print) -> list[Path]:
    """The files that `text` names: one file, all images and videos below a folder, or the matches of a glob.

    Args:
        skip: a folder whose files are not wanted (earlier results).
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
    kinds = " ".join(suffix.lstrip(".") for suffix in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
    unread = f"{len(others)} file{'s' if len(others) > 1 else ''} left out: {some(others)}"
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
            inside = os.path.join(os.path.realpath(skip), "")
            files = [file for file in files if not os.path.realpath(file).startswith(inside)]
            others = [name for name in others if not os.path.realpath(path / name).startswith(inside)]
        return files, [name for name in others if not is_video(Path(name))]
    # Every repeated **/ would walk all folders again.
    pattern = re.sub(r"(\*\*/)+", "**/", str(path))
    found = [Path(match) for match in sorted(glob.glob(pattern, recursive=True)) if Path(match).is_file()]
    return found, []


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


def read_frames(path: Path) -> Iterator[Image]:
    """The frames of a video, RGB [H, W, 3] uint8. Raises: UserError like `VideoFile`."""
    return iter(VideoFile(path))


def num_frames(path: Path) -> int:
    """The number of frames according to the container; 0 if unknown."""
    capture = cv2.VideoCapture(str(path))
    count = frame_count(capture)
    capture.release()
    return count


def map_video(
    source: Path, target: Path, draw: Callable[[Image], Image], on_frame: Callable[[int], None]
) -> int:
    """Write `draw(frame)` for every frame of `source` as an .mp4 with the same rate; returns the frame count.

    Args:
        on_frame: called with the number of frames written so far.

    Raises:
        UserError: if `source` is unreadable, or the installed OpenCV cannot write `target`.
    """
    video = VideoFile(source)
    return write_video(video, target, draw, on_frame, rate=video.rate)


def write_video(
    frames: Iterable[Image],
    target: Path,
    draw: Callable[[Image], Image],
    on_frame: Callable[[int], None],
    *,
    rate: float,
    copies: Callable[[], int] = lambda: 1,
) -> int:
    """Write `draw(frame)` for every frame as an .mp4; returns the number of frames.

    Odd sides are padded by one pixel, a copy of the last, because the format would crop them.

    Args:
        copies: how often the current frame is written.

    Raises:
        UserError: if the installed OpenCV cannot write `target`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    writer, count = None, 0
    try:
        for frame in frames:
            image = _pad_to_even(draw(frame))
            if writer is None:
                height, width = image.shape[:2]
                writer = cv2.VideoWriter(str(target), cv2.VideoWriter.fourcc(*"mp4v"), rate, (width, height))
                if not writer.isOpened():
                    raise UserError(
                        f"{target}: cannot be written as mp4; check the folder and the free space"
                    )
            encoded = np.ascontiguousarray(image[..., ::-1])
            for _ in range(copies()):
                writer.write(encoded)
            count += 1
            on_frame(count)
    finally:
        if writer is not None:
            writer.release()
    return count


def _pad_to_even(image: Image) -> Image:
    height, width = image.shape[:2]
    return np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
