"""Unusual and damaged image files are read correctly, or rejected with an error that names the file."""

import os
import struct
import subprocess
import sys
import zlib
from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from deploy.device import image as image_of_kit
from engine.data.images import (
    conversion,
    count_values,
    image_size,
    list_images,
    read_image,
    read_labels,
    reading,
    write_png,
)
from engine.errors import UserError

RNG = np.random.default_rng(0)
IMAGE = cv2.resize(
    RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8), (40, 30)
)  # [30, 40, 3]: smooth, not square


def saved(path, image, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_lossless_formats_give_the_same_pixels(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(IMAGE), **options)
    read = read_image(path)
    np.testing.assert_array_equal(read, IMAGE)
    assert read.dtype == np.uint8
    assert read.flags.c_contiguous


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [(suffix, "RGB") for suffix in ("jpg", "png", "tif", "webp", "bmp", "avif")]
    + [("jpg", "CMYK"), ("png", "P"), ("gif", "P"), ("tif", "L"), ("bmp", "1")],
)
def test_an_image_can_be_drawn_on_whatever_decodes_it(tmp_path, suffix, mode):
    read = read_image(saved(tmp_path / f"a.{suffix}", Image.fromarray(IMAGE).convert(mode)))
    assert read.flags.writeable  # `predict` draws on it
    assert read.shape == (30, 40, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_exif_orientation_is_applied_as_in_pillow(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(IMAGE), exif=exif, quality=95)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    read = read_image(path)
    assert read.shape == expected.shape == ((40, 30, 3) if orientation >= 5 else (30, 40, 3))
    assert np.abs(read.astype(int) - expected).max() <= 3  # two JPEG decoders may round differently
    assert image_size(path) == read.shape[:2]
    assert image_size(path, upright=False) == (30, 40)


XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_an_orientation_in_xmp_does_not_count(tmp_path, suffix):
    """Pillow applies it, but browsers and OpenCV do not; all of this project's readers follow these."""
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", XMP)
    xmp = {"png": {"pnginfo": texts}, "tif": {"tiffinfo": {700: XMP.encode()}}}.get(suffix)
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(IMAGE), **(xmp or {"xmp": XMP.encode()}))
    with Image.open(path) as image:
        assert ImageOps.exif_transpose(image).size == (30, 40)
    assert read_image(path).shape == (30, 40, 3)
    assert image_size(path) == (30, 40)
    for upright in (True, False):
        from_kit = image_of_kit.read(path, {"upright": upright, "pixel_range": None})
        np.testing.assert_array_equal(from_kit, read_image(path, upright=upright))


def test_exif_after_the_pixels_of_a_png_is_read_without_decoding_them(tmp_path, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6
    body = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    write_png(tmp_path / "a.png", IMAGE)
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[:-12] + chunk + data[-12:])  # before IEND
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    assert image_size(tmp_path / "a.png") == (40, 30)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.rot90(IMAGE, -1))


def test_white_stays_white_when_16_bits_are_scaled_to_8(tmp_path):
    deep = np.array([[0, 128, 129, 257], [32768, 65278, 65407, 65535]], np.uint16)
    cv2.imwrite(str(tmp_path / "gray.png"), deep)
    expected = np.round(deep / 257).astype(np.uint8)
    np.testing.assert_array_equal(read_image(tmp_path / "gray.png"), np.repeat(expected[..., None], 3, 2))
    color = np.stack([deep, deep[::-1], deep * 0], axis=-1)
    for suffix in ("png", "tif"):
        cv2.imwrite(str(tmp_path / f"color.{suffix}"), color[..., ::-1])
        np.testing.assert_array_equal(read_image(tmp_path / f"color.{suffix}"), np.round(color / 257))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_other_modes_are_converted_to_rgb_without_alpha(tmp_path, mode):
    image = Image.fromarray(IMAGE).convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(IMAGE[..., 0]))
    read = read_image(saved(tmp_path / "a.png", image))
    np.testing.assert_array_equal(read, np.asarray(image.convert("RGB")))


