"""The rules for boxes that all formats share."""

import numpy as np
import pytest
from PIL import Image

from det.data.cleaning import AnnotationIssues, RawSplit, clean_split
from det.transforms import EvalTransform
from engine.data.loader import SampleKey
from engine.errors import UserError
from tests.det.data.small_splits import make_dataset, make_split, write_image


@pytest.mark.parametrize(
    ("annotated", "cleaned", "line"),
    [
        ((1, 2, 30, 20), (1, 2, 30, 20), None),
        ((0, 0, 60, 40), (0, 0, 60, 40), None),
        (
            (30, 20, 1, 2),
            (1, 2, 30, 20),
            "1 box with left and right, or top and bottom, swapped: corrected",
        ),
        ((-5, 2, 30, 50), (0, 2, 30, 40), "1 box partly outside the image: clipped"),
        ((-0.2, 2, 30, 40.3), (0, 2, 30, 40), None),  # a rounding error is not reported
        ((61, 2, 70, 20), None, "1 box outside the image: left out"),
        ((-9, -9, -1, 20), None, "1 box outside the image: left out"),
        ((5, 5, 5, 30), None, "1 box thinner than 1 pixel: left out"),
        ((5, 5, 20, 5.5), None, "1 box thinner than 1 pixel: left out"),
        ((59.5, 5, 80, 30), None, "1 box thinner than 1 pixel: left out"),  # after clipping
        ((5, 5, 6, 7), (5, 5, 6, 7), None),
        ((np.nan, 5, 20, 7), None, "1 box with non-finite coordinates: left out"),
        ((1, 5, np.inf, 7), None, "1 box with non-finite coordinates: left out"),
        ((-1e308, -1e308, 1e308, 1e308), (0, 0, 60, 40), "1 box partly outside the image: clipped"),
    ],
)
def test_each_rule_is_applied_and_reported_once_with_the_file(tmp_path, annotated, cleaned, line):
    part, lines = make_split(tmp_path, [[(1, 1, 9, 9)], [annotated]])
    boxes, _, ignored = part.objects(1)
    assert boxes.tolist() == ([] if cleaned is None else [list(cleaned)])
    assert boxes.dtype == np.float32
    assert not ignored.any()
    expected = [] if line is None else [f"source: {line} (1.png)"]
    assert [text for text in lines if "negatives" not in text] == expected


def test_many_issues_of_a_kind_are_one_line_with_two_files(tmp_path):
    _, lines = make_split(
        tmp_path, [[(1, 1, 1, 9)], [(1, 1, 9, 9)], [(2, 2, 2, 2), (3, 3, 3, 3)], [(1, 1, 5, 1)]]
    )
    assert lines == [
        "source: 4 boxes thinner than 1 pixel: left out (0.png, 2.png)",
        "source: 3 images without objects: kept as negatives (0.png, 2.png)",
    ]


def test_boxes_in_any_order_end_up_with_their_images(tmp_path):
    images = [write_image(tmp_path / f"{n}.png") for n in range(3)]
    raw = RawSplit(
        images=images,
        names=["a", "b", "c"],
        files=["a", "b", "c"],
        sizes=[(40, 60)] * 3,
        owners=np.array([2, 0, 2, 0, 2]),
        boxes=np.array([[n, 0, n + 10, 20] for n in range(5)], np.float64),
        labels=np.array([0, 1, 1, 0, 0]),
        crowd=np.array([0, 0, 1, 0, 0], bool),
        difficult=np.array([0, 1, 0, 0, 0], bool),
        areas=np.array([7, np.nan, 9, -1, 11.0]),
    )
    part = clean_split(raw, AnnotationIssues())
    assert part.offsets.tolist() == [0, 2, 2, 5]
    assert part.objects(0)[0][:, 0].tolist() == [1, 3]
    assert part.objects(2)[0][:, 0].tolist() == [0, 2, 4]
    assert part.objects(2)[1].tolist() == [0, 1, 0]
    assert part.objects(2)[2].tolist() == [False, True, False]
    assert part.objects(0)[2].tolist() == [True, False]
    assert part.crowd.tolist() == [False, False, False, True, False]
    # NaN and negative areas are replaced by those of the boxes.
    assert part.areas.tolist() == [200, 200, 7, 9, 11]
    assert part.image_ids.tolist() == [1, 2, 3]


def test_a_box_is_kept_once_unless_class_image_or_flags_differ(tmp_path):
    same = (1, 1, 9, 9)
    part, lines = make_split(
        tmp_path,
        [[same, same, (9, 9, 1, 1), same, same, (1, 1, 9, 10)], [same]],
        labels=np.array([0, 0, 0, 1, 0, 0, 0]),
        difficult=np.array([0, 0, 0, 0, 1, 0, 0], bool),
        areas=np.array([7, 8, 9, 7, 7, 7, 7.0]),
    )
    assert part.offsets.tolist() == [0, 4, 5]  # (9, 9, 1, 1) is the same, corrected
    assert part.areas[0] == 7  # the first one is kept
    assert "source: 2 boxes of the same class at the same place as another: left out (0.png)" in lines


def test_boxes_that_differ_by_less_than_a_fiftieth_of_a_pixel_are_the_same(tmp_path):
    """Wherever they lie: 1.0099 and 1.0101 are on either side of 50.5 fiftieths."""
    boxes = [(1.0099, 1, 9, 9), (1.0, 3, 9, 9), (1.0101, 1, 9, 9), (1.04, 1, 9, 9), (1.0, 1, 9, 8.97)]
    part, lines = make_split(tmp_path, [boxes])
    assert part.boxes[:, 0].tolist() == pytest.approx([1.0099, 1.0, 1.04, 1.0])
    assert "source: 1 box of the same class at the same place as another: left out (0.png)" in lines


