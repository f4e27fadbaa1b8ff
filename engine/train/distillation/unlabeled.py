"""Images without labels, for distillation: a teacher's scores can be learned on any image."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from engine.contracts import Image
from engine.data.images import check_complete, find_images, left_out, read_image
from engine.data.loader import DataLoaders, SampleKey, as_tensor, sample_seed
from engine.errors import UserError, some
from engine.io.files import check_files
from engine.runtime import Runtime

_STREAM = 1


class WithUnlabeled:
    """A training set in which each sample also has `unlabeled`: another image, augmented like the first.

    Which image that is depends only on (seed, epoch, index), as for the sample itself, so resumed runs and
    runs in several processes see the same ones. All other attributes are those of the labeled set.

    Args:
        labeled: the training set; its `augment(image, seed)` returns the augmented image, uint8 [h, w, 3].
        images: files of the unlabeled images.
        read: path -> image, as the labeled images are read.
    """

    def __init__(
        self, labeled: Any, images: list[Path], *, seed: int, read: Callable[[Path], Image] = read_image
    ) -> None:
        self.labeled, self.images, self.seed, self.read_unlabeled = labeled, images, seed, read

    def __getattr__(self, name: str) -> Any:
        if name == "labeled":  # asked for while this object is unpickled
            raise AttributeError(name)
        return getattr(self.labeled, name)

    def __len__(self) -> int:
        return len(self.labeled)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        sample: dict[str, Any] = self.labeled[key]
        seed = sample_seed(self.seed, key)
        path = self.images[np.random.default_rng([seed, _STREAM]).integers(len(self.images))]
        image = self.labeled.augment(self.read_unlabeled(path), seed)
        return sample | {"unlabeled": as_tensor(image.transpose(2, 0, 1))}


def with_unlabeled(data: DataLoaders, folder: str, runtime: Runtime, *, source: Any = None) -> DataLoaders:
    """The data of a training, with an image from `folder` (or its sub-folders) beside each training image.

    They are read with the pixel range and the orientation of `source`. A line counts and names the files of
    other kinds, which are left out.

    Raises:
        UserError: if there is no image in the folder, or images are damaged.
    """
    key = f"distill.images={folder}"
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(f"{key}: no such folder")
    images, others = find_images(root)
    unread = left_out(root, others)
    if not images:
        reason = "; ".join(["no image found", *unread])
        raise UserError(f"{key}: {reason}; pass a folder of images")
    if runtime.rank == 0:
        print("".join(f"{line}\n" for line in unread), end="")
    paths = [str(path) for path in images]
    check = partial(check_complete, decode_jpeg=False)
    found = check_files(
        paths[runtime.rank :: runtime.world_size], check, name="unlabeled", quiet=runtime.rank > 0
    )
    errors = {path: error for part in runtime.gather(found) for path, error in part.items()}
    if errors:
        first, *others = sorted(errors, key=paths.index)
        more = (
            f"; {len(errors)} of {len(paths)} files are damaged, including {some(others)}" if others else ""
        )
        raise UserError(f"{key}: {errors[first]}{more}")
    read = partial(
        read_image,
        pixel_range=getattr(source, "pixel_range", None),
        upright=getattr(source, "upright", True),
    )
    return replace(data, train_set=WithUnlabeled(data.train_set, images, seed=data.seed, read=read))
