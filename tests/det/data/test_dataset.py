"""Splits as flat arrays, and the samples and datasets made of them."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch

from det.data.dataset import DetectionSource, DetectionSplit
from det.transforms import EvalTransform, TrainTransform
from engine.data.loader import SampleKey, collate
from engine.data.pixel_cache import PixelCache
from engine.errors import UserError
from engine.io.files import pack_paths
from tests.det.data.small_splits import CLASSES, make_dataset, make_split, write_image

# ------------------------------------------------------------------ flat arrays


def test_images_can_be_left_out(tmp_path):
    part, _ = make_split(tmp_path, [[(1, 1, 9, 9)], [(2, 2, 9, 9), (3, 3, 9, 9)], [], [(4, 4, 9, 9)]])
    less = part.without([0, 2])
    assert len(less) == 2
    assert less.offsets.tolist() == [0, 2, 3]
    assert less.boxes[:, 0].tolist() == [2, 3, 4]
    assert less.image_ids.tolist() == [2, 4]
    assert [Path(path.decode()).name for path in less.images] == ["1.png", "3.png"]
    assert len(part) == 4  # the original is unchanged
    assert len(part.without(range(4))) == 0


def test_arrays_that_do_not_fit_are_rejected(tmp_path):
    part, _ = make_split(tmp_path, [[(1, 1, 9, 9)]])
    values = {name: getattr(part, name) for name in DetectionSplit.__dataclass_fields__}
    with pytest.raises(ValueError, match="labels must have 1 rows, got 0"):
        DetectionSplit(**{**values, "labels": values["labels"][:0]})
    with pytest.raises(ValueError, match="names must have 1 rows"):
        DetectionSplit(**{**values, "names": pack_paths([])})
    with pytest.raises(ValueError, match="offsets must be 2 numbers from 0 to 1"):
        DetectionSplit(**{**values, "offsets": np.array([0, 0])})


def _private_kb(annotations, connection):
    def measure():
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))

    measured = []
    for _ in range(3):
        for index in range(len(annotations)):
            annotations.objects(index)
        measured.append(measure())
    connection.send(measured)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux' /proc")
def test_a_worker_goes_on_sharing_the_annotations():
    count = 50_000
    part = DetectionSplit(
        images=pack_paths([f"{n:060d}" for n in range(count)]),
        names=pack_paths([f"{n:060d}" for n in range(count)]),
        image_ids=np.arange(count),
        sizes=np.full((count, 2), 100, np.int32),
        offsets=np.arange(count + 1) * 8,
        boxes=np.ones((count * 8, 4), np.float32),
        labels=np.ones(count * 8, np.int32),
        crowd=np.ones(count * 8, bool),
        ignored=np.ones(count * 8, bool),
        areas=np.ones(count * 8, np.float32),
    )
    assert part.num_bytes > 15e6
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    worker = context.Process(target=_private_kb, args=(part, send))
    worker.start()
    first, second, third = receive.recv()
    worker.join()
    assert first < 10_000  # kB; the arrays alone would be 16 MB
    assert third - second < 300


# ---------------------------------------------------------------------- samples


def test_a_training_sample_has_what_the_loss_needs(tmp_path):
    part, _ = make_split(
        tmp_path,
        [[(6, 4, 30, 20), (1, 1, 9, 9), (30, 8, 60, 40)], []],
        labels=np.array([1, 0, 0]),
        difficult=np.array([False, True, False]),
    )
    transform = TrainTransform(size=(80, 120), crop=None, flip=0)
    first, second = (make_dataset(part, transform)[SampleKey(index, 0)] for index in range(2))
    assert first["image"].shape == (3, 80, 120)
    assert first["image"].dtype == torch.uint8
    # twice as large; the difficult box is not trained on
    np.testing.assert_allclose(first["boxes"].rows, [[12, 8, 60, 40], [60, 16, 120, 80]], atol=1e-4)
    assert first["labels"].rows.tolist() == [1, 0]
    assert second["boxes"].rows.shape == (0, 4)
    assert second["labels"].rows.dtype == torch.int64
    batch = collate([first, second])
    assert batch["image"].shape == (2, 3, 80, 120)
    assert [len(boxes) for boxes in batch["boxes"]] == [2, 0]
    assert batch["boxes"][0].dtype == torch.float32
    assert batch["index"].tolist() == [0, 1]


def test_an_evaluation_sample_has_the_size_of_its_file(tmp_path):
    part, _ = make_split(tmp_path, [[(6, 4, 30, 20)]])
    sample = make_dataset(part, EvalTransform(size=(32, 64)))[SampleKey(0, 0)]
    assert set(sample) == {"image", "size", "index"}
    assert sample["size"].tolist() == [40, 60]
    assert sample["image"].shape == (3, 32, 64)
    assert collate([sample, sample])["size"].tolist() == [[40, 60], [40, 60]]


def test_a_sample_depends_only_on_seed_epoch_and_index(tmp_path):
    part, _ = make_split(tmp_path, [[(6, 4, 30, 20)], [(1, 1, 50, 30)], [(9, 9, 20, 20)]])

    def drawn(seed, index, epoch, mosaic=0.5):
        transform = TrainTransform(size=32, mosaic=mosaic)
        sample = make_dataset(part, transform, seed=seed)[SampleKey(index, epoch)]
        return sample["image"].numpy().tobytes(), sample["boxes"].rows.numpy().tobytes()

    assert drawn(1, 2, 3) == drawn(1, 2, 3)
    assert len({drawn(1, 2, epoch) for epoch in range(8)}) > 5
    assert len({drawn(seed, 2, 0) for seed in range(8)}) > 5


class Four:
    """A transform that needs three partners at even seeds, and records the boxes it is called with."""

    def partners(self, seed):
        return 3 if seed % 2 == 0 else 0

    def combine(self, samples, seed):
        self.boxes = [boxes for _, boxes, _ in samples]
        return samples[0]

    def __call__(self, image, boxes, labels, seed):
        self.boxes = [boxes]
        return image, boxes, labels


def test_mosaics_consist_of_the_drawn_sample_and_its_partners(tmp_path):
    part, _ = make_split(tmp_path, [[(n, n, 30, 30)] for n in range(10)])
    transform = Four()
    data = make_dataset(part, transform)
    partners, counts = set(), set()
    for epoch in range(40):
        data[SampleKey(3, epoch)]
        lefts = [int(boxes[0, 0]) for boxes in transform.boxes]
        assert lefts[0] == 3
        counts.add(len(lefts))
        partners.update(lefts[1:])
    assert counts == {1, 4}
    assert partners == set(range(10))


def test_an_image_of_another_size_than_annotated_is_rejected_when_read(tmp_path):
    part, _ = make_split(tmp_path, [[(1, 1, 9, 9)]])
    write_image(tmp_path / "0.png", 20, 30)
    with pytest.raises(UserError, match=r"0\.png: is 20 x 30 but annotated as 40 x 60"):
        make_dataset(part, TrainTransform(size=32))[SampleKey(0, 0)]


def test_images_are_read_from_the_cache_if_there_is_one(tmp_path):
    part, _ = make_split(tmp_path, [[(1, 1, 9, 9)], [(6, 4, 30, 20)]])
    transform = TrainTransform(size=32)
    expected = [make_dataset(part, transform)[SampleKey(index, 0)]["image"] for index in range(2)]
    images = [path.decode() for path in part.images]
    cache = PixelCache.open_or_build(tmp_path / "cache", images=images)
    cached = make_dataset(part, transform, cache=cache)
    for index in range(2):
        (tmp_path / f"{index}.png").unlink()
        assert torch.equal(cached[SampleKey(index, 0)]["image"], expected[index])
    assert cached[SampleKey(0, 0)]["image"].add_(1) is not None  # the cache is read-only, samples are not


# ---------------------------------------------------------------------- sources


def test_a_source_has_splits_and_says_which_are_missing(tmp_path):
    part, _ = make_split(tmp_path, [[(1, 1, 9, 9)]])
    warnings = ["data.yaml: val: away does not exist; the split is left out"]
    data = DetectionSource(
        classes=CLASSES, splits={"train": part}, description="cats at home", warnings=warnings
    )
    assert data.dataset("train", EvalTransform(size=32)).name(0) == "0"
    assert data.dataset("train", EvalTransform(size=32)).has_labels
    reason = "data.yaml: val: away does not exist; the split is left out; set data.split=train"
    with pytest.raises(UserError, match=f"no split 'val' in cats at home; {reason}"):
        data.dataset("val", EvalTransform(size=32))
    only_val = DetectionSource(classes=CLASSES, splits={"val": part}, description="cats away")
    with pytest.raises(UserError, match="no split 'train' in cats away; add images to train"):
        only_val.dataset("train", EvalTransform(size=32))