def test_sizes_are_compared_with_the_files(tmp_path):
    with pytest.raises(
        UserError, match=r"0\.png: the annotated size is 80 x 120 but .*0\.png is 40 x 60 .*scale.*sizes=file"
    ):
        make_split(tmp_path, [[(1, 1, 9, 9)]], sizes=[(80, 120)])
    part, _ = make_split(tmp_path, [[(1, 1, 9, 9)]], sizes=[None])
    assert part.sizes.tolist() == [[40, 60]]


def test_the_size_of_an_image_with_exif_orientation_is_that_of_the_upright_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (60, 40)).save(tmp_path / "turned.jpg", exif=exif)

    def read(size):
        raw = RawSplit(images=[str(tmp_path / "turned.jpg")], names=["t"], files=["t.xml"], sizes=[size])
        return clean_split(raw, AnnotationIssues()).sizes.tolist()

    assert read((60, 40)) == [[60, 40]]  # upright: 60 high
    with pytest.raises(UserError, match=r"t\.xml: the annotated size is 40 x 60 .* EXIF rotation"):
        read((40, 60))


def test_annotated_sizes_can_be_ignored(tmp_path):
    raw = RawSplit(images=[write_image(tmp_path / "a.png")], names=["a"], files=["a"], sizes=[(1, 1)])
    assert clean_split(raw, AnnotationIssues(), sizes="file").sizes.tolist() == [[40, 60]]
    with pytest.raises(ValueError, match="sizes must be check or file"):
        clean_split(raw, AnnotationIssues(), sizes="guess")


def test_an_unreadable_image_is_counted_now_and_an_error_when_it_is_read(tmp_path):
    part, _ = make_split(tmp_path, [[(1, 1, 9, 9)], [(1, 1, 9, 9)]])
    (tmp_path / "1.png").write_bytes(b"not an image")
    raw = RawSplit(
        images=[str(tmp_path / f"{n}.png") for n in range(2)],
        names=["0", "1"],
        files=["0.txt", "1.txt"],
        sizes=[None, None],
        owners=np.array([0, 1]),
        boxes=np.array([[1, 1, 9, 9]] * 2, np.float64),
        labels=np.zeros(2, np.int64),
    )
    issues = AnnotationIssues()
    part = clean_split(raw, issues)
    assert issues.lines("source")[0] == "source: 1 image that cannot be read (1.png)"
    assert part.offsets.tolist() == [0, 1, 1]
    with pytest.raises(UserError, match=r"1\.png.*(restore|remove)"):
        make_dataset(part, EvalTransform(size=32))[SampleKey(1, 0)]


def turned(path, orientation, size=(60, 40)):
    """An image of (width, height) `size` as stored."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size).save(path, exif=exif)
    return str(path)


def raw_of(images, boxes, sizes=None):
    return RawSplit(
        images=images,
        names=[str(number) for number in range(len(images))],
        files=[f"{number}.xml" for number in range(len(images))],
        sizes=sizes or [None] * len(images),
        owners=np.arange(len(images)),
        boxes=np.array(boxes, np.float64),
        labels=np.zeros(len(images), np.int64),
    )


def test_boxes_that_fit_only_the_stored_image_are_counted(tmp_path):
    """Stored 60 x 40 (width x height) and turned by 90 degrees: upright it is 40 x 60. A box to x=58 fits
    only as stored; in an image that is not turned it is just too long, and one to (30, 30) fits both."""
    images = [turned(tmp_path / f"{n}.jpg", turn) for n, turn in enumerate((6, 6, 1))]
    boxes = [(10, 5, 58, 30), (10, 5, 30, 30), (10, 5, 30, 55)]
    line = (
        "1 box fitting only the {} image, not the {} one (EXIF): if this holds for all boxes, set {} (0.xml)"
    )
    issues = AnnotationIssues()
    clean_split(raw_of(images, boxes), issues)
    assert issues.findings()[0] == line.format("stored", "upright", "data.orientation=stored")
    issues = AnnotationIssues()
    part = clean_split(raw_of(images, boxes), issues, orientation="stored")
    assert part.sizes.tolist() == [[40, 60], [40, 60], [40, 60]]
    assert part.boxes[0].tolist() == [10, 5, 58, 30]
    assert not any("EXIF" in line for line in issues.findings())
    issues = AnnotationIssues()
    clean_split(raw_of(images[:1], [(10, 5, 30, 58)]), issues, orientation="stored")
    assert issues.findings()[0] == line.format("upright", "stored", "data.orientation=upright")


def test_boxes_that_fit_the_stored_image_are_not_taken_for_another_convention(tmp_path):
    """Upright, the images are 40 x 60. As center and sides, (20, 10, 22, 10) would be (9, 5, 31, 15), which
    fits, but as stored the box itself does."""
    images = [turned(tmp_path / f"{n}.jpg", 6) for n in range(3)]
    raw, issues = raw_of(images, [(20, 10, 42, 20)] * 3), AnnotationIssues()
    raw.format = "coco"
    clean_split(raw, issues)
    assert issues.notes == []
    assert any("3 boxes fitting only the stored image" in line for line in issues.findings())


def test_an_annotated_size_of_the_other_orientation_is_an_error_with_the_option(tmp_path):
    image = turned(tmp_path / "0.jpg", 8)
    for size, orientation, other in (((40, 60), "upright", "stored"), ((60, 40), "stored", "upright")):
        raw = raw_of([image], [(1, 1, 9, 9)], [size])
        with pytest.raises(
            UserError,
            match=rf"it has an EXIF rotation: .* set data\.orientation={other}",
        ):
            clean_split(raw, AnnotationIssues(), orientation=orientation)
        clean_split(raw, AnnotationIssues(), orientation=other)
