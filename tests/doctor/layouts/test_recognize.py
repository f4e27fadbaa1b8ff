"""Every layout is recognized, and what is printed for it leads to a data source that can be trained on."""

import os
import shlex
from functools import partial
from pathlib import Path

import pytest

import cls
import det
import seg
from doctor.convert.run import convert
from doctor.layouts.recognize import recognize
from engine.config.compose import compose_config
from engine.config.training import build_source
from engine.errors import UserError
from tests.doctor.layouts import examples
from tests.refusals import refuses
from tests.tools.commands import run

TASKS = (seg.TASK, det.TASK, cls.TASK)
MASKS, COCO = "masks", "coco"

# builder: the layouts, best first, as (task, data), or (task, data, what the files are converted to).
EXPECTED = {
    examples.masks_by_kind: [("seg", "masks")],
    examples.masks_flat: [("seg", "masks")],
    examples.masks_by_split: [("seg", "masks")],
    examples.masks_camvid: [("seg", "masks")],
    examples.masks_beside: [("seg", "masks")],
    examples.roboflow_masks: [("seg", "masks")],
    examples.cvat_masks: [("seg", "masks")],
    examples.voc_segmentation: [("seg", "masks")],
    examples.ade20k: [("seg", "masks")],
    examples.cityscapes: [("seg", "cityscapes")],
    examples.coco_official: [("det", "coco"), ("seg", "coco")],
    examples.coco_boxes: [("det", "coco")],
    examples.coco_one_file: [("det", "coco")],
    examples.roboflow_coco: [("det", "coco"), ("seg", "coco")],
    examples.cvat_coco: [("det", "coco"), ("seg", "coco")],
    examples.label_studio_coco: [("det", "coco"), ("seg", "coco")],
    examples.voc_official: [("det", "voc")],
    examples.voc_devkit: [("det", "voc")],
    examples.voc_roboflow: [("det", "voc")],
    examples.voc_annots: [("det", "voc")],
    examples.voc_with_negatives: [("det", "voc")],
    examples.label_studio_voc: [("det", "voc")],
    examples.yolo_ultralytics: [("det", "yolo")],
    examples.yolo_outlines: [("seg", "masks", MASKS), ("det", "yolo")],
    examples.yolo_other_name: [("det", "yolo")],
    examples.yolo_roboflow: [("det", "yolo")],
    examples.cvat_yolo: [("det", "yolo")],
    examples.label_studio_yolo: [("det", "yolo")],
    examples.labelme: [("seg", "masks", MASKS), ("det", "labelme")],
    examples.labelme_boxes: [("det", "labelme")],
    examples.cvat: [("seg", "masks", MASKS), ("det", "cvat")],
    examples.cvat_boxes: [("det", "cvat")],
    examples.label_studio: [("seg", "masks", MASKS), ("det", "coco", COCO)],
    examples.label_studio_boxes: [("det", "coco", COCO)],
    examples.label_studio_min: [("seg", "masks", MASKS), ("det", "coco", COCO)],
    examples.supervisely: [("seg", "masks", MASKS), ("det", "coco", COCO)],
    examples.supervisely_boxes: [("det", "coco", COCO)],
    examples.class_folders: [("cls", "folders")],
    examples.class_folders_by_split: [("cls", "folders")],
    examples.roboflow_classes: [("cls", "folders")],
    examples.imagenet: [("cls", "imagenet"), ("cls", "folders")],
}
DETECTORS = [name for name, found in EXPECTED.items() if any(task == "det" for task, *_ in found)]
TRAINED_ALWAYS = {  # per task, one read in place, and a conversion to each format; the others once a week
    examples.masks_flat: "seg",
    examples.voc_with_negatives: "det",
    examples.class_folders: "cls",
    examples.labelme: "seg",
    examples.label_studio_boxes: "det",
}
COMMANDS = [
    pytest.param(
        builder,
        place,
        id=f"{builder.__name__}-{task}-{data}",
        marks=pytest.mark.slow if TRAINED_ALWAYS.get(builder) == task else pytest.mark.weekly,
    )
    for builder, layouts in EXPECTED.items()
    for place, (task, data, *_) in enumerate(layouts)
]
SHORT = ["trainer.steps=2", "trainer.eval_every=2", "trainer.batch=2", "data.workers=0", "samples=0"]
SHORT += ["trainer.tensorboard=false", "run=trained"]
SMALL = {"seg": ["data.crop=32"], "det": ["data.size=[96,96]"], "cls": ["data.size=32"]}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def built(builder, tmp_path):
    root = tmp_path / "my data (1)"  # a name that has to be quoted in a shell and in a configuration
    root.mkdir()
    builder(root)
    return root


