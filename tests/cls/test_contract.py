"""Classification fulfills the contract of a task."""

import numpy as np
from torch import nn

from cls import TASK
from cls.data.folders import folders
from cls.task import Classification
from cls.transforms import EvalTransform, TrainTransform
from engine.data.images import write_png
from tests.contract import TaskContract


class TestClassification(TaskContract):
    info = TASK

    def source(self, folder):
        for split in ("train", "val"):
            for brightness, name in ((40, "night"), (200, "day")):
                for number in range(2):
                    rng = np.random.default_rng([brightness, number, len(split)])
                    image = rng.integers(brightness - 40, brightness + 40, (40, 50, 3), np.uint8)
                    write_png(folder / split / name / f"{number}.png", image)
        return folders(root=str(folder))

    def train_transform(self):
        return TrainTransform(size=32)

    def task(self, classes):
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2),
            nn.Hardswish(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, len(classes)),
        )
        return Classification(model=model, classes=classes, eval_transform=EvalTransform(crop=32))
