"""TIFF files of every layout are read as other programs show them, or refused by the name of their kind."""

import multiprocessing
import re
import struct
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from engine.data.images import (
    check_complete,
    conversion,
    image_size,
    read_image,
    read_labels,
    read_palette,
    tiff_parts,
)
from engine.errors import UserError
from tests.engine.data.images.tiff_files import set_tag, write_tiff

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True, params=["whole", "by rows", "by tiles"])
def size_of_parts(request, monkeypatch):
    """Each test also reads its files as large ones are read, in parts of a few rows, and of a tile or two.

    A tile of more than WHOLE_BYTES is not cut; the tests' tiles have up to 16 x 16 x 4 x 2 bytes.
    """
    if request.param != "whole":
        monkeypatch.setattr(tiff_parts, "WHOLE_BYTES", 100 if request.param == "by rows" else 2048)
        monkeypatch.setattr(tiff_parts, "PART_BYTES", 100 if request.param == "by rows" else 1600)
    return request.param


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("tile", [None, 16])
@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("bands", [3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_all_layouts_of_bands_give_the_same_image(tmp_path, dtype, bands, separate, tile, order):
    values = RNG.integers(0, 256, (30, 40, bands)).astype(np.uint8)
    pixels = values if dtype == np.uint8 else values.astype(np.uint16) * 257
    path = write_tiff(tmp_path / "a.tif", pixels, separate=separate, tile=tile, order=order)
    np.testing.assert_array_equal(read_image(path), values[..., :3])


def test_a_red_image_in_separate_16_bit_planes_is_red(tmp_path):
    planes = np.zeros((60, 90, 3), np.uint16)
    planes[..., 0] = 65535
    for photometric in (1, 2):  # some programs do not say that three planes are colors
        path = write_tiff(tmp_path / "a.tif", planes, separate=True, photometric=photometric)
        read = read_image(path)
        assert (read == [255, 0, 0]).all(axis=2).sum() == 5400


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("bands", [1, 3])
def test_images_are_turned_once_and_masks_never(tmp_path, orientation, dtype, bands):
    values = RNG.integers(0, 256, (30, 40, bands)).astype(np.uint8).squeeze()
    scale = 257 if dtype == np.uint16 else 1
    path = write_tiff(tmp_path / "a.tif", values.astype(dtype) * scale, orientation=orientation)
    flat = Image.fromarray(values)
    exif = flat.getexif()
    exif[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(flat).convert("RGB"))
    np.testing.assert_array_equal(read_image(path), upright)
    assert image_size(path) == upright.shape[:2]
    assert image_size(path, upright=False) == (30, 40)
    if dtype == np.uint8 or bands == 1:
        np.testing.assert_array_equal(read_labels(path), values.astype(dtype) * scale)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "raw"])
def test_compressed_files_are_turned_once(tmp_path, compression):
    ids = RNG.integers(0, 20, (30, 40)).astype(np.uint8)
    for pixels in (ids, ids.astype(np.uint16) * 3000, np.stack([ids, ids + 1, ids + 2], 2)):
        Image.fromarray(pixels).save(tmp_path / "a.tif", compression=compression, tiffinfo={274: 6})
        np.testing.assert_array_equal(read_labels(tmp_path / "a.tif"), pixels)
        assert read_image(tmp_path / "a.tif").shape == (40, 30, 3)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "raw"])
def test_compressed_strips_of_many_lengths(tmp_path, monkeypatch, compression):
    monkeypatch.setattr("PIL.TiffImagePlugin.STRIP_SIZE", 240)  # two rows
    pixels = RNG.integers(0, 256, (30, 40, 3)).astype(np.uint8)
    pixels[:, :20] //= np.arange(1, 31, dtype=np.uint8)[:, None, None]  # the lower, the better compressed
    Image.fromarray(pixels).save(tmp_path / "a.tif", compression=compression)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), pixels)


@pytest.mark.parametrize("mode", ["P", "1", "CMYK", "LA", "RGBA", "YCbCr"])
def test_other_color_spaces_are_converted(tmp_path, mode):
    smooth = cv2.resize(RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8), (48, 32))
    image = Image.fromarray(smooth).convert(mode)
    image.save(tmp_path / "a.tif", **({"compression": "jpeg"} if mode == "YCbCr" else {}))
    with Image.open(tmp_path / "a.tif") as saved:
        expected = np.asarray(saved.convert("RGB"))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), expected)
    if mode in ("P", "1"):
        np.testing.assert_array_equal(read_labels(tmp_path / "a.tif"), np.asarray(image))


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_palette_files_with_alpha_have_their_colors_and_indices(tmp_path, compression):
    indices = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    colors = [[10, 20, 30], [200, 0, 0], [0, 0, 250]]
    image = Image.fromarray(indices)
    image.putpalette(np.ravel(colors).tolist())
    image.convert("PA").save(tmp_path / "a.tif", compression=compression)
    assert read_image(tmp_path / "a.tif").tolist() == [colors, colors[::-1]]
    assert read_labels(tmp_path / "a.tif").tolist() == indices.tolist()
    assert read_palette(tmp_path / "a.tif")[:4].tolist() == [*colors, [0, 0, 0]]


