"""The pixel cache returns the pixels of the files, is never outdated, and is built once."""

import errno
import hashlib
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import sys
import time
from collections import namedtuple
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from engine.data import mapped_pixels
from engine.data.class_map import ClassMap
from engine.data.images import read_image, write_png
from engine.data.loader import BatchLoader, SampleKey, TrainingSampler
from engine.data.mapped_pixels import MappedPixels
from engine.data.pixel_cache import MaskFiles, PixelCache
from engine.errors import UserError
from seg.data.dataset import LabelReader
from seg.data.masks import masks
from seg.transforms import EvalTransform, TrainTransform

fork = multiprocessing.get_context("fork")
needs_fork = pytest.mark.skipif(sys.platform == "win32", reason="no fork")


def noise(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).integers(0, 256, shape, np.uint8)


@pytest.fixture
def files(tmp_path):
    """Images of several sizes and formats, one of them rotated by its EXIF orientation."""
    folder = tmp_path / "files"
    folder.mkdir()
    write_png(folder / "a.png", noise(40, 60, 3))
    write_png(folder / "gray.png", noise(33, 20))
    Image.fromarray(noise(64, 48, 3)).save(folder / "c.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(30, 50, 3)).save(folder / "turned.jpg", exif=exif)
    write_png(folder / "straße, 1.png", noise(1, 1, 3))
    return [str(path) for path in sorted(folder.iterdir())]


def refuses(build, *parts):
    with pytest.raises(UserError) as caught:
        build()
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_cached_pixels_equal_decoded_pixels(tmp_path, files, workers):
    cache = PixelCache.open_or_build(tmp_path / "cache", images=files, workers=workers)
    for path in reversed(files):
        pixels = cache.image(path)
        np.testing.assert_array_equal(pixels, read_image(path))
        assert not pixels.flags.writeable
        assert type(pixels) is np.ndarray
    assert cache.image(files[-1]).shape == (50, 30, 3)
    assert cache.image(os.path.relpath(files[0])).shape == (40, 60, 3)  # the same file under another name
    for absent in (tmp_path / "b.png", tmp_path / ("z" * 300)):
        with pytest.raises(KeyError, match=absent.name):
            cache.image(str(absent))
    with pytest.raises(KeyError, match="does not contain masks"):
        cache.mask(files[0])


def test_the_index_records_what_each_image_was_decoded_from(tmp_path, files):
    PixelCache.open_or_build(tmp_path, images=files)
    (store,) = tmp_path.glob("images-*")
    index = np.load(store / "index.npy")
    pixels = np.fromfile(store / "pixels.bin", np.uint8)
    for row in index:
        path = Path(os.fsdecode(row["path"]))
        assert row["digest"].decode() == hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        assert (row["size"], row["mtime"]) == (path.stat().st_size, path.stat().st_mtime_ns)
        expected = read_image(path)
        assert row["shape"].tolist() == list(expected.shape)
        np.testing.assert_array_equal(pixels[row["offset"] :][: expected.size], expected.reshape(-1))
    assert len(pixels) == sum(int(np.prod(row["shape"])) for row in index)


def test_the_cache_is_built_once(tmp_path, files, monkeypatch):
    first = PixelCache.open_or_build(tmp_path, images=files)
    monkeypatch.setattr(mapped_pixels, "_build", None)
    again = PixelCache.open_or_build(tmp_path, images=files[::-1])  # in any order
    np.testing.assert_array_equal(first.image(files[0]), again.image(files[0]))


def test_different_files_are_cached_in_different_folders(tmp_path, files):
    for chosen in (files, files[:2], files[2:]):
        PixelCache.open_or_build(tmp_path, images=chosen)
    assert len(list(tmp_path.glob("images-*"))) == 3


def test_a_spawned_process_maps_the_file_itself(tmp_path, files):
    cache = PixelCache.open_or_build(tmp_path, images=files)
    sent = pickle.dumps(cache)
    assert len(sent) < 1000
    np.testing.assert_array_equal(pickle.loads(sent).image(files[0]), cache.image(files[0]))


# ------------------------------------------------------------------ files that change


def test_a_new_mtime_is_accepted_if_the_content_is_unchanged(tmp_path, files, monkeypatch):
    PixelCache.open_or_build(tmp_path, images=files)
    os.utime(files[1], (1, 1))
    read = []
    monkeypatch.setattr(
        mapped_pixels, "_digest", lambda name, f=mapped_pixels._digest: read.append(name) or f(name)
    )
    for _ in range(2):
        PixelCache.open_or_build(tmp_path, images=files)
    assert read == [os.fsencode(files[1])]  # the new date is saved: contents are compared once


@pytest.mark.parametrize("same_size", [True, False])
def test_changed_content_is_rejected(tmp_path, files, same_size):
    PixelCache.open_or_build(tmp_path / "cache", images=files)
    data = bytearray(Path(files[0]).read_bytes())
    Path(files[0]).write_bytes(data[:-1] + b"\x00" if same_size else data + b"\x00")
    os.utime(files[0], (1, 1))
    open_again = partial(PixelCache.open_or_build, tmp_path / "cache", images=files)
    refuses(
        open_again,
        f"{tmp_path / 'cache'}",
        f"outdated, {files[0]} has changed",
        "delete the folder",
        "data.cache",
    )
    os.remove(files[0])
    refuses(open_again, files[0], "No such file")


@pytest.mark.parametrize("part", ["pixels.bin", "index.npy"])
def test_a_damaged_folder_is_rejected(tmp_path, files, part):
    PixelCache.open_or_build(tmp_path, images=files)
    (store,) = tmp_path.glob("images-*")
    data = (store / part).read_bytes()
    (store / part).write_bytes(data[: len(data) // 2])
    refuses(
        lambda: PixelCache.open_or_build(tmp_path, images=files), str(store), "damaged", "delete the folder"
    )


# ------------------------------------------------------------------ building


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", [lambda data: b"no picture", lambda data: data[:-40]])
def test_an_unreadable_file_aborts_the_build(tmp_path, files, workers, damage):
    Path(files[0]).write_bytes(damage(Path(files[0]).read_bytes()))
    refuses(
        lambda: PixelCache.open_or_build(tmp_path / "c", images=files, workers=workers), files[0], "restore"
    )
    assert [path.suffix for path in (tmp_path / "c").iterdir()] == [".lock"]


def test_a_full_disk_is_reported_in_one_line(tmp_path, files, monkeypatch):
    need = sum(read_image(path).nbytes for path in files)
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(mapped_pixels.shutil, "disk_usage", lambda path: usage(need - 1))
    refuses(
        lambda: PixelCache.open_or_build(tmp_path / "c", images=files),
        "5 images need 0.00 GB",
        "free",
        "data.cache",
    )

    def full(path, mode="r", **options):
        if mode == "r+b":
            raise OSError(errno.ENOSPC, "No space left on device")
        return open(path, mode, **options)

    monkeypatch.setattr(mapped_pixels.shutil, "disk_usage", lambda path: usage(need))
    monkeypatch.setattr(mapped_pixels, "open", full, raising=False)
    refuses(
        lambda: PixelCache.open_or_build(tmp_path / "c", images=files), "No space left", "free some space"
    )
    assert [path.suffix for path in (tmp_path / "c").iterdir()] == [".lock"]


def test_a_folder_that_cannot_be_created_is_reported_in_one_line(files):
    refuses(lambda: PixelCache.open_or_build(Path(files[0]) / "cache", images=files), files[0], "data.cache")


def _slow(path, started):
    started.set()
    time.sleep(0.2)
    return read_image(path)


def _open_slowly(folder, files, started, results):
    kind = mapped_pixels.PixelKind(
        name="images", read=partial(_slow, started=started), size=_size, channels=3
    )
    pixels = mapped_pixels.open_or_build(folder, files, kind)
    results.put((os.getpid(), pixels(files[0]).sum().item(), pixels.index["mtime"].tolist()))


def _size(path):
    return read_image(path).shape[:2]


@needs_fork
def test_two_processes_build_the_cache_once(tmp_path, files, capfd):
    results, started = fork.Queue(), fork.Event()
    children = [fork.Process(target=_open_slowly, args=(tmp_path, files, started, results)) for _ in range(2)]
    for child in children:
        child.start()
    (one, *first), (two, *second) = (results.get(timeout=30) for _ in children)
    for child in children:
        child.join(10)
    assert one != two
    assert first == second
    assert first[0] == read_image(files[0]).sum()
    output = capfd.readouterr().out
    assert output.count("images to cache 5/5") == 1
    assert output.count("waiting for") == 1


@needs_fork
def test_a_killed_build_leaves_no_partial_cache(tmp_path, files):
    results, started = fork.Queue(), fork.Event()
    child = fork.Process(target=_open_slowly, args=(tmp_path, files, started, results))
    child.start()
    assert started.wait(30)
    os.kill(child.pid, signal.SIGKILL)
    child.join(10)
    assert not list(tmp_path.glob("images-*"))
    (draft,) = tmp_path.glob(".images-*.partial")
    (draft / "rest").touch()
    cache = PixelCache.open_or_build(tmp_path, images=files)
    np.testing.assert_array_equal(cache.image(files[2]), read_image(files[2]))
    assert not list(tmp_path.rglob(".images-*.partial"))
    assert not list(tmp_path.rglob("rest"))


# ------------------------------------------------------------------ masks and datasets


CLASSES = {"classes": [{"id": 3, "name": "a"}, {"id": 7, "name": "b"}], "ignore": [0]}


@pytest.fixture
def data(tmp_path):
    root = tmp_path / "data"
    for split, count in (("train", 5), ("val", 2)):
        for number in range(count):
            size = (40 + 8 * number, 100)
            write_png(root / "images" / split / f"{split}{number}.png", noise(*size, 3, seed=count))
            ids = np.array([0, 3, 7], np.uint8)[noise(*size, seed=number) % 3]
            write_png(root / "masks" / split / f"{split}{number}.png", ids)
    (root / "classes.json").write_text(as_json(CLASSES))
    return root


def as_json(content):
    return str(content).replace("'", '"')


def cached(data, split, transform, folder):
    plain = data.dataset(split, transform, 1)
    images = [plain.image_path(index) for index in range(len(plain))]
    cache = PixelCache.open_or_build(folder, images=images, masks=plain.masks())
    return plain, data.dataset(split, transform, 1, cache=cache)


@pytest.mark.parametrize(
    ("split", "transform"),
    [
        ("train", TrainTransform(crop=48, color=0.5)),
        ("train", TrainTransform(crop=(64, 100), scale=(1, 1))),  # the window is the whole image
        ("val", EvalTransform()),
        ("val", EvalTransform(size=(33, 65))),
    ],
)
@pytest.mark.filterwarnings("error")  # among them torch's, about tensors on memory that cannot be written
def test_datasets_return_the_same_samples_with_and_without_cache(tmp_path, data, split, transform):
    plain, fast = cached(masks(root=str(data)), split, transform, tmp_path / "cache")
    for key in [SampleKey(index, epoch) for index in range(len(plain)) for epoch in range(3)]:
        expected, sample = plain[key], fast[key]
        assert expected.keys() == sample.keys() == {"index", "image", "label"}
        assert torch.equal(sample["image"], expected["image"])
        assert torch.equal(sample["label"], expected["label"])
        sample["image"][0] = sample["label"][0] = 9  # memory of its own
    again = fast[SampleKey(0, 0)]
    assert torch.equal(again["label"], plain[SampleKey(0, 0)]["label"])


def test_workers_read_from_the_cache(tmp_path, data):
    plain, fast = cached(masks(root=str(data)), "train", TrainTransform(crop=48), tmp_path / "cache")
    sampler = TrainingSampler(num_samples=5, batch=3, seed=2)
    shutil.rmtree(data)  # nothing in it is read any more
    batch = next(iter(BatchLoader(fast, sampler, workers=2)))
    assert batch["image"].shape == (3, 3, 48, 48)
    with pytest.raises(UserError):
        plain[SampleKey(0, 0)]


def test_masks_are_cached_again_for_other_classes(tmp_path, data):
    _, before = cached(masks(root=str(data)), "val", EvalTransform(), tmp_path / "cache")
    swapped = {"classes": CLASSES["classes"][::-1], "ignore": [0]}
    (data / "classes.json").write_text(as_json(swapped))
    plain, after = cached(masks(root=str(data)), "val", EvalTransform(), tmp_path / "cache")
    old, new = (dataset[SampleKey(0, 0)]["label"] for dataset in (before, after))
    assert torch.equal(new, plain[SampleKey(0, 0)]["label"])
    assert torch.equal(old == 0, new == 1)
    assert (old == 0).any()
    assert len(list((tmp_path / "cache").glob("masks-*"))) == 2
    assert len(list((tmp_path / "cache").glob("images-*"))) == 1  # pixels do not depend on classes


def test_the_cache_key_of_masks_depends_on_the_class_mapping():
    classes = ClassMap(names=("a", "b"), ids=(3, 7))
    key = LabelReader(classes=classes, remedy="").key
    assert key == LabelReader(classes=ClassMap(names=("x", "y"), ids=(3, 7)), remedy="!").key
    others = [
        LabelReader(classes=ClassMap(names=("a", "b"), ids=(7, 3)), remedy=""),
        LabelReader(classes=ClassMap(names=("a", "b"), ids=(3, 7), ignore=(1,)), remedy=""),
        LabelReader(classes=ClassMap(names=("a", "b"), ids=(3, 7), ignore_colors=((1, 2, 3),)), remedy=""),
        LabelReader(classes=classes, remedy="", table=np.zeros(65536, np.uint8)),
    ]
    assert len({key, *(reader.key for reader in others)}) == 5


def test_a_mask_with_an_unknown_value_aborts_the_build(tmp_path):
    write_png(tmp_path / "mask.png", np.full((8, 8), 5, np.uint8))
    reader = LabelReader(classes=ClassMap(names=("a",)), remedy="correct the mask")
    mask_files = MaskFiles(paths=[str(tmp_path / "mask.png")], read=reader, key=reader.key)
    refuses(
        lambda: PixelCache.open_or_build(tmp_path, images=[], masks=mask_files),
        "mask.png",
        "unknown value 5 (64 pixels)",
    )


# ------------------------------------------------------------------ crops


def resident(path):
    """Resident bytes of a mapped file in this process."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


@pytest.mark.skipif(
    not os.path.exists("/proc/self/smaps"), reason="counts touched pages as Linux reports them"
)
def test_a_crop_reads_only_its_part_of_the_file(tmp_path):
    """Reading 256 of 2048 rows maps an eighth of the image and the adjacent pages; a copy would map all."""
    cv2.imwrite(str(tmp_path / "wide.bmp"), noise(2048, 4096, 3))
    files = [str(tmp_path / "wide.bmp")]
    PixelCache.open_or_build(tmp_path, images=files)
    (folder,) = tmp_path.glob("images-*")
    transform = TrainTransform(crop=256, scale=(1, 1), flip=1.0)
    transform(noise(300, 300, 3), noise(300, 300), 0)
    pixels = MappedPixels(folder)
    assert resident(folder / "pixels.bin") == 0
    transform(pixels(files[0]), np.zeros((2048, 4096), np.uint8), 3)
    assert 0 < resident(folder / "pixels.bin") < 0.4 * 2048 * 4096 * 3
    pixels(files[0]).sum()
    assert resident(folder / "pixels.bin") >= 2048 * 4096 * 3


def test_transforms_after_the_crop_can_modify_pixels():
    image, label = noise(64, 100, 3), noise(64, 100)
    image.flags.writeable = label.flags.writeable = False
    outputs = TrainTransform(crop=(64, 100), scale=(1, 1), flip=0.0)(image, label, 0)
    for pixels, expected in zip(outputs, (image, label), strict=True):
        assert pixels.flags.writeable
        np.testing.assert_array_equal(pixels, expected)