@pytest.mark.parametrize("builder", EXPECTED, ids=lambda builder: builder.__name__)
def test_every_layout_is_recognized_and_its_source_builds(builder, tmp_path):
    root = built(builder, tmp_path)
    before = sorted(path for path in root.rglob("*"))
    layouts = recognize(root, TASKS)
    assert sorted(root.rglob("*")) == before  # such as a classes.json
    found = [(each.task, each.data, *(a[3:] for a in each.conversion if a[:3] == "to=")) for each in layouts]
    assert found == EXPECTED[builder]
    for layout in layouts:
        if layout.conversion:
            options = dict(argument.split("=", 1) for argument in layout.conversion)
            result = convert(
                Path(options["input"]), Path(options["out"]), to=options["to"], format=options["format"]
            )
            assert result.unreadable == []
        config = compose_config("train", [f"task={layout.task}", f"data={layout.data}", *layout.overrides])
        source = build_source(config)
        assert {"train", "val"} <= set(source.splits)
        names = [name for name in source.classes.names if name not in ("background", "animals")]
        if (
            builder not in (examples.imagenet, examples.cityscapes, examples.ade20k)
            and layout.data != "masks"
        ):
            assert names == ["cat", "dog"]


UTF_16 = [
    examples.masks_flat,
    examples.cvat_masks,
    examples.voc_segmentation,
    examples.coco_one_file,
    examples.voc_official,
    examples.yolo_ultralytics,
    examples.cvat_yolo,
    examples.label_studio_yolo,
    examples.labelme_boxes,
    examples.label_studio,
]


@pytest.mark.parametrize("builder", UTF_16, ids=lambda builder: builder.__name__)
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_files_that_windows_programs_save_as_utf_16_are_read(builder, encoding, tmp_path):
    root = built(builder, tmp_path)
    for path in root.rglob("*"):
        if path.suffix in (".json", ".xml", ".txt", ".yaml", ".names", ".data"):
            path.write_bytes(f"\ufeff{path.read_text(encoding='utf-8')}".encode(encoding))
    layouts = recognize(root, TASKS)
    assert [(each.task, each.data) for each in layouts] == [each[:2] for each in EXPECTED[builder]]
    layout = layouts[-1]
    if layout.conversion:
        options = dict(argument.split("=", 1) for argument in layout.conversion)
        out = Path(options["out"])
        assert convert(root, out, to=options["to"], format=options["format"]).unreadable == []
    source = build_source(
        compose_config("train", [f"task={layout.task}", f"data={layout.data}", *layout.overrides])
    )
    if layout.task == "det":
        assert source.classes.names == ("cat", "dog")
        assert all(len(split.boxes) for split in source.splits.values())


def test_what_a_reader_needs_is_in_the_command(tmp_path):
    examples.voc_with_negatives(tmp_path / "some")
    assert recognize(tmp_path / "some", TASKS)[0].overrides == (
        f"data.root={tmp_path}/some",
        "data.source.missing=negative",
    )
    examples.voc_official(tmp_path / "official")
    assert "data.source.one_based=true" in recognize(tmp_path / "official", TASKS)[0].overrides
    examples.yolo_other_name(tmp_path / "named")
    assert recognize(tmp_path / "named", TASKS)[0].overrides == (f"data.root={tmp_path}/named/animals.yaml",)


def test_ade20k_has_the_names_of_its_file_and_does_not_score_what_is_unlabeled(tmp_path):
    examples.ade20k(tmp_path / "ade")
    source = build_source(compose_config("train", ["task=seg", "data=masks", f"data.root={tmp_path}/ade"]))
    assert source.classes.names == ("wall", "building")
    assert (source.classes.ids, source.classes.ignore) == ((1, 2), (0,))