def test_a_palette_of_8_bits_has_the_same_colors_for_images_and_masks(tmp_path):
    """The colors of a TIFF palette have 16 bits; some programs store them as 8."""
    image = Image.fromarray(np.array([[0, 1]], np.uint8))
    image.putpalette([10, 20, 30, 200, 0, 5])
    image.save(tmp_path / "a.tif")
    with Image.open(tmp_path / "a.tif") as saved:
        stored = saved.tag_v2[320]
    data, of_16_bits = (tmp_path / "a.tif").read_bytes(), struct.pack(f"<{len(stored)}H", *stored)
    assert of_16_bits in data
    of_8_bits = struct.pack(f"<{len(stored)}H", *(value >> 8 for value in stored))
    (tmp_path / "a.tif").write_bytes(data.replace(of_16_bits, of_8_bits))
    assert read_image(tmp_path / "a.tif").tolist() == [[[10, 20, 30], [200, 0, 5]]]
    assert read_palette(tmp_path / "a.tif")[:2].tolist() == [[10, 20, 30], [200, 0, 5]]


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("order", ["<", ">"])
def test_where_white_is_zero_masks_are_as_stored_and_images_as_displayed(tmp_path, bits, order):
    top = 2**bits - 1
    values = np.array([[0, 1, top, top, 1, 0, 0, 1]] * 3, np.uint16 if bits == 16 else np.uint8)
    path = write_tiff(tmp_path / "a.tif", values, photometric=0, order=order, bits=bits if bits < 8 else None)
    np.testing.assert_array_equal(read_labels(path), values)
    shown = np.round(255 * (1 - values / top)).astype(np.uint8)
    np.testing.assert_array_equal(read_image(path), np.repeat(shown[..., None], 3, axis=2))


@pytest.mark.parametrize("bits", [2, 4])
def test_ids_of_few_bits_are_not_scaled(tmp_path, bits):
    ids = np.array([[0, 1, 2, 3], [3, 2, 1, 0]], np.uint8)
    path = write_tiff(tmp_path / "a.tif", ids, bits=bits)
    np.testing.assert_array_equal(read_labels(path), ids)
    scale = {2: 85, 4: 17}[bits]
    np.testing.assert_array_equal(read_image(path)[..., 0], ids * scale)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.uint32])
def test_label_files_of_all_integers_and_byte_orders(tmp_path, dtype, order):
    ids = RNG.integers(0, 1000, (30, 40)).astype(dtype)
    read = read_labels(write_tiff(tmp_path / "a.tif", ids, order=order))
    np.testing.assert_array_equal(read, ids)
    assert read.dtype.isnative


@pytest.mark.parametrize("order", ["<", ">"])
def test_white_of_12_bits_is_white(tmp_path, order):
    """Once, files in Motorola's byte order were called corrupt."""
    values = np.array([[0, 4095], [2048, 16], [1, 2]], np.uint16)
    path = write_tiff(tmp_path / "a.tif", values, bits=12, order=order)
    np.testing.assert_array_equal(read_image(path)[..., 0], [[0, 255], [128, 1], [0, 0]])
    np.testing.assert_array_equal(read_labels(path), values)


