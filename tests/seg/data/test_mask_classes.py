"""The classes of masks without classes.json, and RGB masks that contain ids."""

import json

import numpy as np
import pytest
from PIL import Image

from engine.data.class_map import ClassMap
from engine.data.images import write_png
from engine.data.loader import SampleKey
from seg.data.masks import masks
from seg.transforms import EvalTransform
from tests.engine.data.images.tiff_files import write_tiff
from tests.refusals import refuses

RNG = np.random.default_rng(0)


def data_of(root, *stored, palette=None):
    """A flat set with these masks (arrays)."""
    for number, mask in enumerate(stored):
        write_png(root / f"images/{number}.png", RNG.integers(0, 256, (*mask.shape[:2], 3), dtype=np.uint8))
        (root / "masks").mkdir(exist_ok=True)
        if palette is None:
            write_png(root / f"masks/{number}.png", mask)
        else:
            image = Image.fromarray(mask, mode="P")
            image.putpalette(np.uint8(palette).tobytes())
            image.save(root / f"masks/{number}.png")
    return root


def rows(*values, dtype=np.uint8):
    return np.repeat(np.array(values, dtype)[:, None], 6, 1)


def labels(root, **options):
    """{number of the image: its label's first column}."""
    data = masks(root=str(root), **options)
    found = {}
    for split in data.splits:
        dataset = data.dataset(split, EvalTransform())
        for index in range(len(dataset)):
            found[dataset.name(index)] = dataset[SampleKey(index, 0)]["label"][:, 0].tolist()
    return found


def test_values_become_classes_and_are_written_to_edit(tmp_path):
    """0, 3 and 7 are classes; 255 beside them is ignored, as is usual."""
    root = data_of(tmp_path, rows(0, 3, 255), rows(7, 3, 0), rows(0, 0, 3))
    assert labels(root) == {"0": [0, 1, 255], "1": [2, 1, 0], "2": [0, 0, 1]}
    written = json.loads((root / "classes.json").read_text())
    assert [(entry["id"], entry["name"]) for entry in written["classes"]] == [
        (0, "class_0"), (3, "class_3"), (7, "class_7"),
    ]  # fmt: skip
    assert written["ignore"] == [255]
    (root / "classes.json").unlink()
    line = next(line for line in masks(root=str(root)).warnings if "classes.json: created" in line)
    assert (
        "created, with the values of 3 masks as classes: class_0, class_3, class_7; 255 is ignored; to"
        in line
    )
    assert not any("created" in line for line in masks(root=str(root)).warnings)


def test_a_set_that_is_refused_gets_no_classes_file(tmp_path):
    data_of(tmp_path, rows(0, 1), rows(1, 0))
    mask = next((tmp_path / "masks").rglob("*.png"))
    write_png(mask, np.zeros((3, 3), np.uint8))
    refuses(lambda: masks(root=str(tmp_path)), "the mask is 3 x 3")
    assert not (tmp_path / "classes.json").exists()


def test_a_foreground_of_255_is_a_class(tmp_path):
    root = data_of(tmp_path, rows(0, 255), rows(255, 0), rows(0, 0))
    assert labels(root) == {"0": [0, 1], "1": [1, 0], "2": [0, 0]}
    assert ClassMap.read(root / "classes.json").ignore == ()


def test_colors_become_classes(tmp_path):
    red, black = (255, 0, 0), (0, 0, 0)
    root = data_of(
        tmp_path, *(np.uint8([[c] * 4 for c in colors]) for colors in ((red, black), (black, red)))
    )
    assert labels(root) == {"0": [1, 0], "1": [0, 1]}
    assert ClassMap.read(root / "classes.json").colors == (black, red)
    assert ClassMap.read(root / "classes.json").names == ("color_000000", "color_ff0000")


