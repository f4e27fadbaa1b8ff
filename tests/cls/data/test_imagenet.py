"""ImageNet's three layouts. The devkit does not order classes by synset id."""

import numpy as np
import pytest
from scipy.io import savemat

from cls.data.imagenet import DEVKIT, class_names, imagenet
from engine.data.images import write_png
from engine.errors import UserError
from tests.refusals import refuses

SYNSETS = ["n01440764", "n01443537", "n02099601"]


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, np.zeros((8, 8, 3), np.uint8))


def write_devkit(root, *, numbers=(2, 3, 1), truth="3\n2\n1\n1\n"):
    """numbers: ILSVRC2012_ID of each synset; 4 is an inner node."""
    folder = root / DEVKIT
    folder.mkdir(parents=True)
    kinds = [("ILSVRC2012_ID", "f8"), ("WNID", "U9"), ("words", "U9"), ("num_children", "f8")]
    rows = [(number, synset, "x", 0) for number, synset in zip(numbers, SYNSETS, strict=True)]
    savemat(folder / "meta.mat", {"synsets": np.array([*rows, (4, "n00001740", "entity", 3)], kinds)})
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)


def test_classes_are_the_sorted_synset_folders(tmp_path):
    for synset in reversed(SYNSETS):
        write(tmp_path / "train" / synset / f"{synset}_1.png")
        write(tmp_path / "val" / synset / "v.png")
    data = imagenet(root=str(tmp_path))
    assert data.classes.names == tuple(SYNSETS)
    assert data.splits["val"].labels.tolist() == [0, 1, 2]
    assert "classes" in data.description


def test_bare_validation_files_get_their_classes_from_the_devkit(tmp_path):
    for number in range(1, 5):
        write(tmp_path / "val" / f"ILSVRC2012_val_{number:08d}.png")
    write_devkit(tmp_path)
    for synset in SYNSETS:
        write(tmp_path / "train" / synset / "t.png")
    data = imagenet(root=str(tmp_path))
    # devkit numbers 3, 2, 1, 1 are synsets n01443537, n01440764, n02099601, n02099601
    assert data.splits["val"].labels.tolist() == [1, 0, 2, 2]


def test_a_list_beside_val_assigns_the_classes(tmp_path):
    for name in ("b", "a"):
        write(tmp_path / "val" / f"{name}.png")
    (tmp_path / "val.txt").write_text("\ufeffb.png 7\na.png 999\n\n", encoding="utf-8")
    data = imagenet(root=str(tmp_path))
    assert data.splits["val"].files.tolist() == [b"b.png", b"a.png"]
    assert data.classes.names == class_names()
    assert data.splits["val"].labels.tolist() == [7, 999]
    assert data.warnings[0].endswith("2 images, ImageNet has 50000")


def test_there_are_a_thousand_class_names():
    names = class_names()
    assert len(set(names)) == 1000
    assert (names[0], names[207], names[999]) == ("tench", "golden retriever", "toilet tissue")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png", "line 1 is not"),
        ("a.png x", "line 1 is not"),
        ("a.png -1", "line 1 is not"),
        ("\n", "val.txt: lists no images"),
        ("a.png 1000", "class index 1000, but there are 1000 classes"),
    ],
)
def test_lists_are_checked(tmp_path, text, message):
    write(tmp_path / "val" / "a.png")
    (tmp_path / "val.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        imagenet(root=str(tmp_path))


def test_messages_name_what_is_missing(tmp_path):
    with pytest.raises(UserError, match="neither train nor val; unpack ILSVRC2012"):
        imagenet(root=str(tmp_path))
    write(tmp_path / "val" / "ILSVRC2012_val_00000001.png")
    with pytest.raises(UserError, match="unpack ILSVRC2012_devkit_t12"):
        imagenet(root=str(tmp_path))
    write_devkit(tmp_path, truth="1\n9\n")
    with pytest.raises(UserError, match="not the devkit's list"):
        imagenet(root=str(tmp_path))
    (tmp_path / DEVKIT / "meta.mat").write_bytes(b"MATLAB nothing")
    with pytest.raises(UserError, match=r"not the devkit's meta\.mat"):
        imagenet(root=str(tmp_path))


def test_a_file_that_is_not_a_validation_file_is_named(tmp_path):
    write(tmp_path / "val" / "holiday.png")
    write_devkit(tmp_path)
    with pytest.raises(UserError, match=r"holiday\.png: not a validation file"):
        imagenet(root=str(tmp_path))


def test_images_that_train_and_val_share_are_rejected(tmp_path):
    rng = np.random.default_rng(0)
    for synset in ("n01440764", "n01443537"):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        write_png(tmp_path / f"train/{synset}/a.png", pixels)
        write_png(tmp_path / f"val/{synset}/b.png", pixels if synset == "n01440764" else 255 - pixels)
    refuses(
        lambda: imagenet(root=str(tmp_path)),
        r"the same image as .*\(train and val share 1\); remove .* data\.source\.allow_same_files=true",
    )
    assert len(imagenet(root=str(tmp_path), allow_same_files=True).splits["val"]) == 2
