"""A minimal `ExportedTask` and a session of its file, with one number per image."""

import numpy as np
from torch import nn

from deploy.metadata import describe
from deploy.session import Session
from engine.data.class_map import ClassMap
from engine.data.preprocessing import Normalize

CLASSES = ClassMap(names=("road", "sky"))


class ToyExport(nn.Module):
    """The mean of each image, plus an offset."""

    names = compared = ("mean",)
    output, normalized, dtype, eval_transform = "logits", True, "uint8", "input as stored"
    classes = CLASSES

    def __init__(self, offset=0.0):
        super().__init__()
        self.normalize, self.offset = Normalize("imagenet"), offset

    def forward(self, images):
        return images.float().mean((1, 2, 3))[:, None] + self.offset

    def agreement(self, ours, theirs):
        return float((np.round(ours[0]) == np.round(theirs[0])).mean())


def toy_session(batch=None, *, calls=None, **metadata):
    """What `ToyExport` computes, for `batch` images at once; `calls` collects the batch sizes."""

    def run(images):
        if calls is not None:
            calls.append(len(images))
        return [images.astype(np.float32).mean((1, 2, 3))[:, None]]

    texts = describe(ToyExport(), task="seg", facts={"license": "CC0"}) | metadata
    return Session(
        run=run,
        output_names=("mean",),
        runtime="toy 1",
        dtype="uint8",
        shape=(batch, None, None),
        metadata=texts,
    )


def toy_images(count=5):
    """Noise [N, 3, 4, 6]."""
    return np.random.default_rng(0).integers(0, 256, (count, 3, 4, 6), np.uint8)
