"""Damaged and forged images of every format: the pixels that the header promises, or one line."""

import io
import struct
import zlib

import cv2
import numpy as np
from hypothesis import strategies as st
from PIL import Image

from engine.data.class_map import ClassMap
from engine.data.images import image_size, read_image, read_labels
from engine.data.images.reading import MAX_PIXELS
from seg.data.cityscapes import label_reader, mask_kind
from seg.data.dataset import LabelReader
from tests.fuzz.harness import damaged, fuzzed, outcome

PICTURE = cv2.resize(np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8), (20, 14))
SUFFIX = {"PNG": "png", "JPEG": "jpg", "BMP": "bmp", "TIFF": "tif", "WEBP": "webp"}


def _exif(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _saved(form, mode="RGB", **options):
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def _encoded(suffix, pixels):
    return cv2.imencode(suffix, pixels)[1].tobytes()


def seeds():
    deep = PICTURE.astype(np.uint16) * 257
    found = [_saved("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")]
    found += [_saved("PNG", exif=_exif(6)), _saved("PNG", "P", transparency=3, bits=4)]
    found += [_encoded(".png", deep), _encoded(".png", deep[..., 0]), _encoded(".tiff", deep)]
    found += [_saved("JPEG", mode) for mode in ("L", "RGB", "CMYK")]
    found += [_saved("JPEG", progressive=True), _saved("JPEG", exif=_exif(8), subsampling=0)]
    found += [_saved("BMP", mode) for mode in ("1", "L", "P", "RGB")]
    found += [_saved("TIFF", mode) for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "F", "I")]
    found += [_saved("TIFF", compression=kind) for kind in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg")]
    found += [_saved("TIFF", "1", compression="group4"), _saved("TIFF", big_tiff=True)]
    found += [_saved("WEBP", lossless=True), _saved("WEBP"), _saved("WEBP", "RGBA", exif=_exif(3))]
    return found


SEEDS = seeds()
READER = LabelReader(classes=ClassMap(names=("a", "b"), ids=(0, 7), ignore=(255,)), remedy="list it")


def read_all(folder, data, suffix="png"):
    """Every image reader on the same file: what they say has to agree."""
    path = folder / f"a.{suffix}"
    path.write_bytes(data)
    size = outcome(lambda: image_size(path), path)
    image = outcome(lambda: read_image(path), path)
    labels = outcome(lambda: read_labels(path), path)
    if image is not None:
        assert image.dtype == np.uint8
        assert image.flags.c_contiguous
        assert image.shape == (*size, 3)
        assert image.shape[0] * image.shape[1] <= MAX_PIXELS
    if labels is not None:
        assert labels.dtype in (np.uint8, np.uint16, np.int32)
        assert labels.shape[:2] == image_size(path, upright=False)
        assert labels.ndim == 2 or (labels.shape[2:] == (3,) and labels.dtype == np.uint8)
    read = outcome(lambda: READER(str(path)), path)
    if read is not None:
        assert labels is not None
        assert set(np.unique(read)) <= {0, 1, 255}
    assert outcome(lambda: mask_kind(str(path)), path) in (None, "labelIds", "labelTrainIds")
    outcome(lambda: label_reader("labelTrainIds")(str(path)), path)
    assert [entry.name for entry in folder.iterdir()] == [path.name]
    path.unlink()


@fuzzed(damaged(SEEDS), examples=200)
def test_damaged_pictures(folder, data):
    read_all(folder, data)


@fuzzed(st.tuples(st.sampled_from(SEEDS), st.floats(0, 1)), examples=60)
def test_pictures_cut_anywhere(folder, example):
    data, share = example
    read_all(folder, data[: int(share * len(data))], "tif")


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


EDGES = st.sampled_from([0, 1, 2, 20, 9459, 9460, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1])


@st.composite
def forged_png(draw):
    """A PNG whose checksums are right and whose contents are not."""
    header = struct.pack(
        ">IIBBBBB",
        draw(EDGES),
        draw(EDGES),
        draw(st.sampled_from([0, 1, 2, 4, 8, 16, 255])),
        draw(st.sampled_from([0, 2, 3, 4, 6, 7])),
        draw(st.sampled_from([0, 0, 0, 1])),
        draw(st.sampled_from([0, 0, 0, 1])),
        draw(st.sampled_from([0, 0, 1, 2])),
    )
    pixels = zlib.compress(draw(st.sampled_from([b"", b"\0" * 100, b"\5" * 3000, b"\0" * 10**6])))
    kinds = st.sampled_from(
        [b"PLTE", b"tRNS", b"IDAT", b"eXIf", b"tEXt", b"zTXt", b"iCCP", b"acTL", b"fdAT", b"IHDR"]
    )
    blown_up = b"x\0\0" + zlib.compress(b"a" * 10**7)  # a text or a profile that is a bomb
    extra = draw(
        st.lists(st.tuples(kinds, st.binary(max_size=40) | st.just(blown_up) | st.just(header)), max_size=4)
    )
    chunks = [chunk(b"IHDR", header), *(chunk(*part) for part in extra), chunk(b"IDAT", pixels)]
    return b"\x89PNG\r\n\x1a\n" + b"".join([*chunks, chunk(b"IEND", b"")])


@fuzzed(forged_png(), examples=40)
def test_forged_png(folder, data):
    read_all(folder, data)


@st.composite
def forged_tiff(draw):
    """A TIFF of tags at random: sizes, bits, strips, orientations that contradict each other."""
    tags = draw(
        st.dictionaries(
            st.sampled_from(
                [
                    254,
                    256,
                    257,
                    258,
                    259,
                    262,
                    273,
                    274,
                    277,
                    278,
                    279,
                    284,
                    317,
                    320,
                    322,
                    323,
                    324,
                    325,
                    338,
                    339,
                    34665,
                    330,
                ]
            ),
            st.tuples(st.integers(0, 17), st.sampled_from([0, 1, 3, 4, 1000, 2**32 - 1]), EDGES),
            max_size=14,
        )
    )
    tags = {256: (4, 1, 20), 257: (4, 1, 14), **tags} if draw(st.booleans()) else tags
    entries = b"".join(struct.pack("<HHII", tag, *tags[tag]) for tag in sorted(tags))
    following = draw(st.sampled_from([0, 8, 2**32 - 1]))  # a next directory, which may be this one again
    return (
        b"II*\0\x08\0\0\0"
        + struct.pack("<H", len(tags))
        + entries
        + struct.pack("<I", following)
        + bytes(900)
    )


@fuzzed(forged_tiff(), examples=120)
def test_forged_tiff(folder, data):
    read_all(folder, data)


HEADS = [
    b"",
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"RIFF\xff\xff\xff\x7fWEBPVP8L",
    b"GIF89a",
    b"8BPS",
    b"P6 9999 9999 255\n",
    b"\0\0\1\0",
    b"%PDF",
    b"%!PS-Adobe",
    b"<svg>",
    b"\x76\x2f\x31\x01",
    b"\0\0\0\x0cjP  \r\n\x87\n",
    b"DDS ",
    b"qoif",
    b"#?RADIANCE\n",
    b"FLIF",
]


@fuzzed(st.tuples(st.sampled_from(HEADS), st.binary(max_size=200)), examples=120)
def test_what_only_begins_like_a_picture(folder, example):
    read_all(folder, b"".join(example))
