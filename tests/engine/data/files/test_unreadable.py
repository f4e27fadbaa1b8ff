"""Unreadable files are left out before training, as if they had never existed, and are always reported."""

import json
import re
import shutil

import cv2
import numpy as np
import pytest
import torch

from engine.config import compose
from engine.config.options import DataOptions
from engine.config.runs import _write_skipped
from engine.data import unreadable
from engine.data.dataset_builder import DatasetBuilder
from engine.data.loader import SampleKey, sample_seed
from engine.data.preprocessing import refuse_incomplete
from engine.data.unreadable import UnreadableSample, check_error_budget
from engine.errors import UserError
from engine.io.parallel import parallel_map
from engine.runtime import Runtime
from seg.data.masks import masks
from seg.transforms import EvalTransform, TrainTransform
from tests.engine.processes import in_processes
from tests.tools.test_end_to_end import run

ALONE = Runtime(torch.device("cpu"))


def write_data(root, *, train=6, val=3):
    """JPEG images and masks of two classes; returns root."""
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            random = np.random.default_rng([number, count])
            for folder, end, shape in (("images", "jpg", (40, 48, 3)), ("masks", "png", (40, 48))):
                path = root / folder / split / f"{split}{number}.{end}"
                path.parent.mkdir(parents=True, exist_ok=True)
                top = 255 if folder == "images" else 2
                cv2.imwrite(str(path), random.integers(0, top, shape, np.uint8))
    (root / "classes.json").write_text('{"classes": [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}]}')
    return root