def test_cmyk_jpeg_has_the_same_colors_as_in_pillow(tmp_path):
    path = saved(tmp_path / "a.jpg", Image.fromarray(IMAGE).convert("CMYK"), quality=95)
    assert np.abs(read_image(path).astype(int) - IMAGE).mean() < 6


def test_truncated_files_are_rejected_unless_all_pixels_are_there(tmp_path):
    for suffix, step in (("png", 7), ("jpg", 5)):
        whole = saved(tmp_path / f"whole.{suffix}", Image.fromarray(IMAGE), quality=90)
        data, pixels = whole.read_bytes(), read_image(whole)
        cut = tmp_path / f"cut.{suffix}"
        refused = 0
        for length in range(0, len(data), step):
            cut.write_bytes(data[:length])
            try:
                read = read_image(cut)
            except UserError as error:
                refused += 1
                assert str(cut) in str(error)  # noqa: PT017
            else:
                assert np.abs(read.astype(int) - pixels).max() <= 3
        assert refused >= len(data) // step - 1


def test_damaged_bytes_never_raise_any_other_error(tmp_path):
    for suffix in ("png", "jpg", "tif", "webp", "bmp"):
        data = bytearray(saved(tmp_path / f"whole.{suffix}", Image.fromarray(IMAGE)).read_bytes())
        path = tmp_path / f"damaged.{suffix}"
        for _ in range(60):
            damaged = bytearray(data)
            for position in RNG.integers(0, len(data), 3):
                damaged[position] = RNG.integers(0, 256)
            path.write_bytes(damaged)
            for read in (read_image, read_labels, image_size):
                try:
                    read(path)
                except UserError as error:
                    assert "damaged" in str(error)  # noqa: PT017


def test_a_flipped_bit_in_png_data_is_detected(tmp_path):
    path = tmp_path / "a.png"
    write_png(path, IMAGE)
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 40] ^= 4
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.png: truncated, corrupt or not an image"):
        read_image(path)


def test_jpeg_with_trailing_bytes_is_read(tmp_path):
    path = saved(tmp_path / "a.jpg", Image.fromarray(IMAGE), quality=95)
    whole = read_image(path)
    path.write_bytes(path.read_bytes() + b"\0" * 1000)
    assert np.abs(read_image(path).astype(int) - whole).max() <= 3


