"""Full-resolution scores: plain, flipped, multi-scale, sliding window."""

from itertools import pairwise

import pytest
import torch

from seg.task import Inference, _starts


def columns(images):
    """A network without a receptive field: scores follow the pixel."""
    return torch.cat([images[:, :1], 1 - images[:, :1]], dim=1)


def test_a_single_pass_is_the_network_resized():
    images = torch.rand(1, 3, 8, 12)
    scores = Inference()(columns, images, (16, 24), align_corners=False)
    expected = torch.nn.functional.interpolate(columns(images), (16, 24), mode="bilinear")
    torch.testing.assert_close(scores, expected)


def test_a_scale_never_shrinks_an_image_to_nothing():
    scores = Inference(scales=[0.01])(columns, torch.rand(1, 3, 8, 12), (8, 12), align_corners=False)
    assert scores.shape == (1, 2, 8, 12)


def test_flip_is_undone():
    images = torch.rand(1, 3, 8, 12)
    scores = Inference(flip=True)(columns, images, (8, 12), align_corners=False)
    torch.testing.assert_close(scores, 2 * columns(images).softmax(1))


@pytest.mark.parametrize("window", [(32, 32), (32, 48), (64, 96)])
def test_a_sliding_window_averages_over_every_pixel(window):
    images = torch.rand(1, 3, 40, 70)
    scores = Inference(window=window)(columns, images, (40, 70), align_corners=False)
    torch.testing.assert_close(scores, columns(images).softmax(1))


@pytest.mark.parametrize(
    ("length", "window", "overlap"), [(100, 32, 0.0), (100, 32, 0.5), (33, 32, 0.0), (32, 32, 0.9)]
)
def test_windows_end_at_the_border_and_leave_no_gap(length, window, overlap):
    starts = _starts(length, window, overlap)
    assert starts[0] == 0
    assert starts[-1] == length - window
    assert all(b - a <= window * (1 - overlap) + 1 for a, b in pairwise(starts))


@pytest.mark.parametrize(
    "options", [{"scales": []}, {"scales": [0.0]}, {"window": [16, 64]}, {"overlap": 1.0}]
)
def test_a_bad_option_is_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Inference(**options)
