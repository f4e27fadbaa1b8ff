"""Preprocessing shared by all tasks: image sizes, resizing, normalization, flip and color jitter."""

import contextlib
import math
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import engine.environment  # noqa: F401  (disables the update check of albumentations)
from engine.contracts import Dataset
from engine.data.images import IMAGE_SUFFIXES, Range, check_complete, reading, tiff
from engine.data.images.messages import PathLike
from engine.errors import UserError, out_of_memory, some
from engine.io.files import check_files, evenly_spaced
from engine.runtime import Runtime

Image = NDArray[np.uint8]


Size = tuple[int, int]
"""(height, width) in pixels."""


_HEADERS_CHECKED, _PNG_CHECKED = 5000, 100  # PNG metadata may be at the end of the file


_DECODED_BYTES = 20 * 10**9  # COCO: 5 minutes on one core, and only once for each file


_SMALL_RANGE = 16383  # a quarter of 16 bits


_FEW_LEVELS = 16  # of 256


_VALUES_CHECKED = 1_000_000  # of an image


_RANGES_CHECKED = 8  # images of more than 8 bits


_DEPTHS_CHECKED = 100  # images; those of 8 bits cost the reading of a header


def as_size(name: str, value: int | Sequence[int], *, least: int = 1) -> Size:
    """Convert a side or (height, width) to (height, width).

    Raises: ValueError, with `name` in the message, for other values and for sides below `least` pixels.
    """
    sides = (value, value) if isinstance(value, int) else tuple(value)
    if len(sides) != 2 or any(int(side) != side or side < least for side in sides):
        limit = f", each at least {least}" if least > 1 else ""
        raise ValueError(f"{name} must be a side or (height, width) in pixels{limit}, got {value!r}")
    return int(sides[0]), int(sides[1])


def as_pixel_range(value: Any) -> Range | None:
    """Convert data.pixel_range: null, or two finite numbers, the lower first. Raises: UserError."""
    if value is None:
        return None
    numbers = value if isinstance(value, list | tuple) else ()
    if len(numbers) != 2 or not all(type(n) in (int, float) and np.isfinite(n) for n in numbers):
        raise UserError(f"data.pixel_range must be two numbers [black, white] or null, got {value!r}")
    if not numbers[0] < numbers[1]:
        raise UserError(f"data.pixel_range: black must be below white, got {list(numbers)}")
    return float(numbers[0]), float(numbers[1])


def range_notes(paths: Sequence[str], pixel_range: Range | None) -> list[str]:
    """A line if `pixel_range` (None: 0..65535) does not fit a sample of the images at `paths`."""
    return unused_range(paths) if pixel_range is None else _misfit(paths, pixel_range)


def _misfit(paths: Sequence[str], pixel_range: Range) -> list[str]:
    """A line if most values are above white, none is a sixteenth of the way from black to white, or there are
    only images of 8 bits, which are not scaled.

    Values below black do not count: a window of CT values is above those of air.
    """
    black, white = pixel_range
    deep = list(_deep(paths))
    if not deep:
        return _without_effect(paths, black, white)
    above = [float((_sample(stored) > white).mean()) for _, stored in deep]
    largest = max(_used_range(stored)[1] for _, stored in deep)
    path = deep[int(np.argmax(above))][0]
    key = f"data.pixel_range=[{black:g},{white:g}]"
    checked = f"(images of more than 8 bits checked: {len(deep)})"
    if np.mean(above) > 0.5:
        return [
            f"{path}: {max(above):.0%} of the values are above {white:g} {checked}, so they are read as "
            f"white; check {key}"
        ]
    if largest < black + (white - black) / _FEW_LEVELS:
        return [
            f"{path}: the largest value is {_rounded(largest)} {checked}, so they are read nearly "
            f"black; check {key}"
        ]
    return []


def _without_effect(paths: Sequence[str], black: float, white: float) -> list[str]:
    """A line if all of a sample of images have 8 bits."""
    checked = [paths[index] for index in evenly_spaced(len(paths), _DEPTHS_CHECKED)]
    try:
        if not checked or any(reading.has_more_than_8_bits(path) for path in checked):
            return []
    except UserError:  # reported when the image is read
        return []
    return [
        f"{checked[0]}: data.pixel_range=[{black:g},{white:g}] has no effect, because it is for images of "
        f"more than 8 bits (images checked: {len(checked)})"
    ]


