"""A cache of decoded pixels: images and label masks of a split, memory-mapped.

Decoding a PNG of two megapixels takes ten times as long as all that follows, and a training crop needs a
fraction of it. Kept decoded, a picture costs (height x width x 3) bytes of disk, a mask a third of that, and
a crop reads only the pages it lies on.

Masks are kept as class indices, after the class mapping: a crop then needs no look-up over the whole mask, a
mask of colors or of 16 bits takes one byte per pixel, and unknown values are found while building. The key
of a store of masks therefore holds the mapping: with other classes the masks, which decode quickly, are kept
a second time, and the images, in a store of their own, stay.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.data.images import image_size, read_image
from engine.data.pixel_store import Kind, PixelStore, open_or_build

Pixels = NDArray[np.uint8]


_IMAGES = Kind(name="images", read=read_image, size=image_size, channels=3)


@dataclass(frozen=True, kw_only=True)
class MaskFiles:
    """The mask files of a split: how one is read, and `key`, a digest of all that reading depends on."""

    paths: Sequence[str]
    read: Callable[[str], Pixels]
    key: str


class PixelCache:
    """Pixels of files: `cache.image(path)` is what `read_image` returns, as a read-only view."""

    def __init__(self, images: PixelStore, masks: PixelStore | None = None) -> None:
        self._images, self._masks = images, masks

    @classmethod
    def open_or_build(
        cls, folder: Path, *, images: Sequence[str], masks: MaskFiles | None = None, workers: int = 0
    ) -> "PixelCache":
        """The cache of these files under `folder`, which may hold those of other files too.

        What is missing is built, by one process while others that ask for it wait; a build that is killed
        leaves nothing that is taken for a cache. What is there is compared with the files: sizes and dates,
        and contents where dates differ.

        Args:
            workers: processes that decode.

        Raises:
            UserError: a file is unreadable or has changed since, or the folder cannot be written.
        """
        stored_masks = None
        if masks is not None:
            kind = Kind(name="masks", read=masks.read, size=_stored_size, channels=0, key=masks.key)
            stored_masks = open_or_build(folder, masks.paths, kind, workers=workers)
        return cls(open_or_build(folder, images, _IMAGES, workers=workers), stored_masks)

    def image(self, path: str) -> Pixels:
        """uint8 [H, W, 3], RGB. Raises: KeyError for a file that the cache was not made for."""
        return self._images(path)

    def mask(self, path: str) -> Pixels:
        """uint8 [H, W] of class indices. Raises: KeyError for a file that the cache was not made for."""
        if self._masks is None:
            raise KeyError(f"{path}: this cache holds no masks")
        return self._masks(path)


def _stored_size(path: str) -> tuple[int, int]:
    return image_size(path, upright=False)
