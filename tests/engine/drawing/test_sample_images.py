"""Drawn samples have captions and a bounded size."""

import math
import time
from functools import partial

import numpy as np
import pytest

from engine import sample_images
from engine.data.images import read_image
from engine.html.page import Page
from engine.io import progress
from engine.report.sections import add_images
from engine.report.suspicious import Suspicion, add_suspicious
from engine.sample_images import panel_size, resize_panel, save_samples, save_worst, side_by_side


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((3000, 4000), (600, 800)),
        ((4000, 1000), (800, 200)),
        ((480, 640), (480, 640)),
        ((32, 64), (256, 512)),
    ],
)
def test_large_images_are_reduced_and_small_ones_enlarged(shape, expected):
    image = np.zeros((*shape, 3), np.uint8)
    assert panel_size(image) == expected
    assert resize_panel(image, expected).shape == (*expected, 3)


def test_label_maps_keep_their_values():
    labels = np.array([[0, 18], [255, 7]], np.uint8).repeat(1000, 0).repeat(1000, 1)
    small = resize_panel(labels, panel_size(labels), exact=True)
    assert small.shape == (800, 800)
    np.testing.assert_array_equal(small[::799, ::799], [[0, 18], [255, 7]])
    assert set(np.unique(small)) == {0, 7, 18, 255}


def test_each_panel_is_below_its_caption():
    panels = [("image", np.full((100, 300, 3), 9, np.uint8)), ("truth", np.full((100, 300, 3), 99, np.uint8))]
    drawn = side_by_side(panels)
    assert drawn.shape == (118, 600, 3)
    assert (drawn[18:, :300] == 9).all()
    assert (drawn[18:, 300:] == 99).all()
    for left in (0, 300):
        assert (drawn[:18, left : left + 60] < 100).any()  # lettering


def test_the_worst_images_of_an_earlier_evaluation_are_removed(tmp_path):
    class Dataset:
        def name(self, index):
            return "x"

    monkey = lambda dataset, index: np.zeros((4, 4, 3), np.uint8)  # noqa: E731
    (tmp_path / "my_notes.png").touch()
    save_worst(monkey, Dataset(), tmp_path, [("a", 0, 0.1), ("b", 1, 0.2)])
    save_worst(monkey, Dataset(), tmp_path, [("c", 2, 0.05)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["01_0.050_c.png", "my_notes.png"]
    assert sample_images._LONGEST == 800


def test_slow_drawings_show_progress(tmp_path, monkeypatch, capsys):
    """A prediction of a large photo takes seconds, and training draws up to 24 of them after its table."""

    def slow(dataset, index):
        time.sleep(0.2)
        return np.zeros((4, 4, 3), np.uint8)

    class Dataset:
        def name(self, index):
            return f"x{index}"

        def __len__(self):
            return 2

    class Reporter:
        draw_sample = staticmethod(slow)

    worst = [("a", 0, 0.1), ("b", 1, 0.2)]
    page = Page("title", "")
    suspicions = [
        Suspicion(name="a", index=0, score=0.5, places=(), draw=partial(slow, None, 0)) for _ in "ab"
    ]
    page.section("images")
    monkeypatch.setattr(progress, "PATIENCE_S", 0.02)
    monkeypatch.setattr(progress, "_BESIDE_S", 0.0)
    monkeypatch.setattr(progress, "_active_at", [-math.inf])
    for draw in (
        partial(save_samples, slow, Dataset(), tmp_path, count=2),
        partial(save_worst, slow, Dataset(), tmp_path, worst),
        partial(add_images, page, Reporter(), Dataset(), worst, worst_by="lowest F1", random=0),
        partial(add_images, page, Reporter(), Dataset(), [], worst_by="lowest F1", random=2),
        partial(add_suspicious, page, tmp_path, "val", suspicions),
    ):
        draw()
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "drawing samples ... 0 s"
        assert [line.partition("  ")[0] for line in lines[1:]] == ["sample drawn 1/2", "sample drawn 2/2"]


def test_samples_whose_names_differ_only_in_a_slash_are_all_drawn(tmp_path):
    class Dataset:
        name = staticmethod(["a/x", "a_x", "A_X"].__getitem__)

        def __len__(self):
            return 3

    save_samples(lambda dataset, index: np.full((2, 2, 3), index, np.uint8), Dataset(), tmp_path, count=3)
    files = ["a_x.png", "a_x_2.png", "A_X_3.png"]
    assert [int(read_image(tmp_path / file)[0, 0, 0]) for file in files] == [0, 1, 2]
