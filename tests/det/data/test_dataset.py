"""DetectionSplit in flat arrays, the samples made of them, and the rules about boxes that all formats share."""

import json
import multiprocessing
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from det.data.source_checks import checked_source
from det.data.cleaning import AnnotationIssues, RawSplit, clean_split
from det.data.dataset import DetectionSplit, DetectionSource, DetectionDataset
from det.data.streets import streets
from det.transforms import EvalTransform, TrainTransform
from engine.data.class_map import ClassMap
from engine.data.images import write_png
from engine.data.loader import collate
from engine.data.pixel_cache import PixelCache
from engine.data.loader import SampleKey
from engine.errors import UserError
from engine.io.files import pack_paths

CLASSES = ClassMap(names=("cat", "dog"))


def picture(path, height=40, width=60, seed=0):
    write_png(path, np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))
    return str(path)


def split(folder, boxes_of, *, height=40, width=60, seed=0, **options):
    """A finished split with one picture per list of boxes, and what was found."""
    images = [picture(folder / f"{n}.png", height, width, seed=seed + n) for n in range(len(boxes_of))]
    owners = [n for n, boxes in enumerate(boxes_of) for _ in boxes]
    boxes = np.array([box for boxes in boxes_of for box in boxes], np.float64).reshape(-1, 4)
    raw = RawSplit(
        images=images,
        names=[Path(image).stem for image in images],
        files=[Path(image).name for image in images],
        sizes=options.pop("sizes", [(height, width)] * len(images)),
        owners=np.array(owners, np.int64),
        boxes=boxes,
        labels=options.pop("labels", np.zeros(len(boxes), np.int64)),
        **options,
    )
    issues = AnnotationIssues()
    return clean_split(raw, issues), issues.lines("here")


def dataset(annotations, transform, **options):
    return DetectionDataset(split=annotations, classes=CLASSES, transform=transform, **options)


# ------------------------------------------------------------------- the rules


@pytest.mark.parametrize(
    ("given", "kept", "line"),
    [
        ((1, 2, 30, 20), (1, 2, 30, 20), None),
        ((0, 0, 60, 40), (0, 0, 60, 40), None),
        (
            (30, 20, 1, 2),
            (1, 2, 30, 20),
            "1 box with left and right, or top and bottom, exchanged: put right",
        ),
        ((-5, 2, 30, 50), (0, 2, 30, 40), "1 box partly outside of the picture: cut off"),
        ((-0.2, 2, 30, 40.3), (0, 2, 30, 40), None),  # a rounding error is not worth a line
        ((61, 2, 70, 20), None, "1 box outside of the picture: left out"),
        ((-9, -9, -1, 20), None, "1 box outside of the picture: left out"),
        ((5, 5, 5, 30), None, "1 box thinner than 1 pixel: left out"),
        ((5, 5, 20, 5.5), None, "1 box thinner than 1 pixel: left out"),
        ((59.5, 5, 80, 30), None, "1 box thinner than 1 pixel: left out"),  # after the cut
        ((5, 5, 6, 7), (5, 5, 6, 7), None),
        ((np.nan, 5, 20, 7), None, "1 box with coordinates that are not finite: left out"),
        ((1, 5, np.inf, 7), None, "1 box with coordinates that are not finite: left out"),
        ((-1e308, -1e308, 1e308, 1e308), (0, 0, 60, 40), "1 box partly outside of the picture: cut off"),
    ],
)
def test_each_rule_is_applied_and_reported_once_with_the_file(tmp_path, given, kept, line):
    part, lines = split(tmp_path, [[(1, 1, 9, 9)], [given]])
    boxes, _, ignored = part.objects(1)
    assert boxes.tolist() == ([] if kept is None else [list(kept)])
    assert boxes.dtype == np.float32
    assert not ignored.any()
    expected = [] if line is None else [f"here: {line} (1.png)"]
    assert [text for text in lines if "negatives" not in text] == expected


def test_many_findings_are_one_line_with_two_files(tmp_path):
    _, lines = split(tmp_path, [[(1, 1, 1, 9)], [(1, 1, 9, 9)], [(2, 2, 2, 2), (3, 3, 3, 3)], [(1, 1, 5, 1)]])
    assert lines == [
        "here: 4 boxes thinner than 1 pixel: left out (0.png, 2.png)",
        "here: 3 images without objects: kept as negatives (0.png, 2.png)",
    ]


