"""Detection in tiles: what they cover, what is cut off at their edges, and what is found in them."""

import numpy as np
import pytest
import torch
from torch import nn

from deploy.export.kit import check_single_pass
from det.boxes import Detections
from det.inference.tiles import Part, Tiling
from det.postprocess import Postprocess
from det.task import Detection
from det.transforms import EvalTransform
from engine.data.class_map import ClassMap
from engine.data.loader import SampleKey, collate
from tests.det.data.small_splits import make_dataset, make_split
from tests.refusals import refuses


def detections(*rows):
    """Rows of (x1, y1, x2, y2, score, label)."""
    values = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Detections(values[:, :4], values[:, 4], values[:, 5].long())


def test_tiles_are_evenly_spaced_and_overlap_by_at_least_the_share():
    # 100 wide, tiles of 40, at least 10 in common: steps of at most 30, so three tiles, 30 apart.
    assert Tiling(tiles=[50, 40], with_whole=False).parts((50, 100)) == [
        Part(0, 0, 40, 50), Part(30, 0, 70, 50), Part(60, 0, 100, 50),
    ]  # fmt: skip
    # One pixel more needs a fourth: 61 / 3 apart.
    assert [part.left for part in Tiling(tiles=[50, 40], with_whole=False).parts((50, 101))] == [
        0,
        20,
        41,
        61,
    ]
    both = Tiling(tiles=60, overlap=0).parts((100, 130))
    assert both[0] == Part(0, 0, 130, 100)
    assert [(part.left, part.top) for part in both[1:]] == [
        (0, 0), (35, 0), (70, 0), (0, 40), (35, 40), (70, 40),
    ]  # fmt: skip
    assert {part.size for part in both[1:]} == {(60, 60)}


@pytest.mark.parametrize(("name", "value"), [("overlap", 0.5), ("with_whole", False)])
def test_options_of_tiles_without_tiles_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} has no effect without tiles; set inference.tiles too"):
        Tiling(**{name: value})


@pytest.mark.parametrize("tiles", [None, 200, [100, 130]])
def test_an_image_that_fits_into_a_tile_is_not_divided(tiles):
    for whole in (True, tiles is None):
        assert Tiling(tiles=tiles, with_whole=whole).parts((100, 130)) == [Part(0, 0, 130, 100)]


def test_boxes_are_moved_and_those_that_a_tile_has_cut_are_dropped():
    tiling = Tiling(tiles=[100, 100], overlap=0.5)
    assert tiling.parts((100, 150)) == [Part(0, 0, 150, 100), Part(0, 0, 100, 100), Part(50, 0, 150, 100)]
    found = [
        detections((20, 10, 140, 90, 0.8, 0)),  # larger than the overlap: complete in the whole image alone
        detections((20, 10, 100, 90, 0.9, 0), (0, 0, 10, 10, 0.7, 1)),  # the first is cut at the right
        detections((0, 10, 90, 90, 0.95, 0), (40, 40, 60, 60, 0.6, 1), (90, 0, 100, 9, 0.5, 1)),
    ]
    merged = tiling.merge(found, (100, 150), Postprocess())
    assert merged.boxes.tolist() == [[20, 10, 140, 90], [0, 0, 10, 10], [90, 40, 110, 60], [140, 0, 150, 9]]
    assert merged.scores.tolist() == pytest.approx([0.8, 0.7, 0.6, 0.5])
    assert merged.labels.tolist() == [0, 1, 1, 1]


def test_tiles_above_and_below_cut_boxes_too():
    """As above, with rows and columns swapped."""
    tiling = Tiling(tiles=[100, 100], overlap=0.5)
    assert tiling.parts((150, 100)) == [Part(0, 0, 100, 150), Part(0, 0, 100, 100), Part(0, 50, 100, 150)]
    found = [
        detections((10, 20, 90, 140, 0.8, 0)),
        detections((10, 20, 90, 100, 0.9, 0), (0, 0, 10, 10, 0.7, 1)),
        detections((10, 0, 90, 90, 0.95, 0), (40, 40, 60, 60, 0.6, 1), (0, 90, 9, 100, 0.5, 1)),
    ]
    merged = tiling.merge(found, (150, 100), Postprocess())
    assert merged.boxes.tolist() == [[10, 20, 90, 140], [0, 0, 10, 10], [40, 90, 60, 110], [0, 140, 9, 150]]


def test_a_box_at_the_edge_of_the_image_is_not_cut():
    """The best box of each corner remains, although a worse one, from the whole image, covers most of it."""
    tiling = Tiling(tiles=[100, 100], overlap=0.5)
    starts = [(part.left, part.top) for part in tiling.parts((150, 150))]
    assert starts == [(0, 0), (0, 0), (50, 0), (0, 50), (50, 50)]
    corners = [(0, 0, 60, 60), (90, 0, 150, 60), (0, 90, 60, 150), (90, 90, 150, 150)]
    inner = [(5, 5, 60, 60), (90, 5, 145, 60), (5, 90, 60, 145), (90, 90, 145, 145)]
    found = [detections(*((*box, 0.5, 0) for box in inner))]
    for (x1, y1, x2, y2), (left, top) in zip(corners, starts[1:], strict=True):
        found.append(detections((x1 - left, y1 - top, x2 - left, y2 - top, 0.9, 0)))
    merged = tiling.merge(found, (150, 150), Postprocess())
    assert merged.scores.tolist() == pytest.approx([0.9] * 4)
    assert sorted(map(tuple, merged.boxes.tolist())) == sorted(corners)


