"""The kit's image.py, which has only NumPy and Pillow, gives the values of the libraries used in training."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deploy.device.image import (
    UnsupportedImageError,
    network_input,
    read,
    resize_area,
    resize_linear,
    resized,
)
from deploy.metadata import network_input as product_input
from engine.data.images import read_image

side = st.integers(1, 90)
PREPROCESSING = {"upright": True, "pixel_range": None}


def pixels(height, width, *, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (height, width, 3), dtype)


@given(side, side, side, side)
def test_bilinear_resizing_equals_opencvs_in_every_bit(height, width, rows, columns):
    image = pixels(height, width, seed=height + 100 * columns)
    expected = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_LINEAR)
    assert (resize_linear(image, (rows, columns)) == expected).all()


@pytest.mark.parametrize(
    ("old", "new"), [((128, 256), (64, 128)), ((90, 96), (30, 32)), ((72, 96), (54, 70)), ((31, 40), (31, 7))]
)
def test_averages_over_areas_equal_opencvs(old, new):
    image = pixels(*old)
    expected = cv2.resize(image, new[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(resize_area(image, new).astype(int) - expected).max() <= 1
    assert (resize_area(image, new) != expected).mean() < 0.001


def test_the_shorter_side_is_resized_with_antialiasing_and_the_center_is_cropped():
    image = pixels(50, 101)
    how = {"mode": "shorter_side", "side": 30, "antialias": True, "center_crop": [24, 26]}
    whole = np.asarray(Image.fromarray(image).resize((60, 30), Image.Resampling.BILINEAR))  # 101 * 30 // 50
    assert (resized(image, how, (24, 26)) == whole[3:27, 17:43]).all()


def test_an_image_of_the_models_size_is_not_changed():
    image = pixels(8, 12)
    assert (resized(image, {"mode": "none"}, (8, 12)) == image).all()


def test_an_image_that_does_not_become_the_models_size_is_refused():
    about = {
        "preprocessing": {"resize": {"mode": "scale", "factor": 0.5}, "in_graph": True},
        "input": {"shape": [1, 3, 40, 50], "dtype": "uint8"},
    }
    assert network_input(pixels(80, 100), about).shape == (1, 3, 40, 50)
    with pytest.raises(UnsupportedImageError, match="becomes an input of 75x105, but the model takes 40x50"):
        network_input(pixels(150, 210), about)


def test_an_image_that_is_smaller_than_the_network_allows_is_refused():
    about = {
        "preprocessing": {"resize": {"mode": "none"}, "in_graph": True},
        "input": {"shape": [1, 3, None, None], "dtype": "uint8"},
        "min_size": [40, 60],
    }
    assert network_input(pixels(40, 60), about).shape == (1, 3, 40, 60)
    for height, width in ((39, 60), (40, 59)):
        message = f"becomes an input of {height}x{width}, but the model takes at least 40x60"
        with pytest.raises(UnsupportedImageError, match=message):
            network_input(pixels(height, width), about)


def test_normalized_inputs_are_repeated_for_a_fixed_batch():
    image = pixels(4, 6)
    about = {
        "preprocessing": {"resize": {"mode": "none"}, "in_graph": False, "mean": [1, 2, 3], "std": [4, 5, 6]},
        "input": {"shape": [2, 3, 4, 6], "dtype": "float32"},
    }
    images = network_input(image, about)
    assert (images.shape, images.dtype) == ((2, 3, 4, 6), np.float32)
    assert images[1, 2, 3, 5] == pytest.approx((image[3, 5, 2] - 3) / 6)
    texts = {"preprocessing": '{"in_graph": false, "mean": [1, 2, 3], "std": [4, 5, 6]}'}
    assert (images[0] == product_input(image, texts)).all()


@pytest.mark.parametrize(
    "name", ["a.jpg", "a.png", "a.tif", "gray.png", "gray16.png", "rgb16.png", "rgb16.tif"]
)
def test_images_are_read_as_in_training(tmp_path, name):
    path, kind = tmp_path / name, np.uint16 if "16" in name else np.uint8
    image = pixels(20, 30, dtype=kind)
    cv2.imwrite(str(path), image[..., 0] if "gray" in name else image)
    assert (read(path, PREPROCESSING) == read_image(path)).all()
    deep = {"upright": True, "pixel_range": [1000, 30000]}
    assert (read(path, deep) == read_image(path, pixel_range=(1000, 30000))).all()


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
def test_images_are_rotated_as_in_training(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.fromarray(pixels(16, 24)).save(tmp_path / name, exif=exif)
    for upright in (True, False):
        image = read(tmp_path / name, {"upright": upright, "pixel_range": None})
        assert image.shape == ((24, 16, 3) if upright and orientation >= 5 else (16, 24, 3))
        assert (image == read_image(tmp_path / name, upright=upright)).all()


def tiff(path, values, *, photometric=1, planar=1, kind=1, orientation=1, order="<", deflate=False, **other):
    """A TIFF file of 8 or 16-bit values [H, W] or [H, W, C], with one strip, or one for each plane.

    other: `extra` and `palette`, lists of numbers.
    """
    height, width = values.shape[:2]
    bands = 1 if values.ndim == 2 else values.shape[2]
    parts = [np.moveaxis(values, 2, 0)[band] for band in range(bands)] if planar == 2 else [values]
    strips = [part.astype(values.dtype.newbyteorder(order)).tobytes() for part in parts]
    strips = [zlib.compress(strip) for strip in strips] if deflate else strips
    starts = np.cumsum([8, *map(len, strips)]).tolist()
    start = starts[-1] + starts[-1] % 2
    rows = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [8 * values.itemsize] * bands),
        259: (3, [8 if deflate else 1]),
        262: (3, [photometric]),
        274: (3, [orientation]),
        273: (4, starts[:-1]),
        277: (3, [bands]),
        278: (4, [height]),
        279: (4, [len(strip) for strip in strips]),
        284: (3, [planar]),
        339: (3, [kind] * bands),
    }
    if photometric < 2 and bands > 1:
        rows[338] = (3, [0] * (bands - 1))
    rows |= {{"extra": 338, "palette": 320}[name]: (3, numbers) for name, numbers in other.items()}
    directory, more = struct.pack(order + "H", len(rows)), b""
    for number, (type, numbers) in sorted(rows.items()):
        content = struct.pack(order + {3: "H", 4: "L"}[type] * len(numbers), *numbers)
        if len(content) > 4:
            place = start + 2 + 12 * len(rows) + 4 + len(more)
            more, content = more + content, struct.pack(order + "L", place)
        directory += struct.pack(order + "HHL", number, type, len(numbers)) + content.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    pixels = b"".join(strips).ljust(start - 8, b"\0")
    path.write_bytes(magic + struct.pack(order + "L", start) + pixels + directory + bytes(4) + more)
    return path


def test_kinds_of_deep_tiff_files(tmp_path):
    gray = pixels(20, 30, dtype=np.uint16)[..., 0]
    white_is_zero = tiff(tmp_path / "white.tif", gray, photometric=0)
    expected = 255 - (gray.astype(int) + 128) // 257
    assert (read(white_is_zero, PREPROCESSING)[..., 1] == expected).all()
    assert (read(white_is_zero, PREPROCESSING) == read_image(white_is_zero)).all()
    planes = tiff(tmp_path / "planes.tif", pixels(20, 30, dtype=np.uint16), photometric=2, planar=2)
    with pytest.raises(UnsupportedImageError, match="in separate planes; save it as PNG"):
        read(planes, PREPROCESSING)
    signed = tiff(tmp_path / "signed.tif", (gray // 2).astype(np.int16) - 100, kind=2)
    with pytest.raises(UnsupportedImageError, match="has negative values"):
        read(signed, PREPROCESSING)
    deep = {"upright": True, "pixel_range": [-100, 3000]}
    assert (read(signed, deep) == read_image(signed, pixel_range=(-100, 3000))).all()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("photometric", [0, 1])
def test_gray_planes_of_which_pillow_reads_only_the_first_are_refused(tmp_path, photometric, kind):
    """Bands that a program did not call RGB, one after the other; training reads all three."""
    colors = np.zeros((4, 6, 3), kind)
    colors[..., 1] = 200
    path = tiff(tmp_path / "planes.tif", colors, photometric=photometric, planar=2, deflate=True)
    expected = [0, 200 if kind == np.uint8 else 1, 0]  # 200 / 257, rounded
    expected = [255 - value for value in expected] if photometric == 0 else expected
    assert read_image(path)[3, 5].tolist() == expected
    with pytest.raises(UnsupportedImageError, match=r"TIFF with 3 bands in separate planes; save it as PNG"):
        read(path, PREPROCESSING)


def test_four_planes_without_a_tag_that_pillow_reads_as_white_are_refused(tmp_path):
    colors = np.full((4, 6, 4), 100, np.uint8)
    path = tiff(tmp_path / "infrared.tif", colors, photometric=2, planar=2, deflate=True)
    assert (read_image(path) == 100).all()
    with pytest.raises(UnsupportedImageError, match=r"TIFF with 4 bands in separate planes; save it as PNG"):
        read(path, PREPROCESSING)


@pytest.mark.parametrize(
    ("bands", "tags", "kind"),
    [
        (2, {"photometric": 1}, "2 bands"),
        (5, {"photometric": 2, "extra": [0, 0]}, "5 bands"),
        (3, {"photometric": 8}, "colors that are neither gray, RGB, CMYK nor YCbCr"),
        (4, {"photometric": 2, "extra": [1]}, "colors multiplied by alpha"),
        (1, {"photometric": 3, "palette": [*range(200, 256)] * 3 + [0] * 600}, "a palette of 8-bit colors"),
    ],
)
def test_tiff_files_that_pillow_reads_differently_are_refused(tmp_path, bands, tags, kind):
    """Training refuses the first three, and Pillow reads other colors from the last two than training."""
    path = tiff(tmp_path / "a.tif", np.full((4, 6, bands), 50, np.uint8), **tags)
    assert np.asarray(Image.open(path)).shape[:2] == (4, 6)
    with pytest.raises(UnsupportedImageError, match=f"a.tif: TIFF with {kind}; save it as PNG"):
        read(path, PREPROCESSING)


def test_tiff_files_with_alpha(tmp_path):
    colors = pixels(4, 6)
    with_alpha = np.concatenate([colors, colors[..., :1]], axis=2)
    path = tiff(tmp_path / "a.tif", with_alpha, photometric=2, extra=[2])
    assert (read(path, PREPROCESSING) == colors).all()
    gray = tiff(tmp_path / "gray.tif", with_alpha[..., :2], extra=[2])
    assert (read(gray, PREPROCESSING) == colors[..., :1]).all()
    indexed = Image.fromarray(np.array([[0, 1]], np.uint8))
    indexed.putpalette([10, 20, 30, 200, 0, 5])
    indexed.convert("PA").save(tmp_path / "palette.tif")
    assert read(tmp_path / "palette.tif", PREPROCESSING).tolist() == [[[10, 20, 30], [200, 0, 5]]]


def test_signed_tiff_files_that_pillow_misreads_are_refused(tmp_path):
    """Pillow exchanges the bytes of compressed signed values of 16 bits, and takes 8 bits for unsigned."""
    deep = {"upright": True, "pixel_range": [0, 512]}
    gray = np.full((4, 6), 256, np.int16)
    little = tiff(tmp_path / "little.tif", gray, kind=2, deflate=True)
    plain = tiff(tmp_path / "plain.tif", gray, kind=2, order=">")
    assert read(little, deep)[0, 0, 0] == read(plain, deep)[0, 0, 0] == 128
    big = tiff(tmp_path / "big.tif", gray, kind=2, order=">", deflate=True)
    assert read_image(big, pixel_range=(0, 512))[0, 0, 0] == 128
    with pytest.raises(UnsupportedImageError, match=r"big.tif: TIFF with signed values; save it as PNG"):
        read(big, deep)
    small = tiff(tmp_path / "small.tif", np.full((4, 6), -1, np.int8), kind=2)
    with pytest.raises(UnsupportedImageError, match=r"small.tif: TIFF with signed values; save it as PNG"):
        read(small, deep)


def test_deep_tiff_files_that_are_rotated(tmp_path):
    """What their tags say also holds if they are read as stored; OpenCV rotates colors as it likes."""
    gray = np.array([[0, 65535, 0], [257, 514, 771]], np.uint16)
    white_is_zero = tiff(tmp_path / "white.tif", gray, photometric=0, orientation=3)
    stored = read(white_is_zero, {"upright": False, "pixel_range": None})
    assert stored[..., 0].tolist() == [[255, 0, 255], [254, 253, 252]]
    assert read(white_is_zero, PREPROCESSING)[..., 0].tolist() == [[252, 253, 254], [255, 0, 255]]
    colors = pixels(20, 30, dtype=np.uint16)
    for planar, reason in ((1, "and an orientation"), (2, "in separate planes")):
        path = tiff(tmp_path / f"{planar}.tif", colors, photometric=2, planar=planar, orientation=2)
        for upright in (True, False):
            with pytest.raises(UnsupportedImageError, match=f"16 bits per channel {reason}; save it as PNG"):
                read(path, {"upright": upright, "pixel_range": None})


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_gray_tiff_that_pillow_would_map_into_memory(tmp_path, orientation):
    """With one uncompressed strip, Pillow 13 exchanges width and height before it reads the rows."""
    image = pixels(16, 24)[..., 0]
    Image.fromarray(image).save(tmp_path / "a.tif", tiffinfo={274: orientation})
    for upright in (True, False):
        expected = np.rot90(image, -1) if upright and orientation == 6 else image
        found = read(tmp_path / "a.tif", {"upright": upright, "pixel_range": None})
        assert (found == expected[..., None]).all()


def test_floating_point_images_are_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "float.tif"), np.zeros((4, 4), np.float32))
    with pytest.raises(UnsupportedImageError, match="not an image of 8 or 16 bits"):
        read(tmp_path / "float.tif", PREPROCESSING)
