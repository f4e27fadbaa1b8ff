"""A scene is a pure function, its maps agree with each other, and all evaluated classes occur."""

import cv2
import numpy as np
import pytest
from cityscapesscripts.helpers.labels import id2label, labels, name2label

from streets import draw_scene
from streets.drawing.canvas import THING_CLASSES, Canvas
from streets.files.coco import MIN_AREA_PX, scene_annotations

SMALL = (64, 128)
EVALUATED = {label.id: label.name for label in labels if 0 <= label.trainId < 19}


@pytest.fixture(scope="module", params=["train", "val"])
def many(request):
    return [draw_scene(3, index, SMALL, split=request.param) for index in range(60)]


@pytest.fixture(scope="module")
def few():
    return [draw_scene(1, index, (128, 256)) for index in range(8)]


def test_the_same_arguments_draw_the_same_scene():
    one, two = draw_scene(5, 2, SMALL, split="val"), draw_scene(5, 2, SMALL, split="val")
    assert one.image.tobytes() == two.image.tobytes()
    assert one.label_ids.tobytes() == two.label_ids.tobytes()
    assert one.instance_ids.tobytes() == two.instance_ids.tobytes()


@pytest.mark.parametrize("other", [(6, 2, "val"), (5, 3, "val"), (5, 2, "train")])
def test_another_seed_index_or_split_draws_another_scene(other):
    seed, index, split = other
    one, two = draw_scene(5, 2, SMALL, split="val"), draw_scene(seed, index, SMALL, split=split)
    assert (one.label_ids != two.label_ids).mean() > 0.1


def test_shapes_and_types(few):
    drawn = few[0]
    assert (drawn.image.shape, drawn.image.dtype) == ((128, 256, 3), np.uint8)
    assert (drawn.label_ids.shape, drawn.label_ids.dtype) == ((128, 256), np.uint8)
    assert (drawn.instance_ids.shape, drawn.instance_ids.dtype) == ((128, 256), np.uint16)


def test_the_layout_does_not_depend_on_the_size():
    small, large = draw_scene(0, 4, (64, 128)).label_ids, draw_scene(0, 4, (128, 256)).label_ids
    assert (small == large[::2, ::2]).mean() > 0.9


@pytest.mark.parametrize("size", [(33, 71), (96, 96), (150, 90)])
def test_any_size_is_possible(size):
    drawn = draw_scene(0, 0, size)
    assert drawn.image.shape == (*size, 3)
    assert drawn.label_ids.shape == size


def test_a_size_that_is_too_small_is_rejected():
    with pytest.raises(ValueError, match="at least 32x32 pixels, got 16x64"):
        draw_scene(0, 0, (16, 64))


@pytest.mark.slow
def test_all_19_classes_occur_often_enough(many):
    """Each occurs in at least 15% of the scenes, with enough pixels to be learned."""
    seen = dict.fromkeys(EVALUATED, 0)
    for drawn in many:
        counts = np.bincount(drawn.label_ids.ravel(), minlength=256)
        for label_id in seen:
            # 8 of 64 x 128 pixels: 2 m of a lamp post, 6 m away
            seen[label_id] += counts[label_id] >= 8
    rare = {EVALUATED[label_id]: n for label_id, n in seen.items() if n < 0.15 * len(many)}
    assert len(seen) == 19
    assert not rare


@pytest.mark.slow
def test_large_vehicles_are_large(many):
    """The median bus, truck and tram cover more than 2% of the image."""
    for name in ("truck", "bus", "train"):
        label_id = name2label[name].id
        areas = [
            (drawn.label_ids == label_id).mean() for drawn in many if (drawn.label_ids == label_id).any()
        ]
        assert np.median(areas) > 0.02, name


@pytest.mark.slow
def test_some_pixels_are_ignored(many):
    ignored = [np.isin(drawn.label_ids, list(EVALUATED), invert=True).mean() for drawn in many]
    assert 0 < np.mean(ignored) < 0.1


def test_label_ids_are_those_of_cityscapes(many):
    used = set().union(*(np.unique(drawn.label_ids).tolist() for drawn in many))
    assert used <= {label.id for label in labels if label.id > 0}