def test_a_cut_box_is_kept_if_no_complete_one_of_its_class_covers_it():
    tiling = Tiling(tiles=[100, 100], overlap=0.5)
    complete = [(20, 10, 120, 90, 0.8, 0)]
    cut = [(60, 10, 100, 90, 0.7, 1), (0, 0, 9, 9, 0.6, 0), (92, 0, 100, 10, 0.5, 0)]
    found = [detections(*complete), detections(*cut), detections((0, 80, 10, 100, 0.4, 0))]
    # In the image: another class; not cut; covered by 0 of 80 pixels; by 100 of 200.
    merged = tiling.merge(found, (100, 150), Postprocess())
    assert merged.scores.tolist() == pytest.approx([0.8, 0.7, 0.6, 0.5, 0.4])
    found[2] = detections((0, 74, 10, 97, 0.4, 0))  # by 160 of 230: less than 0.7
    assert len(tiling.merge(found, (100, 150), Postprocess()).boxes) == 5
    found[2] = detections((0, 73, 10, 97, 0.4, 0))  # by 170 of 240: more
    assert len(tiling.merge(found, (100, 150), Postprocess()).boxes) == 4


def test_without_the_whole_image_nothing_is_dropped_at_an_edge():
    tiling = Tiling(tiles=[100, 100], overlap=0.5, with_whole=False)
    found = [detections((20, 10, 100, 90, 0.9, 0)), detections((0, 10, 90, 90, 0.95, 0))]
    merged = tiling.merge(found, (100, 150), Postprocess())
    assert merged.boxes.tolist() == [[50, 10, 140, 90], [20, 10, 100, 90]]


def test_an_object_in_two_tiles_is_found_once_and_the_best_are_kept():
    tiling = Tiling(tiles=[100, 100], overlap=0.5, with_whole=False)
    found = [
        detections((60, 10, 80, 30, 0.6, 0), (60, 10, 80, 30, 0.5, 1)),
        detections((10, 10, 30, 30, 0.9, 0), (70, 70, 80, 80, 0.2, 0)),
    ]
    merged = tiling.merge(found, (100, 150), Postprocess())
    assert merged.boxes.tolist() == [[60, 10, 80, 30]] * 2 + [[120, 70, 130, 80]]
    assert merged.scores.tolist() == pytest.approx([0.9, 0.5, 0.2])
    two = tiling.merge(found, (100, 150), Postprocess(max_detections=2))
    assert two.scores.tolist() == pytest.approx([0.9, 0.5])


class BrightSquares(nn.Module):
    """Finds the pixels of an input that are bright: one anchor per pixel, if at least 2x2 of them are."""

    background_column = True

    def __init__(self, side):
        super().__init__()
        self.side = side
        low = torch.arange(side).repeat(side) / side
        high = torch.arange(side).repeat_interleave(side) / side
        self.register_buffer("anchors", torch.stack([low, high, low + 2 / side, high + 2 / side], 1))

    def forward(self, images):
        bright = (images[:, :1] > 0.5).float()
        block = nn.functional.avg_pool2d(nn.functional.pad(bright, (0, 1, 0, 1)), 2, 1) > 0.9
        scores = torch.where(block.flatten(1), 4.0, -9.0)
        return torch.zeros(len(images), self.side**2, 4), torch.stack([-scores, scores], 2)


def task(**options):
    return Detection(
        model=BrightSquares(32), classes=ClassMap(names=("x",), ids=(1,)),
        eval_transform=EvalTransform(size=32), **options,
    )  # fmt: skip


def test_an_object_that_vanishes_in_the_whole_image_is_found_in_its_tile():
    image = np.zeros((128, 256, 3), np.uint8)
    image[70:72, 180:182] = 255  # a quarter of a pixel at the input size
    assert len(task().predict_image(image).boxes) == 0
    tiled = task(inference=Tiling(tiles=32, overlap=0.5))
    done = []
    tiled.on_part = lambda *numbers: done.append(numbers)
    assert tiled.predict_image(image).boxes.tolist() == [[180, 70, 182, 72]]
    assert done[-1] == (106, 106)  # 7 x 15 tiles and the whole image
    assert len(done) == 14


def test_an_evaluation_predicts_what_predict_image_does(tmp_path):
    split, _ = make_split(tmp_path, [[], [], []])
    tiled = task(inference=Tiling(tiles=[32, 40]))
    dataset = make_dataset(split, tiled.eval_transform)
    batch = collate([dataset[SampleKey(index, 0)] for index in range(len(dataset))])
    with torch.inference_mode():
        found = tiled.predict(batch)
    assert len(found) == len(dataset)
    for index, detected in enumerate(found):
        alone = tiled.predict_image(dataset.read(index)[0])
        assert torch.equal(detected.boxes, alone.boxes)
        assert torch.equal(detected.scores, alone.scores)
    assert str(tiled.eval_transform) == (
        "tiles of 32x40 overlapping by 25% and the whole image, each input 32x32"
    )


@pytest.mark.parametrize(
    ("options", "message"), [({"tiles": 16}, "^tiles must"), ({"overlap": 1}, "^overlap must be in")]
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Tiling(**options)


def test_a_kit_is_for_whole_images():
    check_single_pass(task())
    refuses(lambda: check_single_pass(task(inference=Tiling(tiles=64))), "tiles of 64x64", "inference=whole")
