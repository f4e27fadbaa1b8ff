"""What a user gives to `predict`: an image, a folder, a glob, a video."""

import glob
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.data.images import IMAGE_SUFFIXES, MAX_PIXELS, list_images
from engine.errors import UserError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")


Image = NDArray[np.uint8]


def find_media(text: str) -> list[Path]:
    """The files that `text` means: one file, the pictures and videos of a folder, or a glob.

    Raises:
        UserError: nothing matches.
    """
    try:
        found = _matches(Path(text).expanduser())
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL in it, no such user
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"input={_shown(text)}: cannot be looked for ({reason}); check the path") from None
    if not found:
        kinds = " ".join(suffix.lstrip(".") for suffix in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
        raise UserError(
            f"input={_shown(text)}: no such file, folder or glob with pictures or videos ({kinds})"
        )
    return found


def _matches(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        videos = [p for p in sorted(path.iterdir()) if is_video(p) and p.is_file() and p.name[0] != "."]
        return [*list_images(path), *videos]
    # Each ** in a row would walk all folders once more.
    pattern = re.sub(r"(\*\*/)+", "**/", str(path))
    return [Path(match) for match in sorted(glob.glob(pattern, recursive=True)) if Path(match).is_file()]


def _shown(text: str) -> str:
    return text if text.isprintable() else repr(text)


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def output_names(files: list[Path]) -> list[str]:
    """A name for each file's results: its stem, or its whole name where two stems are the same."""
    stems = [file.stem for file in files]
    names = [stem if stems.count(stem) == 1 else file.name for stem, file in zip(stems, files, strict=True)]
    return [name if names.count(name) == 1 else f"{number:05d}_{name}" for number, name in enumerate(names)]


def frames(path: Path) -> Iterator[Image]:
    """The frames of a video, RGB [H, W, 3] uint8.

    Raises:
        UserError: the file cannot be opened, holds no frame, or larger ones than pictures may be.
    """
    capture = cv2.VideoCapture(str(path))
    try:
        if capture.get(cv2.CAP_PROP_FRAME_WIDTH) * capture.get(cv2.CAP_PROP_FRAME_HEIGHT) > MAX_PIXELS:
            raise UserError(f"{path}: frames of more than {MAX_PIXELS / 1e6:.0f} megapixels; scale it down")
        ok, frame = _next_frame(capture)
        if not ok:
            raise UserError(f"{path}: no readable video; convert it, for instance to H.264 in .mp4")
        while ok:
            yield np.ascontiguousarray(frame[..., ::-1])
            ok, frame = _next_frame(capture)
    finally:
        capture.release()


def _next_frame(capture: cv2.VideoCapture) -> tuple[bool, Any]:
    try:
        ok, frame = capture.read()
    except cv2.error:  # damaged beyond what the decoder hides
        return False, None
    return ok and frame is not None, frame


def num_frames(path: Path) -> int:
    """What the container says; 0 where it does not know."""
    capture = cv2.VideoCapture(str(path))
    count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    capture.release()
    return int(count) if 0 < count < 2**31 else 0


def _even(picture: Image) -> Image:
    height, width = picture.shape[:2]
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def map_video(
    source: Path, target: Path, draw: Callable[[Image], Image], on_frame: Callable[[int], None]
) -> int:
    """Write `draw(frame)` for each frame of `source` as an .mp4 at the same rate; returns how many frames.

    Sides of odd length grow by one pixel, a copy of the last: the format would cut that one off.

    Raises:
        UserError: `source` is unreadable, or this machine's OpenCV cannot write `target`.
    """
    capture = cv2.VideoCapture(str(source))
    rate = capture.get(cv2.CAP_PROP_FPS)
    rate = rate if 0 < rate <= 1000 else 25.0  # a container may say anything
    capture.release()
    target.parent.mkdir(parents=True, exist_ok=True)
    writer, count = None, 0
    try:
        for frame in frames(source):
            picture = _even(draw(frame))
            if writer is None:
                height, width = picture.shape[:2]
                writer = cv2.VideoWriter(str(target), cv2.VideoWriter.fourcc(*"mp4v"), rate, (width, height))
                if not writer.isOpened():
                    raise UserError(f"{target}: cannot be written as mp4; check the folder and free space")
            writer.write(np.ascontiguousarray(picture[..., ::-1]))
            count += 1
            on_frame(count)
    finally:
        if writer is not None:
            writer.release()
    return count