@pytest.mark.parametrize(("builder", "place"), COMMANDS)
def test_the_printed_commands_train(builder, place, tmp_path):
    layout = recognize(built(builder, tmp_path), TASKS)[place]
    if layout.conversion:
        printed = run("convert", *layout.conversion, cwd=tmp_path)
        command = shlex.split(printed.splitlines()[-1].removeprefix("next: python tools/train.py "))
    else:
        command = [f"task={layout.task}", f"data={layout.data}", *layout.overrides]
    assert f"task={layout.task}" in command
    printed = run("train", *command, *SMALL[layout.task], *SHORT, cwd=tmp_path)
    assert "step 2" in printed
    assert (tmp_path / "trained/checkpoints/best.safetensors").is_file()


# ---- folders that are nothing, or almost something


def test_a_folder_that_is_nothing_is_described(tmp_path):
    examples.images(tmp_path, ["a.png", "b.png"])
    examples.write(tmp_path / "notes.txt", "hello")
    refuses(
        partial(recognize, tmp_path, TASKS),
        r"unknown layout: 2 images among 2 \.png, 1 \.txt in 1 folder; expected .*data\.md",
    )


def test_packed_files_are_to_be_unpacked(tmp_path):
    examples.images(tmp_path, ["a.png", "b.png"])
    (tmp_path / "instances_train.json.gz").write_bytes(b"\x1f\x8b")
    refuses(partial(recognize, tmp_path, TASKS), r"1 \.gz in 1 folder; unpack the \.gz files; expected")


def test_an_empty_or_missing_folder_is_described(tmp_path):
    refuses(partial(recognize, tmp_path, TASKS), "unknown layout: no files")
    refuses(partial(recognize, tmp_path / "nowhere", TASKS), "no such folder")


def test_what_is_almost_a_dataset_says_what_is_missing(tmp_path):
    examples.label_studio_yolo(tmp_path / "yolo")
    (tmp_path / "yolo/classes.txt").unlink()
    refuses(partial(recognize, tmp_path / "yolo", TASKS), r"no data\.yaml or classes\.txt")
    examples.write(tmp_path / "cvat/annotations.xml", examples.cvat_xml(["a.png"]))
    refuses(partial(recognize, tmp_path / "cvat", TASKS), "but no images; put them in")
    examples.masks_by_kind(tmp_path / "masks")
    for name in examples.TRAIN[:3]:
        (tmp_path / "masks/masks/train" / name).unlink()
    refuses(partial(recognize, tmp_path / "masks", TASKS), r"a0\.png: no mask")
    examples.images(tmp_path / "one/train/cat", ["a.png"])
    refuses(partial(recognize, tmp_path / "one", TASKS), "one class folder")
    examples.write(tmp_path / "labelme/a.json", examples.labelme_json("a.png"))
    refuses(partial(recognize, tmp_path / "labelme", TASKS), "LabelMe's .*, but no images; put them in")
    examples.images(tmp_path / "video", ["0.png"])
    track = '<track id="0" label="cat"><box frame="0" xtl="0" ytl="0" xbr="5" ybr="5"/></track>'
    examples.write(tmp_path / "video/annotations.xml", f"<annotations>{track}</annotations>")
    refuses(
        partial(recognize, tmp_path / "video", TASKS), r"tracks of a video; export .* CVAT for images 1\.1"
    )
    refuses(lambda: convert(tmp_path / "video", tmp_path / "out", to="masks"), "tracks of a video; export")
    examples.masks_by_kind(tmp_path / "bare")
    for path in (tmp_path / "bare/images").rglob("*.png"):
        path.rename(path.with_suffix(""))
    refuses(partial(recognize, tmp_path / "bare", TASKS), "files left out: .*images must be")


