"""Drawings: colors in the right places, readable legends, the image itself unchanged."""

import numpy as np
import pytest
from PIL import ImageFont

from engine.data.class_map import ClassMap
from seg.data.cityscapes import CITYSCAPES_CLASSES
from seg.drawing import colorize, overlay, present_classes, with_legend

CLASSES = ClassMap(names=("road", "sky", "car"), colors=((128, 64, 128), (70, 130, 180), (0, 0, 142)))
LABELS = np.array([[0, 1, 2], [255, 2, 2]], np.uint8)


def test_colorize_gives_each_class_its_color_and_black_for_the_rest():
    colored = colorize(LABELS, CLASSES)
    assert colored.dtype == np.uint8
    assert colored[0].tolist() == [[128, 64, 128], [70, 130, 180], [0, 0, 142]]
    assert colored[1, 0].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(colorize(LABELS.astype(np.int64), CLASSES), colored)


def test_overlay_mixes_and_leaves_ignored_pixels_alone():
    image = np.full((2, 3, 3), 200, np.uint8)
    mixed = overlay(image, LABELS, CLASSES, alpha=0.25)
    assert mixed[0, 0].tolist() == [182, 166, 182]
    assert mixed[1, 0].tolist() == [200, 200, 200]
    np.testing.assert_array_equal(overlay(image, LABELS, CLASSES, alpha=0), image)
    full = overlay(image, LABELS, CLASSES, alpha=1)
    np.testing.assert_array_equal(full[0], colorize(LABELS, CLASSES)[0])
    with pytest.raises(ValueError, match="same"):
        overlay(image[:1], LABELS, CLASSES)
    with pytest.raises(ValueError, match="alpha"):
        overlay(image, LABELS, CLASSES, alpha=50)


def test_present_classes_are_sorted_by_area():
    assert present_classes(LABELS, CLASSES) == [2, 0, 1]
    assert present_classes(np.full((2, 2), 255, np.uint8), CLASSES) == []


@pytest.mark.parametrize("width", [200, 480, 1024, 2048])
def test_the_legend_shows_every_swatch_below_an_unchanged_image(width):
    image = np.full((100, width, 3), 7, np.uint8)
    result = with_legend(image, CITYSCAPES_CLASSES)
    np.testing.assert_array_equal(result[:100], image)
    assert result.shape[1] == width
    strip = result[100:].reshape(-1, 3)
    for color in CITYSCAPES_CLASSES.colors:
        assert (strip == color).all(1).sum() >= 100  # a swatch of at least 10 x 10 pixels
    dark = (result[100:] < 80).all(2)  # lettering
    assert dark.any()
    assert not dark[:, -1].any()  # and none of it runs past the border
    assert not dark[-1].any()


def test_the_legend_names_only_present_classes():
    image = np.zeros((20, 300, 3), np.uint8)
    strip = with_legend(image, CITYSCAPES_CLASSES, [13]).reshape(-1, 3)
    assert (strip == CITYSCAPES_CLASSES.colors[13]).all(1).any()
    assert not (strip == CITYSCAPES_CLASSES.colors[0]).all(1).any()
    np.testing.assert_array_equal(with_legend(image, CITYSCAPES_CLASSES, []), image)


def test_long_names_are_cut_to_the_image(monkeypatch):
    classes = ClassMap(names=("a name that is far too long for an image of this width", "b"))
    written = []
    original = ImageFont.FreeTypeFont.getmask2
    monkeypatch.setattr(
        ImageFont.FreeTypeFont,
        "getmask2",
        lambda self, text, *a, **k: written.append(text) or original(self, text, *a, **k),
    )
    result = with_legend(np.zeros((10, 200, 3), np.uint8), classes)
    assert (result[10:, -4:] == 250).all()  # nothing runs into the margin
    assert written[0].endswith("…")
    assert written[0][:6] == "a name"
