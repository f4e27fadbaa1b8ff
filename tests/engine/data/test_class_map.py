"""The class map: validation, JSON, and the table from dataset ids to contiguous indices."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.data.class_map import IGNORE, MAX_ID, UNKNOWN, ClassMap, distinct_colors
from engine.errors import UserError

SIMPLE = {"names": ("road", "car"), "ids": (7, 26)}


def test_defaults():
    classes = ClassMap(names=["a", "b", "c"])
    assert classes.ids == (0, 1, 2)
    assert classes.num_classes == len(classes) == 3
    assert len(set(classes.colors)) == 3
    assert classes.instances == (False, False, False)
    assert classes.category_names == ()
    assert hash(classes) == hash(ClassMap(names=("a", "b", "c")))


@pytest.mark.parametrize("ids", [(0, 1, 2), (1, 2, 3), (90, 7, 1000)])
def test_lut_with_ids_from_zero_from_one_with_gaps_and_unsorted(ids):
    table = ClassMap(names=("a", "b", "c"), ids=ids, ignore=(255, 4)).lut()
    assert table.shape == (65536,)
    assert table.dtype == np.uint8
    assert table[list(ids)].tolist() == [0, 1, 2]
    assert table[[255, 4]].tolist() == [IGNORE, IGNORE]
    rest = np.delete(table, [*ids, 255, 4])
    assert (rest == UNKNOWN).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ()}, "1 to 65535 classes, got 0"),
        ({"names": tuple(map(str, range(65536))), "ids": ()}, "1 to 65535 classes, got 65536"),
        ({"names": ("road", "road")}, "duplicate class name: 'road'"),
        ({"names": ("road", " ")}, "needs a name, got ' '"),
        ({"names": ("road", 3)}, "needs a name, got 3"),
        ({"names": ("road", "caf\udce9")}, "is not valid UTF-8"),
        ({"ids": (7, 7)}, "duplicate class or ignore id: 7"),
        ({"ids": (7,)}, r"one value per class \(2\), got 1"),
        ({"ids": (7, -1)}, "integers in 0..65535, got -1"),
        ({"ids": (7, 65536)}, "integers in 0..65535, got 65536"),
        ({"ids": (7, True)}, "got True"),
        ({"ignore": (7,)}, "duplicate class or ignore id: 7"),
        ({"colors": ((0, 0, 0), (0, 0, 0))}, "duplicate color"),
        ({"colors": ((0, 0, 0), (0, 0, 256))}, r"0..255, got \[0, 0, 256\]"),
        ({"colors": ((0, 0, 0), (0, 0))}, r"\[red, green, blue\]"),
        ({"colors": ((0, 0, 0), (0, 0, 1.0))}, "integers"),
        ({"ignore_colors": ((1, 2, 3), (1, 2, 3))}, "duplicate color"),
        ({"categories": ("flat",)}, "one value per class"),
        ({"categories": ("flat", "")}, "group of every class"),
        ({"instance_areas": (0, -3.0)}, ">= 0"),
        ({"instance_areas": (0, float("nan"))}, ">= 0"),
    ],
)
def test_invalid_values_are_reported(change, message):
    with pytest.raises(ValueError, match=message):
        ClassMap(**(SIMPLE | change))


FULL = ClassMap(
    names=("road", "person", "car"),
    ids=(7, 24, 26),
    colors=((128, 64, 128), (220, 20, 60), (0, 0, 142)),
    ignore=(0, 255),
    ignore_colors=((0, 0, 0),),
    categories=("flat", "human", "vehicle"),
    instance_areas=(0.0, 3462.5, 12794.0),
)


@pytest.mark.parametrize("classes", [FULL, ClassMap(names=("only",)), ClassMap(**SIMPLE, ignore=(9,))])
def test_json_round_trip(tmp_path, classes):
    assert ClassMap.from_dict(json.loads(json.dumps(classes.to_dict()))) == classes
    classes.write(tmp_path / "classes.json")
    assert ClassMap.read(tmp_path / "classes.json") == classes
    assert FULL.instances == (False, True, True)


def test_the_documented_layout_can_be_read(tmp_path):
    path = tmp_path / "classes.json"
    path.write_text('{"classes": [{"id": 3, "name": "cell"}, {"id": 1, "name": "rest"}], "ignore": [11]}')
    classes = ClassMap.read(path)
    assert classes.names == ("cell", "rest")
    assert classes.ids == (3, 1)
    assert classes.ignore == (11,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("[1, 2]", "expected"),
        ('{"classes": []}', "expected"),
        ('{"classes": {"id": 0}}', "expected"),
        ('{"classes": ["road"]}', '"id" and "name"'),
        ('{"classes": [{"id": 0}]}', '"id" and "name"'),
        ('{"classes": [{"id": 0, "name": "a", "colour": [0, 0, 0]}]}', "unknown keys .'colour'"),
        ('{"classes": [{"id": 0, "name": "a"}], "ignored": [1]}', "unknown keys .'ignored'"),
        ('{"classes": [{"id": "0", "name": "a"}]}', "integers"),
        ('{"classes": [{"id": 0, "name": "a", "color": 3}]}', "wrong type"),
        (
            '{"classes": [{"id": 0, "name": "a"}], "ignore": 255}',
            r'"ignore" must be a list, such as \[255\], got 255',
        ),
        (
            '{"classes": [{"id": 0, "name": "a", "color": [0,0,0]}, {"id": 1, "name": "b"}]}',
            "class 'b' has no \"color\", but others do",
        ),
        ("[" * 100_000, "nested|Expecting"),
        ("\x00", "Expecting"),
    ],
)
def test_the_error_for_an_invalid_file_names_it(tmp_path, text, message):
    path = tmp_path / "classes.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        ClassMap.read(path)
    assert "classes.json" in str(caught.value)


def test_unreadable_files(tmp_path):
    with pytest.raises(UserError, match=r"none\.json: no such file"):
        ClassMap.read(tmp_path / "none.json")
    with pytest.raises(UserError, match="cannot be read"):
        ClassMap.read(tmp_path)
    (tmp_path / "latin.json").write_bytes(b'{"classes": "\xe9"}')
    with pytest.raises(UserError, match=r"latin\.json"):
        ClassMap.read(tmp_path / "latin.json")


def test_default_colors_are_distinct_and_reproducible():
    many = distinct_colors(254)
    assert len(set(many)) == 254
    assert distinct_colors(12) == many[:12]
    first = np.array(many[:20], int)
    apart = np.abs(first[:, None] - first[None]).sum(-1) + 999 * np.eye(20, dtype=int)
    assert apart.min() > 30  # no two of the first twenty look alike


@given(st.lists(st.integers(0, MAX_ID), min_size=1, max_size=60, unique=True), st.data())
def test_every_id_maps_to_its_class(ids, data):
    split = data.draw(st.integers(1, len(ids)))
    classes = ClassMap(
        names=tuple(f"c{i}" for i in ids[:split]), ids=tuple(ids[:split]), ignore=tuple(ids[split:])
    )
    table = classes.lut()
    for value, name in zip(classes.ids, classes.names, strict=True):
        assert classes.names[table[value]] == name
    assert (table != UNKNOWN).sum() == len(ids)


def test_a_byte_order_mark_is_accepted(tmp_path):
    text = '{"classes": [{"id": 0, "name": "straße"}]}'
    (tmp_path / "classes.json").write_text(text, encoding="utf-8-sig")
    assert ClassMap.read(tmp_path / "classes.json").names == ("straße",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ("car", "road")}, "class 0 was 'road' with id 0, now 'car' with id 0"),
        ({"names": ("road", "bus")}, "class 1 was 'car' with id 1, now 'bus' with id 1"),
        ({"ids": (1, 0)}, "class 0 was 'road' with id 0, now 'road' with id 1"),
        (
            {"colors": ((2, 2, 2), (1, 1, 1))},
            r"class 0 was 'road' with id 0 and color \(1, 1, 1\), now .* \(2, 2, 2\)",
        ),
        (
            {"names": ("road",), "ids": (0,), "colors": ((1, 1, 1),)},
            r"there were 2 classes \(road, car\), now 1",
        ),
    ],
)
def test_the_classes_of_a_resumed_run_must_not_change(change, message):
    classes = {"names": ("road", "car"), "ids": (0, 1), "colors": ((1, 1, 1), (2, 2, 2))}
    before = ClassMap(**classes)
    before.check_unchanged(ClassMap(**classes, ignore=(255,)), run=Path("runs/a"))
    with pytest.raises(UserError, match=f"^runs/a: .*{message}; .*init_from=runs/a$"):
        before.check_unchanged(ClassMap(**{**classes, **change}), run=Path("runs/a"))