def _deep(paths: Sequence[str]) -> Iterator[tuple[str, NDArray[Any]]]:
    """The images of more than 8 bits in a sample of `paths`, with their stored values."""
    first = evenly_spaced(len(paths), _RANGES_CHECKED)
    others = sorted({*evenly_spaced(len(paths), _DEPTHS_CHECKED)} - {*first})  # if the first have 8 bits
    number = 0
    for index in [*first, *others]:
        if number == _RANGES_CHECKED:
            return
        try:
            stored = reading.read_deep(paths[index])
        except (UserError, OSError):  # reported when the image is read
            continue
        if stored is not None:
            number += 1
            yield paths[index], stored


def _sample(stored: NDArray[Any]) -> NDArray[Any]:
    values = stored.reshape(-1)
    return values[:: 1 + len(values) // _VALUES_CHECKED]


def unused_range(paths: Sequence[str]) -> list[str]:
    """A line if images of more than 8 bits (a sample of `paths`) are negative or use a quarter of 0..65535.

    Scaled by that range, little would be left of them: 12-bit values in 16 bits become 17 levels of gray, and
    so do those of a thermal camera around 29000. Values of 0 and 65535 (no data, saturation) do not count,
    nor does the half percent of the values at either end.
    """
    images = list(_deep(paths))
    deep = [(*_used_range(stored), path) for path, stored in images]
    if not deep:
        return []
    low = min(used[0] for used in deep)
    largest, path = max(used[1:] for used in deep)
    checked = f"(images of more than 8 bits checked: {len(deep)})"
    if low < 0 or any(
        stored.dtype.kind == "f" for _, stored in images
    ):  # no suggestion: the smallest value may stand for no data
        return [
            f"{path}: values lie between {_rounded(low)} and {_rounded(largest)} {checked}; set "
            "data.pixel_range=[<value of black>,<value of white>], outside of which values become "
            "black or white"
        ]
    if 1 <= largest <= _SMALL_RANGE:
        white = 2 ** int(largest).bit_length() - 1
        return [
            f"{path}: the largest value is {largest:.0f} of 65535 {checked}, so "
            f"they are read nearly black; if {white} is white, set data.pixel_range=[0,{white}]"
        ]
    if 0 < largest - low <= _SMALL_RANGE and largest <= 65535:
        return [
            f"{path}: values lie between {low:.0f} and {largest:.0f} of 0..65535 {checked}, so they are read "
            "with little contrast; to use all 256 levels of gray, set "
            f"data.pixel_range=[{low:.0f},{largest:.0f}]"
        ]
    return []


def _rounded(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _used_range(stored: NDArray[Any]) -> Range:
    """The smallest and largest of the values that count in `unused_range`."""
    values = _sample(stored)
    inside = values[(values != 0) & (values != 65535)]
    if not len(inside):
        return float(values.min()), float(values.max())
    low, high = np.nanquantile(inside, 0.005, method="lower"), np.nanquantile(inside, 0.995, method="higher")
    largest = np.nanmax(inside)
    return float(low), float(largest if largest <= _SMALL_RANGE else high)


def stored_range(path: PathLike) -> Range | None:
    """The smallest and largest value in an image of more than 8 bits per channel; None for 8 bits or less.

    Raises: UserError like `engine.data.images.read_image`.
    """
    stored = reading.read_deep(path)
    return None if stored is None else (float(stored.min()), float(stored.max()))


def header_notes(
    images: Sequence[str], masks: Sequence[str] = (), *, upright: bool = True, annotated: bool = True
) -> list[str]:
    """Lines that count and name images with an EXIF or TIFF rotation, and files with several pages; if there
    are many files, evenly spaced ones are checked.

    upright: whether images are rotated by their orientation. annotated: whether they may have annotations.
    """
    use = "read as stored (data.orientation=stored)"
    if upright:
        must = ", so boxes and masks must fit that" if annotated else ""
        use = f"rotated upright{must}; data.orientation=stored keeps them as stored"
    of_images, of_masks = _headers(images), _headers(masks)
    turned = [path for path, (orientation, _) in of_images.items() if orientation > 1]
    lines = _line(turned, of_images, images, f"with an EXIF or TIFF rotation: {use}")
    for name, headers, paths in (("images", of_images, images), ("masks", of_masks, masks)):
        long = [path for path, (_, pages) in headers.items() if pages > 1]
        lines += _line(long, headers, paths, "with several pages: only the first of each is read", name)
    return lines


def _headers(paths: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Path -> orientation and number of pages, of a sample of files."""
    png = [path for path in paths if path.lower().endswith(".png")]
    others = [path for path in paths if not path.lower().endswith(".png")]
    chosen = [png[index] for index in evenly_spaced(len(png), _PNG_CHECKED)] if png else []
    chosen += [others[index] for index in evenly_spaced(len(others), _HEADERS_CHECKED)] if others else []
    headers = {}
    for path in chosen:
        with contextlib.suppress(UserError):  # reported when the file is read
            headers[path] = turn_and_pages(path)
    return headers


def turn_and_pages(path: PathLike) -> tuple[int, int]:
    """The orientation (1..8; 1: upright as stored) and the number of pages or frames, from the header alone.

    Raises: UserError like `engine.data.images.image_size`.
    """
    if (header := reading.tiff_header(path)) is not None:
        with open(path, "rb") as file:
            return header.orientation, tiff.count_pages(file)
    with reading.open_header(path) as image:
        frames = getattr(image, "n_frames", 1) if image.format in ("PNG", "WEBP", "GIF", "AVIF") else 1
        return reading.orientation_of(image), frames


def _line(
    found: Sequence[str], checked: Collection[str], paths: Sequence[str], what: str, noun: str = "images"
) -> list[str]:
    """ "3 of the 40 images checked (a.jpg, b.jpg and 1 more) <what>"; nothing if there are none."""
    if not found:
        return []
    names = some([os.path.basename(path) for path in found], 2)
    of = f"{len(paths)} {noun}" if len(checked) == len(paths) else f"the {len(checked)} {noun} checked"
    return [f"{len(found)} of {of} ({names}) {what}"]


def refuse_incomplete(datasets: Iterable[Dataset], *, runtime: Runtime, budget: float) -> None:
    """Check that all images and masks of some datasets are complete (`engine.data.images.check_complete`).

    JPEG files are decoded if all files together are small. The processes of the run share the work. Datasets
    that read images themselves are not checked.

    Args:
        budget: data.error_budget, for the remedy.

    Raises:
        UserError: if files are damaged; names them and the remedies.
    """
    rank, world_size = runtime.rank, runtime.world_size
    files = [files_of(dataset) for dataset in datasets if hasattr(dataset, "read_pixels")]
    paths = list(dict.fromkeys(path for samples in files for sample in samples for path in sample))
    paths = [path for path in paths if path.lower().endswith(IMAGE_SUFFIXES)]
    share = paths[rank::world_size]
    decodes = _total_size(paths) <= _DECODED_BYTES
    check = partial(check_complete, decode_jpeg=decodes)
    name = f"{rank} of {world_size}{', decoded' if decodes else ''}"
    found = check_files(share, check, name=name, quiet=rank > 0)
    errors = {path: error for part in runtime.gather(found) for path, error in part.items()}
    if not errors:
        return
    damaged = sorted(errors, key=paths.index)
    message = errors[damaged[0]]
    if len(damaged) > 1:
        message += f"; {len(damaged)} of {len(paths)} files are damaged, including {some(damaged[1:])}"
    shares = [sum(not errors.keys().isdisjoint(sample) for sample in each) / len(each) for each in files]
    if max(shares) == 1:
        message += "; all files of a split are damaged, so data.on_error=skip would leave none"
    elif max(shares) > budget:
        message += (
            f"; data.on_error=skip also needs data.error_budget={math.ceil(max(shares) * 1000) / 1000:g}"
        )
    raise UserError(message)


def _total_size(paths: Iterable[str]) -> int:
    """The number of bytes in these files; missing ones count as empty."""
    return sum(os.path.getsize(path) for path in paths if os.path.isfile(path))


def files_of(dataset: Dataset) -> list[tuple[str, ...]]:
    """The files of each sample; none for the empty positions of a resumed run."""
    files = getattr(dataset, "sample_files", lambda index: (dataset.image_path(index),))
    gaps = getattr(dataset, "gaps", ())
    return [() if index in gaps else files(index) for index in range(len(dataset))]


def resize_image(image: Image, size: Size, *, area: bool = False) -> Image:
    """Resize with bilinear interpolation; the aspect ratio is not kept.

    area: use area interpolation if neither side grows.
    """
    if image.shape[:2] == tuple(size):
        return image
    shrinks = size[0] <= image.shape[0] and size[1] <= image.shape[1]
    method = cv2.INTER_AREA if area and shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=method), np.uint8)


def resizing(mode: str, *, area: bool = False, **details: Any) -> dict[str, Any]:
    """How `resize_image` is called, for the metadata of an exported file.

    mode: `none`, `to_size` (with `size`: [height, width]) or `scale` (with `factor`). area: as for
    `resize_image`.
    """
    method = {
        "interpolation": "bilinear",
        "when_smaller": "area" if area else "bilinear",
        "antialias": False,
        "keep_aspect": mode != "to_size",
        "center_crop": None,
        "same_as": "OpenCV: cv2.resize with cv2.INTER_LINEAR"
        + (", with cv2.INTER_AREA if neither side grows" if area else ""),
    }
    return {"mode": mode, **details, **({} if mode == "none" else method)}


PIXELS = {
    "inception": ((127.5,) * 3, (127.5,) * 3),  # the paper's code: (2 / 255) x - 1
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),  # torchvision's weights
    "unit": ((0.0,) * 3, (255.0,) * 3),  # x / 255, as for some of timm's weights
}
"""Mean and standard deviation of pixel values (0..255), by name of the normalization."""


class Normalize(nn.Module):
    """Normalize uint8 [N, 3, H, W] to float with a mean and standard deviation from `PIXELS`.

    Args:
        pixels: `inception`, `imagenet` or `unit`.

    Raises:
        ValueError: for any other name.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, pixels: str) -> None:
        super().__init__()
        if pixels not in PIXELS:
            raise ValueError(f"pixels must be one of {', '.join(PIXELS)}, got {pixels!r}")
        mean, std = PIXELS[pixels]
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.mean.device

    def forward(self, images: Tensor) -> Tensor:
        return (images.float() - self.mean) / self.std


def import_albumentations() -> Any:
    """Import albumentations lazily: it takes two seconds, and evaluation does not need it."""
    import albumentations

    return albumentations


NUM_MOSAIC_IMAGES = 4


MOSAIC_CENTER = (0.3, 0.7)
"""Where the four images of a mosaic meet, as a fraction of each side."""


def seed_transforms(pipeline: Any, seed: int) -> None:
    """Seed an albumentations pipeline so that each transform has a random stream of its own.

    `pipeline.set_random_seed(seed)` gives all of them the same random numbers: images that are scaled up
    would also be the bright ones, and transforms with the same probability would always be applied together.
    """
    pipeline.set_random_seed(seed)
    steps = list(pipeline.transforms)
    for step, stream in zip(steps, np.random.SeedSequence(seed).generate_state(len(steps)), strict=True):
        if hasattr(step, "transforms"):  # a composition, such as OneOf
            seed_transforms(step, int(stream))
        elif hasattr(step, "set_random_seed"):  # not a plain function
            step.set_random_seed(int(stream))


def augmented(pipeline: Any, *, has_extra: bool, **sample: Any) -> dict[str, Any]:
    """The sample after an albumentations pipeline, which can contain the user's own transforms (`has_extra`).

    Raises: UserError if they fail, or do not return uint8 images, which the task normalizes.
    """
    try:
        result: dict[str, Any] = pipeline(**sample)
    except Exception as error:
        if not has_extra or out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"augment.extra: a transform fails ({type(error).__name__}: {reason}); correct or remove it"
        ) from error
    _check_augmented(result["image"])
    return result


def _check_augmented(image: Any) -> None:
    kind = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
    if kind != np.uint8:
        raise UserError(
            f"augment.extra: its transforms turn images into {kind}; leave out those that normalize or "
            "convert (Normalize, ToFloat, ToTensorV2): images must stay uint8; task.pixels normalizes them"
        )


def flip_and_jitter(flip: float, color: float) -> list[Any]:
    """Albumentations transforms: a horizontal flip with probability `flip`, and a jitter of brightness,
    contrast and saturation with strength `color` (a fifth of it for hue). 0 leaves a transform out.

    Raises: ValueError for a value outside 0..1.
    """
    if not 0 <= flip <= 1:
        raise ValueError(f"flip must be a probability in 0..1, got {flip}")
    if not 0 <= color <= 1:
        raise ValueError(f"color must be a strength in 0..1, got {color}")
    albumentations = import_albumentations()
    steps = [albumentations.HorizontalFlip(p=flip)] if flip else []
    if color:
        span, hue = (max(0.0, 1 - color), 1 + color), (-color / 5, color / 5)
        steps.append(
            albumentations.ColorJitter(brightness=span, contrast=span, saturation=span, hue=hue, p=1)
        )
    return steps