@pytest.mark.parametrize(
    ("bands", "dtype", "kind"),
    [
        (5, np.uint8, "TIFF with 5 bands of 8-bit unsigned integers"),
        (8, np.uint8, "TIFF with 8 bands of 8-bit unsigned integers"),
        (8, np.uint16, "TIFF with 8 bands of 16-bit unsigned integers"),
        (2, np.uint16, "TIFF with 2 bands of 16-bit unsigned integers"),
        (1, np.int8, "TIFF with 1 band of 8-bit signed integers"),
        (1, np.float16, "TIFF with 1 band of 16-bit floating point numbers"),
        (3, np.float16, "TIFF with 3 bands of 16-bit floating point numbers"),
    ],
)
def test_unsupported_files_are_refused_by_the_name_of_their_kind(tmp_path, bands, dtype, kind):
    path = write_tiff(tmp_path / "a.tif", np.zeros((30, 40, bands), dtype))
    for read in (read_image, read_labels, check_complete):
        with pytest.raises(UserError, match=rf"a\.tif: a {kind}, which cannot be read; save 1, 3 or 4 bands"):
            read(path)
    assert image_size(path) == (30, 40)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("compression", "name"),
    [(34925, "LZMA"), (50000, "Zstandard"), (34887, "LERC"), (50002, "JPEG XL"), (9, r"unknown \(9\)")],
)
def test_compressions_that_are_not_read_are_named(tmp_path, compression, name, order):
    path = write_tiff(tmp_path / "a.tif", np.zeros((30, 40, 3), np.uint16), order=order)
    set_tag(path, 259, compression, order)
    for read in (read_image, read_labels, check_complete):
        with pytest.raises(UserError, match=rf"a\.tif: a TIFF with .*, {name} compression, which cannot be"):
            read(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_predictor_that_decoders_ignore_is_refused(tmp_path, dtype):
    """tifffile writes differences of neighbors also with PackBits, which libtiff reads as values."""
    path = write_tiff(tmp_path / "a.tif", np.zeros((30, 40), dtype))
    set_tag(path, 259, 32773, "<")
    set_tag(path, 339, 2, "<", new=317)
    with pytest.raises(UserError, match=r"PackBits compression with a predictor, which cannot be read"):
        read_image(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("extra", [0, 1, 2])
def test_colors_are_as_stored_whatever_the_fourth_band_is(tmp_path, dtype, separate, extra):
    """1: alpha that is multiplied into the colors, as some programs call an infrared band."""
    values = RNG.integers(0, 256, (30, 40, 4)).astype(np.uint8)
    pixels = values if dtype == np.uint8 else values.astype(np.uint16) * 257
    path = write_tiff(tmp_path / "a.tif", pixels, separate=separate)
    set_tag(path, 338, extra, "<")
    np.testing.assert_array_equal(read_image(path), values[..., :3])
    if dtype == np.uint8:
        np.testing.assert_array_equal(read_labels(path), values[..., :3])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("bands", [3, 4])
def test_bands_that_are_all_called_gray_are_colors(tmp_path, dtype, bands):
    """As GDAL writes several bands: black is 0, and all but the first are extra."""
    values = RNG.integers(0, 256, (30, 40, bands)).astype(np.uint8)
    pixels = values if dtype == np.uint8 else values.astype(np.uint16) * 257
    path = write_tiff(tmp_path / "a.tif", pixels, photometric=1, extra=[0] * (bands - 1))
    np.testing.assert_array_equal(read_image(path), values[..., :3])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bands", [1, 3])
def test_floating_point_files_are_refused_by_name(tmp_path, dtype, bands):
    path = write_tiff(tmp_path / "a.tif", np.zeros((30, 40, bands), dtype))
    for read in (read_image, read_labels):
        with pytest.raises(UserError, match=rf"a\.tif: .*{np.dtype(dtype)}"):
            read(path)


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_missing_pixels_are_never_filled_up(tmp_path, dtype, separate):
    path = write_tiff(tmp_path / "a.tif", np.full((30, 40, 3), 200, dtype), separate=separate, tile=16)
    data = bytearray(path.read_bytes())
    start = int.from_bytes(data[4:8], "little")
    path.write_bytes(data[:8] + data[1000:])  # the directory's place is wrong too
    with pytest.raises(UserError, match=r"a\.tif: truncated, corrupt"):
        read_image(path)
    count = int.from_bytes(data[start : start + 2], "little")
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        if data[entry : entry + 2] == (324).to_bytes(2, "little"):
            places = int.from_bytes(data[entry + 8 : entry + 12], "little")
            data[places : places + 4] = (len(data) - 10).to_bytes(4, "little")  # a tile beyond the end
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.tif: truncated, corrupt or not an image \(pixels are missing"):
        read_image(path)


@pytest.mark.parametrize("tile", [None, 16])
@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_file_with_parts_that_are_not_stored_is_refused(tmp_path, dtype, separate, tile):
    """Their place is 0, so decoders take the header of the file for pixels."""
    pixels = np.full((32, 32, 3), 9, dtype)
    path = write_tiff(tmp_path / "a.tif", pixels, separate=separate, tile=tile, absent=[1])
    for read in (read_image, read_labels, check_complete):
        with pytest.raises(UserError, match=r"a\.tif: a TIFF with .*, some parts of which are not stored"):
            read(path)


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_of_bigtiff(tmp_path, order):
    values = RNG.integers(0, 65536, (3, 4)).astype(np.uint16)
    tags = {256: 4, 257: 3, 258: 16, 259: 1, 262: 1, 273: 16, 277: 1, 278: 3, 279: 24}
    start = struct.pack(order + "2sHHHQ", b"II" if order == "<" else b"MM", 43, 8, 0, 40)
    rows = b"".join(struct.pack(order + "HHQQ", tag, 16, 1, value) for tag, value in tags.items())
    directory = struct.pack(order + "Q", len(tags)) + rows + bytes(8)
    (tmp_path / "a.tif").write_bytes(start + values.astype(order + "u2").tobytes() + directory)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.tif"), values)


def parts_of(path):
    with open(path, "rb") as file:
        header = conversion.tiff_header(path, file, limit=1 << 30)
        return [
            (part.top, part.left, part.header.height, part.header.width)
            for part in tiff_parts.cut(header, file)
        ]


@pytest.mark.parametrize("separate", [False, True])
def test_how_a_large_file_is_cut(tmp_path, monkeypatch, separate):
    """30 x 40 pixels of three bytes: 3600 bytes; a tile of 16 x 16 has 768 bytes, a row of 40 pixels 120."""
    pixels = RNG.integers(0, 256, (30, 40, 3)).astype(np.uint8)
    tiles = write_tiff(tmp_path / "tiles.tif", pixels, tile=16, separate=separate)
    strips = write_tiff(tmp_path / "strips.tif", pixels, separate=separate)  # of 16 and 14 rows
    monkeypatch.setattr(tiff_parts, "WHOLE_BYTES", 3600)
    assert parts_of(tiles) == parts_of(strips) == [(0, 0, 30, 40)]
    monkeypatch.setattr(tiff_parts, "WHOLE_BYTES", 3599)
    monkeypatch.setattr(tiff_parts, "PART_BYTES", 1600)  # two tiles
    assert parts_of(tiles) == [(0, 0, 16, 32), (0, 32, 16, 8), (16, 0, 14, 32), (16, 32, 14, 8)]
    assert parts_of(strips) == [(0, 0, 16, 40), (16, 0, 14, 40)]
    if not separate:
        monkeypatch.setattr(tiff_parts, "WHOLE_BYTES", 768)
        assert len(parts_of(tiles)) == 4
        monkeypatch.setattr(tiff_parts, "WHOLE_BYTES", 767)
        assert parts_of(tiles) == [(0, 0, 30, 40)]
    monkeypatch.setattr(tiff_parts, "WHOLE_BYTES", 600)  # a strip of a plane has 640 bytes
    monkeypatch.setattr(tiff_parts, "PART_BYTES", 600)  # 5 rows, 15 of a plane, but a strip has 16
    rows = [(0, 4), (4, 4), (8, 4), (12, 4), (16, 4), (20, 4), (24, 4), (28, 2)]
    rows = [(0, 8), (8, 8), (16, 8), (24, 6)] if separate else rows
    assert parts_of(strips) == [(top, 0, height, 40) for top, height in rows]


def test_blocks_of_a_single_row_and_column_are_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff_parts, "WHOLE_BYTES", 20)
    monkeypatch.setattr(tiff_parts, "PART_BYTES", 2)
    path = write_tiff(tmp_path / "a.tif", np.zeros((4, 6), np.uint8), tile=1)
    assert parts_of(path) == [(top, left, 1, 2) for top in range(4) for left in (0, 2, 4)]


def test_a_part_has_the_tags_of_its_own_strips(tmp_path, monkeypatch):
    """24 rows of 40 bytes in strips of 13 and 11 rows, cut into strips of one row and parts of two."""
    monkeypatch.setattr(tiff_parts, "WHOLE_BYTES", 500)
    monkeypatch.setattr(tiff_parts, "PART_BYTES", 80)
    pixels = RNG.integers(0, 256, (24, 40)).astype(np.uint8)
    path = write_tiff(tmp_path / "a.tif", pixels)
    with open(path, "rb") as file:
        parts = list(tiff_parts.cut(conversion.tiff_header(path, file, limit=1 << 30), file))
    assert [part.top for part in parts] == list(range(0, 24, 2))
    for part in parts:
        tags = part.header.tags
        assert [tags[tag] for tag in (256, 257, 273, 278, 279)] == [40, 2, (8, 48), 1, (40, 40)]
        assert tags[258] == (8,)
        assert [tag in tags for tag in (256, 258, 278, 322)] == [True, True, True, False]
        assert part.data[8:] == pixels[part.top : part.top + 2].tobytes()


@pytest.mark.parametrize(
    ("tag", "value"), [(322, 0), (323, 0), (322, 8), (323, 24), (259, 6)], ids=lambda value: str(value)
)
def test_files_with_impossible_tiles_and_old_jpegs_are_not_cut(tmp_path, monkeypatch, tag, value):
    monkeypatch.setattr(tiff_parts, "WHOLE_BYTES", 1000)
    pixels = RNG.integers(0, 256, (30, 40, 3)).astype(np.uint8)
    path = write_tiff(tmp_path / "a.tif", pixels, tile=16)
    set_tag(path, tag, value, "<")
    assert parts_of(path) == [(0, 0, 30, 40)]


@pytest.mark.parametrize(("size", "parts"), [(1200, 15), (1199, 1)])
def test_a_strip_with_too_few_bytes_is_not_cut(tmp_path, monkeypatch, size, parts):
    """One strip of 30 rows of 40 bytes; the rows after it would be those of something else."""
    monkeypatch.setattr(tiff_parts, "WHOLE_BYTES", 100)
    monkeypatch.setattr(tiff_parts, "PART_BYTES", 80)
    path = write_tiff(tmp_path / "a.tif", np.zeros((30, 40), np.uint8), tile=64)
    set_tag(path, 322, 0, "<", new=60322)
    set_tag(path, 323, 30, "<", new=278)
    set_tag(path, 324, 8, "<", new=273)
    set_tag(path, 325, size, "<", new=279)
    assert len(parts_of(path)) == parts


@pytest.mark.parametrize("separate", [False, True])
def test_planes_of_luma_and_chroma_are_not_cut(tmp_path, monkeypatch, separate):
    """Chroma may have fewer rows and columns than luma, which only a decoder of the whole file undoes."""
    monkeypatch.setattr(tiff_parts, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(tiff_parts, "PART_BYTES", 1600)
    pixels = RNG.integers(0, 256, (30, 40, 3)).astype(np.uint8)
    path = write_tiff(tmp_path / "a.tif", pixels, tile=16, separate=separate, photometric=6)
    assert len(parts_of(path)) == (1 if separate else 4)


def test_a_strip_of_unstated_height_can_be_cut_into_more_rows_than_16_bits_count(tmp_path, monkeypatch):
    """Once, the file was called damaged: the tag's default type has 16 bits."""
    monkeypatch.setattr(tiff_parts, "WHOLE_BYTES", 100)
    monkeypatch.setattr(tiff_parts, "PART_BYTES", 1 << 24)  # 209715 rows of 80 bytes
    ids = RNG.integers(0, 60000, (2, 40)).astype(np.uint16)
    path = write_tiff(tmp_path / "a.tif", ids)  # one strip
    set_tag(path, 278, 0, "<", new=65000)
    np.testing.assert_array_equal(read_labels(path), ids)


def test_tiles_at_the_places_of_strips(tmp_path):
    """libtiff reads them; once, in parts, the file was called damaged."""
    ids = RNG.integers(0, 60000, (30, 40)).astype(np.uint16)
    path = write_tiff(tmp_path / "a.tif", ids, tile=48)
    set_tag(path, 324, 8, "<", new=273)
    set_tag(path, 325, 48 * 48 * 2, "<", new=279)
    np.testing.assert_array_equal(read_labels(path), ids)


def test_values_that_need_a_range_are_refused_in_parts_too(tmp_path):
    write_tiff(tmp_path / "a.tif", np.full((30, 40), -5, np.int16))
    with pytest.raises(UserError, match=r"a\.tif: int16 values that are not .*; set data\.pixel_range="):
        read_image(tmp_path / "a.tif")
    assert (read_image(tmp_path / "a.tif", pixel_range=(-5, 0)) == 0).all()


def growth_mb(path):
    """By how many MB reading an image raises this process's peak, beyond the pixels."""
    before = peak_mb()
    pixels = read_image(path)
    return peak_mb() - before - pixels.nbytes / 2**20


def peak_mb():
    """Not ru_maxrss, which a new process inherits from the one that started it."""
    (line,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(line) / 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_a_large_16_bit_file_needs_little_memory_besides_its_pixels(tmp_path, size_of_parts):
    """4000 x 5000 pixels: 57 MB as an image and 114 MB as stored."""
    if size_of_parts != "whole":
        pytest.skip("does not depend on it")
    path = write_tiff(tmp_path / "a.tif", np.full((4000, 5000, 3), 65535, np.uint16))
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as new:  # with a peak of its own
        assert new.submit(growth_mb, path).result() < 130
