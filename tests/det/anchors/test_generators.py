"""Anchors: the released configuration's numbers, rectangular inputs, and torchvision's generator."""

import math

import pytest
import torch
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

from det.anchors.generators import Cells, DefaultBoxes, SSDAnchors, even_scales

MAPS = [(20, 20), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)]  # of a 320x320 input


def sides(anchors, size=(1.0, 1.0)):
    height, width = size
    return ((anchors[:, 2:] - anchors[:, :2]) * torch.tensor([width, height])).tolist()


def test_there_are_as_many_as_the_released_graph_stores():
    generator = SSDAnchors()
    assert generator.per_cell == (3, 6, 6, 6, 6, 6)
    anchors = generator(MAPS, (320, 320))
    assert anchors.shape == (2034, 4)
    assert anchors.dtype == torch.float32


def test_first_map_has_the_three_boxes_of_the_reduced_layer():
    anchors = SSDAnchors()(MAPS, (320, 320))
    wide = 0.2 * math.sqrt(2)
    expected = [(0.1, 0.1), (wide, wide / 2), (wide / 2, wide)]
    assert sides(anchors[:3]) == [pytest.approx(box, abs=1e-6) for box in expected]
    centers = (anchors[:9:3, :2] + anchors[:9:3, 2:]) / 2
    torch.testing.assert_close(centers, torch.tensor([[0.025, 0.025], [0.075, 0.025], [0.125, 0.025]]))


def test_second_map_by_hand():
    cell = SSDAnchors()(MAPS, (320, 320))[1200:1206]
    between = math.sqrt(0.35 * 0.5)
    expected = [
        (0.35, 0.35),
        (0.35 * math.sqrt(2), 0.35 / math.sqrt(2)),
        (0.35 / math.sqrt(2), 0.35 * math.sqrt(2)),
        (0.35 * math.sqrt(3), 0.35 / math.sqrt(3)),
        (0.35 * math.sqrt(0.3333), 0.35 / math.sqrt(0.3333)),
        (between, between),
    ]
    assert sides(cell) == [pytest.approx(box, abs=1e-6) for box in expected]


def test_the_last_scale_is_interpolated_with_one():
    *_, last = sides(SSDAnchors()(MAPS, (320, 320)))
    assert last == pytest.approx([math.sqrt(0.95)] * 2)


def test_rectangular_inputs_keep_the_shapes_of_boxes():
    maps = [(10, 40), (5, 20), (3, 10), (2, 5), (1, 3), (1, 2)]
    anchors = SSDAnchors()(maps, (160, 640))
    first = sides(anchors[:2], (160, 640))
    wide = 0.2 * math.sqrt(2) * 160  # scales are fractions of the shorter side
    assert first == [pytest.approx((16, 16)), pytest.approx((wide, wide / 2))]
    assert len(anchors) == 10 * 40 * 3 + 6 * (100 + 30 + 10 + 3 + 2)


def test_cells_are_ordered_by_rows():
    anchors = SSDAnchors(maps=1, reduce_lowest=False, ratios=[1.0], interpolated=False)([(2, 3)], (200, 300))
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2 * torch.tensor([6.0, 4.0])
    torch.testing.assert_close(centers, torch.tensor([[1, 1], [3, 1], [5, 1], [1, 3], [3, 3], [5, 3.0]]))


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize(
    ("size", "maps"), [((320, 320), MAPS), ((160, 320), [(5, 10), (3, 5)] + [(1, 2)] * 4)]
)
def test_default_boxes_are_torchvisions(size, maps, clip):
    theirs = DefaultBoxGenerator([[2, 3] for _ in range(6)], min_ratio=0.2, max_ratio=0.95, clip=clip)
    images = ImageList(torch.zeros(1, 3, *size), [size])
    (expected,) = theirs(images, [torch.zeros(1, 1, *each) for each in maps])
    ours = DefaultBoxes(clip=clip)
    assert list(ours.per_cell) == theirs.num_anchors_per_location()
    height, width = size
    anchors = ours(maps, size) * torch.tensor([width, height, width, height])
    torch.testing.assert_close(anchors, expected, atol=1e-4, rtol=0)


