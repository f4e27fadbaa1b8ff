"""Knowledge distillation: a trained network's scores as soft targets (Hinton et al., 2015)."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.data.class_map import ClassMap
from engine.data.preprocessing import Normalize
from engine.errors import UserError, some
from engine.io.download import fetch
from engine.run import checkpoint


class Distillation:
    """A loss that pulls class scores toward those of a teacher.

    This is not a module, so the teacher is not trained, averaged, or saved in checkpoints.

    Args:
        teacher: pixels [N, 3, H, W] in 0..255 -> class scores [N, K, ...] for the same classes.
        weight: factor on the loss.
        temperature: both scores are divided by T; the loss is multiplied by T^2, which makes the scale of the
            gradient independent of T.

    Raises:
        UserError: if the weight or the temperature is not a positive number.
    """

    def __init__(self, *, teacher: nn.Module, weight: float = 1.0, temperature: float = 1.0) -> None:
        for name, value in (("weight", weight), ("temperature", temperature)):
            if type(value) not in (int, float) or not 0 < value < math.inf:
                raise UserError(f"distill.{name} must be a positive number, got {value!r}")
        self.teacher = teacher.eval().requires_grad_(False)
        self.weight, self.temperature = weight, temperature

    def __deepcopy__(self, memo: dict[int, Any]) -> "Distillation":
        return self  # copies of the task (for averaged weights) share the teacher

    @torch.no_grad()
    def scores(self, pixels: Tensor) -> Tensor:
        """The teacher's scores for pixels [N, 3, H, W] in 0..255."""
        self.teacher.to(pixels.device)
        scores: Tensor = self.teacher(pixels)
        return scores

    def loss(self, scores: Tensor, targets: Tensor, counted: Tensor | None = None) -> Tensor:
        """weight * T^2 * KL(targets || scores), of the softmax over dimension 1 of [N, K, ...].

        This is the mean over images or pixels, or over those where `counted` [N, ...] is true (0 if there are
        none).
        """
        log_student = F.log_softmax(scores.float() / self.temperature, dim=1)
        log_teacher = F.log_softmax(targets.float() / self.temperature, dim=1)
        divergence = F.kl_div(log_student, log_teacher, log_target=True, reduction="none").sum(1)
        if counted is None:
            mean = divergence.mean()
        else:
            mean = (divergence * counted).sum() / counted.sum().clamp(min=1)
        return self.weight * self.temperature**2 * mean


class Teacher(nn.Module):
    """A model together with its pixel normalization: pixels in 0..255 -> scores."""

    def __init__(self, model: nn.Module, normalize: nn.Module) -> None:
        super().__init__()
        self.model, self.normalize = model, normalize

    def forward(self, pixels: Tensor) -> Tensor:
        outputs = self.model(self.normalize(pixels))
        scores: Tensor = (
            outputs["out"] if isinstance(outputs, dict) else outputs
        )  # torchvision's segmentation
        return scores


def load_teacher(name: str, classes: ClassMap, load_run: Callable[[Path], nn.Module]) -> nn.Module:
    """Load a teacher.

    name: a run folder, which `load_run` opens as a task, or a torchvision model such as `resnet50`, whose
    published weights are downloaded. Both must have been trained on `classes`.

    Raises:
        UserError: if there is no such run or model, its classes differ, or its weights cannot be downloaded.
    """
    if Path(name).is_dir():
        task: Any = load_run(Path(name))
        if task.classes.names != classes.names:
            raise UserError(f"distill.teacher={name}: trained on other classes ({some(task.classes.names)})")
        return Teacher(task.model, task.normalize)
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
