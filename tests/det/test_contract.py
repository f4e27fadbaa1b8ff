"""Detection fulfills the contract of a task."""

import json
from functools import partial

import numpy as np
import torch
from torch import nn

from backbones.mobilenet_v3 import mobilenet_v3_small
from det import TASK
from det.anchors.generators import Cells
from det.boxes import DistanceCoder
from det.data.coco import coco
from det.model import Detector
from det.panlite.assignment import TaskAligned
from det.panlite.head import PANLite
from det.panlite.losses import QualityLoss
from det.postprocess import Postprocess
from det.task import Detection
from det.transforms import EvalTransform, TrainTransform
from engine.data.images import write_png
from tests.contract import TaskContract

CATEGORIES = [{"id": 3, "name": "dog"}, {"id": 17, "name": "cat"}]


class Quarters(nn.Module):
    """A detector with one anchor for each quarter of an image of 64 x 64."""

    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes
        self.features = nn.Sequential(nn.Conv2d(3, 8, 32, stride=32), nn.Hardswish())
        self.predict = nn.Conv2d(8, 4 + num_classes + 1, 1)
        corners = torch.tensor([[0, 0], [0.5, 0], [0, 0.5], [0.5, 0.5]])
        self.register_buffer("anchors", torch.cat([corners, corners + 0.5], 1), persistent=False)

    def forward(self, images):
        rows = self.predict(self.features(images)).flatten(2).mT
        return rows[..., :4], rows[..., 4:]


class TestDetection(TaskContract):
    info = TASK

    def source(self, folder):
        rng = np.random.default_rng(0)
        splits = {}
        for split, count in {"train": 4, "val": 3, "test": 1}.items():
            images, boxes = [], []
            for number in range(count):
                image = rng.integers(0, 256, (8, 10, 3), np.uint8).repeat(8, 0).repeat(8, 1)
                write_png(folder / split / f"{split}_{number}.png", image)
                size = {"height": 64, "width": 80}
                images.append({"id": number, "file_name": f"{split}_{number}.png", **size})
                for category in CATEGORIES:
                    x, y = rng.integers(0, 30, 2).tolist()
                    box = {"bbox": [x, y, 28, 32], "area": 28 * 32, "category_id": category["id"]}
                    boxes.append({"id": len(boxes), "image_id": number, "iscrowd": 0, **box})
            splits[split] = {"images": str(folder / split)}
            if split != "test":
                path = folder / f"{split}.json"
                content = {"images": images, "annotations": boxes, "categories": CATEGORIES}
                path.write_text(json.dumps(content))
                splits[split]["annotations"] = str(path)
        return coco(**splits)

    def train_transform(self):
        return TrainTransform(size=64)

    def task(self, classes):
        return Detection(model=Quarters(len(classes)), classes=classes, eval_transform=EvalTransform(size=64))


class TestPANLite(TestDetection):
    """The same with an anchor-free head, at a size that its strides do not divide."""

    def train_transform(self):
        return TrainTransform(size=(72, 100))

    def task(self, classes):
        model = Detector(
            backbone=mobilenet_v3_small(width_mult=0.35),
            num_classes=len(classes),
            input_size=(72, 100),
            anchors=Cells(),
            head=partial(PANLite, width=8, bins=4, depth=1),
            c3="block",
            c4="block",
            c5="block",
        )
        return Detection(
            model=model,
            classes=classes,
            eval_transform=EvalTransform(size=(72, 100)),
            loss=QualityLoss(),
            matcher=TaskAligned(),
            postprocess=Postprocess(score_threshold=0.001, coder=DistanceCoder(), background_column=False),
        )