def test_another_number_of_maps_is_rejected():
    with pytest.raises(ValueError, match="6 feature maps, but the network has 2; set the anchors' maps"):
        SSDAnchors()([(4, 4), (2, 2)], (64, 64))


def test_scales_are_evenly_spaced():
    assert even_scales(4, 0.2, 0.8) == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert even_scales(3, 0.5, 0.5) == [0.5] * 3
    assert even_scales(1, 0.3, 0.9) == [0.3]
    for options in ((0, 0.2, 0.9), (3, 0.0, 0.9), (3, -0.1, 0.9), (3, 0.5, 0.4)):
        with pytest.raises(ValueError, match="0 < min_scale <= max_scale"):
            even_scales(*options)


def test_default_boxes_may_be_cut_at_the_size_of_the_image():
    (widest, *_), (whole, *_) = (
        sorted(sides(DefaultBoxes(clip=clip)(MAPS, (320, 320))), reverse=True) for clip in (True, False)
    )
    assert widest[0] == 1
    assert whole[0] == pytest.approx(0.95 * math.sqrt(3), abs=1e-6)
    assert sides(DefaultBoxes()(MAPS, (320, 320))) == sides(DefaultBoxes(clip=True)(MAPS, (320, 320)))


def test_options_change_the_boxes_of_a_cell():
    assert SSDAnchors(interpolated=False, reduce_lowest=False).per_cell == (5,) * 6
    assert SSDAnchors(reduce_lowest=False, ratios=[1.0]).per_cell == (2,) * 6
    assert SSDAnchors(maps=2).per_cell == (3, 6)
    assert DefaultBoxes(maps=2, ratios=[2.0]).per_cell == (4, 4)
    assert DefaultBoxes(ratios=[]).per_cell == (2,) * 6
    small = SSDAnchors(maps=1, min_scale=0.4, max_scale=0.4)([(1, 1)], (10, 10))
    assert sides(small)[1] == pytest.approx([0.4 * math.sqrt(2), 0.4 / math.sqrt(2)])


@pytest.mark.parametrize("generator", [SSDAnchors, DefaultBoxes])
@pytest.mark.parametrize("ratio", [0.0, -1.0])
def test_ratios_are_above_zero(generator, ratio):
    with pytest.raises(ValueError, match="ratios must be positive"):
        generator(ratios=[1.0, ratio])
    with pytest.raises(ValueError, match="ratios must be positive"):
        SSDAnchors(ratios=[])


@pytest.mark.parametrize("generator", [SSDAnchors, DefaultBoxes])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_scale": 0.9, "max_scale": 0.2}, "min_scale"),
        ({"maps": 0}, "map"),
        ({"ratios": [1.0, -2.0]}, "ratios"),
    ],
)
def test_options_out_of_range_are_rejected(generator, options, message):
    with pytest.raises(ValueError, match=message):
        generator(**options)


def test_cells_are_their_own_anchors():
    """Maps of 2 x 3 and 1 x 1 cells; each cell is a third of the width and half of the height."""
    cells = Cells(maps=2)([(2, 3), (1, 1)], (64, 96))
    assert Cells(maps=2).per_cell == (1, 1)
    expected = [[x / 3, y / 2, (x + 1) / 3, (y + 1) / 2] for y in range(2) for x in range(3)]
    torch.testing.assert_close(cells, torch.tensor([*expected, [0, 0, 1, 1]]))
    with pytest.raises(
        ValueError, match="cover 2 feature maps, but the network has 3; set the anchors' maps to 3"
    ):
        Cells(maps=2)([(2, 3), (1, 1), (1, 1)], (64, 96))
    with pytest.raises(ValueError, match="maps must be at least 1"):
        Cells(maps=0)
