"""Images that EXIF turns, with masks and boxes on the upright or on the stored pixels, in a run."""

import numpy as np
import pytest
from PIL import Image

from engine.config.compose import compose_config
from engine.config.training import build_source, image_notes
from engine.errors import UserError
from seg.transforms import EvalTransform

STORED = "read as stored (data.orientation=stored)"


@pytest.fixture
def root(tmp_path):
    """Stored 30 x 20 (width x height), orientation 6; the left half as stored is white and class 1."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for place, split in enumerate(("train", "val")):
        pixels, mask = np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30), np.uint8)
        pixels[:, :15], mask[:, :15] = 255, 1
        pixels[0, 29] = place  # different images
        for folder, array in (("images", pixels), ("masks", mask)):
            (tmp_path / folder / split).mkdir(parents=True)
            options = {"exif": exif} if folder == "images" else {}
            Image.fromarray(array).save(tmp_path / folder / split / "a.png", **options)
    (tmp_path / "classes.json").write_text('{"classes": [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}]}')
    return tmp_path


def source(root, *overrides):
    options = [f"data.root={root}", "data.source.allow_same_names=true", *overrides]
    return build_source(compose_config("train", ["task=seg", "data=masks", *options]))


def test_a_mask_of_the_stored_image_names_the_option(root):
    message = (
        r"the mask is 20 x 30 but .* is 30 x 20 .* or set data\.orientation=stored: the mask fits the stored"
    )
    with pytest.raises(UserError, match=message):
        source(root)


def test_images_and_masks_are_read_as_stored(root):
    data = source(root, "data.orientation=stored")
    dataset = data.dataset("train", EvalTransform())
    image, label, _ = dataset.read(0)
    assert image.shape == (20, 30, 3)
    assert np.array_equal(image[..., 1] == 255, label == 1)
    (line,) = image_notes(data, dataset)
    assert line == f"1 of 1 images (a.png) with an EXIF or TIFF rotation: {STORED}"


def test_a_turn_that_keeps_the_size_is_said(root):
    for split in ("train", "val"):
        path = root / f"images/{split}/a.png"
        exif = Image.Exif()
        exif[0x0112] = 3
        Image.open(path).save(path, exif=exif)
    data = source(root)
    (line,) = image_notes(data, data.dataset("train", EvalTransform()))
    assert line.startswith("1 of 1 images (a.png) with an EXIF or TIFF rotation: rotated upright")


def test_classification_reads_as_stored_too(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for split in ("train", "val"):
        for number, name in enumerate(("cat", "dog")):
            (tmp_path / split / name).mkdir(parents=True)
            color = (100 * number, len(split), 0)
            Image.new("RGB", (30, 20), color).save(tmp_path / split / name / f"{split}.jpg", exif=exif)
    options = ["task=cls", "data=folders", f"data.root={tmp_path}", "data.orientation=stored"]
    data = build_source(compose_config("train", options))
    assert data.dataset("val", None).read(0).shape == (20, 30, 3)


def test_a_source_that_reads_by_itself_refuses_the_option(root, monkeypatch):
    monkeypatch.setattr("engine.config.training.build", lambda *_, **__: object())
    with pytest.raises(UserError, match=r"data\.orientation: this data source reads images itself"):
        source(root, "data.orientation=stored")


def test_another_value_is_refused(root):
    with pytest.raises(UserError, match=r"data\.orientation must be one of upright, stored, got 'sideways'"):
        source(root, "data.orientation=sideways")
