"""What the headers of images say that a user has to know: a turn, several pages."""

import cv2
import numpy as np
import pytest
from PIL import Image

from engine.config.compose import compose_config
from engine.config.runs import TrainedRun
from engine.data.images import check_complete, image_size, read_image
from engine.data.images.messages import DamagedFileError
from engine.data.pixel_cache import PixelCache
from engine.data.preprocessing import header_notes, turn_and_pages
from engine.errors import UserError

STORED = "read as stored (data.orientation=stored)"
UPRIGHT = "rotated upright, so boxes and masks must fit that; data.orientation=stored keeps them as stored"


def save(path, orientation=1, size=(6, 4), **options):
    """An image whose upper left corner, as stored, is white."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.new("RGB", size)
    image.paste((255, 255, 255), (0, 0, 2, 2))
    image.save(path, exif=exif, **options)
    return str(path)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
def test_images_are_read_as_stored_if_that_is_asked_for(tmp_path, name):
    """Orientation 6: the camera was turned, and the first row is the right side of the upright image."""
    path = save(tmp_path / name, 6, quality=100) if name.endswith("jpg") else save(tmp_path / name, 6)
    assert turn_and_pages(path) == (6, 1)
    assert read_image(path).shape == (6, 4, 3)
    assert read_image(path)[0, 3].min() > 200
    assert read_image(path, upright=False).shape == (4, 6, 3)
    assert read_image(path, upright=False)[0, 0].min() > 200
    assert image_size(path, upright=False) == (4, 6)


def test_turned_images_are_counted_and_named(tmp_path):
    paths = [save(tmp_path / f"{number}.jpg", turn) for number, turn in enumerate((1, 3, 8, 1, 6))]
    assert header_notes(paths[:1] + paths[3:4]) == []
    assert header_notes(paths) == [
        f"3 of 5 images (1.jpg, 2.jpg and 1 more) with an EXIF or TIFF rotation: {UPRIGHT}"
    ]
    assert header_notes(paths[1:2], upright=False) == [
        f"1 of 1 images (1.jpg) with an EXIF or TIFF rotation: {STORED}"
    ]
    assert header_notes(paths[1:2], annotated=False) == [
        "1 of 1 images (1.jpg) with an EXIF or TIFF rotation: rotated upright; data.orientation=stored keeps "
        "them as stored"
    ]


def test_of_many_png_files_a_sample_is_checked(tmp_path):
    paths = [save(tmp_path / f"{number:03d}.png", 3) for number in range(130)]
    (line,) = header_notes(paths)
    assert line.startswith("100 of the 100 images checked (000.png, 001.png and 98 more) with an EXIF")


def tiff(path, pages, **options):
    first, *others = [Image.new("L", (5, 4), 60 * page) for page in range(pages)]
    first.save(path, save_all=True, append_images=others, **options)
    return str(path)


def test_files_with_several_pages_are_counted_in_images_and_masks(tmp_path):
    one, three = tiff(tmp_path / "one.tif", 1), tiff(tmp_path / "three.tif", 3)
    assert turn_and_pages(three) == (1, 3)
    assert read_image(three).max() == 0  # the first page
    frames = tmp_path / "frames.webp"
    Image.new("RGB", (5, 4)).save(frames, save_all=True, append_images=[Image.new("RGB", (5, 4), "red")])
    assert header_notes([one, three, str(frames)], [one, three]) == [
        "2 of 3 images (three.tif, frames.webp) with several pages: only the first of each is read",
        "1 of 2 masks (three.tif) with several pages: only the first of each is read",
    ]


def test_smaller_copies_and_masks_in_a_tiff_are_no_pages(tmp_path):
    """Tag 254: 1 is a smaller copy (as in cloud-optimized files), 4 a mask of transparency."""
    path = tiff(tmp_path / "a.tif", 4)
    data = bytearray((tmp_path / "a.tif").read_bytes())
    places, start = [], int.from_bytes(data[4:8], "little")
    while start:
        places.append(start)
        end = start + 2 + 12 * int.from_bytes(data[start : start + 2], "little")
        start = int.from_bytes(data[end : end + 4], "little")
    # the tag 256 (width) of pages 2 and 3 becomes the tag 254
    for place, kind in zip(places[1:3], (1, 4), strict=True):
        data[place + 2 : place + 14] = np.array([254, 4, 1, 0, kind, 0], "<u2").tobytes()
    (tmp_path / "a.tif").write_bytes(data)
    assert turn_and_pages(path) == (1, 2)


def test_a_chain_of_pages_without_an_end_is_read_once(tmp_path):
    path = tiff(tmp_path / "a.tif", 2)
    data = bytearray((tmp_path / "a.tif").read_bytes())
    start = int.from_bytes(data[4:8], "little")
    end = start + 2 + 12 * int.from_bytes(data[start : start + 2], "little")
    data[end : end + 4] = start.to_bytes(4, "little")
    (tmp_path / "a.tif").write_bytes(data)
    assert turn_and_pages(path)[1] == 2


def test_unreadable_files_are_left_to_others(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    assert header_notes([str(tmp_path / "a.jpg"), str(tmp_path / "none.tif")]) == []
    with pytest.raises(UserError):
        turn_and_pages(tmp_path / "a.jpg")


def test_a_cache_keeps_upright_and_stored_pixels_apart(tmp_path):
    path = save(tmp_path / "a.png", 6)
    for upright in (True, False, True):
        cache = PixelCache.open_or_build(tmp_path / "cache", images=[path], upright=upright)
        assert np.array_equal(cache.image(path), read_image(path, upright=upright))


def test_opencv_agrees_with_the_turn(tmp_path):
    path = save(tmp_path / "a.jpg", 8, size=(32, 16), quality=100)
    assert np.array_equal(read_image(path), cv2.imread(path)[..., ::-1])


# ------------------------------------------------------------------ prediction


@pytest.fixture
def predicting():
    """A run as predict opens it, without its folder."""
    run = object.__new__(TrainedRun)
    run.config = compose_config("train", ["task=seg"])
    return run


def test_prediction_names_only_keys_and_remedies_that_it_has(tmp_path, predicting):
    path = save(tmp_path / "a.jpg", 6)
    assert predicting.image_notes([path]) == [
        "1 of 1 images (a.jpg) with an EXIF or TIFF rotation: rotated upright; data.orientation=stored keeps "
        "them as stored"
    ]
    data = (tmp_path / "a.jpg").read_bytes()
    for damaged, reason in (
        (b"", "unknown format"),
        (data[:-20], "image file is truncated .*"),
        (data[:-20] + b"\xff\xd9", "Corrupt JPEG data: premature end of data segment"),
    ):
        (tmp_path / "a.jpg").write_bytes(damaged)
        message = rf"a\.jpg: truncated, corrupt or not an image \({reason}\); restore or remove the file$"
        with pytest.raises(UserError, match=message):
            predicting.read_image(path)
        with pytest.raises(UserError, match=r"in a dataset, data\.on_error=skip leaves out such files\)$"):
            read_image(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC, which is not supported; convert it to JPEG"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC, which is not supported; convert it to JPEG"),
        (b"\0\0\0\x18ftypMiHE\0\0\0\0mif1heic", "HEIC, which is not supported; convert it to JPEG"),
        (
            b"\0\0\0\x18ftypcrx \0\0\0\1crx isom",
            "a CR3 raw image, which is not supported; convert it to JPEG",
        ),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "an MP4 or QuickTime video, not an image; remove it"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42", "an MP4 or QuickTime video, not an image; remove it"),
        (
            b"\xff\xd8\xff\xdb\0\x06ABCD\xff\xc1\0\x11\x0c\0\x08\0\x08\x03",
            "a JPEG with 12 bits per channel, which is not supported; save it as a 16-bit PNG or TIFF",
        ),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL, which is not supported; convert it to PNG or JPEG"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer, .* run git lfs pull"),
        (b"\n<!DOCTYPE html>\n<html>404", "an HTML page, not an image; download it again"),
    ],
)
def test_what_is_often_found_instead_of_an_image_is_named(tmp_path, content, message):
    path = tmp_path / "IMG_1.jpg"
    path.write_bytes(content)
    for read in (read_image, image_size, check_complete):
        with pytest.raises(DamagedFileError, match=rf"IMG_1\.jpg: {message}"):
            read(path)
