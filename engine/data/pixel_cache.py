"""A cache of decoded pixels: images and label masks of a split, memory-mapped.

Decoding a PNG of two megapixels takes ten times as long as everything that follows, and a training crop needs
a fraction of it. Stored decoded, an image takes (height x width x 3) bytes of disk, a mask a third of that,
and a crop reads only the pages it lies on.

Masks are stored as class indices, after the class mapping: a crop then needs no lookup over the whole mask, a
mask of colors or of 16 bits takes one byte per pixel, and the build notices unknown values. The key of stored
masks therefore includes the mapping: with other classes, masks, which decode quickly, are stored a second
time. Images are stored separately, once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.data.images import image_size, read_image
from engine.data.mapped_pixels import MappedPixels, PixelKind, open_or_build

Pixels = NDArray[np.uint8]


_IMAGES = PixelKind(name="images", read=read_image, size=image_size, channels=3)


@dataclass(frozen=True, kw_only=True)
class MaskFiles:
    """The mask files of a split, how one is read, and `key`, a digest of all that reading depends on."""

    paths: Sequence[str]
    read: Callable[[str], Pixels]
    key: str


class PixelCache:
    """Pixels of files: `cache.image(path)` is what `read_image` returns, as a read-only view."""

    def __init__(self, images: MappedPixels, masks: MappedPixels | None = None) -> None:
        self._images, self._masks = images, masks

    @classmethod
    def open_or_build(
        cls, folder: Path, *, images: Sequence[str], masks: MaskFiles | None = None, workers: int = 0
    ) -> "PixelCache":
        """The cache of these files under `folder`, which may also hold those of other files.

        What is missing is built, by one process while the others wait; a killed build leaves nothing that
        could be mistaken for a cache. What exists is compared with the files: sizes and dates, and the
        contents of those with another date.

        Args:
            workers: processes that decode.

        Raises:
            UserError: if a file is unreadable or has changed since, or the folder cannot be written.
        """
        stored_masks = None
        if masks is not None:
            kind = PixelKind(name="masks", read=masks.read, size=_stored_size, channels=0, key=masks.key)
            stored_masks = open_or_build(folder, masks.paths, kind, workers=workers)
        return cls(open_or_build(folder, images, _IMAGES, workers=workers), stored_masks)

    def image(self, path: str) -> Pixels:
        """uint8 [H, W, 3], RGB. Raises: KeyError for a file that is not in the cache."""
        return self._images(path)

    def mask(self, path: str) -> Pixels:
        """uint8 [H, W] of class indices. Raises: KeyError for a file that is not in the cache."""
        if self._masks is None:
            raise KeyError(f"{path}: this cache holds no masks")
        return self._masks(path)


def _stored_size(path: str) -> tuple[int, int]:
    return image_size(path, upright=False)
