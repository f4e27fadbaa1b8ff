"""The task of docs/extend/task.md fulfills the contract of a task, as seg, det and cls do."""

import importlib
import sys

import numpy as np
import pytest

from backbones.mobilenet_v3 import mobilenet_v3_small
from engine.data.images import write_png
from tests.contract import TaskContract
from tests.docs.test_extend import write_tree


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    """The page's package and its modules, by name."""
    folder = tmp_path_factory.mktemp("extension")
    write_tree("task", folder)
    sys.path.insert(0, str(folder / "my_ext"))
    yield {
        name: importlib.import_module(name) for name in ("brightness", "brightness.data", "brightness.task")
    }
    sys.path.remove(str(folder / "my_ext"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "brightness"]:
        del sys.modules[name]


class TestDocumentedTask(TaskContract):
    augments = per_class = False

    @pytest.fixture(autouse=True)
    def package(self, modules):
        self.info = modules["brightness"].TASK
        self.data_module, self.task_module = modules["brightness.data"], modules["brightness.task"]

    def source(self, folder):
        rng = np.random.default_rng(0)
        for split, count in (("train", 4), ("val", 3)):
            for number in range(count):
                image = rng.integers(0, 60 * (number + 1), (40, 50, 3), np.uint8)
                write_png(folder / split / f"{split}{number}.png", image)
        return self.data_module.ImageFolder(root=str(folder))

    def train_transform(self):
        return self.data_module.Resize(size=32)

    def task(self, classes):
        model = self.task_module.Regressor(backbone=mobilenet_v3_small(), num_classes=1)
        return self.task_module.Brightness(
            model=model, classes=classes, eval_transform=self.train_transform()
        )