def test_files_that_are_not_images(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.png").mkdir()
    for name, why in [
        ("text.png", "not an image"),
        ("empty.jpg", "not an image"),
        ("folder.png", "directory"),
        ("none.png", "No such file"),
    ]:
        for read in (read_image, read_labels, image_size):
            with pytest.raises(UserError, match=rf"{name}.*({why})"):
                read(tmp_path / name)


def png(width, height, body, *, depth=8, color=0):
    """A gray PNG file (or another color type); each row of `body` starts with a filter byte."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def bomb(width, height):
    """A tiny PNG file whose header claims a huge size."""
    return png(width, height, b"\0" * 10)


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_decompression_bomb_is_rejected_by_its_header(tmp_path, side):
    (tmp_path / "bomb.png").write_bytes(bomb(side, side))
    for read in (read_image, read_labels, image_size):
        with pytest.raises(UserError, match=r"bomb\.png: \d+ x \d+ .*89 megapixels"):
            read(tmp_path / "bomb.png")


def test_the_limit_is_an_option_that_the_error_names(tmp_path, monkeypatch):
    """10,000 x 10,000 and, for Pillow, more than twice its own limit: 15,000 x 15,000."""
    monkeypatch.setattr(reading, "MAX_PIXELS", reading.MAX_PIXELS)
    monkeypatch.delenv("MOBILENET_DENSE_MAX_PIXELS", raising=False)
    for side, needed in ((10_000, "100"), (15_000, "225")):
        (tmp_path / "a.png").write_bytes(bomb(side, side))
        monkeypatch.setattr(reading, "MAX_PIXELS", 89_500_000)
        with pytest.raises(UserError, match=rf"a\.png: .*set data\.max_megapixels={needed}, scale it down"):
            image_size(tmp_path / "a.png")
        reading.set_max_megapixels(float(needed))
        assert image_size(tmp_path / "a.png") == (side, side)
    for wrong in (0, -1, 2000, float("nan")):
        with pytest.raises(UserError, match=r"data\.max_megapixels must be above 0 and at most 1073"):
            reading.set_max_megapixels(wrong)
    environment = {**os.environ, "PYTHONPATH": "."}
    code = "from engine.data.images import reading; print(reading.MAX_PIXELS)"
    child = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert child.stdout == "225000000\n"
    (tmp_path / "bomb.png").write_bytes(bomb(60_000, 60_000))  # more than OpenCV decodes
    with pytest.raises(UserError, match=r"bomb\.png: 60000 x 60000 .*megapixels; scale it down"):
        image_size(tmp_path / "bomb.png")


def test_values_are_counted_in_pieces(monkeypatch):
    monkeypatch.setattr(conversion, "_COUNTED_AT_ONCE", 7)
    values = RNG.integers(0, 200, (13, 11)).astype(np.uint8)
    assert count_values(values).tolist() == [int((values == value).sum()) for value in range(256)]


def test_the_limit_is_inclusive(tmp_path, monkeypatch):
    write_png(tmp_path / "a.png", IMAGE)
    monkeypatch.setattr(reading, "MAX_PIXELS", 1200)
    assert read_image(tmp_path / "a.png").shape == (30, 40, 3)
    monkeypatch.setattr(reading, "MAX_PIXELS", 1199)
    with pytest.raises(UserError, match="megapixels"):
        read_image(tmp_path / "a.png")


def test_labels_are_ids_not_colors(tmp_path):
    ids = RNG.integers(0, 20, (30, 40)).astype(np.uint8)
    palette = Image.frombytes("P", (40, 30), ids.tobytes())
    palette.putpalette(RNG.integers(0, 256, 768, dtype=np.uint8).tobytes())
    np.testing.assert_array_equal(read_labels(saved(tmp_path / "palette.png", palette)), ids)
    np.testing.assert_array_equal(read_labels(saved(tmp_path / "four.png", palette, bits=8)), ids)
    for deep in (ids, ids.astype(np.uint16) * 1300):
        write_png(tmp_path / "ids.png", deep)
        read = read_labels(tmp_path / "ids.png")
        assert read.dtype == deep.dtype
        np.testing.assert_array_equal(read, deep)
    write_png(tmp_path / "rgb.png", IMAGE)
    np.testing.assert_array_equal(read_labels(tmp_path / "rgb.png"), IMAGE)
    bits = Image.fromarray(ids > 10)
    np.testing.assert_array_equal(read_labels(saved(tmp_path / "bits.png", bits)), ids > 10)


def test_gray_png_masks_of_few_bits_hold_ids(tmp_path):
    (tmp_path / "two.png").write_bytes(png(4, 1, bytes([0, 0b00_01_10_11]), depth=2))
    (tmp_path / "four.png").write_bytes(png(4, 1, bytes([0, 0x01, 0x2F]), depth=4))
    np.testing.assert_array_equal(read_labels(tmp_path / "two.png"), [[0, 1, 2, 3]])
    np.testing.assert_array_equal(read_labels(tmp_path / "four.png"), [[0, 1, 2, 15]])
    np.testing.assert_array_equal(read_image(tmp_path / "two.png")[..., 0], [[0, 85, 170, 255]])


def test_labels_ignore_exif_and_alpha(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    ids = IMAGE[..., 0] % 20
    np.testing.assert_array_equal(
        read_labels(saved(tmp_path / "a.png", Image.fromarray(ids), exif=exif)), ids
    )
    alpha = np.full((30, 40, 1), 255, np.uint8)
    rgba = Image.fromarray(np.concatenate([IMAGE, alpha], 2))
    np.testing.assert_array_equal(read_labels(saved(tmp_path / "b.png", rgba)), IMAGE)
    gray = Image.fromarray(np.concatenate([ids[..., None], alpha], 2))
    np.testing.assert_array_equal(read_labels(saved(tmp_path / "c.png", gray)), ids)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_png_masks_of_colors_are_not_turned_by_exif(tmp_path, orientation):
    colors = np.zeros((2, 3, 3), np.uint8)
    colors[0, 0] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(colors).save(tmp_path / "m.png", exif=exif)
    assert np.array_equal(read_labels(tmp_path / "m.png"), colors)


def test_masks_without_usable_ids_are_rejected(tmp_path):
    Image.fromarray(IMAGE[..., 0]).save(tmp_path / "a.jpg")
    with pytest.raises(UserError, match=r"a\.jpg.*JPEG.*PNG"):
        read_labels(tmp_path / "a.jpg")
    cv2.imwrite(str(tmp_path / "b.png"), IMAGE.astype(np.uint16) * 257)
    with pytest.raises(UserError, match=r"b\.png.*16-bit colors"):
        read_labels(tmp_path / "b.png")
    Image.fromarray(IMAGE[..., 0].astype(np.float32)).save(tmp_path / "c.tif")
    for read in (read_labels, read_image):
        with pytest.raises(UserError, match=r"c\.tif.*float32"):
            read(tmp_path / "c.tif")


@pytest.mark.parametrize(
    ("name", "options", "kind"),
    [
        ("a.tif", {"compression": "jpeg", "quality": 95}, "TIFF with JPEG compression"),
        ("a.webp", {"quality": 90}, "lossy WebP"),
        ("alpha.webp", {"quality": 90}, "lossy WebP"),
        ("frames.webp", {"quality": 90, "save_all": True}, "lossy WebP"),
        ("a.avif", {"quality": 90}, "AVIF"),
        ("a.jfif", {"format": "JPEG"}, "JPEG"),
        ("a.mpo", {"save_all": True}, "JPEG"),
    ],
)
def test_lossy_formats_are_refused_as_masks(tmp_path, name, options, kind):
    """Blocks of the ids 0 to 20: after compression, most pixels are others of these ids."""
    ids = np.kron(RNG.integers(0, 21, (5, 6)), np.ones((7, 7))).astype(np.uint8)
    image = Image.fromarray(np.repeat(ids[..., None], 3, 2))
    if name == "alpha.webp":
        image.putalpha(Image.fromarray(ids * 12))
    if "save_all" in options:
        options = {**options, "append_images": [image.rotate(180)]}
    image.save(tmp_path / name, **options)
    assert (read_image(tmp_path / name)[..., 0] != ids).mean() > (0.1 if kind != "JPEG" else 0)
    with pytest.raises(UserError, match=rf"{name}: {kind} is unsuitable for masks .*save masks as PNG"):
        read_labels(tmp_path / name)


@pytest.mark.parametrize("frames", [1, 2])
def test_lossless_webp_masks_are_read(tmp_path, frames):
    ids = np.repeat(RNG.integers(0, 21, (30, 40, 1)), 3, 2).astype(np.uint8)
    image = Image.fromarray(ids)
    options = {"save_all": True, "append_images": [image.rotate(180)] * (frames - 1)} if frames > 1 else {}
    image.save(tmp_path / "a.webp", lossless=True, **options)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.webp"), ids)


def test_16_bit_ids_with_alpha_are_read(tmp_path):
    ids, alpha = (7, 300), (0, 65535)
    row = b"".join(value.to_bytes(2, "big") for pair in zip(ids, alpha, strict=True) for value in pair)
    (tmp_path / "a.png").write_bytes(png(2, 1, b"\0" + row, depth=16, color=4))
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), [[7, 300]])


def test_signed_16_bit_images_are_read_if_no_value_is_negative(tmp_path):
    values = np.array([[0, 257], [2570, 25700]], np.int16)
    cv2.imwrite(str(tmp_path / "a.tif"), values)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[..., 0], [[0, 1], [10, 100]])
    cv2.imwrite(str(tmp_path / "a.tif"), -values)
    with pytest.raises(
        UserError, match=r"a\.tif: int16 values that are not integers in 0\.\.65535; set data\.pixel_range="
    ):
        read_image(tmp_path / "a.tif")


def test_write_png_round_trip_and_errors(tmp_path):
    for pixels in (IMAGE, IMAGE[..., 0], IMAGE.astype(np.uint16) * 200):
        write_png(tmp_path / "deep" / "a.png", pixels)
        read = np.asarray(cv2.imread(str(tmp_path / "deep" / "a.png"), cv2.IMREAD_UNCHANGED))
        np.testing.assert_array_equal(read[..., ::-1] if pixels.ndim == 3 else read, pixels)
    for bad in (IMAGE.astype(np.float32), IMAGE[None], IMAGE[..., :2]):
        with pytest.raises(ValueError, match="uint8 or uint16"):
            write_png(tmp_path / "a.png", bad)
    with pytest.raises(UserError, match="cannot be written"):
        write_png(tmp_path / "deep" / "a.png" / "b.png", IMAGE)


def test_list_images_is_sorted_and_skips_other_files(tmp_path):
    for name in ("b.JPG", "a.png", "c.txt", "._a.png", "d.jpeg"):
        (tmp_path / name).touch()
    assert [path.name for path in list_images(tmp_path)] == ["a.png", "b.JPG", "d.jpeg"]
    with pytest.raises(UserError, match="no such folder"):
        list_images(tmp_path / "none")


def test_opencv_and_pillow_decode_the_same_pixels(tmp_path):
    buffer = BytesIO()
    Image.fromarray(IMAGE).convert("P").save(buffer, "png", transparency=3)
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.asarray(image.convert("RGB")))


def test_a_png_whose_chunks_end_early_is_rejected_before_decoding(tmp_path, monkeypatch):
    """OpenCV would reject it too, after seconds."""
    path = tmp_path / "short.png"
    write_png(path, np.zeros((20, 14), np.uint8))
    path.write_bytes(path.read_bytes()[:-12])
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    for read in (read_image, read_labels):
        with pytest.raises(UserError, match=r"short\.png: .*\(the end is missing\); restore or remove"):
            read(path)


@pytest.mark.parametrize("dtype", [np.int16, np.int32])
def test_masks_with_negative_values_are_refused_with_a_remedy_that_works(tmp_path, dtype):
    """GIS programs write -1 or -9999 where there are no data; -1 in classes.json was refused as well."""
    cv2.imwrite(str(tmp_path / "a.tif"), np.array([[0, 1], [-9999, 2]], dtype))
    with pytest.raises(
        UserError, match=r"a\.tif: a mask with negative values \(-9999\); save .* 255 for pixels to ignore"
    ):
        read_labels(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "ä.png", os.fsdecode(b"\xff.png")])
def test_large_files_are_decoded_like_small_ones(tmp_path, monkeypatch, name):
    """Files of any kind and name; OpenCV cannot open the name that is not Unicode."""
    path, images = tmp_path / name, [RNG.integers(0, 256, (30, 40, 3)).astype(np.uint8)]
    if name.endswith("png"):
        images += [RNG.integers(0, 256, (30, 40, *bands)).astype(np.uint8) for bands in ((), (4,))]
        images += [RNG.integers(0, 65536, (30, 40, *bands)).astype(np.uint16) for bands in ((), (3,), (4,))]
    for pixels in images:
        path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())
        small = read_image(path)
        with monkeypatch.context() as patched:
            patched.setattr(reading, "_LARGE_PIXELS", 0)
            if "\udcff" not in name and pixels.dtype == np.uint8:
                patched.setattr(cv2, "imdecode", None)  # it needs twice the memory
            np.testing.assert_array_equal(read_image(path), small)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_large_files_that_are_damaged_are_refused(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(reading, "_LARGE_PIXELS", 0)
    data = bytearray(cv2.imencode(suffix, RNG.integers(0, 256, (60, 80, 3)).astype(np.uint8))[1].tobytes())
    path = tmp_path / f"a{suffix}"
    half = len(data) // 2
    for damaged in (data[:half], data[:half] + b"\xff\xc4\0\x03\0" + data[half + 5 :]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=rf"a\{suffix}: truncated, corrupt"):
            read_image(path)