def cut(path, share=0.5):
    """Truncate a file, which is only detected by reading all of it; returns its path."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return str(path)


@pytest.fixture
def root(tmp_path):
    return write_data(tmp_path / "data")


def test_every_damaged_file_is_reported_and_no_file_is_changed(root):
    first = cut(root / "images/train/train1.jpg")
    cut(root / "masks/train/train4.png", 0.9)
    before = {path: path.read_bytes() for path in root.rglob("*.*")}
    dataset = data_of(root).dataset("train", TrainTransform(crop=32))
    samples = unreadable.find_unreadable(dataset, workers=2)
    assert samples == unreadable.find_unreadable(dataset)
    assert [sample.index for sample in samples] == [1, 4]
    assert samples[0].file == first
    assert samples[0].error.startswith(f"{first}: truncated")
    assert samples[1].file.endswith("images/train/train4.jpg")
    assert "masks/train/train4.png: truncated" in samples[1].error
    assert {path: path.read_bytes() for path in root.rglob("*.*")} == before


def data_of(root):
    """The source for `root`, opened before files are damaged, because opening it checks some of them."""
    intact = root.with_name("intact")
    if not intact.exists():
        write_data(intact)
    data = masks(root=str(intact))
    for split, files in data.splits.items():
        for name in ("images", "labels"):
            packed = np.array([path.replace(b"/intact/", b"/data/") for path in getattr(files, name)])
            object.__setattr__(files, name, packed)
        assert len(data.splits[split]) == len(files)
    return data


def test_each_process_reads_its_share(root):
    for number in (0, 3, 4):
        cut(root / f"images/train/train{number}.jpg")
    dataset = data_of(root).dataset("train", EvalTransform())
    shares = [
        [f.index for f in unreadable.find_unreadable(dataset, rank=rank, world_size=2)] for rank in (0, 1)
    ]
    assert shares == [[0, 4], [3]]


def test_other_exceptions_are_not_treated_as_unreadable_files():
    def broken(index):
        raise KeyError(index)

    with pytest.raises(KeyError):
        list(parallel_map(broken, range(3), quiet=True))


def test_no_budget_allows_a_split_of_which_nothing_is_left():
    samples = [UnreadableSample(n, f"{n}.png", f"{n}.png: truncated") for n in range(2)]
    with pytest.raises(UserError) as caught:
        check_error_budget(samples, total=2, budget=1.0, split="val")
    assert str(caught.value) == (
        "all files of val (2) cannot be read; restore or replace them; the first: 0.png: truncated"
    )


@pytest.mark.parametrize(
    ("bad", "total", "budget", "allowed"),
    [
        (0, 10, 0.0, True),
        (1, 10, 0.0, False),
        (1, 100, 0.01, True),
        (2, 100, 0.01, False),
        (9, 10, 1.0, True),
    ],
)
def test_the_error_budget_is_a_fraction_of_the_split(bad, total, budget, allowed):
    samples = [UnreadableSample(n, f"{n}.png", f"{n}.png: truncated") for n in range(3, 3 + bad)]
    if allowed:
        check_error_budget(samples, total=total, budget=budget, split="train")
        return
    with pytest.raises(UserError) as caught:
        check_error_budget(samples, total=total, budget=budget, split="train")
    message = str(caught.value)
    assert message.startswith(f"{bad} of {total} files of train cannot be read ({bad / total:.2%};")
    for part in (
        f"allows {budget:.2%}",
        "the first: 3.png: truncated",
        "repair or remove",
        "raise data.error_budget",
    ):
        assert part in message
    assert "\n" not in message


# ------------------------------------------------------------------ the datasets of a run


def test_a_split_is_the_same_as_if_the_damaged_files_had_never_existed(root):
    for name in ("images/train/train0.jpg", "masks/train/train3.png"):
        cut(root / name)
    builder = DatasetBuilder(runtime=ALONE, on_error="skip", error_budget=0.5)
    data = data_of(root)
    reduced = builder.dataset(data, "train", TrainTransform(crop=32), seed=5)
    assert [reduced.name(index) for index in range(len(reduced))] == ["train1", "train2", "train4", "train5"]
    assert len(data.splits["train"]) == 6  # the source is not changed
    for number in (0, 3):
        (root / f"images/train/train{number}.jpg").unlink()
        (root / f"masks/train/train{number}.png").unlink()
    expected = masks(root=str(root)).dataset("train", TrainTransform(crop=32), 5)
    for key in [SampleKey(index, epoch) for index in range(4) for epoch in range(2)]:
        assert torch.equal(reduced[key]["image"], expected[key]["image"])
        assert torch.equal(reduced[key]["label"], expected[key]["label"])
    assert builder.skipped_counts == {"skipped": {"train": 2}}
    assert re.match(
        r"2 train files left out \(skipped.json\), the first: .*train0.jpg: truncated.*; restore or "
        r"remove the file$",
        *builder.notes(),
    )


def test_fail_is_the_default_and_checks_no_files(root, monkeypatch):
    monkeypatch.setattr(unreadable, "find_unreadable", None)
    cut(root / "images/train/train1.jpg")
    builder = DatasetBuilder(runtime=ALONE)
    dataset = builder.dataset(data_of(root), "train", TrainTransform(crop=32))
    assert len(dataset) == 6
    assert (builder.skipped_counts, builder.notes()) == ({}, [])
    builder.write(root)
    assert not (root / "skipped.json").exists()
    with pytest.raises(UserError, match=r"train1.jpg: truncated"):
        dataset[SampleKey(1, 0)]


def test_a_limited_split_is_evenly_spaced(root):
    cut(root / "images/train/train1.jpg")
    cut(root / "images/train/train5.jpg")
    builder = DatasetBuilder(runtime=ALONE, on_error="skip", error_budget=0.5)
    dataset = builder.dataset(data_of(root), "train", TrainTransform(crop=32), limit=3)
    assert [dataset.name(index) for index in range(len(dataset))] == ["train0", "train2"]
    assert (
        len(DatasetBuilder(runtime=ALONE).dataset(data_of(root), "train", TrainTransform(crop=32), limit=99))
        == 6
    )
    with pytest.raises(UserError, match=r"data.limit must be at least 1"):
        builder.dataset(data_of(root), "train", TrainTransform(crop=32), limit=0)


def test_a_resumed_run_skips_the_same_samples(root, tmp_path, monkeypatch):
    cut(root / "images/train/train1.jpg")
    options = {"runtime": ALONE, "on_error": "skip", "error_budget": 0.5}
    before = DatasetBuilder(**options)
    before.dataset(data_of(root), "train", TrainTransform(crop=32))
    before.dataset(data_of(root), "val", EvalTransform())
    before.write(tmp_path)
    listed = json.loads((tmp_path / "skipped.json").read_text())
    assert listed.keys() == {"train", "val"}
    assert [entry["name"] for entry in listed["train"]] == ["train1"]
    assert listed["train"][0]["file"] == str(root / "images/train/train1.jpg")
    assert "truncated" in listed["train"][0]["error"]

    write_data(root)  # repaired, and another one broken since
    cut(root / "images/train/train2.jpg")
    monkeypatch.setattr(unreadable, "find_unreadable", None)
    moved = tmp_path / "elsewhere" / "data"
    shutil.copytree(root, moved)
    write_data(moved)
    for data in (data_of(root), masks(root=str(moved))):
        after = DatasetBuilder(runtime=ALONE, resumed_from=tmp_path / "skipped.json")
        dataset = after.dataset(data, "train", TrainTransform(crop=32))
        assert [dataset.name(index) for index in range(len(dataset))] == [
            f"train{n}" for n in (0, 2, 3, 4, 5)
        ]
        after.write(tmp_path)  # only this split was built, and the other one's list stays
        assert json.loads((tmp_path / "skipped.json").read_text()) == listed


def test_evaluation_on_the_training_split_has_a_separate_list(root):
    cut(root / "images/train/train1.jpg")
    builder = DatasetBuilder(runtime=ALONE, on_error="skip", error_budget=0.5)
    for transform in (TrainTransform(crop=32), EvalTransform()):
        assert len(builder.dataset(data_of(root), "train", transform)) == 5
    assert builder.skipped_counts == {"skipped": {"train": 1, "train, evaluated": 1}}


@pytest.mark.parametrize("content", ["[1]", '{"train": [{"file": "x"}]}', '{"train": 3}', "{", "\0"])
def test_a_damaged_list_is_rejected(tmp_path, content):
    (tmp_path / "skipped.json").write_text(content)
    with pytest.raises(UserError, match=r"skipped.json: damaged"):
        DatasetBuilder(runtime=ALONE, resumed_from=tmp_path / "skipped.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_error": "ignore"}, "data.on_error must be fail or skip, got 'ignore'"),
        ({"error_budget": 1.5}, r"data.error_budget must be a number in 0..1, got 1.5"),
        ({"error_budget": True}, "number in 0..1"),
        ({"error_budget": "1%"}, "number in 0..1"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(UserError, match=message):
        DatasetBuilder(runtime=ALONE, **options)


def test_options_are_read_from_the_data_config():
    options = DataOptions(split="val", workers=3, on_error="skip", error_budget=0.2)
    builder = DatasetBuilder.from_config(options, runtime=ALONE)
    assert (builder.on_error, builder.error_budget, builder.cache, builder.workers) == ("skip", 0.2, None, 3)


def test_two_processes_share_the_check_and_get_the_same_result(root, tmp_path):
    for number in (1, 4):
        cut(root / f"images/train/train{number}.jpg")
    data = data_of(root)

    def prepare(group):
        options = {"on_error": "skip", "error_budget": 0.4, "cache": str(tmp_path / "cache")}
        builder = DatasetBuilder(runtime=group, **options)
        dataset = builder.dataset(data, "train", TrainTransform(crop=32))
        too_few = DatasetBuilder(runtime=group, on_error="skip", error_budget=0.1)
        try:
            too_few.dataset(data, "train", TrainTransform(crop=32))
        except UserError as error:
            return builder.skipped, dataset[SampleKey(2, 1)]["image"].tolist(), str(error)
        return None

    first, second = in_processes(2, prepare)
    assert first is not None
    assert first == second
    assert [entry["name"] for entry in first[0]["train"]] == ["train1", "train4"]
    # seeded by its new index, the one it would have without the broken files
    expected = TrainTransform(crop=32)(
        *data.dataset("train", None).read(3)[:2], sample_seed(0, SampleKey(2, 1))
    )[0]
    assert first[1] == expected.transpose(2, 0, 1).tolist()
    assert first[2].startswith("2 of 6 files of train cannot be read")


# ------------------------------------------------------------------ the command line


def small_training(root, folder):
    options = ["data.crop=32", "data.workers=2", "trainer.batch=2", "trainer.tensorboard=false", "samples=1"]
    return ["data=masks", f"data.root={root}", *options, "trainer.eval_every=2", f"run={folder}"]


def result(folder):
    """Metrics of a run, and the bytes of its last checkpoint."""
    metrics = json.loads((folder / "metrics.json").read_text())
    return metrics, (folder / "checkpoints" / "last.safetensors").read_bytes()


@pytest.mark.slow
def test_a_run_with_a_damaged_file_equals_a_run_without_it(tmp_path):
    """This includes cached runs. A resumed run uses the same samples even if the file has been repaired."""
    root = write_data(tmp_path / "data")
    whole = (root / "images/train/train2.jpg").read_bytes()
    broken = cut(root / "images/train/train2.jpg")
    skip = ["data.on_error=skip", "data.error_budget=0.2", "data.cache=pixels", "trainer.steps=4"]
    output = run("train", *small_training(root, "skips"), *skip, cwd=tmp_path)
    assert "train file read 6/6" in output
    assert "images to cache 5/5" in output
    assert f"1 train file left out (skipped.json): {broken}: truncated" in output
    listed = json.loads((tmp_path / "skips/skipped.json").read_text())
    assert [entry["file"] for entry in listed["train"]] == [broken]
    assert listed["val"] == []
    metrics, weights = result(tmp_path / "skips")
    assert metrics.pop("skipped") == {"train": 1, "val": 0}

    (root / "images/train/train2.jpg").write_bytes(whole)
    output = run("train", f"resume={tmp_path / 'skips'}", "trainer.steps=5", cwd=tmp_path)
    assert "step 4 of 5" in output
    assert "file read" not in output
    assert "to cache" not in output
    assert "1 train file left out" in output
    assert result(tmp_path / "skips")[0]["skipped"] == {"train": 1, "val": 0}

    for folder, end in (("images", "jpg"), ("masks", "png")):
        (root / folder / "train" / f"train2.{end}").unlink()
    run("train", *small_training(root, "without"), "trainer.steps=4", cwd=tmp_path)
    assert (metrics, weights) == result(tmp_path / "without")


@pytest.mark.slow
def test_eval_uses_the_cache_and_rejects_an_outdated_one(tmp_path):
    root = write_data(tmp_path / "data")
    options = [*small_training(root, "run"), "data.on_error=skip", "data.cache=pixels", "trainer.steps=2"]
    run("train", *options, cwd=tmp_path)
    evaluate = [f"run={tmp_path / 'run'}", "out=scores", "checkpoint=last"]
    run("eval", *evaluate, cwd=tmp_path)
    scores = json.loads((tmp_path / "scores/metrics.json").read_text())
    assert scores["skipped"] == {"val": 0}
    assert scores["miou"] == pytest.approx(result(tmp_path / "run")[0]["miou"], abs=1e-9)
    changed = root / "images/val/val1.jpg"
    changed.write_bytes(changed.read_bytes()[:-2] + b"  \xff\xd9")
    output = run("eval", *evaluate, cwd=tmp_path, status=1)
    assert f"outdated, {changed} has changed" in output.splitlines()[-1]


@pytest.mark.parametrize(
    ("damaged", "end"),
    [
        (1, "data.on_error=skip also needs data.error_budget=0.334"),
        (3, "data.on_error=skip would leave none"),
    ],
)
def test_skip_is_no_remedy_if_a_whole_split_is_damaged(tmp_path, damaged, end):
    root = write_data(tmp_path / "data")
    images = sorted((root / "images/val").iterdir())
    assert len(images) == 3
    for image in images[:damaged]:
        image.write_bytes(b"no picture")
    with pytest.raises(UserError) as caught:
        refuse_incomplete([masks(root=str(root)).dataset("val", EvalTransform())], runtime=ALONE, budget=0.01)
    assert str(caught.value).endswith(end)


def test_samples_with_damaged_masks_are_left_out(tmp_path):
    root = write_data(tmp_path / "data")
    cut(root / "masks/train/train0.png", 0.9)
    (root / "masks/val/val1.png").write_bytes(b"no picture")
    source = masks(root=str(root))
    for split, damaged in (("train", "train0"), ("val", "val1")):
        with pytest.raises(UserError, match=rf"{damaged}\.png: truncated"):
            refuse_incomplete([source.dataset(split, EvalTransform())], runtime=ALONE, budget=0.01)
    builder = DatasetBuilder(runtime=ALONE, on_error="skip", error_budget=0.4)
    for split, left in (("train", 5), ("val", 2)):
        assert len(builder.dataset(masks(root=str(root), on_error="skip"), split, EvalTransform())) == left


@pytest.mark.slow
def test_the_run_fails_if_damaged_files_exceed_the_budget(tmp_path):
    root = write_data(tmp_path / "data")
    broken = cut(root / "images/train/train2.jpg")
    output = run("train", *small_training(root, "run"), "data.on_error=skip", cwd=tmp_path, status=1)
    message = output.strip().splitlines()[-1]
    assert message.startswith(
        "error: 1 of 6 files of train cannot be read (16.67%; data.error_budget allows 1.00%)"
    )
    assert broken in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("path", ["my cache/a,b", "[x]=1"])
def test_any_path_can_be_used_as_cache_folder(path):
    assert compose.compose_config("train", [f"data.cache={path}"]).data.cache == path


def test_an_evaluation_that_skipped_nothing_leaves_no_list_of_an_earlier_one(tmp_path):
    builder = DatasetBuilder(runtime=ALONE, on_error="skip")
    builder.skipped = {"val": [{"file": "a.jpg", "name": "a", "error": "damaged"}]}
    _write_skipped(builder, tmp_path)
    assert json.loads((tmp_path / "skipped.json").read_text()) == builder.skipped
    _write_skipped(DatasetBuilder(runtime=ALONE), tmp_path)
    assert not (tmp_path / "skipped.json").exists()


def test_an_evaluation_into_the_folder_of_a_run_keeps_the_list_of_the_run(tmp_path):
    """`resume=` leaves out what it lists."""
    (tmp_path / "config.yaml").touch()
    (tmp_path / "skipped.json").write_text("{}")
    builder = DatasetBuilder(runtime=ALONE, on_error="skip")
    for skipped in ({}, {"val": []}):
        builder.skipped = skipped
        _write_skipped(builder, tmp_path)
        assert (tmp_path / "skipped.json").read_text() == "{}"
