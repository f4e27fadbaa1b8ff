"""Knowledge distillation: a network learns to imitate a trained network's class scores or features."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.errors import UserError
from engine.train.distillation.relations import deepest_features, relation_loss

METHODS = ("pixels", "channels", "features")


class Distillation:
    """A loss that makes a network imitate a teacher.

    This is not a module, so the teacher is not trained, averaged, or saved in checkpoints.

    Args:
        teacher: pixels [N, 3, H, W] in 0..255 -> class scores [N, K, ...] for the same classes.
        weight: factor on the loss.
        temperature: both scores are divided by T; the loss is multiplied by T^2, which makes the scale of the
            gradient independent of T.
        method: what is compared; the losses of several methods are added up. `pixels`: the classes of each
            pixel (Hinton et al., arXiv 1503.02531). `channels`: the pixels of each class (channel-wise
            distillation, Shu et al., arXiv 2011.13256), which says where a class is and does not depend on
            how common it is. `features`: which locations resemble each other in the last feature map of the
            backbone (`relation_loss`).

    Raises:
        UserError: if the weight or the temperature is not a positive number, a method is unknown or listed
            twice, or a temperature is set and `features` is the only method.
    """

    def __init__(
        self,
        *,
        teacher: nn.Module,
        weight: float = 1.0,
        temperature: float = 1.0,
        method: str | Sequence[str] = "pixels",
    ) -> None:
        for name, value in (("weight", weight), ("temperature", temperature)):
            if type(value) not in (int, float) or not 0 < value < math.inf:
                raise UserError(f"distill.{name} must be a positive number, got {value!r}")
        several = isinstance(method, Sequence) and not isinstance(method, str)
        methods = tuple(method) if several else (method,)
        if not methods or any(name not in METHODS for name in methods) or len(set(methods)) < len(methods):
            raise UserError(
                f"distill.method must be {', '.join(METHODS)}, or a list of different ones such as "
                f"[pixels,features], got {list(methods) if several else method!r}"
            )
        if methods == ("features",) and temperature != 1:
            raise UserError(
                "distill.temperature has no effect with distill.method=features, which compares no class "
                "scores; leave it out, or set distill.method=[pixels,features]"
            )
        self.teacher = teacher.eval().requires_grad_(False)
        self.weight, self.temperature, self.methods = weight, temperature, methods

    def __deepcopy__(self, memo: dict[int, Any]) -> "Distillation":
        return self  # copies of the task (for averaged weights) share the teacher

    @torch.no_grad()
    def scores(self, pixels: Tensor) -> Tensor:
        """The teacher's scores for pixels [N, 3, H, W] in 0..255."""
        self.teacher.to(pixels.device)
        scores: Tensor = self.teacher(pixels)
        return scores

    def features_of(
        self, network: nn.Module, role: str = "the network"
    ) -> AbstractContextManager[list[Tensor]]:
        """Within this context, each forward pass of `network` appends its last feature map to the list.

        The list stays empty if the method does not compare features. role: as for `deepest_features`.
        """
        return deepest_features(network, role) if "features" in self.methods else nullcontext([])

    @torch.no_grad()
    def scores_and_features(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The teacher's `scores`, and a list with its last feature map (empty if it is not compared)."""
        with self.features_of(getattr(self.teacher, "model", self.teacher), "the teacher") as features:
            return self.scores(pixels), features

    def loss(self, scores: Tensor, targets: Tensor, counted: Tensor | None = None) -> Tensor:
        """weight * T^2 * KL(targets || scores), of softmaxes over scores [N, K, ...]; 0 for `features` alone.

        `pixels`: the mean over images or pixels, or over those where `counted` [N, ...] is true. `channels`:
        the mean over images and classes; pixels that do not count get no probability. Without anything that
        counts, 0.
        """
        scores, targets = scores.float() / self.temperature, targets.float() / self.temperature
        total = scores.new_zeros(())
        if "channels" in self.methods:
            total = total + _mean_over_channels(scores, targets, counted)
        if "pixels" in self.methods:
            total = total + _mean_over_pixels(scores, targets, counted)
        return self.weight * self.temperature**2 * total

    def feature_loss(self, ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
        """weight * `relation_loss` of the student's features (from `features_of`) and the teacher's (from
        `scores_and_features`)."""
        return self.weight * relation_loss(ours[-1], theirs[-1])


def _mean_over_pixels(scores: Tensor, targets: Tensor, counted: Tensor | None) -> Tensor:
    divergence = _divergence(scores, targets, dim=1)
    if counted is None:
        return divergence.mean()
    return (divergence * counted).sum() / counted.sum().clamp(min=1)


def _mean_over_channels(scores: Tensor, targets: Tensor, counted: Tensor | None) -> Tensor:
    scores, targets = scores.flatten(2), targets.flatten(2)
    if counted is None:
        return _divergence(scores, targets, dim=2).mean()
    left_out = ~counted.flatten(1)[:, None]
    lowest = torch.finfo(scores.dtype).min
    divergence = _divergence(
        scores.masked_fill(left_out, lowest), targets.masked_fill(left_out, lowest), dim=2
    )
    images = counted.flatten(1).any(1)
    per_image = divergence.mean(1) * images
    return per_image.sum() / images.sum().clamp(min=1)


def _divergence(scores: Tensor, targets: Tensor, *, dim: int) -> Tensor:
    log_student, log_teacher = F.log_softmax(scores, dim=dim), F.log_softmax(targets, dim=dim)
    return F.kl_div(log_student, log_teacher, log_target=True, reduction="none").sum(dim)
