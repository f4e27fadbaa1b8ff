"""Boxes are drawn in the right place, and their names are readable."""

import numpy as np
import pytest
from PIL import ImageFont

from det.drawing import overlay
from engine.data.class_map import ClassMap
from tests.det.eval.scenes import CLASSES, detections

COLORS = [np.array(color) for color in CLASSES.colors]


def gray(height, width):
    return np.full((height, width, 3), 128, np.uint8)


def close(drawing, color):
    return (np.abs(drawing.astype(int) - color) < 20).all(axis=-1)


@pytest.fixture
def written(monkeypatch):
    """The texts that were drawn."""
    texts = []
    original = ImageFont.FreeTypeFont.getmask2
    monkeypatch.setattr(
        ImageFont.FreeTypeFont,
        "getmask2",
        lambda self, text, *a, **k: texts.append(text) or original(self, text, *a, **k),
    )
    return texts


@pytest.mark.parametrize("size", [(96, 128), (480, 640), (1024, 2048)])
def test_a_box_is_drawn_on_its_sides_only(size):
    image = gray(*size)
    top, left, bottom, right = (round(f * s) for f, s in zip((0.3, 0.2, 0.8, 0.7), size * 2, strict=True))
    drawing = overlay(image, detections([[left, top, right, bottom]], [0.9], [1]), CLASSES, names=False)
    assert (image == 128).all()  # the image itself is unchanged
    painted = close(drawing, COLORS[1])
    middle = (top + bottom) // 2, (left + right) // 2
    for row, column in ((top, middle[1]), (bottom, middle[1]), (middle[0], left), (middle[0], right)):
        assert painted[row, column]
    changed = np.argwhere((drawing != 128).any(axis=-1))
    slack = 2 + round(min(size) / 240)
    np.testing.assert_allclose(changed.min(0), (top, left), atol=slack)
    np.testing.assert_allclose(changed.max(0), (bottom, right), atol=slack)
    inner = slice(top + slack, bottom - slack), slice(left + slack, right - slack)
    assert (drawing[inner] == 128).all()
    thickness = int(painted[top - slack : top + slack + 1, middle[1]].sum())
    assert thickness - max(1, round(min(size) / 240)) in (0, 1)  # OpenCV rounds even widths up


def test_lines_are_anti_aliased():
    drawing = overlay(gray(60, 60), detections([[10.5, 10.5, 40.25, 40.5]], [1], [0]), CLASSES, names=False)
    column = drawing[5:16, 25].astype(int)
    partly = (np.abs(column - 128).max(1) > 8) & (np.abs(column - COLORS[0]).max(1) > 8)
    assert partly.any()


def test_threshold_names_and_scores(written):
    several = detections(
        [[40, 40, 90, 90], [150, 50, 250, 160], [10, 120, 60, 170]], [0.9, 0.5, 0.3], [0, 1, 2]
    )
    overlay(gray(200, 300), several, CLASSES, threshold=0.5)
    assert written == ["dog 0.90", "car 0.50"]
    written.clear()
    overlay(gray(200, 300), several, CLASSES, threshold=0.95)
    overlay(gray(200, 300), several, CLASSES, names=False)
    assert written == []
    overlay(gray(200, 300), several, CLASSES, scores=False)
    assert written == ["dog", "car", "person"]


def test_the_highest_score_is_on_top():
    box = [[20, 20, 80, 80]] * 2
    for scores, top in (((0.9, 0.4), 0), ((0.4, 0.9), 1)):
        drawing = overlay(gray(100, 100), detections(box, scores, [0, 1]), CLASSES, names=False)
        assert close(drawing[50, 20], COLORS[top])