def test_boxes_in_any_order_end_up_with_their_images(tmp_path):
    images = [picture(tmp_path / f"{n}.png") for n in range(3)]
    raw = RawSplit(
        images=images,
        names=["a", "b", "c"],
        files=["a", "b", "c"],
        sizes=[(40, 60)] * 3,
        owners=np.array([2, 0, 2, 0, 2]),
        boxes=np.array([[n, 0, n + 10, 20] for n in range(5)], np.float64),
        labels=np.array([0, 1, 1, 0, 0]),
        crowd=np.array([0, 0, 1, 0, 0], bool),
        difficult=np.array([0, 1, 0, 0, 0], bool),
        areas=np.array([7, np.nan, 9, -1, 11.0]),
    )
    part = clean_split(raw, AnnotationIssues())
    assert part.offsets.tolist() == [0, 2, 2, 5]
    assert part.objects(0)[0][:, 0].tolist() == [1, 3]
    assert part.objects(2)[0][:, 0].tolist() == [0, 2, 4]
    assert part.objects(2)[1].tolist() == [0, 1, 0]
    assert part.objects(2)[2].tolist() == [False, True, False]
    assert part.objects(0)[2].tolist() == [True, False]
    assert part.crowd.tolist() == [False, False, False, True, False]
    assert part.areas.tolist() == [
        200,
        200,
        7,
        9,
        11,
    ]  # that of the box where none, or none sensible, is given
    assert part.image_ids.tolist() == [1, 2, 3]


def test_sizes_are_compared_with_the_files(tmp_path):
    with pytest.raises(UserError, match=r"0\.png: says 80 x 120 but .*0\.png is 40 x 60 .*scale.*sizes=file"):
        split(tmp_path, [[(1, 1, 9, 9)]], sizes=[(80, 120)])
    part, _ = split(tmp_path, [[(1, 1, 9, 9)]], sizes=[None])
    assert part.sizes.tolist() == [[40, 60]]


def test_sizes_of_turned_pictures_are_those_of_the_upright_one(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (60, 40)).save(tmp_path / "turned.jpg", exif=exif)

    def read(size):
        raw = RawSplit(images=[str(tmp_path / "turned.jpg")], names=["t"], files=["t.xml"], sizes=[size])
        return clean_split(raw, AnnotationIssues()).sizes.tolist()

    assert read((60, 40)) == [[60, 40]]  # upright: 60 high
    with pytest.raises(UserError, match=r"t\.xml: says 40 x 60 .* EXIF orientation"):
        read((40, 60))


def test_stated_sizes_can_be_ignored(tmp_path):
    raw = RawSplit(images=[picture(tmp_path / "a.png")], names=["a"], files=["a"], sizes=[(1, 1)])
    assert clean_split(raw, AnnotationIssues(), sizes="file").sizes.tolist() == [[40, 60]]
    with pytest.raises(ValueError, match="sizes must be check or file"):
        clean_split(raw, AnnotationIssues(), sizes="guess")


def test_a_picture_that_cannot_be_read_fails_when_it_is_read(tmp_path):
    part, _ = split(tmp_path, [[(1, 1, 9, 9)], [(1, 1, 9, 9)]])
    (tmp_path / "1.png").write_bytes(b"no picture")
    raw = RawSplit(
        images=[str(tmp_path / f"{n}.png") for n in range(2)],
        names=["0", "1"],
        files=["0.txt", "1.txt"],
        sizes=[None, None],
        owners=np.array([0, 1]),
        boxes=np.array([[1, 1, 9, 9]] * 2, np.float64),
        labels=np.zeros(2, np.int64),
    )
    issues = AnnotationIssues()
    part = clean_split(raw, issues)
    assert issues.lines("here")[0] == "here: 1 image that cannot be read (1.txt)"
    assert part.offsets.tolist() == [0, 1, 1]
    with pytest.raises(UserError, match=r"1\.png.*(restore|remove)"):
        dataset(part, EvalTransform(size=32))[SampleKey(1, 0)]


# ------------------------------------------------------------------ flat arrays


def test_images_can_be_left_out(tmp_path):
    part, _ = split(tmp_path, [[(1, 1, 9, 9)], [(2, 2, 9, 9), (3, 3, 9, 9)], [], [(4, 4, 9, 9)]])
    less = part.without([0, 2])
    assert len(less) == 2
    assert less.offsets.tolist() == [0, 2, 3]
    assert less.boxes[:, 0].tolist() == [2, 3, 4]
    assert less.image_ids.tolist() == [2, 4]
    assert [Path(path.decode()).name for path in less.images] == ["1.png", "3.png"]
    assert len(part) == 4  # the original stays
    assert len(part.without(range(4))) == 0


