"""A memory-mapped cache of the decoded images and label masks of a split.

Decoding a PNG of two megapixels takes ten times as long as all later processing, and a training crop uses
only a fraction of its pixels. In the cache, an image takes (height x width x 3) bytes of disk and a mask a
third of that, and a crop reads only its own memory pages.

Masks are stored as class indices, after the class mapping. Crops then need no lookup over the whole mask,
color and 16-bit masks take one byte per pixel, and unknown values are detected when the cache is built. The
key of cached masks therefore includes the mapping: for other classes, masks (which decode quickly) are stored
again. Images are stored separately, and only once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.data.images import Range, image_size, read_image
from engine.data.mapped_pixels import MappedPixels, PixelKind, open_or_build

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class MaskFiles:
    """The mask files of a split, a function that reads one, and `key`, a digest of its settings."""

    paths: Sequence[str]
    read: Callable[[str], Pixels]
    key: str


class PixelCache:
    """Cached pixels: `cache.image(path)` equals `read_image(path)`, as a read-only view."""

    def __init__(self, images: MappedPixels, masks: MappedPixels | None = None) -> None:
        self._images, self._masks = images, masks

    @classmethod
    def open_or_build(
        cls,
        folder: Path,
        *,
        images: Sequence[str],
        masks: MaskFiles | None = None,
        workers: int = 0,
        pixel_range: Range | None = None,
        upright: bool = True,
    ) -> "PixelCache":
        """Open the cache of these files under `folder`, which can also contain caches of other files.

        A missing cache is built by one process while the others wait; if the build is killed, it leaves no
        partial cache behind. An existing cache is compared with the files: sizes and mtimes, and the
        contents of files with a new mtime.

        Args:
            workers: number of processes that decode.
            pixel_range, upright: see `read_image`; images read with other settings are stored separately.

        Raises:
            UserError: if a file is unreadable or has changed, or the folder cannot be written.
        """
        stored_masks = None
        if masks is not None:
            kind = PixelKind(name="masks", read=masks.read, size=_stored_size, channels=0, key=masks.key)
            stored_masks = open_or_build(folder, masks.paths, kind, workers=workers)
        kind = PixelKind(
            name="images",
            read=partial(read_image, pixel_range=pixel_range, upright=upright),
            size=partial(image_size, upright=upright),
            channels=3,
            key=("" if pixel_range is None else repr(pixel_range)) + ("" if upright else " as stored"),
        )
        return cls(open_or_build(folder, images, kind, workers=workers), stored_masks)

    def image(self, path: str) -> Pixels:
        """uint8 [H, W, 3], RGB. Raises: KeyError for a file that is not in the cache."""
        return self._images(path)

    def mask(self, path: str) -> Pixels:
        """uint8 [H, W] of class indices. Raises: KeyError for a file that is not in the cache."""
        if self._masks is None:
            raise KeyError(f"{path}: this cache does not contain masks")
        return self._masks(path)


def _stored_size(path: str) -> tuple[int, int]:
    return image_size(path, upright=False)