def test_palette_masks_bring_their_colors(tmp_path):
    palette = [(0, 0, 0), (128, 0, 0), (0, 128, 0)]
    root = data_of(tmp_path, rows(0, 1, 2), rows(2, 2, 1), palette=palette)
    assert labels(root) == {"0": [0, 1, 2], "1": [2, 2, 1]}
    assert ClassMap.read(root / "classes.json").colors == tuple(palette)
    other = data_of(tmp_path / "other", rows(0, 1), rows(1, 0), palette=palette)
    image = Image.open(other / "masks/1.png")
    image.putpalette(np.uint8([(128, 0, 0), (0, 0, 0)]).tobytes())
    image.save(other / "masks/1.png")
    refuses(
        lambda: masks(root=str(other)),
        r"[01]\.png: index 0 has a different color.*data.source.palette=colors",
    )


def soft_edges():
    """0 and 255, and ten grays between them in 10 of 6400 pixels."""
    mask = np.kron(np.uint8([[0, 255], [0, 255]]), np.ones((40, 40), np.uint8))
    mask[:10, 40] = range(20, 220, 20)
    return [mask, mask]


ONE_COLOR = np.uint8([[(9, 0, 0)] * 6] * 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: [rows(*range(255)), rows(*range(256))], "256 different values, which cannot all be classes"),
        (soft_edges, "12 different values, which cannot all be classes; were they smoothed"),
        (lambda: [RNG.integers(0, 256, (20, 20, 3), dtype=np.uint8)] * 2, "colors, which cannot all"),
        (lambda: [rows(5, 5), rows(5, 5)], "all masks contain only the value 5"),
        (lambda: [rows(0, 1), ONE_COLOR], r"1\.png: contains colors, but .*0\.png contains ids"),
    ],
)
def test_values_that_cannot_be_classes_are_refused_with_the_reason(tmp_path, make, message):
    root = data_of(tmp_path, *make())
    refuses(lambda: masks(root=str(root)), message, "classes.json")
    assert not (root / "classes.json").exists()


def test_a_folder_that_cannot_be_written_is_no_dead_end(tmp_path, monkeypatch):
    root = data_of(tmp_path, rows(0, 1), rows(1, 0))
    (root / "classes.json.partial").mkdir()  # stands in for a read-only folder, which root could write
    data = masks(root=str(root))
    assert data.classes.names == ("class_0", "class_1")
    assert any("cannot be written" in line and '"name": "class_1"' in line for line in data.warnings)


def test_more_than_254_classes_are_refused_in_one_line(tmp_path):
    root = data_of(tmp_path, rows(0, 300, dtype=np.uint16), rows(300, 0, dtype=np.uint16))
    entries = [{"id": number, "name": f"c{number}"} for number in range(301)]
    (root / "classes.json").write_text(json.dumps({"classes": entries}))
    refuses(
        lambda: masks(root=str(root)), r"classes\.json: masks can have at most 254 classes, got 301", "8 bits"
    )


def test_rgb_masks_with_equal_channels_contain_ids(tmp_path):
    root = data_of(
        tmp_path, *(np.repeat(rows(*values)[..., None], 3, 2) for values in ((0, 2), (2, 0), (0, 0)))
    )
    entries = [{"id": 0, "name": "a"}, {"id": 2, "name": "b"}]
    (root / "classes.json").write_text(json.dumps({"classes": entries}))
    assert labels(root) == {"0": [0, 1], "1": [1, 0], "2": [0, 0]}


CONFLICT = [{"id": 0, "name": "cell", "color": [255, 0, 0]}, {"id": 1, "name": "rest", "color": [0, 0, 0]}]
"""Black is the color of class 1, and 0 the id of class 0."""


def test_a_black_mask_among_color_masks_is_read_by_color(tmp_path):
    black, mixed = np.zeros((2, 6, 3), np.uint8), np.uint8([[(255, 0, 0)] * 6, [(0, 0, 0)] * 6])
    root = data_of(tmp_path, black, mixed)
    (root / "classes.json").write_text(json.dumps({"classes": CONFLICT}))
    assert labels(root) == {"0": [1, 1], "1": [0, 1]}