def test_arrays_that_do_not_fit_are_refused(tmp_path):
    part, _ = split(tmp_path, [[(1, 1, 9, 9)]])
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
    part, _ = split(
        tmp_path,
        [[(6, 4, 30, 20), (1, 1, 9, 9), (30, 8, 60, 40)], []],
        labels=np.array([1, 0, 0]),
        difficult=np.array([False, True, False]),
    )
    transform = TrainTransform(size=(80, 120), crop=None, flip=0)
    first, second = (dataset(part, transform)[SampleKey(index, 0)] for index in range(2))
    assert first["image"].shape == (3, 80, 120)
    assert first["image"].dtype == torch.uint8
    # twice as large; the difficult one is not trained on
    np.testing.assert_allclose(first["boxes"].rows, [[12, 8, 60, 40], [60, 16, 120, 80]], atol=1e-4)
    assert first["labels"].rows.tolist() == [1, 0]
    assert second["boxes"].rows.shape == (0, 4)
    assert second["labels"].rows.dtype == torch.int64
    batch = collate([first, second])
    assert batch["image"].shape == (2, 3, 80, 120)
    assert [len(boxes) for boxes in batch["boxes"]] == [2, 0]
    assert batch["boxes"][0].dtype == torch.float32
    assert batch["index"].tolist() == [0, 1]


def test_an_evaluation_sample_says_the_size_of_its_file(tmp_path):
    part, _ = split(tmp_path, [[(6, 4, 30, 20)]])
    sample = dataset(part, EvalTransform(size=(32, 64)))[SampleKey(0, 0)]
    assert set(sample) == {"image", "size", "index"}
    assert sample["size"].tolist() == [40, 60]
    assert sample["image"].shape == (3, 32, 64)
    assert collate([sample, sample])["size"].tolist() == [[40, 60], [40, 60]]


def test_a_sample_depends_on_seed_epoch_and_index_only(tmp_path):
    part, _ = split(tmp_path, [[(6, 4, 30, 20)], [(1, 1, 50, 30)], [(9, 9, 20, 20)]])

    def drawn(seed, index, epoch, mosaic=0.5):
        transform = TrainTransform(size=32, mosaic=mosaic)
        sample = dataset(part, transform, seed=seed)[SampleKey(index, epoch)]
        return sample["image"].numpy().tobytes(), sample["boxes"].rows.numpy().tobytes()

    assert drawn(1, 2, 3) == drawn(1, 2, 3)
    assert len({drawn(1, 2, epoch) for epoch in range(8)}) > 5
    assert len({drawn(seed, 2, 0) for seed in range(8)}) > 5


class Four:
    """A transform that asks for three partners at even seeds, and says what it was given."""

    def partners(self, seed):
        return 3 if seed % 2 == 0 else 0

    def combine(self, samples, seed):
        self.given = [boxes for _, boxes, _ in samples]
        return samples[0]

    def __call__(self, image, boxes, labels, seed):
        self.given = [boxes]
        return image, boxes, labels


def test_mosaics_are_made_of_the_drawn_sample_and_partners(tmp_path):
    part, _ = split(tmp_path, [[(n, n, 30, 30)] for n in range(10)])
    transform = Four()
    data = dataset(part, transform)
    partners, counts = set(), set()
    for epoch in range(40):
        data[SampleKey(3, epoch)]
        lefts = [int(boxes[0, 0]) for boxes in transform.given]
        assert lefts[0] == 3
        counts.add(len(lefts))
        partners.update(lefts[1:])
    assert counts == {1, 4}
    assert partners == set(range(10))


def test_a_picture_of_another_size_than_annotated_is_refused_when_read(tmp_path):
    part, _ = split(tmp_path, [[(1, 1, 9, 9)]])
    picture(tmp_path / "0.png", 20, 30)
    with pytest.raises(UserError, match=r"0\.png: 20 x 30 but annotated as 40 x 60"):
        dataset(part, TrainTransform(size=32))[SampleKey(0, 0)]


def test_pictures_come_from_a_cache_where_there_is_one(tmp_path):
    part, _ = split(tmp_path, [[(1, 1, 9, 9)], [(6, 4, 30, 20)]])
    transform = TrainTransform(size=32)
    expected = [dataset(part, transform)[SampleKey(index, 0)]["image"] for index in range(2)]
    images = [path.decode() for path in part.images]
    cache = PixelCache.open_or_build(tmp_path / "cache", images=images)
    cached = dataset(part, transform, cache=cache)
    for index in range(2):
        (tmp_path / f"{index}.png").unlink()
        assert torch.equal(cached[SampleKey(index, 0)]["image"], expected[index])
    assert cached[SampleKey(0, 0)]["image"].add_(1) is not None  # a cache is read-only, a sample is not


