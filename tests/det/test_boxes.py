"""Boxes: overlaps and encoding by hand, and equal to torchvision's."""

import math

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from det.boxes import (
    BoxCoder,
    DistanceCoder,
    areas,
    clip,
    mean_distances,
    pairwise_iou,
    to_fractions,
    to_pixels,
)
from tests.det.panlite.logits import distance_logits


def random_boxes(count, seed, size=1.0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * size
    return torch.cat([corner, corner + size * (0.05 + torch.rand(count, 2, generator=generator))], dim=1)


def test_encoding_by_hand():
    anchor = torch.tensor([[10.0, 20.0, 30.0, 60.0]])  # center (20, 40), 20 wide, 40 high
    box = torch.tensor([[15.0, 30.0, 35.0, 50.0]])  # center (25, 40), 20 wide, 20 high
    expected = torch.tensor([[10 * 5 / 20, 0.0, 0.0, 5 * math.log(0.5)]])
    torch.testing.assert_close(BoxCoder().encode(box, anchor), expected)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([1.0, 320.0]))
def test_decoding_undoes_encoding(seed, size):
    boxes, anchors = random_boxes(20, seed, size), random_boxes(20, seed + 1, size)
    coder = BoxCoder()
    torch.testing.assert_close(
        coder.decode(coder.encode(boxes, anchors), anchors), boxes, atol=1e-5 * size, rtol=1e-4
    )


def test_encoding_equals_torchvision():
    theirs = torchvision.models.detection._utils.BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
    boxes, anchors = random_boxes(50, 0), random_boxes(50, 1)
    torch.testing.assert_close(BoxCoder().encode(boxes, anchors), theirs.encode_single(boxes, anchors))
    deltas = (
        torch.randn(50, 4, generator=torch.Generator().manual_seed(2)) * 20
    )  # past the cut of log(w / wa)
    torch.testing.assert_close(BoxCoder().decode(deltas, anchors), theirs.decode_single(deltas, anchors))


def test_decoding_by_hand():
    """Shifts of half a width and a quarter of a height; twice as wide and half as high."""
    anchor = torch.tensor([[10.0, 20.0, 30.0, 60.0]])  # center (20, 40), 20 wide, 40 high
    deltas = torch.tensor([[10 * 0.5, 10 * -0.25, 5 * math.log(2), 5 * math.log(0.5)]])
    expected = torch.tensor([[30.0 - 20, 30.0 - 10, 30.0 + 20, 30.0 + 10]])
    torch.testing.assert_close(BoxCoder().decode(deltas, anchor), expected)
    scaled = BoxCoder(scales=(1, 2, 4, 8))
    deltas = torch.tensor([[0.5, 2 * -0.25, 4 * math.log(2), 8 * math.log(0.5)]])
    torch.testing.assert_close(scaled.decode(deltas, anchor), expected)
    torch.testing.assert_close(scaled.encode(expected, anchor), deltas)


def test_a_decoded_side_is_at_most_1000_16ths_of_the_anchor_s():
    anchor, deltas = torch.tensor([[0.0, 0.0, 16.0, 32.0]]), torch.tensor([[0.0, 0.0, 99.0, 99.0]])
    left, top, right, bottom = BoxCoder().decode(deltas, anchor)[0].tolist()
    assert (right - left, bottom - top) == pytest.approx((1000, 2000))
    left, _, right, _ = BoxCoder(max_log_ratio=math.log(3)).decode(deltas, anchor)[0].tolist()
    assert right - left == pytest.approx(48)
    assert BoxCoder().decode(deltas.double(), anchor.double()).dtype == torch.float64


def test_anchors_broadcast_over_a_batch():
    anchors, deltas = random_boxes(7, 0), torch.randn(3, 7, 4)
    batch = BoxCoder().decode(deltas, anchors)
    torch.testing.assert_close(batch[2], BoxCoder().decode(deltas[2], anchors))


def test_decoding_does_not_overflow():
    wild = torch.full((1, 4), 1e4)
    anchor = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    assert BoxCoder().decode(wild, anchor).isfinite().all()
    assert not BoxCoder(max_log_ratio=None).decode(wild, anchor).isfinite().all()


@pytest.mark.parametrize("scales", [(10, 10, 5), (10, 10, 5, 0), (10, 10, -5, 5)])
def test_scales_must_be_four_positive_numbers(scales):
    with pytest.raises(ValueError, match="four positive"):
        BoxCoder(scales=scales)


def test_iou_by_hand():
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0], [5.0, 5.0, 5.0, 5.0]])
    b = torch.tensor([[1.0, 0.0, 3.0, 2.0], [0.0, 0.0, 2.0, 2.0], [8.0, 8.0, 9.0, 9.0], [5.0, 5.0, 5.0, 5.0]])
    torch.testing.assert_close(pairwise_iou(a, b), torch.tensor([[1 / 3, 1.0, 0.0, 0.0], [0.0] * 4]))


