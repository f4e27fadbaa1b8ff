"""Images of more than 8 bits are scaled by data.pixel_range, wherever they are read."""

import json
import pickle

import cv2
import numpy as np
import pytest
import torch

from engine.config.compose import compose_config
from engine.config.training import build_source, validate
from engine.data.dataset_builder import DatasetBuilder
from engine.data.images import read_image, write_png
from engine.data.preprocessing import range_notes, stored_range, unused_range
from engine.errors import UserError
from engine.runtime import Runtime
from tests.engine.data.images.tiff_files import write_tiff
from tests.refusals import refuses

TWELVE_BITS = np.array([[0, 16, 2048, 4095], [4096, 65535, 8, 9]], np.uint16)
BY_HAND = [[0, 1, 128, 255], [255, 255, 0, 1]]  # value * 255 / 4095: 16 -> 0.996, 8 -> 0.498, 9 -> 0.56


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_twelve_bits_in_sixteen_keep_their_levels(tmp_path, suffix):
    cv2.imwrite(str(tmp_path / f"a.{suffix}"), TWELVE_BITS)
    read = read_image(tmp_path / f"a.{suffix}", pixel_range=(0, 4095))
    np.testing.assert_array_equal(read[..., 0], BY_HAND)
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    write_png(tmp_path / "ramp.png", ramp)
    assert len(np.unique(read_image(tmp_path / "ramp.png"))) == 17
    assert len(np.unique(read_image(tmp_path / "ramp.png", pixel_range=(0, 4095)))) == 256


def test_signed_and_floating_point_values(tmp_path):
    signed = np.array([[-1000, 0, 3000, 4000]], np.int16)
    read = read_image(write_tiff(tmp_path / "a.tif", signed), pixel_range=(-1000, 3000))
    np.testing.assert_array_equal(read[..., 0], [[0, 64, 255, 255]])  # 1000 / 4000 * 255 = 63.75
    for dtype in (np.float32, np.float64):
        share = np.array([[0.0, 0.5, 1.0, np.nan, np.inf, -1.0]], dtype)
        read = read_image(write_tiff(tmp_path / "b.tif", share), pixel_range=(0, 1))
        np.testing.assert_array_equal(read[..., 0], [[0, 128, 255, 0, 255, 0]])
    with pytest.raises(UserError, match=r"b\.tif: float64 values .*; set data\.pixel_range="):
        read_image(tmp_path / "b.tif")


def test_white_at_zero_is_inverted_within_the_range(tmp_path):
    path = write_tiff(tmp_path / "a.tif", np.array([[0, 4095]], np.uint16), photometric=0)
    np.testing.assert_array_equal(read_image(path, pixel_range=(0, 4095))[..., 0], [[255, 0]])


def test_images_of_8_bits_are_not_scaled(tmp_path):
    write_png(tmp_path / "a.png", np.array([[7, 200]], np.uint8))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", pixel_range=(0, 1))[..., 0], [[7, 200]])


def test_a_line_says_that_images_use_little_of_their_range(tmp_path):
    files = []
    for number, largest in enumerate([3000, 1200, 255]):
        write_png(tmp_path / f"{number}.png", np.array([[200, largest]], np.uint16))
        files.append(str(tmp_path / f"{number}.png"))
    assert stored_range(files[0]) == (200, 3000)
    (line,) = unused_range(files)
    assert line.startswith(
        f"{files[0]}: the largest value is 3000 of 65535 (images of more than 8 bits checked: 3)"
    )
    assert line.endswith("if 4095 is white, set data.pixel_range=[0,4095]")
    write_tiff(tmp_path / "int32.tif", np.array([[0, 252]], np.int32))
    assert "if 255 is white" in unused_range([str(tmp_path / "int32.tif")])[0]
    write_png(tmp_path / "full.png", np.array([[200, 60000]], np.uint16))
    write_png(tmp_path / "eight.png", np.array([[0, 3]], np.uint8))
    write_png(tmp_path / "black.png", np.zeros((1, 2), np.uint16))
    for quiet in ([*files, str(tmp_path / "full.png")], [str(tmp_path / "eight.png")], ["none.png"]):
        assert unused_range(quiet) == []
    assert unused_range([str(tmp_path / "black.png")]) == []