def test_instance_ids_agree_with_label_ids(many):
    for drawn in many:
        ids, instances = drawn.label_ids.astype(int), drawn.instance_ids.astype(int)
        has_instances = np.isin(
            ids, [label.id for label in labels if label.hasInstances and label.trainId < 19]
        )
        assert (instances[has_instances] // 1000 == ids[has_instances]).all()
        assert (instances[~has_instances] == ids[~has_instances]).all()


def test_instances_are_numbered_as_the_official_script_numbers_them(few):
    """createInstanceIds numbers the objects of a class in drawing order, including hidden ones."""
    for drawn in few:
        expected, count = np.zeros(drawn.label_ids.shape, np.int32), {}
        for outline in drawn.polygons:
            label = name2label[outline.label]
            value = label.id
            if label.hasInstances:
                value = label.id * 1000 + count.get(label.id, 0)
                count[label.id] = count.get(label.id, 0) + 1
            cv2.fillPoly(expected, [outline.polygon], value)
        np.testing.assert_array_equal(expected, drawn.instance_ids)


def test_polygons_painted_in_order_give_the_labels(few):
    """Checked with PIL's rasterizer, which the official scripts use and the canvas does not."""
    from PIL import Image, ImageDraw

    for drawn in few:
        height, width = drawn.label_ids.shape
        image = Image.new("L", (width, height), 0)
        for outline in drawn.polygons:
            points = [tuple(point) for point in outline.polygon.tolist()]
            ImageDraw.Draw(image).polygon(points, fill=name2label[outline.label].id)
        assert (np.asarray(image) == drawn.label_ids).mean() > 0.995


def test_image_and_labels_share_their_edges():
    """Without noise and texture, the pixels of a single object change within a pixel of its label's edge."""
    from random import Random

    from streets.drawing.camera import random_camera, random_light
    from streets.drawing.canvas import SUPERSAMPLE
    from streets.drawing.shapes import Plane
    from streets.objects.people import person

    rng = Random(0)
    canvas = Canvas(size=(128, 256), camera=random_camera(rng, size=(128, 256)), light=random_light(rng))
    with canvas.object("sky"):
        canvas.paint_part_pixels(
            np.array([(0, 0), (256, 0), (256, 128), (0, 128)], float), (255.0, 0.0, 255.0)
        )
    person(canvas, rng, Plane(0.5, 7.0))
    painted = (canvas.pixels != (255, 0, 255)).any(-1).astype(np.uint8)
    share = cv2.resize(
        painted * 255, None, fx=1 / SUPERSAMPLE, fy=1 / SUPERSAMPLE, interpolation=cv2.INTER_AREA
    )
    label = (canvas.label_ids() == name2label["person"].id).astype(np.uint8)
    cross = np.ones((3, 3), np.uint8)
    assert label.sum() > 300
    assert not (share > 127)[cv2.dilate(label, cross) == 0].any()
    assert (share > 127)[cv2.erode(label, cross) == 1].all()


def test_boxes_are_tight_around_the_visible_pixels(few):
    total = 0
    for drawn in few:
        expected = []
        for index, outline in enumerate(drawn.polygons):
            rows, columns = np.nonzero(drawn.owners == index)
            if outline.label in THING_CLASSES and len(rows) >= MIN_AREA_PX:
                x, y = columns.min(), rows.min()
                box = [x, y, columns.max() - x + 1, rows.max() - y + 1]
                expected.append((name2label[outline.label].id, box, len(rows)))
        boxes = [(thing["category_id"], thing["bbox"], thing["area"]) for thing in scene_annotations(drawn)]
        assert boxes == expected
        total += len(boxes)
    assert total > 40


def test_things_have_the_box_of_their_cityscapes_instance(few):
    """Converters compute the same boxes from instanceIds."""
    for drawn in few:
        boxes = {}
        for value in np.unique(drawn.instance_ids[drawn.instance_ids >= 1000]).tolist():
            rows, columns = np.nonzero(drawn.instance_ids == value)
            if len(rows) >= MIN_AREA_PX:
                x, y = int(columns.min()), int(rows.min())
                box = [x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1]
                boxes[value] = (value // 1000, box)
        annotated = [
            (t["category_id"], t["bbox"])
            for t in scene_annotations(drawn)
            if id2label[t["category_id"]].hasInstances
        ]
        assert sorted(annotated) == sorted(boxes.values())
