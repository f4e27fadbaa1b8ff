"""Damaged and forged annotations of LabelMe and CVAT: boxes in the image, or one line that names the file."""

import json

import numpy as np
from hypothesis import strategies as st

from det.data.cvat import cvat
from det.data.labelme import labelme
from engine.data.images import write_png
from tests.fuzz.harness import damaged, fuzzed, outcome

POLYGON = [[1, 1], [20, 3.5], [9, 12]]
LABELME = json.dumps(
    {
        "shapes": [
            {"label": "cat", "points": [[2, 3], [20, 14]], "shape_type": "rectangle", "group_id": None},
            {"label": "dög", "points": POLYGON, "shape_type": "polygon", "group_id": 1, "flags": {}},
            {"label": "dög", "points": [[5, 5], [8, 9]], "shape_type": "circle", "group_id": 1},
        ],
        "imagePath": "a.png",
        "imageHeight": 16,
        "imageWidth": 24,
    }
).encode()
CVAT = (
    "<?xml version='1.0'?><annotations><meta><task><labels><label><name>cat</name><type>any</type></label>"
    "<label><name>dög</name></label></labels></task></meta>"
    "<image id='0' name='a.png' subset='Train' width='24' height='16'>"
    "<box label='cat' xtl='2' ytl='3' xbr='20' ybr='14' rotation='30'><attribute name='difficult'>true"
    "</attribute></box><polygon label='dög' points='1,1;20,3.5;9,12'/><tag label='cat'/></image>"
    "<image id='1' name='b.png' subset='Validation' width='24' height='16'>"
    "<ellipse label='cat' cx='9' cy='8' rx='4' ry='3'/></image></annotations>"
).encode()


def check(source):
    """What every source promises: boxes of at least a pixel, in the image, of a known class."""
    for split in source.splits.values() if source else ():
        for index in range(len(split)):
            boxes, labels, _ = split.objects(index)
            height, width = split.sizes[index]
            assert np.isfinite(boxes).all()
            assert ((boxes >= 0) & (boxes <= (width, height, width, height))).all()
            assert (boxes[:, 2:] - boxes[:, :2] > 0.9).all()
            assert (labels < len(source.classes)).all()


def write_images(folder):
    for number, name in enumerate("ab"):
        write_png(folder / f"{name}.png", np.full((16, 24, 3), 50 * number, np.uint8))


def read_labelme(folder, data):
    write_images(folder)
    (folder / "a.json").write_bytes(data)
    (folder / "b.json").write_bytes(LABELME)
    check(outcome(lambda: labelme(root=str(folder)), folder))


@fuzzed(damaged([LABELME]), examples=80)
def test_damaged_labelme_files(folder, data):
    read_labelme(folder, data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
POINTS = st.lists(st.lists(st.floats() | st.integers(-5, 30), min_size=1, max_size=3), max_size=4)
SHAPES = st.fixed_dictionaries(
    {"label": st.sampled_from(["cat", "dög", "", "\n"]) | JSON, "points": POINTS | JSON},
    optional={
        "shape_type": st.sampled_from(["rectangle", "polygon", "circle", "point", "mask", "rotation"]) | JSON,
        "group_id": st.integers(0, 1) | JSON,
        "flags": JSON,
        "difficult": JSON,
    },
)


@fuzzed(
    st.fixed_dictionaries(
        {"shapes": st.lists(SHAPES | JSON, max_size=4) | JSON},
        optional={"imageHeight": st.just(16) | JSON, "imageWidth": st.just(24) | JSON},
    ),
    examples=80,
)
def test_labelme_files_with_any_value_in_any_place(folder, content):
    read_labelme(folder, json.dumps(content).encode())


def read_cvat(folder, data):
    write_images(folder / "images")
    (folder / "annotations.xml").write_bytes(data)
    check(outcome(lambda: cvat(root=str(folder)), folder))


@fuzzed(damaged([CVAT]), examples=80)
def test_damaged_cvat_files(folder, data):
    read_cvat(folder, data)


NUMBERS = st.sampled_from(["1", "-3", "9.5", "1e400", "nan", "", "x", "1,5", "30", "99999999999999999999"])
KEYS = ("xtl", "ytl", "xbr", "ybr", "rotation", "cx", "cy", "rx", "ry", "left", "top", "width", "height")
ATTRIBUTES = st.dictionaries(
    st.sampled_from([*KEYS, "points"]), NUMBERS | st.just("1,1;20,3;9,12"), max_size=8
)
ELEMENTS = st.tuples(st.sampled_from(["box", "polygon", "ellipse", "mask", "tag", "x", "image"]), ATTRIBUTES)


@fuzzed(st.lists(ELEMENTS, max_size=4), examples=80)
def test_cvat_shapes_with_any_number_in_any_place(folder, elements):
    shapes = "".join(
        f"<{tag} label='cat' {' '.join(f'{name}={text!r}' for name, text in values.items())}/>"
        for tag, values in elements
    )
    read_cvat(folder, CVAT.replace(b"<tag label='cat'/>", shapes.encode()))