def test_gray_rgb_masks_that_can_mean_two_things_need_a_choice(tmp_path):
    gray = [np.repeat(rows(*values)[..., None], 3, 2) for values in ((0, 0), (0, 1))]
    root = data_of(tmp_path, *gray)
    (root / "classes.json").write_text(json.dumps({"classes": CONFLICT}))
    refuses(
        lambda: masks(root=str(root)), r"gray RGB whose value 0 is a class id.*set data\.source\.palette=ids"
    )
    assert labels(root, palette="ids") == {"0": [0, 0], "1": [0, 1]}


@pytest.mark.parametrize("mode", ["L", "1"])
def test_a_black_mask_that_a_program_stores_as_gray_is_read_by_color(tmp_path, mode):
    """`optipng` stores the all-black one of some color masks as gray, of one or eight bits."""
    black, mixed = np.zeros((2, 6, 3), np.uint8), np.uint8([[(255, 0, 0)] * 6, [(0, 0, 0)] * 6])
    root = data_of(tmp_path, black, mixed)
    (root / "classes.json").write_text(json.dumps({"classes": CONFLICT}))
    Image.fromarray(black).convert(mode).save(root / "masks/0.png")
    assert labels(root) == {"0": [1, 1], "1": [0, 1]}
    assert labels(root, palette="ids") == {"0": [0, 0], "1": [0, 1]}


SKY = [
    {"id": 0, "name": "sky", "color": [255, 255, 255]},
    {"id": 1, "name": "wall", "color": [0, 0, 0]},
]


def test_gray_masks_of_one_channel_that_can_mean_two_things(tmp_path):
    """Sky above wall: white above black as colors, 0 above 1 as ids. One bit of 0 and 1 can be either."""
    colors = np.uint8([[(255, 255, 255)] * 6, [(0, 0, 0)] * 6])
    root = data_of(tmp_path, colors, colors, colors)
    (root / "classes.json").write_text(json.dumps({"classes": SKY}))
    for name in "012":
        Image.fromarray(colors).convert("L").save(root / f"masks/{name}.png")
    assert labels(root) == {key: [0, 1] for key in "012"}  # 255 is not an id
    Image.fromarray(colors * np.uint8(0)).convert("L").save(root / "masks/1.png")
    assert labels(root) == {"0": [0, 1], "1": [1, 1], "2": [0, 1]}
    for name in "012":
        Image.fromarray(colors).convert("1").save(root / f"masks/{name}.png")
    refuses(lambda: masks(root=str(root)), r"\.png: gray whose value 0 is a class id.*palette=colors")
    assert labels(root, palette="colors") == {key: [0, 1] for key in "012"}
    assert labels(root, palette="ids") == {key: [1, 0] for key in "012"}


def test_gray_masks_among_masks_of_ids_contain_ids(tmp_path):
    """Black is the color of class 1, but 0 above 1 can only be ids: 1 is not a color."""
    root = data_of(tmp_path, rows(0, 1), rows(0, 0), rows(0, 1))
    (root / "classes.json").write_text(json.dumps({"classes": CONFLICT}))
    assert labels(root) == {"0": [0, 1], "1": [0, 0], "2": [0, 1]}


def test_the_gray_of_a_tiff_in_which_white_is_zero_is_as_displayed(tmp_path):
    root = data_of(tmp_path, rows(0, 1), rows(0, 1))
    (root / "classes.json").write_text(json.dumps({"classes": SKY}))
    for name in ("0", "1"):
        (root / f"masks/{name}.png").unlink()
        write_tiff(root / f"masks/{name}.tif", rows(255, 0), photometric=0)
    assert labels(root) == {"0": [1, 0], "1": [1, 0]}  # 255 is displayed as black


