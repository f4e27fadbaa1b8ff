"""Writes TIFF files that Pillow and OpenCV cannot write: separate planes, tiles, byte orders, white at 0."""

import struct

import numpy as np


def write_tiff(
    path,
    pixels,
    *,
    separate=False,
    tile=None,
    order="<",
    photometric=None,
    orientation=None,
    bits=None,
    extra=None,
    absent=(),
):
    """Write [H, W] or [H, W, C] uncompressed; `bits` (2, 4 or 12) packs rows of one band.

    absent: numbers of strips or tiles that are not stored, as GDAL writes with SPARSE_OK.
    """
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    height, width, bands = pixels.shape
    planes = np.split(pixels, bands, axis=2) if separate else [pixels]
    kinds = {"u": 1, "i": 2, "f": 3}
    tags = {
        256: [width],
        257: [height],
        258: [bits or pixels.dtype.itemsize * 8] * bands,
        259: [1],
        262: [(2 if bands >= 3 else 1) if photometric is None else photometric],
        277: [bands],
        284: [2 if separate else 1],
        339: [kinds[pixels.dtype.kind]] * bands,
    }
    if extra or bands > 3:
        tags[338] = extra or [0] * (bands - 3)
    if orientation:
        tags[274] = [orientation]
    if tile:
        tags |= {322: [tile], 323: [tile]}
        chunks = [chunk for plane in planes for chunk in _tiles(plane, tile)]
    else:
        tags[278] = [rows := height // 2 + 1]
        chunks = [plane[top : top + rows] for plane in planes for top in range(0, height, rows)]
    stored = [_packed(c, bits) if bits else c.astype(c.dtype.newbyteorder(order)).tobytes() for c in chunks]
    stored = [b"" if number in absent else chunk for number, chunk in enumerate(stored)]
    places = np.cumsum([8, *map(len, stored)])[:-1].tolist()
    places = [place if chunk else 0 for place, chunk in zip(places, stored, strict=True)]
    tags |= {324 if tile else 273: places, 325 if tile else 279: [len(chunk) for chunk in stored]}
    data = b"".join(stored)
    data += b"\0" * (len(data) % 2)
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "L", 8 + len(data))
    path.write_bytes(start + data + _directory(tags, 8 + len(data), order))
    return path


def set_tag(path, tag, value, order, *, new=None):
    """Change the single value of a tag that `write_tiff` has written, and the tag's number to `new`."""
    data = bytearray(path.read_bytes())
    (start,) = struct.unpack_from(order + "L", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    for place in range(start + 2, start + 2 + 12 * count, 12):
        if struct.unpack_from(order + "H", data, place)[0] == tag:
            struct.pack_into(order + "HHLL", data, place, new or tag, 4, 1, value)
    path.write_bytes(data)


def _tiles(plane, side):
    for top in range(0, plane.shape[0], side):
        for left in range(0, plane.shape[1], side):
            part = plane[top : top + side, left : left + side]
            low, right = side - part.shape[0], side - part.shape[1]
            yield np.pad(part, ((0, low), (0, right), (0, 0)))


def _packed(chunk, bits):
    rows = []
    for row in chunk[..., 0]:
        text = "".join(f"{value:0{bits}b}" for value in row.tolist())
        text += "0" * (-len(text) % 8)
        rows.append(int(text, 2).to_bytes(len(text) // 8, "big"))
    return b"".join(rows)


def _directory(tags, place, order):
    rows, values = struct.pack(order + "H", len(tags)), b""
    after = place + 2 + 12 * len(tags) + 4
    for tag in sorted(tags):
        content = struct.pack(f"{order}{len(tags[tag])}L", *tags[tag])
        inline = content if len(content) == 4 else struct.pack(order + "L", after + len(values))
        rows += struct.pack(order + "HHL", tag, 4, len(tags[tag])) + inline
        values += content if len(content) > 4 else b""
    return rows + struct.pack(order + "L", 0) + values
