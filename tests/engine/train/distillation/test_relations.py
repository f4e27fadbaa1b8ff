"""Feature distillation against values computed by hand."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from engine.errors import UserError
from engine.train.distillation import Distillation
from engine.train.distillation.relations import deepest_features, relation_loss


def features(*images):
    """Images given as lists of locations, each a vector -> [N, C, 1, locations]."""
    return torch.tensor(images, dtype=torch.float32).transpose(1, 2)[:, :, None]


def divergence(teacher, student):
    return sum(p * math.log(p / q) for p, q in zip(teacher, student, strict=True))


def softmax(*cosines):
    shares = [math.exp(cosine / 0.1) for cosine in cosines]
    return [share / sum(shares) for share in shares]


def test_one_image_by_hand():
    """Two locations: orthogonal for the student; cosine 0.8 for the teacher, which has three channels."""
    student = features([[1, 0], [0, 2]])
    teacher = features([[1, 0, 0], [4, 3, 0]])
    expected = divergence(softmax(1, 0.8), softmax(1, 0))
    assert relation_loss(student, teacher).item() == pytest.approx(expected, rel=1e-5)
    assert relation_loss(teacher, student).item() == pytest.approx(
        divergence(softmax(1, 0), softmax(1, 0.8)), rel=1e-5
    )


def test_images_are_compared_with_the_next_one_too():
    """Within an image, both agree; across images, the student sees equal vectors, the teacher opposites."""
    student = features([[1, 0], [0, 1]], [[1, 0], [0, 1]])
    teacher = features([[1, 0], [0, 1]], [[-1, 0], [0, -1]])
    across = divergence(softmax(-1, 0), softmax(1, 0))
    assert relation_loss(student, teacher).item() == pytest.approx(across / 2, rel=1e-5)


def test_neither_length_nor_rotation_of_the_vectors_matters():
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(3, 4, 5, 6, generator=generator)
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=generator))[0]
    teacher = 7 * torch.einsum("dc,nchw->ndhw", rotation, student)
    assert relation_loss(student, teacher).item() == pytest.approx(0, abs=1e-5)
    assert relation_loss(student, teacher.roll(1, dims=3)).item() > 0.1


def test_grids_of_different_sizes_are_averaged_to_the_smaller_one():
    coarse = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(1))
    fine = coarse.repeat_interleave(2, dim=2).repeat_interleave(3, dim=3)
    assert relation_loss(coarse, fine).item() == pytest.approx(0, abs=1e-5)
    assert relation_loss(fine, coarse).item() == pytest.approx(0, abs=1e-5)
    large = coarse.repeat_interleave(32, dim=3)  # 160 places in a row become 16, not all of them
    assert relation_loss(large, large + 0).isfinite()


class Network(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.forward = outputs
        self.head = nn.Conv2d(3, 2, 1)

    def forward(self, images):
        self.backbone(images)
        return self.head(images)


@pytest.mark.parametrize(
    "outputs",
    [
        lambda images: {"low": images[:, :1], "high": images},
        lambda images: SimpleNamespace(last_hidden_state=images),
        lambda images: {"feature_maps": (images[:, :1], images)},
    ],
    ids=["features by name", "hidden state", "tuple of maps"],
)
def test_the_last_features_are_kept_only_within_the_context(outputs):
    network, images = Network(outputs), torch.rand(1, 3, 4, 4)
    with deepest_features(network, "the teacher") as kept:
        network(images)
        network(images)
    network(images)
    assert len(kept) == 2
    assert torch.equal(kept[0], images)


def test_networks_without_feature_maps_are_refused():
    with (
        pytest.raises(UserError, match=r"^distill\.method=features: the teacher has no backbone"),
        deepest_features(nn.Conv2d(3, 2, 1), "the teacher"),
    ):
        pass
    tokens = Network(lambda images: SimpleNamespace(last_hidden_state=images.flatten(2)))
    with (
        pytest.raises(
            UserError, match=r"^distill\.method=features: the backbone of .* returns no feature map"
        ),
        deepest_features(tokens, "the teacher"),
    ):
        tokens(torch.rand(1, 3, 4, 4))


def test_scores_and_features_add_up():
    network = Network(lambda images: {"out": images})
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    both = Distillation(teacher=network, method=["pixels", "features"], weight=2.0, temperature=4.0)
    scores, theirs = both.scores_and_features(images)
    with both.features_of(network) as ours:
        own = network(images.flip(1))
    assert not theirs[0].requires_grad
    pixels = Distillation(teacher=network, weight=2.0, temperature=4.0)
    assert both.loss(own, scores) == pixels.loss(own, scores)
    assert both.feature_loss(ours, theirs) == 2 * relation_loss(images.flip(1), images)
    assert pixels.scores_and_features(images)[1] == []
    alone = Distillation(teacher=network, method="features")
    assert alone.loss(own, scores).item() == 0


@pytest.mark.parametrize(
    "method", ["feature", [], ["pixels", "pixels"], ["pixels", "relations"], 5, None, [["pixels"]]]
)
def test_unknown_methods_are_refused(method):
    with pytest.raises(UserError, match=r"distill\.method must be pixels, channels, features, or a list"):
        Distillation(teacher=nn.Identity(), method=method)


def test_a_temperature_without_scores_is_refused():
    with pytest.raises(UserError, match=r"^distill\.temperature has no effect with distill\.method=features"):
        Distillation(teacher=nn.Identity(), method="features", temperature=2)