def test_iou_equals_torchvision():
    a, b = random_boxes(40, 3), random_boxes(30, 4)
    torch.testing.assert_close(pairwise_iou(a, b), torchvision.ops.box_iou(a, b))


@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0), (0, 0)])
def test_iou_without_boxes(n, m):
    assert pairwise_iou(torch.zeros(n, 4), torch.zeros(m, 4)).shape == (n, m)


def test_clipping_does_not_exchange_height_and_width():
    box = torch.tensor([[-5.0, -5.0, 500.0, 500.0]])
    assert clip(box, (100, 300)).tolist() == [[0.0, 0.0, 300.0, 100.0]]
    inside = torch.tensor([[1.0, 2.0, 30.0, 40.0], [400.0, 400.0, -1.0, -1.0]])
    assert clip(inside, (100, 300)).tolist() == [[1.0, 2.0, 30.0, 40.0], [300.0, 100.0, 0.0, 0.0]]


def test_fractions_and_pixels():
    box = torch.tensor([[30.0, 10.0, 150.0, 50.0]])
    assert to_fractions(box, (100, 300)).tolist() == [pytest.approx([0.1, 0.1, 0.5, 0.5])]
    torch.testing.assert_close(to_pixels(to_fractions(box, (100, 300)), (100, 300)), box)


def test_a_box_with_swapped_corners_has_no_area():
    assert areas(torch.tensor([[3.0, 0.0, 1.0, 2.0], [0.0, 0.0, 2.0, 3.0]])).tolist() == [0.0, 6.0]
    assert areas(torch.tensor([[3.0, 5.0, 1.0, 2.0], [1.0, 1.0, 1.5, 1.5]])).tolist() == [0.0, 0.25]


def test_areas_of_any_number_of_dimensions():
    boxes = torch.tensor([[[0.0, 0.0, 2.0, 3.0], [1.0, 1.0, 2.0, 5.0]]])
    assert areas(boxes).tolist() == [[6.0, 4.0]]
    assert areas(boxes[0, 1]).item() == 4.0


def test_boxes_that_touch_or_are_apart_in_both_directions_do_not_overlap():
    """Apart in x and in y: two negative sides must not multiply to an overlap."""
    one = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    others = torch.tensor(
        [[1.0, 0.0, 2.0, 1.0], [3.0, 3.0, 4.0, 4.0], [0.0, 3.0, 1.0, 4.0], [0.5, 0.5, 1, 1]]
    )
    assert pairwise_iou(one, others).tolist() == [[0.0, 0.0, 0.0, 0.25]]
    assert pairwise_iou(others, one)[:, 0].tolist() == [0.0, 0.0, 0.0, 0.25]


def test_distances_by_hand():
    """A cell of 20 x 40 with the center (20, 40); the sides are 5, 10, 15 and 10 pixels away."""
    cell = torch.tensor([[10.0, 20.0, 30.0, 60.0]])
    box = torch.tensor([[15.0, 30.0, 35.0, 50.0]])
    expected = torch.tensor([[0.25, 0.25, 0.75, 0.25]])
    torch.testing.assert_close(DistanceCoder().encode(box, cell), expected)
    beside = torch.tensor([[22.0, 30.0, 35.0, 50.0]])
    assert DistanceCoder().encode(beside, cell)[0, 0].item() == pytest.approx(-0.1)


def test_the_mean_of_a_distribution_is_the_distance():
    """Three bins; shares of 1/2, 1/4, 1/4 for left, all in the last for top, uniform for the others."""
    logits = torch.zeros(1, 12)
    logits[0, 0] = math.log(2)
    logits[0, 5] = 99.0
    torch.testing.assert_close(mean_distances(logits), torch.tensor([[0.75, 2.0, 1.0, 1.0]]))
    cell = torch.tensor([[10.0, 20.0, 30.0, 60.0]])  # center (20, 40), 20 wide, 40 high
    expected = torch.tensor([[20 - 15.0, 40 - 80.0, 20 + 20.0, 40 + 40.0]])
    torch.testing.assert_close(DistanceCoder().decode(logits, cell), expected)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), bins=st.integers(2, 20))
def test_decoding_undoes_encoding_of_distances(seed, bins):
    distances = torch.rand(20, 4, generator=torch.Generator().manual_seed(seed)) * (bins - 1)
    anchors, coder = random_boxes(20, seed + 1), DistanceCoder()
    boxes = coder.decode(distance_logits(distances, bins), anchors)
    torch.testing.assert_close(coder.encode(boxes, anchors), distances, atol=1e-3, rtol=1e-3)


def test_distances_are_computed_in_float32_under_autocast():
    logits = 3 * torch.randn(5, 4 * 16, generator=torch.Generator().manual_seed(0))
    expected = mean_distances(logits)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mean_distances(logits), expected)
