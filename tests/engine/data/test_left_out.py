"""Images are found in all folders below the given one; what is left out is counted and named."""

import json

import numpy as np
import pytest
from PIL import Image

from cls.data.folders import folders
from det.data.formats.coco_split import unannotated
from det.data.voc import voc
from det.data.yolo import yolo
from engine.data import media
from engine.data.images import find_images, left_out, list_images, read_image, write_png
from seg.data.masks import masks
from tests.refusals import refuses

KINDS = "images must be avif bmp jfif jpeg jpg png tif tiff webp"


def photo(path, seed=0):
    write_png(path, np.random.default_rng(seed).integers(0, 256, (24, 32, 3)).astype(np.uint8))


def test_images_are_found_below_and_the_others_are_named(tmp_path):
    for name in (
        "b.JPG",
        "sub/deep/a.jfif",
        "sub/c.avif",
        "sub/d.heic",
        "e.gif",
        ".hidden/f.png",
        "@eaDir/b.JPG/SYNOPHOTO_THUMB_M.jpg",  # Synology's thumbnails
        "sub/#recycle/deleted.png",
        "lost+found/g.png",
        "Thumbs.db",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "sub" / "back").symlink_to("..")
    found, others = find_images(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in found] == ["b.JPG", "sub/c.avif", "sub/deep/a.jfif"]
    assert list_images(tmp_path) == found
    assert others == ["e.gif", "sub/d.heic"]
    assert left_out(tmp_path, others) == [f"{tmp_path}: 2 files left out: e.gif, sub/d.heic; {KINDS}"]
    assert left_out(tmp_path, []) == []


def test_a_linked_folder_is_read(tmp_path):
    photo(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "elsewhere")
    assert list_images(tmp_path / "data") == [tmp_path / "data" / "link" / "a.png"]


@pytest.mark.parametrize("orientation", [1, 6])
def test_avif_and_jfif_are_read_upright(tmp_path, orientation):
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:16, :24] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.jfif", format="JPEG", quality=95, exif=exif)
    Image.fromarray(pixels).save(tmp_path / "a.avif", quality=95, exif=exif)
    expected = np.rot90(pixels, -1) if orientation == 6 else pixels
    for name in ("a.jfif", "a.avif"):
        read = read_image(tmp_path / name)
        assert read.shape == expected.shape
        assert np.abs(read.astype(int) - expected).mean() < 10


def test_masks_in_folders_keep_their_path(tmp_path):
    for split, seed in (("train", 1), ("val", 2)):
        photo(tmp_path / "images" / split / "a.png", seed)
        photo(tmp_path / "images" / split / "sub" / "a.png", seed + 10)
        for name in ("a", "sub/a"):
            write_png(tmp_path / "masks" / split / f"{name}.png", np.eye(24, 32, dtype=np.uint8))
    (tmp_path / "images" / "train" / "sub" / "b.heic").touch()
    (tmp_path / "masks" / "val" / "c.json").touch()
    photo(tmp_path / "images" / "beside.png", 30)
    (tmp_path / "classes.json").write_text(
        json.dumps({"classes": [{"id": 0, "name": "road"}, {"id": 1, "name": "line"}]})
    )
    source = masks(root=str(tmp_path), allow_same_names=True)
    dataset = source.dataset("train", None)
    assert [dataset.name(index) for index in range(2)] == ["a", "sub/a"]
    images = tmp_path / "images"
    assert source.warnings[:3] == (
        f"{images}: 1 image beside its folders left out: beside.png; move them into one",
        f"{images / 'train'}: 1 file left out: sub/b.heic; {KINDS}",
        f"{tmp_path / 'masks' / 'val'}: 1 file left out: c.json; {KINDS}",
    )


def test_class_folders_name_what_they_leave_out(tmp_path):
    for split, seed in (("train", 1), ("val", 2)):
        photo(tmp_path / split / "cat" / "a.png", seed)
        photo(tmp_path / split / "cat" / "sub" / "b.png", seed + 10)
        photo(tmp_path / split / "dog" / "c.png", seed + 20)
    (tmp_path / "train" / "cat" / "sub" / "c.heic").touch()
    photo(tmp_path / "train" / "loose.png", 30)
    source = folders(root=str(tmp_path))
    assert len(source.splits["train"]) == 3
    assert source.warnings == (
        f"{tmp_path / 'train'}: 1 image beside its folders left out: loose.png; move them into one",
        f"{tmp_path / 'train'}: 1 file left out: cat/sub/c.heic; {KINDS}",
    )


