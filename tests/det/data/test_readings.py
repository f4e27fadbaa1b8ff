"""Boxes in another convention than the format's are noticed."""

import numpy as np
import pytest

from det.data.readings import doubts

SIZES = np.array([[40, 60]] * 4)
CORNERS = np.array([[30, 10, 50, 30], [5, 5, 20, 35], [40, 20, 59, 39], [10, 20, 40, 30]], np.float64)
SIDES = np.array([[30, 10, 20, 20], [5, 5, 15, 30], [40, 20, 19, 19], [10, 20, 30, 10]], np.float64)


def centered(numbers):
    """Boxes of (center x, center y, width, height)."""
    return np.hstack([numbers[:, :2] - numbers[:, 2:] / 2, numbers[:, :2] + numbers[:, 2:] / 2])


def centered_numbers(corners):
    """Center x, center y, width, height of boxes."""
    return np.hstack([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]])


def from_corner(numbers):
    """Boxes of (x, y, width, height)."""
    return np.hstack([numbers[:, :2], numbers[:, :2] + numbers[:, 2:]])


@pytest.mark.parametrize(
    ("boxes", "format_name", "line"),
    [
        (
            # Read as x, y, width, height, the first three end at x = 80 and 99 or y = 40, 40 and 59.
            np.hstack([CORNERS[:, :2], CORNERS[:, :2] + CORNERS[:, 2:]]),
            "coco",
            "3 of 4 boxes do not fit their images as x, y, width, height, but all fit as x1, y1, x2, y2; if "
            "that is what they are, write x2 - x1 and y2 - y1 as the last two numbers of bbox",
        ),
        (
            SIDES,  # 30 > 20, 40 > 19, 20 > 10
            "voc",
            "3 of 4 boxes do not fit their images as xmin, ymin, xmax, ymax, but all fit as x, y, "
            "width, height; if that is what they are, write x + width and y + height into xmax and ymax",
        ),
        (
            centered(CORNERS),
            "yolo",
            "4 of 4 boxes do not fit their images as center x, center y, width, height, but all fit as "
            "x1, y1, x2, y2; if that is what they are, convert the rows to centers and sides",
        ),
        (
            centered(np.array([[30, 2, 20, 36], [40, 1, 20, 30], [20, 0, 40, 40]], np.float64)),
            "yolo",
            "3 of 3 boxes do not fit their images as center x, center y, width, height, but all fit as "
            "left, top, width, height; if that is what they are, add half of the width and height to left "
            "and top",
        ),
        (
            # The numbers are center x, center y, width, height; the format's reading adds the last two.
            np.hstack([centers := centered_numbers(CORNERS), centers[:, :2] + centers[:, 2:]])[
                :, [0, 1, 4, 5]
            ],
            "coco",
            "2 of 4 boxes do not fit their images as x, y, width, height, but all fit as center x, center y, "
            "width, height; if that is what they are, subtract half of the width and height from the first "
            "two numbers of bbox",
        ),
        (
            centered_numbers(CORNERS),
            "voc",
            "3 of 4 boxes do not fit their images as xmin, ymin, xmax, ymax, but all fit as center x, "
            "center y, width, height; if that is what they are, write center minus and plus half of the "
            "width and height",
        ),
        (
            CORNERS[:, [1, 0, 3, 2]],
            "voc",
            "2 of 4 boxes do not fit their images as xmin, ymin, xmax, ymax, but all fit as y1, x1, y2, x2; "
            "if that is what they are, exchange x and y",
        ),
        (
            from_corner(CORNERS[:, [1, 0, 3, 2]]),  # only the second ends inside: at (40, 25)
            "coco",
            "3 of 4 boxes do not fit their images as x, y, width, height, but all fit as y1, x1, y2, x2; if "
            "that is what they are, write x1, y1, x2 - x1, y2 - y1",
        ),
        (
            SIDES,
            "cvat",
            "3 of 4 boxes do not fit their images as xtl, ytl, xbr, ybr, but all fit as x, y, width, height; "
            "if that is what they are, write x + width and y + height into xbr and ybr",
        ),
        (
            CORNERS[
                :, [1, 0, 3, 2]
            ],  # the first, third and fourth end at y = 50, 59 and 40 (beginning at 10)
            "labelme",
            "2 of 4 boxes do not fit their images as points of x, y, but all fit as points of y, x; if that "
            "is what they are, exchange x and y",
        ),
        (
            CORNERS / 60,
            "voc",
            "all boxes (4) lie within two pixels of the corner: they may be fractions; if "
            "that is so, multiply them by the width and height of their image",
        ),
    ],
)
def test_another_convention_is_noticed(boxes, format_name, line):
    assert doubts(boxes, SIZES[: len(boxes)], format_name) == [line]


@pytest.mark.parametrize("format_name", ["coco", "voc", "cvat", "labelme", "yolo", ""])
def test_right_boxes_are_not_doubted(format_name):
    assert doubts(CORNERS, SIZES, format_name) == []
    assert doubts(CORNERS[:0], SIZES[:0], format_name) == []
    over = CORNERS + np.array([0, 0, 0, 15])  # over the lower edge, but they fit no other reading
    assert doubts(over, SIZES, format_name) == []
    assert doubts(np.full((4, 4), np.nan), SIZES, format_name) == []
    assert doubts(CORNERS, SIZES * 0, format_name) == []


@pytest.mark.parametrize("format_name", ["coco", "voc", ""])
def test_boxes_of_larger_copies_of_the_images_are_noticed(format_name):
    # Three times as large, only (15, 15, 60, 105) begins in its image of 60 x 40 pixels.
    assert doubts(3 * CORNERS, SIZES, format_name) == [
        "3 of 4 boxes are entirely outside their images: they may be for larger copies of the images; if "
        "that is so, scale the boxes to these images"
    ]
    few = np.repeat(CORNERS, 5, axis=0)
    few[0] = [60, 0, 70, 10]  # one of 20
    assert doubts(few, np.repeat(SIZES, 5, axis=0), format_name) == []


@pytest.mark.parametrize("format_name", ["coco", "voc"])
def test_percentages_in_large_images_are_noticed(format_name):
    boxes = np.array([[9.0 * i, 5.0 * i, 9.0 * i + 10, 5.0 * i + 30] for i in range(10)])  # up to 91 and 75
    sizes = np.array([[600, 800]] * 10)
    assert doubts(boxes, sizes, format_name) == [
        "all boxes (10) lie within 100 pixels of the corner: they may be percentages; if that is so, "
        "divide them by 100 and multiply them by the width and height of their image"
    ]
    assert doubts(boxes[:9], sizes[:9], format_name) == []
    assert doubts(boxes, sizes // 4, format_name) == []  # 150 x 200 pixels
    assert doubts(boxes * 2, sizes, format_name) == []
    assert doubts(boxes / 2, sizes, format_name) == []  # near the corner
