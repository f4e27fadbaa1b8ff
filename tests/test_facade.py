"""From Python, as the README shows it: train, load, predict, save, evaluate, export."""

import shutil

import numpy as np
import pytest
from PIL import Image

import mobilenet_dense
from engine.data.images import read_image, write_png

TINY = (
    "data.source.num_train=6",
    "data.source.num_val=3",
    "data.source.num_test=0",
    "trainer.steps=2",
    "trainer.batch=2",
    "trainer.device=cpu",
    "data.workers=0",
    "samples=0",
)
SEG = ("task=seg", "data.source.size=[64,128]", "data.crop=64")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("facade")
    return mobilenet_dense.train(*SEG, *TINY, f"data.root={folder}/streets", f"run={folder}/run")


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "street.png"
    write_png(path, np.random.default_rng(0).integers(0, 255, (64, 128, 3), np.uint8))
    return path


def test_five_lines(run, image, tmp_path):
    predictor = mobilenet_dense.load(run)
    result = predictor(image)
    assert result.output.shape == (64, 128)
    assert result.classes[0] == predictor.classes[0] == "road"
    saved = result.save(tmp_path / "out.png", legend=False)
    assert read_image(saved).shape == (64, 128, 3)
    assert read_image(result.save(tmp_path / "legend.png")).shape[0] > 64


def test_a_path_and_its_pixels_predict_the_same(run, image):
    predictor = mobilenet_dense.load(str(run))
    assert (predictor(str(image)).output == predictor(read_image(image)).output).all()


def test_a_pillow_image_is_rotated_like_its_file(run, tmp_path):
    rotation = Image.Exif()
    rotation[0x0112] = 6
    pixels = np.random.default_rng(1).integers(0, 255, (64, 128, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png", exif=rotation)
    for override, shape in (("data.orientation=upright", (128, 64)), ("data.orientation=stored", (64, 128))):
        predictor = mobilenet_dense.load(run, override)
        expected = predictor(tmp_path / "photo.png").output
        assert expected.shape == shape
        assert (predictor(Image.open(tmp_path / "photo.png")).output == expected).all()
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'  # which only Pillow applies
    Image.fromarray(pixels).save(tmp_path / "xmp.webp", xmp=xmp, lossless=True)
    predictor = mobilenet_dense.load(run)
    expected = predictor(tmp_path / "xmp.webp").output
    assert expected.shape == (64, 128)
    assert (predictor(Image.open(tmp_path / "xmp.webp")).output == expected).all()


def test_overrides_reach_the_task(run):
    assert "flip" in str(mobilenet_dense.load(run, "inference.flip=true").task.inference)
    assert "no flip" in str(mobilenet_dense.load(run).task.inference)


def test_evaluate_takes_the_overrides_of_the_tool(run):
    metrics = mobilenet_dense.evaluate(run, "data.split=train", "worst=0", "device=cpu")
    assert metrics["num_images"] == 6
    assert 0 <= metrics["miou"] <= 1
    assert (run / "eval-train" / "metrics.json").is_file()


def test_a_split_in_which_nothing_counts_is_refused(run, tmp_path):
    """Cityscapes' test split is published so: all pixels of its masks are ignored."""
    shutil.copytree(run.parent / "streets", tmp_path / "streets")
    for mask in tmp_path.glob("streets/gtFine/val/*/*_labelIds.png"):
        write_png(mask, np.zeros((64, 128), np.uint8))
    chosen = ["data=cityscapes", f"data.root={tmp_path}/streets", "device=cpu"]
    message = r"^data\.split=val: nothing can be scored, because the labels of its 3 images are all ignored"
    with pytest.raises(mobilenet_dense.UserError, match=message):
        mobilenet_dense.evaluate(run, *chosen)
    with pytest.raises(mobilenet_dense.UserError, match=r"of its 2 images \(data\.limit=2\) are all ignored"):
        mobilenet_dense.evaluate(run, *chosen, "data.limit=2")
    saved = tmp_path / "saved"  # for Cityscapes' server, which has the labels
    assert mobilenet_dense.evaluate(run, *chosen, "save_predictions=true", f"out={saved}")["num_images"] == 3
    assert len(list(saved.glob("predictions/masks/*.png"))) == 3
    assert mobilenet_dense.evaluate(run, "device=cpu", "worst=0", f"out={tmp_path}/eval")["miou"] >= 0


@pytest.mark.slow
def test_an_exported_file_predicts_like_its_run(run, image, tmp_path):
    pytest.importorskip("onnxruntime")
    file = mobilenet_dense.export(run, "images=1", f"input={image}")
    ours, theirs = (mobilenet_dense.load(source)(image).output for source in (run, file))
    assert (ours == theirs).mean() > 0.99
    elsewhere = tmp_path / file.name
    elsewhere.write_bytes(file.read_bytes())
    with pytest.raises(mobilenet_dense.UserError, match=r"model\.onnx: not inside a run folder; pass run="):
        mobilenet_dense.load(elsewhere)
    assert (mobilenet_dense.load(elsewhere, run=run)(image).output == theirs).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: mobilenet_dense.load("no/such/run"), "no/such/run"),
        (lambda run: mobilenet_dense.load(run, "task.shonw=1"), r"'task\.shonw'"),
        (lambda run: mobilenet_dense.load(run)("no.png"), r"no\.png"),
        (lambda run: mobilenet_dense.load(run)(np.zeros((4, 4), np.uint8)), "an image must be RGB uint8"),
        (lambda run: mobilenet_dense.train("task=sge"), r"task=sge: no such task.*did you mean 'seg'"),
        (lambda run: mobilenet_dense.evaluate(run, "wrost=3"), "'wrost'"),
    ],
)
def test_mistakes_are_named(run, call, message):
    with pytest.raises(mobilenet_dense.UserError, match=message):
        call(run)


def test_a_drawing_is_a_png(run, image, tmp_path):
    with pytest.raises(mobilenet_dense.UserError, match=r"out\.jpg: drawings are saved as PNG"):
        mobilenet_dense.load(run)(image).save(tmp_path / "out.jpg")
