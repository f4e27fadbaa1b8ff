"""`data.size=auto`: the smallest input at which few objects are tiny, worked out by hand."""

import numpy as np
import pytest

from det.anchors.input_size import choose_size, input_size, median_aspect, relative_sides
from tests.det.eval.scenes import annotate
from tests.refusals import refuses


class Source:
    """A source whose training split is `split`."""

    def __init__(self, split):
        self.split = split

    def dataset(self, name, transform):
        assert name == "train"
        return self


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (100, (320, 320)),  # already 32 pixels at 320: the smallest size
        (25, (320, 320)),  # 25 of 1000 pixels are exactly 8 at 320
        (24, (352, 352)),  # 7.68 at 320, 8.45 at 352
        (13, (640, 640)),  # 7.9 at 608, 8.32 at 640
        (5, (640, 640)),  # 3.2 even at the largest
    ],
)
def test_the_smallest_size_at_which_objects_have_8_pixels(pixels, expected):
    height, width, share = choose_size(np.full(20, pixels / 1000), aspect=1.0)
    assert (height, width) == expected
    assert share == (0.0 if pixels == 5 else 1.0)


def test_one_in_twenty_objects_may_be_tiny():
    sides = np.array([0.1] * 95 + [0.001] * 5)
    assert choose_size(sides, aspect=1.0) == (320, 320, 0.95)
    assert choose_size(np.append(sides, 0.001), aspect=1.0)[:2] == (640, 640)


@pytest.mark.parametrize(
    ("aspect", "expected"),
    # 320 * sqrt(aspect) and 320 / sqrt(aspect), to the nearest multiple of 32.
    [(0.5, (224, 448)), (0.75, (288, 384)), (9 / 16, (256, 416)), (1.0, (320, 320)), (2.0, (448, 224))],
)
def test_the_aspect_ratio_of_the_images_is_kept(aspect, expected):
    assert choose_size(np.full(3, 0.5), aspect=aspect)[:2] == expected


def test_sides_are_relative_to_the_image():
    # 480 x 640: a box of 48 x 64 has a hundredth of its area, so a tenth of its side. Ignored boxes do not
    # count, nor do empty ones.
    boxes = [[[0, 0, 64, 48], [0, 0, 640, 480]], [], [[5, 5, 9, 9], [7, 7, 7, 9]]]
    split = annotate(
        boxes, [[0, 0], [], [0, 0]], difficult=np.array([False, False, True, False]), size=(480, 640)
    )
    assert relative_sides(split) == pytest.approx([0.1, 1.0])
    assert median_aspect(split) == 0.75


def test_the_choice_and_its_reason():
    split = annotate([[[0, 0, 16, 12]] * 3 + [[0, 0, 320, 240]] * 57], [[0] * 60], size=(480, 640))
    choice = input_size(Source(split), {})
    assert choice.value == [288, 384]
    assert choice.reason == "0.0% of 60 training objects are smaller than 8 pixels, at most 5% are allowed"
    small = annotate([[[0, 0, 3, 2]] * 60], [[0] * 60], size=(480, 640))
    assert "100.0% of 60 training objects are smaller" in input_size(Source(small), {}).reason
    assert "tiles" in input_size(Source(small), {}).reason


def test_without_objects_there_is_nothing_to_choose_from():
    refuses(lambda: input_size(Source(annotate([[]], [[]])), {}), "data.size=auto", r"data.size=\[320,320\]")
