"""Class lists, logs, patterns, videos and trees of files that nobody would make on purpose."""

import json
import os

import cv2
import numpy as np
from hypothesis import strategies as st

from engine.data import media
from engine.data.class_map import ClassMap
from engine.data.images import write_png
from engine.io.files import pack_paths, write_json
from engine.plots import save_curves
from engine.run.run_folder import RunFolder
from engine.train.run_log import RunLog, read_rows
from seg.data.cityscapes import cityscapes
from seg.data.masks import masks
from tests.engine.video import files
from tests.fuzz.harness import damaged, fuzzed, outcome

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-1, 300) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
CLASSES = ClassMap(
    names=("road", "straße"),
    ids=(7, 26),
    ignore=(255,),
    ignore_colors=((1, 2, 3),),
    categories=("flat", "flat"),
    instance_areas=(0.0, 9.5),
)
DEEP = [b"[" * 100_000, b'{"a":' * 100_000, b"[" + b"9" * 100_000 + b"]", b"\xff\xfe[\0]\0", b"\0" * 99, b""]


def read_classes(folder, data):
    path = folder / "classes.json"
    path.write_bytes(data)
    read = outcome(lambda: ClassMap.read(path), path)
    if read is not None:
        assert ClassMap.from_dict(json.loads(json.dumps(read.to_dict()))) == read
        table = outcome_of_lut(read)
        assert table is None or table.shape == (65536,)
        hash(read)


def outcome_of_lut(classes):
    try:
        return classes.lut()
    except ValueError as error:
        assert "masks can have at most 254" in str(error)  # noqa: PT017
        return None


@fuzzed(damaged([json.dumps(CLASSES.to_dict(), indent=1).encode()]) | st.sampled_from(DEEP), examples=120)
def test_damaged_class_lists(folder, data):
    read_classes(folder, data)


@st.composite
def class_lists(draw):
    """Right in its outline, with any value in any place."""
    entry = st.fixed_dictionaries(
        {"id": st.integers(0, 9) | JSON, "name": st.text(min_size=1, max_size=4) | JSON},
        optional={
            "color": st.tuples(*[st.integers(0, 255)] * 3) | JSON,
            "category": JSON,
            "instance_area": JSON,
        },
    )
    whole = {"classes": draw(st.lists(entry | JSON, max_size=4) | JSON)}
    whole |= draw(st.dictionaries(st.sampled_from(["ignore", "ignore_colors", "x"]), JSON, max_size=2))
    return json.dumps(whole).encode()


@fuzzed(class_lists(), examples=80)
def test_class_lists_with_any_value_in_any_place(folder, data):
    read_classes(folder, data)


ROW = {"step": 3, "kind": "train", "time": 1.5, "loss": 0.25}
ROWS = [ROW, {"step": 4, "kind": "eval", "time": 2.0, "mIoU": 0.5, "per_class": {"road": 1}}]
LOG = "".join(json.dumps(row) + "\n" for row in ROWS * 2).encode()


@st.composite
def logs(draw):
    lines = []
    for _ in range(draw(st.integers(1, 4))):
        row = draw(st.sampled_from(ROWS))
        changed = draw(
            st.dictionaries(
                st.sampled_from(["step", "kind", "time", "loss", "mIoU", "x/y"]), JSON, max_size=2
            )
        )
        lines.append(json.dumps(draw(st.just({**row, **changed}) | JSON)).encode())
    return b"\n".join([*lines, draw(st.sampled_from([b"", b'{"step": 5', b"\xff", *DEEP]))])


@fuzzed(damaged([LOG]) | logs(), examples=80)
def test_logs(folder, data):
    """What is left of a log can be resumed, kept, and drawn."""
    run = RunFolder(folder)
    run.log.write_bytes(data)
    rows = read_rows(run.log)
    assert all(type(row["step"]) is int and isinstance(row["kind"], str) for row in rows)
    log = RunLog(run, step=3, evaluated_step=4, tensorboard=False)
    log.row(9, "train", {"loss": 1.0})
    log.close()
    kept = read_rows(run.log)
    assert kept[-1]["step"] == 9
    assert len(kept) <= len(rows) + 1


@fuzzed(logs(), examples=3)
def test_curves_of_any_log(folder, data):
    (folder / "log.jsonl").write_bytes(data)
    save_curves(read_rows(folder / "log.jsonl"), "mIoU", folder / "curves.png")
    assert (folder / "curves.png").stat().st_size > 1000


PIECES = st.sampled_from(
    [
        "a.png", "*", "**", "?", "[", "]", "[!", "[z-a]", "/", "..", ".", "~", "~nobody-of-that-name",
        "\0", "\n", "{a,b}", "a" * 300, "\udce9", "%04d", "\\", " ", "é", "$HOME", "http://", "con",
    ]
)  # fmt: skip


@fuzzed(st.lists(PIECES, max_size=5), examples=100)
def test_input_patterns(folder, pieces):
    (folder / "a.png").touch()
    (folder / "b").mkdir()
    for text in ("".join(pieces), str(folder / "b") + "/../" + "".join(pieces)):
        if text.startswith("/") and not text.startswith(str(folder)):
            continue  # the whole machine is no input of a test
        found = outcome(lambda text=text: media.find_media(text), "input=")
        assert found is None or all(path.is_file() for path in found)


