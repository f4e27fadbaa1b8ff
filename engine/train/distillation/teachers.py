"""Teachers for distillation: runs of this project, torchvision's models and those of transformers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.data.class_map import ClassMap
from engine.data.preprocessing import Normalize
from engine.errors import UserError, some
from engine.io.download import fetch
from engine.run import checkpoint
from engine.train.distillation import hugging_face


class Teacher(nn.Module):
    """A model together with its pixel normalization: pixels in 0..255 -> scores.

    task: of a run, which says what the outputs mean.
    """

    def __init__(self, model: nn.Module, normalize: nn.Module, task: nn.Module | None = None) -> None:
        super().__init__()
        self.model, self.normalize, self.task = model, normalize, task

    def forward(self, pixels: Tensor) -> Tensor:
        outputs = self.model(self.normalize(pixels))
        scores: Tensor = (
            outputs["out"] if isinstance(outputs, dict) else outputs
        )  # torchvision's segmentation
        return scores


def load_teacher(name: str, classes: ClassMap, load_run: Callable[[Path], nn.Module]) -> nn.Module:
    """Load a teacher.

    name: a run folder, which `load_run` opens as a task; a folder with a segmentation model of
    `transformers`; or a torchvision model such as `resnet50`, whose published weights are downloaded. All
    must have been trained on `classes`.

    Raises:
        UserError: if there is no such run or model, its classes differ, or its weights cannot be downloaded.
    """
    if hugging_face.is_model_folder(Path(name)):
        return hugging_face.load(Path(name), classes)
    if Path(name).is_dir():
        task: Any = load_run(Path(name))
        if task.classes.names != classes.names:
            raise UserError(f"distill.teacher={name}: trained on other classes ({some(task.classes.names)})")
        return Teacher(task.model, task.normalize, task)
    if "/" in name:
        raise UserError(f"distill.teacher={name}: no such run folder")
    return _torchvision(name, classes)


def is_torchvision(name: str) -> bool:
    """Whether this is a model of torchvision's that can teach, such as `resnet50` or `deeplabv3_resnet50`."""
    from torchvision import models  # takes a second to import

    return name in (*models.list_models(models.segmentation), *models.list_models(models))


def _torchvision(name: str, classes: ClassMap) -> nn.Module:
    from torchvision import models

    dense = name in models.list_models(models.segmentation)
    if not is_torchvision(name):
        raise UserError(
            f"distill.teacher={name}: neither a run folder nor a torchvision model such as resnet50 or "
            "deeplabv3_resnet50"
        )
    weights = models.get_model_weights(name)["DEFAULT"]
    names = tuple(weights.meta["categories"])
    if names != classes.names:
        raise UserError(
            f"distill.teacher={name}: its {len(names)} classes ({some(names)}) are not those of the data "
            f"({some(classes.names)})"
        )
    model = models.get_model(name, weights=None, **({"weights_backbone": None} if dense else {}))
    state = checkpoint.read_weights(fetch(weights.url, folder=Path(torch.hub.get_dir()) / "checkpoints"))
    head = {key: tensor for key, tensor in state.items() if not key.startswith("aux_classifier.")}
    model.load_state_dict(head)
    return Teacher(model, Normalize("imagenet"))