def test_cvat_and_roboflow_lists_name_the_classes(tmp_path):
    red, black = (255, 0, 0), (0, 0, 0)
    colors = [np.uint8([[c] * 4 for c in pair]) for pair in ((red, black), (black, red))]
    root = data_of(tmp_path / "cvat", *colors)
    (root / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncell:255,0,0::\n"
    )
    assert labels(root) == {"0": [1, 0], "1": [0, 1]}
    assert masks(root=str(root)).classes.names == ("background", "cell")
    root = data_of(tmp_path / "roboflow", rows(0, 2), rows(2, 0))
    (root / "_classes.csv").write_text("Pixel Value, Class\n0, background\n2, cell\n")
    assert labels(root) == {"0": [0, 1], "1": [1, 0]}
    assert not (root / "classes.json").exists()
    (root / "_classes.csv").write_text("Pixel Value, Class\nnought, background\n")
    refuses(lambda: masks(root=str(root)), r"_classes\.csv: not a list of classes.*classes\.json")


def test_all_damaged_masks_are_counted_when_values_are_read(tmp_path):
    root = data_of(tmp_path, *[rows(0, 1, 2)] * 12)
    for number in (3, 7):
        path = root / f"masks/{number}.png"
        path.write_bytes(path.read_bytes()[:-20])
    message = refuses(lambda: masks(root=str(root)))
    assert message.startswith(f"{root}/masks/3.png: ")
    assert message.endswith(f"; 2 files have errors, including {root}/masks/7.png")
    assert len(masks(root=str(root), on_error="skip").classes) == 3


@pytest.mark.parametrize(
    ("values", "text", "names", "ids"),
    [
        ((0, 1, 2), "sky\ncar\n\ntree\n", ("sky", "car", "tree"), (0, 1, 2)),
        ((0, 2), "sky\ncar\ntree", ("sky", "car", "tree"), (0, 1, 2)),  # no mask has a car
        ((0, 1, 2), "car\ntree", ("background", "car", "tree"), (0, 1, 2)),
        ((0, 255), "crack", ("background", "crack"), (0, 255)),
        ((1, 2), "car\ntree", ("car", "tree"), (1, 2)),
        ((0, 1, 2, 3), "car", ("class_0", "class_1", "class_2", "class_3"), (0, 1, 2, 3)),
        ((0, 1), "car\ncar", ("class_0", "class_1"), (0, 1)),
    ],
)
def test_classes_txt_names_the_values_if_it_fits_them(tmp_path, values, text, names, ids):
    root = data_of(tmp_path, *[rows(*values)] * 3)
    (root / "classes.txt").write_text(text)
    data = masks(root=str(root), allow_same_files=True)
    assert (data.classes.names, data.classes.ids) == (names, ids)
    fits = names[0] != "class_0"
    line = (
        f"used as class names: value {ids[0]} is {names[0]}, {ids[1]} is {names[1]}"
        if fits
        else "not used, because its "
    )
    assert any(each.startswith(f"{root}/classes.txt: {line}") for each in data.warnings)


def test_black_and_white_stored_in_one_bit_is_not_another_class(tmp_path):
    """Programs that shrink PNG files store 255 as 1, in 1 bit: it became class 1, and 255 was ignored."""
    data_of(tmp_path, *(rows(0, 255, 255, 0) for _ in range(6)))
    for number in (1, 3):
        Image.fromarray(rows(0, 255, 255, 0)).convert("1").save(tmp_path / f"masks/{number}.png")
    message = r"[13]\.png: has fewer than 8 bits .*its value 1 is displayed like 255 of other masks;"
    refuses(lambda: masks(root=str(tmp_path)), message)
    content = {"classes": [{"id": 0, "name": "back"}, {"id": 255, "name": "front"}]}
    (tmp_path / "classes.json").write_text(json.dumps(content))
    assert labels(tmp_path) == {str(number): [0, 1, 1, 0] for number in range(6)}
    content["classes"][1]["id"] = 1
    (tmp_path / "classes.json").write_text(json.dumps({**content, "ignore": [255]}))
    assert labels(tmp_path) == {str(n): [0, 1, 1, 0] if n in (1, 3) else [0, 255, 255, 0] for n in range(6)}
    content["classes"][1]["id"] = 2  # a class is never guessed to be ignored
    (tmp_path / "classes.json").write_text(json.dumps({**content, "ignore": [255]}))
    refuses(lambda: labels(tmp_path), r"[13]\.png: unknown value 1 ")
