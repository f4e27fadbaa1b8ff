"""Datasets with a damaged file: it is named before the first step, and a run goes on without it."""

import json
import re

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from cls.data.folders import folders
from det.data.voc import voc
from det.transforms import TrainTransform as DetectionTransform
from engine.data.dataset_builder import DatasetBuilder
from engine.data.loader import SampleKey
from engine.data.preprocessing import refuse_incomplete
from engine.errors import UserError
from engine.runtime import Runtime
from seg.data.masks import masks
from seg.transforms import TrainTransform
from tests.det.data.test_voc import xml
from tests.tools.commands import run

ALONE = Runtime(torch.device("cpu"))
SMALL = [
    "data.workers=0", "trainer.batch=4", "trainer.steps=2", "trainer.eval_every=2",
    "trainer.tensorboard=false", "samples=1",
]  # fmt: skip
SIZES = {"det": ["data.size=64"], "seg": ["data.crop=32"], "cls": ["data.size=32"]}


def photo(path, seed):
    """A JPEG file of random pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8)).save(path)


def kangaroos(root, count=12):
    """Photos and XML files side by side, without lists and splits."""
    for number in range(count):
        name = f"{number:05d}"
        photo(root / "images" / f"{name}.jpg", number)
        (root / "annots").mkdir(exist_ok=True)
        box = (5 + number, 4, 40 + number, 40)
        (root / "annots" / f"{name}.xml").write_text(xml(("kangaroo", box), size=(48, 64)))
    return root


def landscapes(root, count=5):
    for split in ("train", "val"):
        for number in range(count):
            photo(root / f"images/{split}/{split}{number}.jpg", [len(split), number])
            mask = root / f"masks/{split}/{split}{number}.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(mask), np.random.default_rng(number).integers(0, 2, (48, 64), np.uint8))
    (root / "classes.json").write_text('{"classes": [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}]}')
    return root


def animals(root, count=3):
    for place, split in enumerate(("train", "val")):
        for number in range(count):
            for name in ("cat", "dog"):
                seed = [place, number, len(name), ord(name[0])]
                photo(root / split / name / f"{number}.jpg", seed)
    return root


DATA = {
    "det": (kangaroos, ["task=det", "data=voc"], "images/00002.jpg"),
    "seg": (landscapes, ["task=seg", "data=masks"], "images/train/train1.jpg"),
    "cls": (animals, ["task=cls", "data=folders"], "train/cat/1.jpg"),
}
ONE_OF_THREE = ["seg", *(pytest.param(task, marks=pytest.mark.weekly) for task in ("det", "cls"))]
"""Tasks for tests of what they share; the others run once a week."""


def remove(root, image):
    """Remove an image and its mask, if it has one."""
    (root / image).unlink()
    (root / "masks/train/train1.png").unlink(missing_ok=True)


def cut(path):
    path.write_bytes(path.read_bytes()[:-300])


@pytest.mark.parametrize(
    "task", ["det", pytest.param("seg", marks=pytest.mark.slow), pytest.param("cls", marks=pytest.mark.slow)]
)
def test_a_damaged_file_ends_the_training_before_its_first_step_with_both_remedies(tmp_path, task):
    make, options, damaged = DATA[task]
    root = make(tmp_path / "data")
    cut(root / damaged)
    options = [*options, *SMALL, *SIZES[task], f"data.root={root}"]
    output = run("train", *options, "run=run", cwd=tmp_path, status=1)
    error = output.strip().splitlines()[-1]
    assert error.startswith(f"error: {root / damaged}: truncated, corrupt or not an image (")
    assert "restore or remove the file (in a dataset, data.on_error=skip leaves out such files)" in error
    assert re.search(r"skip also needs data\.error_budget=0\.\d+$", error)
    assert "step 1/2" not in output
    assert not (tmp_path / "run").exists()


def test_all_damaged_images_and_masks_are_named_together(tmp_path):
    """Also those whose header or pixels the reader of the dataset looks at first."""
    root = landscapes(tmp_path)
    names = ("images/train/train0.jpg", "images/val/val1.jpg", "masks/train/train2.png")
    damaged = [root / name for name in names]
    damaged[0].write_bytes(b"")
    for path in damaged[1:]:
        cut(path)
    source = masks(root=str(root))
    sets = [source.dataset(split, TrainTransform(crop=32), 0) for split in ("train", "val")]
    with pytest.raises(UserError) as error:
        refuse_incomplete(sets, runtime=ALONE, budget=0.01)
    assert all(str(path) in str(error.value) for path in damaged)
    assert "3 of 20 files are damaged" in str(error.value)
    assert str(error.value).endswith("data.on_error=skip also needs data.error_budget=0.4")


@pytest.mark.slow
@pytest.mark.parametrize("task", ONE_OF_THREE)
def test_both_remedies_work(tmp_path, task):
    make, options, damaged = DATA[task]
    root = make(tmp_path / "data")
    cut(root / damaged)
    options = [*options, *SMALL, *SIZES[task], f"data.root={root}"]
    skip = ["data.on_error=skip", "data.error_budget=0.5"]
    output = run("train", *options, *skip, "run=skips", cwd=tmp_path)
    assert f"1 train file left out (skipped.json): {root / damaged}: truncated" in output
    remove(root, damaged)
    run("train", *options, "run=removed", cwd=tmp_path)
    names = [json.loads((tmp_path / run / "train_names.json").read_text()) for run in ("skips", "removed")]
    assert names[0] == names[1]


@pytest.mark.slow
@pytest.mark.parametrize("task", ONE_OF_THREE)
def test_a_run_resumes_after_a_file_has_been_removed(tmp_path, task):
    make, options, damaged = DATA[task]
    root = make(tmp_path / "data")
    folder = tmp_path / "run"
    run("train", *options, *SMALL, *SIZES[task], f"data.root={root}", f"run={folder}", cwd=tmp_path)
    count = len(json.loads((folder / "train_names.json").read_text())["train"])
    remove(root, damaged)
    output = run("train", f"resume={folder}", "trainer.steps=6", cwd=tmp_path)
    name = {"det": "00002", "seg": "train1", "cls": "cat/1"}[task]
    assert (
        f"1 of the run's {count} training samples is gone ({name}); its position in the order "
        "stays empty, and all others are used as before" in output
    )
    assert json.loads((folder / "metrics.json").read_text())["step"] == 6


@pytest.mark.weekly
@pytest.mark.parametrize("task", ["seg", "cls"])
def test_a_resumed_run_names_the_files_of_val_that_are_gone(tmp_path, task):
    make, options, _ = DATA[task]
    root, folder = make(tmp_path / "data"), tmp_path / "run"
    run("train", *options, *SMALL, *SIZES[task], f"data.root={root}", f"run={folder}", cwd=tmp_path)
    gone, name, count = {"seg": ("images/val/val1.jpg", "val1", 5), "cls": ("val/dog/1.jpg", "dog/1", 6)}[
        task
    ]
    (root / gone).unlink()
    (root / "masks/val/val1.png").unlink(missing_ok=True)
    output = run("train", f"resume={folder}", "trainer.steps=4", cwd=tmp_path)
    line = f"1 of the run's {count} val samples is gone ({name}); scores are not comparable with the earlier "
    assert line in output


@pytest.mark.slow
@pytest.mark.parametrize("task", ONE_OF_THREE)
def test_a_jpeg_damaged_in_its_middle_is_named_in_training_and_evaluation(tmp_path, task):
    """It is cut in the middle and has an end marker, so only decoding finds it."""
    make, options, damaged = DATA[task]
    root, folder = make(tmp_path / "data"), tmp_path / "run"
    options = [*options, *SMALL, *SIZES[task], f"data.root={root}"]
    whole = (root / damaged).read_bytes()
    run("train", *options, f"run={folder}", cwd=tmp_path)
    (root / damaged).write_bytes(whole[: len(whole) * 2 // 3] + b"\xff\xd9")
    message = (
        f"error: {root / damaged}: truncated, corrupt or not an image (Corrupt JPEG data: premature end of"
    )
    assert message in run("train", *options, "run=other", "trainer.steps=10", cwd=tmp_path, status=1)
    test = ["eval", f"run={folder}", "data.split=train", f"out={tmp_path / 'eval'}"]
    assert message in run(*test, cwd=tmp_path, status=1)
    skipping = ["data.on_error=skip", "data.error_budget=0.5"]
    assert "1 train file left out (skipped.json): " in run(*test, *skipping, cwd=tmp_path)
    assert (tmp_path / "eval/skipped.json").exists()
    (root / damaged).write_bytes(whole)
    run(*test, cwd=tmp_path)
    assert not (tmp_path / "eval/skipped.json").exists()


def samples(dataset, gone=()):
    """All parts of the samples of two epochs, but for those `gone`."""
    keys = [SampleKey(index, epoch) for index in range(len(dataset)) for epoch in (0, 1)]
    parts = ((key, part) for key in keys if key.index not in gone for part in dataset[key].items())
    return {(key, name): torch.as_tensor(getattr(value, "rows", value)) for key, (name, value) in parts}


def opened(task, root):
    """The source, and an augmentation for it."""
    if task == "seg":
        return masks(root=str(root)), TrainTransform(crop=32)
    if task == "cls":
        return folders(root=str(root)), lambda image, seed: np.ascontiguousarray(image[:: 1 + seed % 2])
    return voc(root=str(root)), DetectionTransform(size=64)


@pytest.mark.parametrize("task", DATA)
def test_the_other_samples_stay_bit_for_bit(tmp_path, task):
    make, _, damaged = DATA[task]
    root = make(tmp_path / "data")
    source, transform = opened(task, root)
    before = source.dataset("train", transform, 5)
    names = [before.name(index) for index in range(len(before))]
    lost = names.index({"det": "00002", "seg": "train1", "cls": "cat/1"}[task])
    expected = samples(before, {lost})
    remove(root, damaged)
    builder = DatasetBuilder(runtime=ALONE, samples=names)
    after = builder.dataset(opened(task, root)[0], "train", transform, seed=5)
    assert len(after) == len(names)
    assert after.gaps == {lost}
    found = samples(after, {lost})
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_mosaic_uses_the_image_itself_instead_of_one_that_is_gone(tmp_path):
    root = kangaroos(tmp_path / "data")
    source = voc(root=str(root))
    transform = DetectionTransform(size=64, mosaic=1.0)
    names = [source.dataset("train", transform).name(index) for index in range(len(source.splits["train"]))]
    remove(root, "images/00002.jpg")
    builder = DatasetBuilder(runtime=ALONE, samples=names)
    dataset = builder.dataset(voc(root=str(root)), "train", transform)
    assert len(samples(dataset, dataset.gaps)) == 2 * 4 * (len(names) - 1)


@pytest.mark.parametrize("cached", [False, True])
def test_what_became_unreadable_leaves_an_empty_place_as_well(tmp_path, cached):
    root = landscapes(tmp_path / "data")
    names = [f"train{number}" for number in range(5)]
    cut(root / "images/train/train3.jpg")
    options = {"on_error": "skip", "error_budget": 0.2, "cache": str(tmp_path / "pixels") if cached else None}
    builder = DatasetBuilder(runtime=ALONE, samples=names, **options)
    transform = TrainTransform(crop=32)
    dataset = builder.dataset(masks(root=str(root), on_error="skip"), "train", transform)
    assert dataset.gaps == {3}
    assert dataset[SampleKey(4, 0)]["image"].shape == (3, 32, 32)
    assert "1 of the run's 5 training samples is gone (train3)" in builder.notes()[0]
    assert not hasattr(builder.dataset(masks(root=str(root), on_error="skip"), "train", transform), "gaps")


def test_another_limit_is_refused_in_a_resumed_run(tmp_path):
    source = masks(root=str(landscapes(tmp_path / "data")))
    names = ["train0", "train2", "train4"]
    transform = TrainTransform(crop=32)
    dataset = DatasetBuilder(runtime=ALONE, samples=names).dataset(source, "train", transform, limit=3)
    assert [dataset.name(index) for index in range(3)] == names
    for limit in (2, 4):
        builder = DatasetBuilder(runtime=ALONE, samples=names)
        with pytest.raises(UserError, match=rf"data\.limit={limit}: the run began with 3 training samples"):
            builder.dataset(source, "train", transform, limit=limit)


@pytest.mark.slow
def test_an_evaluation_says_what_was_left_out_or_corrected(tmp_path):
    root = kangaroos(tmp_path / "data")
    common = ["data=voc", f"data.root={root}", *SMALL, *SIZES["det"]]
    run("train", "task=det", *common, "run=a", cwd=tmp_path)
    for file in (root / "annots").iterdir():
        file.write_text(xml(("kangaroo", (5, 4, 90, 40)), size=(48, 64)))
    (root / "annots/other.xml").write_text(xml(("kangaroo", (5, 4, 9, 40)), size=(48, 64)))
    output = run("eval", "run=a", cwd=tmp_path)
    assert "12 boxes partly outside the image: clipped" in output
    assert "1 XML file without an image: left out (other.xml)" in output