def test_values_far_from_black_that_use_little_of_the_range_are_named(tmp_path):
    """A thermal camera's hundredths of kelvin: 28500 to 31000 become (28500 + 128) // 257 = 111 to 121."""
    values = np.linspace(28500, 31000, 400).astype(np.uint16).reshape(20, 20)
    path = str(tmp_path / "thermal.png")
    write_png(path, values)
    assert (read_image(path).min(), read_image(path).max()) == (111, 121)
    found = (
        f"{path}: values lie between 28506 and 30999 of 0..65535 (images of more than 8 bits checked: 1), so "
        "they are read with little contrast; to use all 256 levels of gray, set "
        "data.pixel_range=[28506,30999]"
    )
    values[0, 0], values[-1, -1] = 28000, 32000  # half a percent at either end does not count
    values[0, 1], values[-1, -2] = 28506, 30999
    write_png(path, values)
    assert unused_range([path]) == [found]
    values[5:12] = 0  # no data
    values[12:14] = 65535
    write_png(path, values)
    (line,) = unused_range([path])
    assert "between 28506 and 30999" in line
    values[15, :10] = 60000
    write_png(path, values)
    assert unused_range([path]) == []


def test_negative_values_are_named_without_a_range_that_would_make_them_black(tmp_path):
    path = tmp_path / "ct.tif"  # Hounsfield units: air is -1000
    write_tiff(path, np.array([[-1000, -200, 0, 1640]], np.int16))
    (line,) = unused_range([str(path)])
    assert line.startswith(f"{path}: values lie between -1000 and 1640 ")
    assert "[0," not in line
    assert "data.pixel_range=[<value of black>,<value of white>]" in line


def test_saturated_pixels_do_not_hide_a_small_range(tmp_path):
    values = np.linspace(200, 3000, 400).astype(np.uint16).reshape(20, 20)
    values[:5] = 65535
    write_png(tmp_path / "a.png", values)
    (line,) = unused_range([str(tmp_path / "a.png")])
    assert "the largest value is 3000 of 65535" in line
    assert line.endswith("if 4095 is white, set data.pixel_range=[0,4095]")
    write_png(tmp_path / "a.png", np.uint16([[0, 65535]]))
    assert unused_range([str(tmp_path / "a.png")]) == []


@pytest.mark.parametrize("value", ["[1]", "[1,2,3]", "12", "[4095,0]", "[a,b]", "[0,inf]"])
def test_other_values_are_refused_with_the_key(value):
    config = compose_config("train", ["task=seg", f"data.pixel_range={value}"])
    with pytest.raises(UserError, match=r"data\.pixel_range"):
        validate(config)


def deep_masks(root):
    for split in ("train", "val"):
        pixels = TWELVE_BITS if split == "train" else TWELVE_BITS + 1
        write_png(root / "images" / split / f"{split}.png", pixels)
        write_png(root / "masks" / split / f"{split}.png", np.eye(2, 4, dtype=np.uint8))
    (root / "classes.json").write_text(
        json.dumps({"classes": [{"id": 0, "name": "road"}, {"id": 1, "name": "line"}]})
    )
    return compose_config(
        "train", ["task=seg", "data=masks", f"data.root={root}", "data.pixel_range=[0,4095]"]
    )


def test_datasets_workers_and_caches_read_with_the_range_of_the_configuration(tmp_path):
    source = build_source(deep_masks(tmp_path / "data"))
    dataset = source.dataset("train", None)
    np.testing.assert_array_equal(dataset.read(0)[0][..., 0], BY_HAND)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(dataset)).read(0)[0][..., 0], BY_HAND)
    builder = DatasetBuilder(runtime=Runtime(torch.device("cpu")), cache=str(tmp_path / "cache"))
    np.testing.assert_array_equal(builder.dataset(source, "train", None).read(0)[0][..., 0], BY_HAND)
    source.pixel_range = None
    assert builder.dataset(source, "train", None).read(0)[0].max() == 255
    np.testing.assert_array_equal(builder.dataset(source, "train", None).read(0)[0][0, :, 0], [0, 0, 8, 16])


