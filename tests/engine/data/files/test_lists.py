"""Lists of images: the same rules for the lists of masks, VOC and LabelMe."""

import numpy as np
import pytest

from det.data.voc import voc
from engine.data.images import write_png
from engine.data.splits import as_listed, read_lines, read_names
from seg.data.masks import masks
from tests.det.data.small_splits import write_image
from tests.det.data.test_voc import xml
from tests.refusals import refuses

LINES = {
    "a": "a",
    "a.jpg": "a",
    "a.JPEG": "a",
    "a 1": "a 1",
    "a 7": "a 7",
    "a.xml": "a",
    "a.jpg a.xml": "a",
    "a a.json": "a",
    "/JPEGImages/a.jpg /SegmentationClass/a.png": "JPEGImages/a",
    "images\\a b.jpg masks\\a b.png": "images/a b",
    "a b.jpg": "a b",
    "a.b": "a.b",
    "./x/a.png\t1": "./x/a",
}


def test_the_names_of_a_list(tmp_path):
    path = tmp_path / "train.txt"
    for line, name in LINES.items():
        path.write_text(f"\n {line} \n\n", encoding="utf-8-sig")
        assert read_names(path) == [name], line
    path.write_text("a\nb.png\na.jpg\n")
    assert read_names(path) == ["a", "b"]
    path.write_text("\n")
    assert read_lines(path, "names") == []
    refuses(lambda: read_names(path), r"train\.txt: contains no names; add some, or remove the file")
    path.write_bytes(b"\xff\xfe\x00")
    refuses(
        lambda: read_names(path),
        r"train\.txt: not UTF-8 text; write one of the names per line, and save it as UTF-8",
    )
    refuses(
        lambda: read_names(tmp_path),
        r": cannot be read \(Is a directory\); check the path",
    )


def test_names_are_found_with_the_folders_that_the_files_have():
    known = ["a", "x/b", "x/c", "y/c"]
    assert as_listed(["a", "JPEGImages/a", "x/b", "b", "root/x/c", "c", "d/e"], known) == [
        "a",
        "x/b",
        "x/c",
        "c",  # there are two
        "e",  # there is none
    ]


def test_a_number_after_a_space_is_part_of_a_name_or_the_column_of_a_class():
    listed = ["dog 0", "dog 1", "x/dog  -1", "dog 2"]
    assert as_listed(listed, ["dog", "dog 0", "dog 1", "dog 2"]) == ["dog 0", "dog 1", "dog", "dog 2"]
    assert as_listed(["a 1", "b  -1", "d/c 0", "e 1"], ["a", "b", "c"]) == ["a", "b", "c", "e"]


@pytest.mark.parametrize(
    "line", ["{0}", "{0}.png", "images/{0}.png", "/data/images/{0}.png {0}.png", "{0} 1"]
)
def test_masks_and_voc_read_the_same_lists(tmp_path, line):
    for number in range(4):
        write_image(tmp_path / f"images/sub/i{number}.png", seed=number)
        (tmp_path / "xml/sub").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"xml/sub/i{number}.xml").write_text(xml(("cat", (1, 2, 9, 9)), size=(40, 60)))
        labels = np.random.default_rng(number).integers(0, 2, (40, 60)).astype(np.uint8)
        write_png(tmp_path / f"masks/sub/i{number}.png", labels)
    for split, numbers in (("train", (0, 1, 2)), ("val", (3,))):
        (tmp_path / f"{split}.txt").write_text("\n".join(line.format(f"i{n}") for n in numbers))
    for data in (masks(root=str(tmp_path)), voc(root=str(tmp_path), annotations="xml", images="images")):
        names = {
            split: [name.decode() for name in part.names.tolist()] for split, part in data.splits.items()
        }
        assert names == {"train": ["sub/i0", "sub/i1", "sub/i2"], "val": ["sub/i3"]}
