"""Real images, and the inputs of the exported network that they become."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from deploy.metadata import describe, network_input
from engine.contracts import ExportedTask, Image
from engine.data import media
from engine.data.images import read_image
from engine.errors import UserError
from engine.io.files import evenly_spaced
from engine.io.progress import counted_off


@dataclass(frozen=True, kw_only=True)
class Sample:
    """An image, RGB [H, W, 3], and the network's input [3, h, w] for it."""

    name: str
    image: Image
    input: NDArray[Any]


def image_files(input: str, count: int) -> list[Path]:
    """The first images of a file, folder or glob. Raises: UserError if there are none."""
    images = [file for file in media.find_media(input) if not media.is_video(file)]
    if not images:
        raise UserError(f"input={input}: contains no images, only videos")
    return images[:count]


def split_files(source: Any, split: str, module: ExportedTask, count: int) -> list[Path]:
    """At most `count` images, spread over a split of a data source. Raises: UserError if it has none."""
    dataset = source.dataset(split, module.eval_transform, seed=0)
    if not len(dataset):
        raise UserError(f"split {split!r} has no images; set input=<images> or another data.split")
    return [Path(dataset.image_path(index)) for index in evenly_spaced(len(dataset), count)]


_ANY_SIZE = ", or dynamic=size if the network takes any size (segmentation: with model.head.pool=global)"


def read_samples(
    files: Sequence[Path],
    module: ExportedTask,
    *,
    dynamic_size: bool,
    can_be_dynamic: bool = True,
    read: Callable[[Path], Image] = read_image,
) -> list[Sample]:
    """Read images and transform them as the task does.

    Args:
        dynamic_size: whether the file takes images of any size.
        can_be_dynamic: whether files of its format can, for the message.
        read: reads a file, such as `TrainedRun.read_image`.

    Raises:
        UserError: if a file cannot be read, or if the inputs differ in size but the network's size is fixed.
    """
    metadata = describe(module, task="", facts={})
    samples = []
    for file in counted_off(files, what="reading the images", unit="image read"):
        image = read(file)
        pixels = network_input(module.transform(image), metadata, dtype=module.dtype)
        samples.append(Sample(name=file.name, image=image, input=pixels))
    sizes = {sample.input.shape[1:] for sample in samples}
    if len(sizes) > 1 and not dynamic_size:
        some = " and ".join(f"{height}x{width}" for height, width in itertools.islice(sorted(sizes), 2))
        raise UserError(
            f"the images have different sizes ({some}); set data.eval_size=[h,w], which resizes them"
            f"{_ANY_SIZE if can_be_dynamic else ''}"
        )
    return samples