def test_a_source_that_reads_its_images_by_itself_refuses_the_range(tmp_path, monkeypatch):
    config = deep_masks(tmp_path / "data")
    monkeypatch.setattr("engine.config.training.build", lambda *_, **__: object())
    refuses(lambda: build_source(config), "data.pixel_range", "reads images itself", "leave it out")


def test_fractions_are_named_with_their_digits(tmp_path):
    """Reflectances of a satellite; rounded to whole numbers, the remedy was data.pixel_range=[0,0]."""
    path = tmp_path / "reflectance.tif"
    write_tiff(path, np.array([[0.021, 0.1, 0.2, 0.416]], np.float32))
    (line,) = unused_range([str(path)])
    assert line == (
        f"{path}: values lie between 0.021 and 0.416 (images of more than 8 bits checked: 1); set "
        "data.pixel_range=[<value of black>,<value of white>], outside of which values become black or white"
    )


def test_a_range_that_does_not_fit_the_images_is_named(tmp_path):
    """A network trained on 12 bits predicts on 16 bits: 3 of 4 values become white."""
    wide, path = np.array([[1000, 30000, 40000, 60000]], np.uint16), str(tmp_path / "a.png")
    write_png(path, wide)
    checked = "(images of more than 8 bits checked: 1)"
    assert range_notes([path], (0, 4095)) == [
        f"{path}: 75% of the values are above 4095 {checked}, so they are read as white; "
        "check data.pixel_range=[0,4095]"
    ]
    write_png(path, wide // 240)  # at most 250, which is below 4095 / 16 = 255.9
    assert range_notes([path], (0, 4095)) == [
        f"{path}: the largest value is 250 {checked}, so they are read nearly black; "
        "check data.pixel_range=[0,4095]"
    ]
    write_png(path, wide // 230)  # at most 260
    assert range_notes([path], (0, 4095)) == []
    write_png(path, np.array([[1000, 1062]], np.uint16))  # black is 1000: a sixteenth of the way is 1062.5
    assert len(range_notes([path], (1000, 2000))) == 1
    write_png(path, np.array([[1000, 1063]], np.uint16))
    assert range_notes([path], (1000, 2000)) == []
    air = np.array([[-1000, -1000, -1000, 40]], np.int16)
    write_tiff(tmp_path / "ct.tif", air)  # a window of soft tissue leaves air black
    assert range_notes([str(tmp_path / "ct.tif")], (-160, 240)) == []


def test_a_range_for_images_of_8_bits_has_no_effect_and_says_so(tmp_path):
    write_png(tmp_path / "a.png", np.array([[0, 200]], np.uint8))
    write_tiff(tmp_path / "b.tif", np.array([[0, 200]], np.uint8))
    paths = [str(tmp_path / "a.png"), str(tmp_path / "b.tif")]
    assert range_notes(paths, (0, 4095)) == [
        f"{paths[0]}: data.pixel_range=[0,4095] has no effect, because it is for images of more than 8 bits "
        "(images checked: 2)"
    ]
    assert range_notes(paths, None) == range_notes([], (0, 4095)) == []
    write_tiff(tmp_path / "b.tif", np.array([[0, 4000]], np.uint16), bits=12)
    assert range_notes(paths, (0, 2000)) == []
    (tmp_path / "b.tif").write_bytes(b"damaged")
    assert range_notes(paths, (0, 4095)) == []


def test_a_few_deep_images_among_many_of_8_bits_are_found(tmp_path):
    paths = [str(tmp_path / f"{number:02d}.png") for number in range(60)]
    for number, path in enumerate(paths):
        write_png(path, np.array([[0, 200]], np.uint16 if number == 29 else np.uint8))
    (line,) = range_notes(paths, None)
    assert line.startswith(
        f"{paths[29]}: the largest value is 200 of 65535 (images of more than 8 bits checked: 1)"
    )
