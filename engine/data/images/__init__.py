"""Reads images and label masks as arrays; damaged files are rejected with an error that names the file.

| module | content |
|---|---|
| `reading` | headers and pixels of images and masks, and the limit of their size |
| `conversion` | the kinds that Pillow decodes, TIFF's kinds, and more than 8 bits as 8 |
| `tiff`, `tiff_parts` | TIFF files, large ones in parts |
| `jpeg` | damage in JPEG files |
| `png_parts` | large 16-bit PNG files, in parts |
| `completeness` | the check before training, without decoding |
| `files` | the image files of a folder, and writing one |
| `messages` | the errors |
"""

from engine.data.images.completeness import check_complete
from engine.data.images.conversion import Range, count_values
from engine.data.images.files import IMAGE_SUFFIXES, find_images, left_out, list_images, write_png
from engine.data.images.messages import PathLike
from engine.data.images.reading import (
    DEFAULT_MEGAPIXELS,
    Orientation,
    gray_colors,
    image_size,
    read_image,
    read_labels,
    read_palette,
    set_max_megapixels,
)

__all__ = [
    "DEFAULT_MEGAPIXELS",
    "IMAGE_SUFFIXES",
    "Orientation",
    "PathLike",
    "Range",
    "check_complete",
    "count_values",
    "find_images",
    "gray_colors",
    "image_size",
    "left_out",
    "list_images",
    "read_image",
    "read_labels",
    "read_palette",
    "set_max_megapixels",
    "write_png",
]
