"""Writes the images of a conversion to a new folder, which appears only when it is complete."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from doctor.convert.records import Sample
from engine.data.images import Orientation, image_size
from engine.errors import UserError, counted
from engine.io.files import flat_name, link_or_copy


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder that becomes `out` at the end; it is removed if something fails.

    Raises: UserError if `out` exists, or cannot be written.
    """
    if out.exists() or out.is_symlink():
        raise UserError(f"out={out}: already exists; choose another folder, or remove it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
        partial.mkdir()
    except OSError as error:
        raise UserError(f"out={out}: cannot be written ({error.strerror}); choose another folder") from None
    try:
        yield partial
        os.replace(partial, out)
    except OSError as error:
        raise UserError(f"out={out}: cannot be written ({error.strerror})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class Images:
    """Puts images into a folder, each under its own name.

    A hard link is a second name of the same file and takes no space; where the file system has none, images
    are copied.
    """

    def __init__(self, folder: Path, *, copy: bool = False) -> None:
        self.folder, self.copy = folder, copy
        self.num_linked = self.num_copied = 0
        self._names: set[str] = set()

    def put(self, sample: Sample) -> str:
        """Add the image to images/ or images/<split>/; returns its new name, without a suffix."""
        stem = flat_name(sample.name.replace("\\", "/").strip("/")) or "image"
        name, number = stem, 1
        while f"{sample.split}/{name.lower()}" in self._names:
            number += 1
            name = f"{stem}_{number}"
        self._names.add(f"{sample.split}/{name.lower()}")
        target = self.folder / "images" / sample.split / f"{name}{sample.image.suffix.lower()}"
        target.parent.mkdir(parents=True, exist_ok=True)
        if self.copy:
            shutil.copyfile(sample.image, target)
        linked = not self.copy and link_or_copy(sample.image, target)
        self.num_linked += linked
        self.num_copied += not linked
        return name

    def line(self) -> str:
        """How many images there are, and whether they are links or copies."""
        parts = [
            f"{counted(self.num_linked, 'image')} hard-linked, which takes no space"
            if self.num_linked
            else "",
            f"{counted(self.num_copied, 'image')} copied" if self.num_copied else "",
        ]
        return "; ".join(part for part in parts if part)


def checked_size(sample: Sample, orientation: Orientation) -> tuple[int, int]:
    """(height, width) of an image, as the shapes refer to it.

    Raises: UserError if the image cannot be read, or the annotation states another size.
    """
    upright = orientation != "stored"
    size = image_size(sample.image, upright=upright)
    if sample.size is None or sample.size == size:
        return size
    turned = image_size(sample.image, upright=not upright) == sample.size
    other = "stored" if upright else "upright"
    remedy = f"; the annotation fits the {other} image (EXIF): set orientation={other}" if turned else ""
    raise UserError(
        f"{sample.image}: the image is {size[0]} x {size[1]}, but {sample.origin} says {sample.size[0]} x "
        f"{sample.size[1]} (height x width){remedy}"
    )