def test_yolo_names_what_it_leaves_out(tmp_path):
    for split, seed in (("train", 1), ("val", 2)):
        photo(tmp_path / "images" / split / "sub" / f"{split}.png", seed)
        label = tmp_path / "labels" / split / "sub" / f"{split}.txt"
        label.parent.mkdir(parents=True)
        label.write_text("0 .5 .5 .5 .5\n")
    (tmp_path / "images" / "train" / "b.heic").touch()
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat]\n")
    folder = tmp_path / "images" / "train"
    (line,) = yolo(root=str(tmp_path)).warnings
    assert line.endswith(f": {folder}: 1 file left out: b.heic; {KINDS}")
    (tmp_path / "images" / "train" / "sub" / "train.png").unlink()
    refuses(lambda: yolo(root=str(tmp_path)), r"no images; .*1 file left out: b\.heic")


def test_voc_reads_folders_and_names_what_it_leaves_out(tmp_path):
    box = "<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>"
    for number in range(6):
        photo(tmp_path / "JPEGImages" / "sub" / f"{number}.png", number)
        xml = tmp_path / "Annotations" / "sub" / f"{number}.xml"
        xml.parent.mkdir(parents=True, exist_ok=True)
        xml.write_text(f"<annotation><object><name>cat</name>{box}</object></annotation>")
    (tmp_path / "JPEGImages" / "b.heic").touch()
    source = voc(root=str(tmp_path))
    assert sum(len(split) for split in source.splits.values()) == 6
    assert source.dataset("train", None).name(0).startswith("sub/")
    assert f"{tmp_path / 'JPEGImages'}: 1 file left out: b.heic; {KINDS}" in source.warnings


def test_images_below_a_root_with_images_of_its_own_are_named(tmp_path):
    box = "<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>"
    text = f"<annotation><object><name>x</name>{box}</object></annotation>"
    for number, name in enumerate(("a", "b", "c", "sub/d", "sub/e")):
        photo(tmp_path / f"{name}.png", number)
        (tmp_path / f"{name}.xml").write_text(text)
    source = voc(root=str(tmp_path))
    assert sum(map(len, source.splits.values())) == 3
    assert [line for line in source.warnings if "left out" in line] == [
        f"{tmp_path}: 2 images in subfolders left out: sub/d.png, sub/e.png; move all images and annotation "
        "files into one folder, such as images"
    ]
    (tmp_path / "images").mkdir()
    for path in ("a.png", "a.xml", "b.png", "b.xml", "c.png", "c.xml", "sub"):
        (tmp_path / path).rename(tmp_path / "images" / path)
    assert sum(map(len, voc(root=str(tmp_path)).splits.values())) == 5


def test_test_images_without_annotations_are_read_from_all_folders(tmp_path):
    photo(tmp_path / "sub" / "a.png")
    assert unannotated(tmp_path).names == ["sub/a"]


def test_results_are_not_written_into_the_folder_of_the_input(tmp_path):
    photo(tmp_path / "photos" / "a.png")
    for results in (tmp_path / "photos", tmp_path):
        refuses(
            lambda results=results: media.find_media(str(tmp_path / "photos"), skip=results),
            r"input=.*photos: is the folder for the results; choose another out=",
        )


def test_predict_reads_all_folders_but_its_own_results(tmp_path):
    for name in ("a.png", "sub/a.png", "results/overlays/a.png"):
        photo(tmp_path / name)
    for name in ("b.heic", "sub/c.gif", "sub/d.MP4", "results/summary.json"):
        (tmp_path / name).touch()
    lines = []
    files = media.find_media(str(tmp_path), skip=tmp_path / "results", say=lines.append)
    assert media.output_names(files) == ["a", "sub/a", "sub/d"]
    assert lines == [
        f"input={tmp_path}: 2 files left out: b.heic, sub/c.gif; "
        "files must be avif bmp jfif jpeg jpg png tif tiff webp 3gp asf avi flv m2ts m4v mkv mov mp4 "
        "mpeg mpg mts ogv ts vob webm wmv"
    ]
    for name in ("a.png", "sub/a.png", "sub/d.MP4"):
        (tmp_path / name).unlink()
    remaining = r"no image or video found \(2 files left out: b\.heic, sub/c\.gif\)"
    refuses(lambda: media.find_media(str(tmp_path), skip=tmp_path / "results"), remaining)
