"""Writes video files frame by frame."""

from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np

from engine.contracts import Image
from engine.errors import UserError


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

    Odd sides are padded with a copy of the last pixel, because the format would crop them.

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