def test_a_conversion_that_would_find_nothing_is_not_proposed(tmp_path):
    examples.images(tmp_path / "images", ["a.png", "b.png"])
    for name in ("a.png", "b.png"):
        examples.write(tmp_path / f"json/{name}_label.json", examples.labelme_json(name))
    refuses(
        partial(recognize, tmp_path, TASKS),
        "no JSON file has the name of .*; give images and JSON files the same",
    )


def test_yolo_without_any_label_file_is_no_dataset(tmp_path):
    examples.yolo_ultralytics(tmp_path)
    for path in tmp_path.rglob("labels/**/*.txt"):
        path.unlink()
    refuses(lambda: [*det.TASK.layouts(tmp_path)], "no label file .*, nor for other images")


def test_a_dataset_three_folders_below_is_found(tmp_path):
    examples.voc_official(tmp_path / "download/archive (1)/voc")
    found = recognize(tmp_path, TASKS)[0]
    assert found.overrides[0] == f"data.root={tmp_path}/download/archive (1)/voc"


def test_a_dataset_with_a_few_faults_is_recognized(tmp_path):
    """The check of the dataset then says what is wrong."""
    examples.masks_by_kind(tmp_path / "masks")
    (tmp_path / "masks/masks/train/a3.png").unlink()
    (tmp_path / "masks/masks/train/a0.png").write_bytes(b"no image")
    assert recognize(tmp_path / "masks", TASKS)[0].data == "masks"
    examples.voc_official(tmp_path / "voc")
    (tmp_path / "voc/Annotations/a0.xml").write_text("<annotation>")
    (tmp_path / "voc/JPEGImages/a1.png").unlink()
    assert recognize(tmp_path / "voc", TASKS)[0].data == "voc"
    examples.cvat_yolo(tmp_path / "yolo")
    (tmp_path / "yolo/obj_train_data/0.png").unlink()
    (tmp_path / "yolo/obj_train_data/1.txt").write_text("7 2 2 2 2\n")
    assert recognize(tmp_path / "yolo", TASKS)[0].data == "yolo"


def test_photos_are_not_masks(tmp_path):
    examples.images(tmp_path / "images", examples.FLAT)
    examples.images(tmp_path / "masks", examples.FLAT)
    refuses(partial(recognize, tmp_path, TASKS), "so it is an image and not a mask")


def test_odd_folders_are_described_without_failing(tmp_path):
    examples.masks_flat(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "again").symlink_to(tmp_path)
    (tmp_path / "broken.json").symlink_to(tmp_path / "missing.json")
    (tmp_path / "empty.xml").touch()
    (tmp_path / "binary.json").write_bytes(bytes(range(256)))
    assert recognize(tmp_path, TASKS)[0].data == "masks"


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every folder")
def test_a_folder_that_cannot_be_read_is_an_error_of_the_user(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(UserError):
        recognize(tmp_path, TASKS)


def test_few_files_are_read_in_a_large_folder(tmp_path, monkeypatch):
    """The number of files that are opened does not grow with the dataset."""
    for number in range(200):
        examples.write(tmp_path / f"labels/{number}.txt", examples.yolo_rows())
        (tmp_path / f"labels/{number}.txt").with_suffix(".json").write_text("{}")
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / f"images/{number}.png").touch()
    examples.write(tmp_path / "classes.txt", "cat\ndog\n")
    opened = []
    own = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *args, **kw: opened.append(self) or own(self, *args, **kw))
    assert recognize(tmp_path, TASKS)[0].data == "yolo"
    assert 0 < len([path for path in opened if path.parent.name == "labels"]) < 40


# ---- real data


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("camvid", ("seg", "masks")),
        ("bccd", ("det", "voc")),
        ("coco128", ("det", "coco")),
        ("cityscapes_real/tree", ("seg", "cityscapes")),
    ],
)
def test_real_datasets_are_recognized(data_folder, name, expected):
    first = recognize(data_folder / name, TASKS)[0]
    assert (first.task, first.data) == expected
    config = compose_config("train", [f"task={first.task}", f"data={first.data}", *first.overrides])
    source = build_source(config)
    assert ("train" in source.splits) == (name != "cityscapes_real/tree")
    assert first.title.endswith("no images for training") == (name == "cityscapes_real/tree")