# ------------------------------------------------------------- splits together


def test_a_data_set_knows_its_splits(tmp_path):
    part, _ = split(tmp_path, [[(1, 1, 9, 9)]])
    warnings = ["data.yaml: val: away is not there; the split is left out"]
    data = DetectionSource(
        classes=CLASSES, splits={"train": part}, description="cats at home", warnings=warnings
    )
    assert data.dataset("train", EvalTransform(size=32)).name(0) == "0"
    assert data.dataset("train", EvalTransform(size=32)).has_labels
    reason = "data.yaml: val: away is not there; the split is left out; give data.split=train"
    with pytest.raises(UserError, match=f"no split 'val' in cats at home; {reason}"):
        data.dataset("val", EvalTransform(size=32))
    only_val = DetectionSource(classes=CLASSES, splits={"val": part}, description="cats away")
    with pytest.raises(UserError, match="no split 'train' in cats away; add pictures to train"):
        only_val.dataset("train", EvalTransform(size=32))


def joined(train, val, **options):
    return checked_source(
        name="home",
        classes=CLASSES,
        splits={"train": train, "val": val},
        issues=AnnotationIssues(),
        **options,
    )


def test_pictures_in_both_train_and_val_are_refused(tmp_path):
    train, _ = split(tmp_path / "train", [[(1, 1, 9, 9)]])
    val, _ = split(tmp_path / "val", [[(1, 1, 9, 9)]], seed=5)
    with pytest.raises(UserError, match=r"'0' is an image of both train and val.*allow_same_names=true"):
        joined(train, val)
    data = joined(train, val, allow_same_names=True)
    assert data.warnings == (
        "home: 1 class without a box in train (dog)",
        "home: 1 class without a box in val (dog)",
    )
    same, _ = split(tmp_path / "same", [[(1, 1, 9, 9)]])
    with pytest.raises(UserError, match=r"same/0\.png: the same picture as .*train/0\.png"):
        joined(train, same, allow_same_names=True)


def test_a_training_split_without_boxes_is_refused(tmp_path):
    train, _ = split(tmp_path / "train", [[(1, 1, 1, 9)]])
    val, _ = split(tmp_path / "val", [[(1, 1, 9, 9)]], seed=5)
    with pytest.raises(UserError, match="home: the training split holds no box"):
        joined(train, val)


# ---------------------------------------------------------------------- streets


def test_streets_have_the_boxes_of_their_instances(tmp_path):
    options = {"num_train": 4, "num_val": 2, "num_test": 0, "size": (64, 128), "seed": 3}
    data = streets(root=str(tmp_path / "s"), **options)
    assert {name: len(part) for name, part in data.splits.items()} == {"train": 4, "val": 2}
    assert data.classes.names[:5] == ("traffic light", "traffic sign", "person", "rider", "car")
    assert data.classes.ids == (19, 20, 24, 25, 26, 27, 28, 31, 32, 33)
    assert data.description.startswith("built-in street scenes at")
    dataset = data.dataset("train", EvalTransform(size=64))
    boxes_seen = 0
    for index in range(4):
        path = Path(dataset.image_path(index))
        mask = Path(str(path).replace("leftImg8bit", "gtFine").removesuffix(".png") + "_instanceIds.png")
        ids = np.asarray(Image.open(mask))
        boxes, labels, _ = data.splits["train"].objects(index)
        for (x1, y1, x2, y2), label in zip(boxes.astype(int), labels, strict=True):
            inside = ids[y1:y2, x1:x2]
            # every side of a tight box touches a pixel of the class (instances as id * 1000 + n, lone as id)
            of_class = (inside // 1000 == data.classes.ids[label]) | (inside == data.classes.ids[label])
            assert of_class.any(axis=0)[[0, -1]].all()
            assert of_class.any(axis=1)[[0, -1]].all()
            boxes_seen += 1
    assert boxes_seen > 20
    written = json.loads((tmp_path / "s/annotations/instances_train.json").read_text())
    assert boxes_seen <= len(written["annotations"])


def test_streets_are_drawn_once_and_refused_where_something_else_is(tmp_path):
    options = {"num_train": 1, "num_val": 1, "num_test": 0, "size": (64, 128)}
    streets(root=str(tmp_path / "s"), **options)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*.png")}
    streets(root=str(tmp_path / "s"), **options)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*.png")}
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine.txt").write_text("precious")
    with pytest.raises(UserError, match="not written by this program") as caught:
        streets(root=str(tmp_path / "other"), **options)
    assert not re.search(r"\n", str(caught.value))
    with pytest.raises(UserError, match="size must be"):
        streets(size=(8, 8))