@pytest.mark.parametrize("size", [(64, 64), (240, 320), (1200, 1600)])
@pytest.mark.parametrize("place", [(0, 0, 0.3, 0.3), (0.7, 0.7, 1, 1), (0, 0, 1, 1), (0.4, 0.0, 0.6, 0.1)])
def test_the_plate_of_a_name_is_inside_the_image(size, place):
    box = np.array(place) * np.tile(size[::-1], 2)
    drawing = overlay(gray(*size), detections([box], [0.87], [0]), CLASSES)
    bare = overlay(gray(*size), detections([box], [0.87], [0]), CLASSES, names=False)
    plate = np.argwhere((drawing != bare).any(axis=-1))
    height, width = plate.max(0) - plate.min(0) + 1
    letters = np.clip(min(size) / 30, 11, 40)
    assert letters <= height <= 2 * letters + 8  # a whole plate with readable letters
    assert width > 2 * letters
    region = drawing[tuple(slice(a, b + 1) for a, b in zip(plate.min(0), plate.max(0), strict=True))]
    assert close(region, COLORS[0]).mean() > 0.4
    contrast = np.abs(region.astype(int).mean(-1) - COLORS[0].mean()).max()
    assert contrast > 60  # ink that is visible on its plate


def test_names_of_neighbors_do_not_cover_each_other(written):
    """Three boxes at nearly the same place: three plates, each fully visible."""
    boxes = [[60, 80, 200, 180], [62, 82, 202, 182], [64, 84, 204, 184]]
    drawing = overlay(gray(240, 320), detections(boxes, [0.9, 0.8, 0.7], [0, 1, 2]), CLASSES)
    assert len(written) == 3
    bare = overlay(gray(240, 320), detections(boxes, [0.9, 0.8, 0.7], [0, 1, 2]), CLASSES, names=False)
    changed = (drawing != bare).any(axis=-1)
    areas = [(close(drawing, color) & changed).sum() for color in COLORS[:3]]
    assert min(areas) > 0.5 * max(areas)


def test_a_name_without_space_is_left_out_but_its_box_is_drawn(written):
    boxes = [[5, 5, 60, 40]] * 12
    labels = [0] * 11 + [1]
    scores = [0.9] * 11 + [0.1]
    drawing = overlay(gray(48, 64), detections(boxes, scores, labels), CLASSES)
    assert 1 <= len(written) < 6
    assert "car 0.10" not in written
    assert close(drawing, COLORS[0]).any()


def test_boxes_over_the_edge_and_no_boxes():
    image = gray(100, 120)
    drawing = overlay(image, detections([[-30, -20, 500, 400]], [1], [0]), CLASSES, names=False)
    assert close(drawing[0, 60], COLORS[0])
    assert close(drawing[50, 119], COLORS[0])
    np.testing.assert_array_equal(overlay(image, detections([], [], []), CLASSES), image)
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.3"):
        overlay(image, detections([[1, 1, 5, 5]], [1], [4]), CLASSES)


def test_a_name_does_not_cover_small_objects():
    """A 12 x 12 object above a large one, where the name of the large one would be."""
    image = gray(240, 320)
    small, large = [60, 84, 72, 96], [60, 100, 200, 220]
    for order in ((0.9, 0.8), (0.8, 0.9)):
        drawing = overlay(image, detections([small, large], order, [0, 1]), CLASSES)
        inside = drawing[87:94, 63:70]
        assert (inside == 128).all()


def test_pale_and_dark_boxes_are_visible_on_their_own_color():
    for color, ground in (((255, 255, 240), 255), ((255, 255, 120), 255), ((0, 0, 10), 0)):
        classes = ClassMap(names=("thing",), colors=(color,))
        image = np.full((120, 160, 3), ground, np.uint8)
        drawing = overlay(image, detections([[30, 30, 100, 90]], [0.9], [0]), classes, names=False)
        difference = np.abs(drawing.astype(int).mean(-1) - ground)
        assert difference[60, 26:35].max() > 150  # across the left side


def test_letters_grow_with_the_image():
    plates = []
    for size in ((300, 400), (3000, 4000)):
        box = [np.array([100, 100, 300, 250]) * size[0] / 300]
        named = overlay(gray(*size), detections(box, [0.9], [0]), CLASSES)
        bare = overlay(gray(*size), detections(box, [0.9], [0]), CLASSES, names=False)
        rows = np.flatnonzero((named != bare).any(axis=(1, 2)))
        plates.append((rows[-1] - rows[0] + 1) / size[0])
    assert plates[1] > 0.7 * plates[0]
