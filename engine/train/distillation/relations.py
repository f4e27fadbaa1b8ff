"""Feature distillation: teacher and student should agree on which locations of the images are similar."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from engine.errors import UserError

_REMEDY = "choose distill.method=pixels or channels"
_GRID = 16
_TEMPERATURE = 0.1


def relation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """How much the two networks differ in which locations they see as similar, a scalar.

    Both feature maps are averaged to the same grid of at most 16x16 locations. For each location, a softmax
    over its cosine similarities to all locations of an image, divided by 0.1, describes what it resembles.
    The loss is KL(teacher || student), averaged over the locations, and over two cases: similarities within
    an image and to the next image in the batch. Channels are never compared, so the two networks can have
    different numbers of them. A simpler form of CIRKD (Yang et al., 2022, arXiv 2204.06986, section 3.2),
    which compares all pairs of images.

    Args:
        student: features [N, C, h, w].
        teacher: features [N, D, H, W] of the same images.
    """
    height, width = map(min, student.shape[-2:], teacher.shape[-2:], (_GRID, _GRID))
    grid = (height, width)
    ours, theirs = _directions(student, grid), _directions(teacher, grid)
    losses = [
        F.kl_div(
            _similarities(ours, shift).log_softmax(-1),
            _similarities(theirs, shift).log_softmax(-1),
            log_target=True,
            reduction="none",
        )
        .sum(-1)
        .mean()
        for shift in ((0, 1) if len(student) > 1 else (0,))
    ]
    return sum(losses[1:], losses[0]) / len(losses)


def _directions(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Unit vectors [N, locations, C]."""
    averaged = F.adaptive_avg_pool2d(features.float(), grid)
    return F.normalize(averaged.flatten(2).transpose(1, 2), dim=-1)


def _similarities(directions: Tensor, shift: int) -> Tensor:
    """Cosine similarities [N, locations, locations] to the image `shift` later in the batch / temperature."""
    return directions @ directions.roll(-shift, dims=0).transpose(1, 2) / _TEMPERATURE


@contextmanager
def deepest_features(network: nn.Module, role: str) -> Iterator[list[Tensor]]:
    """Within this context, each forward pass of `network` appends the last feature map of its backbone.

    The backbone is the network's `backbone` (which returns features by name), or the `base_model` of a
    network of `transformers`. role: what to call the network in messages.

    Raises:
        UserError: if there is no such backbone, or it returns no feature map [N, C, h, w].
    """
    backbone = getattr(network, "backbone", None) or getattr(network, "base_model", None)
    if not isinstance(backbone, nn.Module) or backbone is network:
        raise UserError(f"distill.method=features: {role} has no backbone to read features from; {_REMEDY}")
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, outputs: Any) -> None:
        last = list(outputs.values())[-1] if isinstance(outputs, Mapping) else None
        last = getattr(outputs, "last_hidden_state", last)
        last = last[-1] if isinstance(last, tuple) else last
        if not isinstance(last, Tensor) or last.ndim != 4:
            raise UserError(
                f"distill.method=features: the backbone of {role} returns no feature map; {_REMEDY}"
            )
        kept.append(last)

    handle = backbone.register_forward_hook(keep)
    try:
        yield kept
    finally:
        handle.remove()
