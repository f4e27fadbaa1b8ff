"""Segmentation fulfills the contract of a task."""

import json
from functools import partial

import numpy as np

from backbones.mobilenet_v3 import mobilenet_v3_small, with_output_stride, with_width
from engine.data.images import write_png
from seg import TASK
from seg.data.masks import masks
from seg.heads import LRASPP, MultiScale
from seg.model import Segmenter
from seg.task import Segmentation
from seg.transforms import TrainTransform
from tests.contract import TaskContract


class TestSegmentation(TaskContract):
    info = TASK

    def source(self, folder):
        rng = np.random.default_rng(0)
        folder.mkdir()
        (folder / "classes.json").write_text(
            json.dumps({"classes": [{"id": 3, "name": "road"}, {"id": 5, "name": "sky"}], "ignore": [255]})
        )
        for split, count in {"train": 4, "val": 3, "test": 1}.items():
            for number in range(count):
                image = rng.integers(0, 256, (8, 12, 3), np.uint8).repeat(8, 0).repeat(8, 1)
                write_png(folder / "images" / split / f"{number}.png", image)
                if split != "test":
                    mask = rng.choice(np.uint8([3, 5, 255]), (8, 12)).repeat(8, 0).repeat(8, 1)
                    write_png(folder / "masks" / split / f"{number}.png", mask)
        return masks(root=str(folder), allow_same_names=True)

    def train_transform(self):
        return TrainTransform(crop=(48, 64))

    def task(self, classes):
        return Segmentation(model=self.model(len(classes)), classes=classes)

    def model(self, num_classes):
        spec = with_output_stride(with_width(mobilenet_v3_small(), 0.35), 16)
        head = partial(LRASPP, pool="global", filters=16)
        return Segmenter(backbone=spec, head=head, num_classes=num_classes)


class TestMultiScale(TestSegmentation):
    def model(self, num_classes):
        spec = with_width(mobilenet_v3_small(), 0.35)
        head = partial(MultiScale, filters=(8, 8, 16, 16))
        return Segmenter(backbone=spec, head=head, num_classes=num_classes, features=(4, 8, 16, 32))
