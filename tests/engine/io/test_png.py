"""PNG files that are written row by row equal those of other writers."""

import cv2
import numpy as np
import pytest
from PIL import Image

from engine.data.images import read_image, read_labels, read_palette
from engine.errors import UserError
from engine.io import png

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def small_strips(monkeypatch):
    monkeypatch.setattr(png, "_BYTES_AT_A_TIME", 200)


def test_parts_are_below_each_other(tmp_path):
    parts = [RNG.integers(0, 256, (rows, 17, 3)).astype(np.uint8) for rows in (30, 5)]
    png.write_rows(tmp_path / "new" / "a.png", parts)
    np.testing.assert_array_equal(read_image(tmp_path / "new" / "a.png"), np.concatenate(parts))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "a.png")), np.concatenate(parts))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_ids_of_8_and_16_bits(tmp_path, dtype):
    labels = RNG.integers(0, 3, (9, 13)).astype(np.uint8)
    ids = np.array([7, 11, 255 if dtype == np.uint8 else 40_000], dtype)
    png.write_rows(tmp_path / "a.png", [labels], lookup=ids)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), ids[labels])
    assert cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED).dtype == dtype


def test_a_palette_gives_colors_to_people_and_ids_to_programs(tmp_path):
    ids = RNG.integers(0, 4, (9, 13)).astype(np.uint8)
    colors = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [9, 8, 7]], np.uint8)
    png.write_rows(tmp_path / "a.png", [ids], palette=colors)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), ids)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), colors[ids])
    np.testing.assert_array_equal(read_palette(tmp_path / "a.png")[:4], colors)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"a\.png: cannot be written"):
        png.write_rows(tmp_path / "file" / "a.png", [np.zeros((2, 2), np.uint8)])
