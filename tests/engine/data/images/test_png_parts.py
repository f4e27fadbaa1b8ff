"""Large 16-bit PNG files are decoded in parts, to the same values as in one piece."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from engine.data.images import conversion, png_parts, read_image, reading
from engine.errors import UserError


def smooth(shape):
    """Values whose rows differ little, so that encoders use all kinds of row filters."""
    rng = np.random.default_rng(0)
    return (np.cumsum(rng.integers(0, 99, shape), axis=0) * 300 + rng.integers(0, 2000, shape)).astype(
        np.uint16
    )


def filtered(values, color, kinds):
    """A PNG file whose rows use the given filters in turn; written by hand, after the specification."""
    height, width = values.shape[:2]
    rows = values.astype(">u2").reshape(height, -1).view(np.uint8).astype(int)
    step, content = 2 * values[0, 0].size, b""
    for y, row in enumerate(rows):
        above = rows[y - 1] if y else np.zeros_like(row)
        left, corner = (np.concatenate([np.zeros(step, int), line[:-step]]) for line in (row, above))
        guess = left + above - corner
        distances = np.abs(np.stack([guess - left, guess - above, guess - corner]))
        paeth = np.choose(distances.argmin(0), [left, above, corner])
        kind = kinds[y % len(kinds)]
        predicted = (0 * row, left, above, (left + above) // 2, paeth)[kind]
        content += bytes([kind]) + ((row - predicted) % 256).astype(np.uint8).tobytes()
    compressed = zlib.compress(content)
    chunks = [
        struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0),
        compressed[:50],
        compressed[50:],
        b"",
    ]
    file = png_parts._SIGNATURE
    for kind, chunk in zip((b"IHDR", b"IDAT", b"IDAT", b"IEND"), chunks, strict=True):
        file += png_parts._chunk(kind, chunk)
    return file


@pytest.mark.parametrize(("color", "bands"), [(0, 1), (2, 3), (4, 2), (6, 4)])
@pytest.mark.parametrize("kinds", [(0,), (1, 2, 3, 4), (4, 3, 0, 2, 1)])
def test_parts_are_decoded_like_the_whole(tmp_path, monkeypatch, color, bands, kinds):
    values = smooth((23, 11, bands) if bands > 1 else (23, 11))
    path = tmp_path / "a.png"
    path.write_bytes(filtered(values, color, kinds))
    parts = list(png_parts.parts(path.read_bytes(), pixels=50))  # four rows
    assert [part.top for part in parts] == [0, 4, 8, 12, 16, 20]
    whole = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(np.concatenate([part.values for part in parts]), whole)
    expected = (values.astype(int) + 128) // 257
    expected = (
        expected.reshape(23, 11, bands)[..., :3] if bands > 2 else expected.reshape(23, 11, bands)[..., :1]
    )
    expected = np.broadcast_to(expected, (23, 11, 3))
    for limit in (reading._LARGE_PIXELS, 0):
        monkeypatch.setattr(reading, "_LARGE_PIXELS", limit)
        np.testing.assert_array_equal(read_image(path), expected)


def test_a_large_file_is_never_held_with_16_bits(tmp_path, monkeypatch):
    path, values = tmp_path / "a.png", smooth((40, 30, 3))
    cv2.imwrite(str(path), values[..., ::-1])
    monkeypatch.setattr(reading, "_LARGE_PIXELS", 0)
    monkeypatch.setattr(png_parts.parts, "__kwdefaults__", {"pixels": 90})
    shapes, decode = [], cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *a: shapes.append((pixels := decode(*a)).shape) or pixels)
    low_high = read_image(path, pixel_range=(0, 32767))
    assert set(shapes) == {(4, 30, 3), (2, 30, 3)}  # three rows below the one above; the last one alone
    expected = conversion.eight_bits(path, values, (0, 32767))
    np.testing.assert_array_equal(low_high, expected)


def test_other_files_are_decoded_in_one_piece(tmp_path, monkeypatch):
    """Interlaced and animated files."""
    values = smooth((9, 7, 3))
    plain = filtered(values, 2, (1,))
    header = struct.pack(">IIBBBBB", 7, 9, 16, 2, 0, 0, 1)
    interlaced = plain[:8] + png_parts._chunk(b"IHDR", header) + plain[33:]
    animated = plain[:33] + png_parts._chunk(b"acTL", struct.pack(">II", 1, 0)) + plain[33:]
    for data in (interlaced, animated):
        with pytest.raises(ValueError, match=r"not a plain|animated"):
            list(png_parts.parts(data))
    path = tmp_path / "a.png"
    path.write_bytes(plain)
    monkeypatch.setattr(reading, "_LARGE_PIXELS", 0)
    monkeypatch.setattr(png_parts, "_BANDS", {})  # as if it were of another kind
    np.testing.assert_array_equal(read_image(path), (values.astype(int) + 128) // 257)


def test_damaged_large_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_LARGE_PIXELS", 0)
    whole, path = filtered(smooth((23, 11, 3)), 2, (4,)), tmp_path / "a.png"
    rng = np.random.default_rng(1)
    for _ in range(30):
        data = bytearray(whole)
        place = int(rng.integers(41, len(data) - 16))  # in the chunks of pixels
        data[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"a\.png: truncated, corrupt"):
            read_image(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"a\.png: truncated, corrupt"):
        read_image(path)