def test_many_stars_are_one(tmp_path):
    for number in range(6):
        (tmp_path / "/".join("abcdef"[: number + 1])).mkdir()
    (tmp_path / "a/b/c/x.png").touch()
    assert media.find_media(str(tmp_path / "/".join(["**"] * 40) / "*.png")) == [tmp_path / "a/b/c/x.png"]


def _video(suffix, codec):
    path = f"/tmp/mobilenet-dense-{os.getpid()}.{suffix}"
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*codec), 10, (32, 24))
    for level in range(3):
        writer.write(np.full((24, 32, 3), 60 * level, np.uint8))
    writer.release()
    with open(path, "rb") as file:
        data = file.read()
    os.remove(path)
    return data


VIDEOS = [_video("avi", "MJPG"), _video("mp4", "mp4v")]


@fuzzed(st.tuples(damaged(VIDEOS, most=6), st.sampled_from(["avi", "mp4", "mkv"])), examples=60)
def test_damaged_videos(folder, example):
    data, suffix = example
    path = folder / f"a.{suffix}"
    path.write_bytes(data)
    assert 0 <= files.num_frames(path) < 2**31
    outcome(lambda: [frame.shape for frame in files.read_frames(path)], path)
    outcome(lambda: files.map_video(path, folder / "out.mp4", lambda frame: frame, lambda done: None), folder)


NAMES = st.sampled_from(
    [
        "a.png",
        "b.png",
        "b.jpg",
        "ü.png",
        "caf\udce9.png",
        ".hidden.png",
        "x.txt",
        "A.PNG",
        "a",
        "l" * 240 + ".png",
    ]
)
KINDS = st.sampled_from(["picture", "picture", "mask", "mask", "empty", "folder", "loop", "dangling", "text"])
PLACES = st.sampled_from(
    ["images/train", "images/val", "images/test", "images/x y", "images", "masks/train", "masks/val", ""]
)


def make(path, kind):
    """One entry of a tree, of whatever kind the file system allows there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "folder":
            path.mkdir()
        elif kind in ("loop", "dangling"):
            path.symlink_to(path.name if kind == "loop" else "nothing-there")
        elif kind in ("picture", "mask"):
            shape = (4, 5, 3) if kind == "picture" else (4, 5)
            content = np.full(shape, len(path.parts) % 3, np.uint8)
            write_png(path.parent / "made.png", content)
            os.replace(path.parent / "made.png", path)
        else:
            path.write_text("" if kind == "empty" else "text")
    except OSError:
        pass  # a file is where a folder would be, or the other way round


@fuzzed(st.lists(st.tuples(PLACES, NAMES, KINDS), max_size=8), examples=40)
def test_trees_of_images_and_masks(folder, entries):
    ClassMap(names=("a", "b", "c")).write(folder / "classes.json")
    make(folder / "images/train/a.png", "picture")
    make(folder / "masks/train/a.png", "mask")
    for place, name, kind in entries:
        make(folder / place / name, kind)
    data = outcome(lambda: masks(root=str(folder)), folder)
    for split in data.splits if data else ():
        dataset = data.dataset(split, lambda image, label, seed: (image, label))
        assert len(dataset) > 0


CITY_NAMES = st.sampled_from(
    [
        "a_leftImg8bit.png", "a_gtFine_labelIds.png", "a_gtFine_labelTrainIds.png",
        "a_gtFine_instanceIds.png", "_leftImg8bit.png", "_gtFine_labelIds.png", "b_leftImg8bit.png",
        "x\udce9_leftImg8bit.png", "leftImg8bit", ".a_leftImg8bit.png",
    ]
)  # fmt: skip
CITY_PLACES = st.sampled_from(
    [
        "leftImg8bit/train/aachen", "leftImg8bit/val/aachen", "gtFine/train/aachen", "gtFine/train/bonn",
        "gtFine/val/aachen", "leftImg8bit/test/x", "leftImg8bit/train", "leftImg8bit", "gtFine/train", "",
    ]
)  # fmt: skip


@fuzzed(st.lists(st.tuples(CITY_PLACES, CITY_NAMES, KINDS), max_size=9), examples=60)
def test_trees_of_cityscapes(folder, entries):
    for place, name, kind in entries:
        make(folder / place / name, kind)
    data = outcome(lambda: cityscapes(root=str(folder)), folder)
    for split in data.splits if data else ():
        assert len(data.splits[split]) > 0


@fuzzed(
    st.lists(st.text(min_size=1, max_size=8) | st.sampled_from(["caf\udce9", "a\nb"]), max_size=4),
    examples=60,
)
def test_names_in_any_encoding_are_written_and_read_back(folder, names):
    write_json(folder / "summary.json", {"files": names})
    written = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["files"]
    assert written == names


def test_packed_paths_of_any_encoding():
    assert os.fsdecode(pack_paths(["caf\udce9.png"])[0]) == "caf\udce9.png"
