"""`task.loss.class_weights=auto`: counted pixels, and the formula of ENet worked out by hand."""

import numpy as np
import pytest

from engine.data.class_map import ClassMap
from engine.data.images import write_png
from engine.errors import UserError
from engine.io.files import pack_paths
from seg.data.class_weights import class_weights, enet_weights, pixel_counts
from seg.data.dataset import LabelReader, SegmentationSource, SegmentationSplit
from tests.refusals import refuses

CLASSES = ClassMap(names=("road", "car", "rider"), ignore=(9,))
CONFIG = {"data": {"workers": 0, "on_error": "fail"}}


def make_source(folder, masks, splits=("train",)):
    """A source whose train masks are these arrays; the images do not exist."""
    files = []
    for number, mask in enumerate(masks):
        files.append(str(folder / f"{number}.png"))
        if mask is not None:
            write_png(files[-1], np.asarray(mask, np.uint8))
    packed = pack_paths(files)
    split = SegmentationSplit(images=packed, names=packed, labels=packed)
    reader = LabelReader(classes=CLASSES, remedy="check the ids")
    return SegmentationSource(
        classes=CLASSES, splits=dict.fromkeys(splits, split), read_label=reader, description="here"
    )


def test_the_formula():
    # 1 / ln(1.02 + p) for p = 0.5, 0.48 and 0.02: 1/ln(1.52), 1/ln(1.5) and 1/ln(1.04).
    assert enet_weights(np.array([50, 48, 2])) == [2.3883, 2.4663, 25.4967]
    # The bounds: a class with all pixels, and one with next to none; a class without pixels gets 1.
    assert enet_weights(np.array([10**9, 1, 0])) == [1.4223, 50.4983, 1.0]


def test_pixels_of_all_masks_are_counted_without_ignored_ones(tmp_path):
    masks = [[[0, 0, 1, 9]], [[0, 1, 1, 1], [2, 9, 9, 9]]]
    source = make_source(tmp_path, masks)
    counts, number = pixel_counts(source.dataset("train", None).masks())
    assert (counts[:3].tolist(), int(counts[255]), int(counts.sum()), number) == ([3, 4, 1], 4, 12, 2)
    choice = class_weights(source, CONFIG)
    # Shares of 3/8, 4/8 and 1/8: ignored pixels do not count.
    assert choice.value == [pytest.approx(1 / np.log(1.02 + p), abs=1e-4) for p in (3 / 8, 4 / 8, 1 / 8)]
    assert choice.reason == (
        "1 / ln(1.02 + share of the pixels), from 2 training masks; the rarest class, rider, has 12.50%"
    )
    assert all(type(weight) is float for weight in choice.value)


def test_workers_count_the_same(tmp_path):
    masks = np.random.default_rng(0).integers(0, 3, (9, 5, 7), dtype=np.uint8)
    found = make_source(tmp_path, masks).dataset("train", None).masks()
    assert pixel_counts(found)[0].tolist() == pixel_counts(found, workers=2)[0].tolist()


def test_many_masks_are_sampled(tmp_path, monkeypatch):
    monkeypatch.setattr("seg.data.class_weights._MOST_MASKS", 3)
    masks = [np.full((1, 2), number % 2, np.uint8) for number in range(9)]
    counts, number = pixel_counts(make_source(tmp_path, masks).dataset("train", None).masks())
    assert (counts[:2].tolist(), number) == ([6, 0], 3)  # masks 0, 4 and 8


def test_damaged_masks(tmp_path):
    source = make_source(tmp_path, [[[0, 1]], None, [[1, 1]]])
    refuses(lambda: class_weights(source, CONFIG), r"1\.png")
    skipping = {"data": {**CONFIG["data"], "on_error": "skip"}}
    assert class_weights(source, skipping).value[:2] == enet_weights(np.array([1, 3]))


def test_splits_without_labels(tmp_path):
    source = make_source(tmp_path, [[[9]]])
    refuses(lambda: class_weights(source, CONFIG), "class_weights=auto", "no training mask")
    with pytest.raises(UserError, match="no split 'train'"):
        class_weights(make_source(tmp_path, [[[0]]], splits=("val",)), CONFIG)
