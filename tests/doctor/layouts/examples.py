"""Tiny datasets in the layouts that the doctor recognizes, with the files that each program writes.

An image is 40 x 60 random pixels. In each lies one cat, x 10..30 and y 8..24 (right and bottom excluded), and
one dog, x 36..52 and y 12..32.
"""

import base64
import json
import zlib

import cv2
import numpy as np

from engine.data.images import write_png

HEIGHT, WIDTH = SIZE = (40, 60)
CAT, DOG = (10, 8, 30, 24), (36, 12, 52, 32)
OBJECTS = {"cat": CAT, "dog": DOG}


def image(path):
    """Random pixels, which follow from the last parts of the path."""
    seed = zlib.crc32("/".join(path.parts[-3:]).encode())
    write_png(path, np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8))


def images(root, names):
    for name in names:
        image(root / name)


def expected_mask():
    """Background 0, cat 1, dog 2."""
    mask = np.zeros(SIZE, np.uint8)
    for value, (left, top, right, bottom) in enumerate(OBJECTS.values(), start=1):
        mask[top:bottom, left:right] = value
    return mask


def mask(path, values=(0, 1, 2)):
    write_png(path, np.array(values, np.uint8)[expected_mask()])


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def outline(box):
    """Its corners, [[x, y], ...]."""
    left, top, right, bottom = box
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def numbered(count, pattern="{}.png"):
    return [pattern.format(number) for number in range(count)]


FLAT = numbered(6)
TRAIN, VAL = numbered(4, "a{}.png"), numbered(2, "b{}.png")


# ---- masks


def masks_by_kind(root):
    """images/<split>, masks/<split>."""
    for split, names in (("train", TRAIN), ("val", VAL)):
        for name in names:
            image(root / f"images/{split}/{name}")
            mask(root / f"masks/{split}/{name}")


def masks_flat(root):
    images(root / "images", FLAT)
    for name in FLAT:
        mask(root / "masks" / name.replace(".png", "_mask.png"))


def masks_by_split(root):
    for split, names in (("train", TRAIN), ("val", VAL)):
        for name in names:
            image(root / f"{split}/images/{name}")
            mask(root / f"{split}/masks/{name}")


def masks_camvid(root):
    for split, names in (("train", TRAIN), ("val", VAL)):
        for name in names:
            image(root / f"{split}/{name}")
            mask(root / f"{split}annot/{name}")


def masks_beside(root):
    images(root, FLAT)
    for name in FLAT:
        mask(root / name.replace(".png", "_mask.png"))


def roboflow_masks(root):
    for split, names in (("train", TRAIN), ("valid", VAL)):
        for name in names:
            image(root / f"{split}/{name}")
            mask(root / f"{split}/{name.replace('.png', '_mask.png')}")
        write(root / f"{split}/_classes.csv", "Pixel Value, Class\n0, background\n1, cat\n2, dog\n")


def cvat_masks(root):
    """Segmentation mask 1.1, with images."""
    colors = {"background": (0, 0, 0), "cat": (250, 50, 83), "dog": (51, 221, 255)}
    images(root / "JPEGImages", FLAT)
    for name in FLAT:
        pixels = np.array(list(colors.values()), np.uint8)[expected_mask()]
        write_png(root / "SegmentationClass" / name, pixels)
        write_png(root / "SegmentationObject" / name, pixels)
    write(root / "ImageSets/Segmentation/default.txt", "".join(f"{name[:-4]}\n" for name in FLAT))
    rows = [f"{name}:{','.join(map(str, color))}::" for name, color in colors.items()]
    write(root / "labelmap.txt", "\n".join(["# label:color_rgb:parts:actions", *rows, ""]))


def voc_segmentation(root):
    images(root / "JPEGImages", [*TRAIN, *VAL])
    for name in (*TRAIN, *VAL):
        mask(root / "SegmentationClass" / name)
    for split, names in (("train", TRAIN), ("val", VAL), ("trainval", [*TRAIN, *VAL])):
        write(root / f"ImageSets/Segmentation/{split}.txt", "".join(f"{name[:-4]}\n" for name in names))


def ade20k(root):
    for split, names in (("training", TRAIN), ("validation", VAL)):
        for name in names:
            image(root / f"images/{split}/ADE_{name}")
            mask(root / f"annotations/{split}/ADE_{name}")
    rows = [
        "Idx\tRatio\tTrain\tVal\tStuff\tName",
        "1\t0.1\t10\t2\t0\twall",
        "2\t0.1\t10\t2\t1\tbuilding, edifice",
    ]
    write(root / "objectInfo150.txt", "\n".join([*rows, ""]))
    write(root / "sceneCategories.txt", "ADE_a0 bathroom\n")


def cityscapes(root):
    for split, names in (("train", TRAIN), ("val", VAL)):
        for name in names:
            stem = f"bonn/bonn_{name[:-4]}"
            image(root / f"leftImg8bit/{split}/{stem}_leftImg8bit.png")
            mask(root / f"gtFine/{split}/{stem}_gtFine_labelIds.png", (7, 24, 26))


# ---- COCO


def coco_json(names, *, outlines=True, first_id=1, prefix=""):
    annotations = []
    for owner in range(len(names)):
        for category, (left, top, right, bottom) in enumerate(OBJECTS.values()):
            polygon = [[number for point in outline((left, top, right, bottom)) for number in point]]
            annotations.append({
                "id": len(annotations) + 1, "image_id": owner + 1, "category_id": category + first_id,
                "bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top),
                "iscrowd": 0, "segmentation": polygon if outlines else [],
            })  # fmt: skip
    return {
        "images": [
            {"id": number, "file_name": prefix + name, "height": HEIGHT, "width": WIDTH}
            for number, name in enumerate(names, start=1)
        ],
        "categories": [{"id": number + first_id, "name": name} for number, name in enumerate(OBJECTS)],
        "annotations": annotations,
    }


def coco_official(root, *, outlines=True):
    for split, names in (("train2017", TRAIN), ("val2017", VAL)):
        for name in names:
            image(root / split / name)
        write(root / f"annotations/instances_{split}.json", coco_json(names, outlines=outlines))


def coco_boxes(root):
    coco_official(root, outlines=False)


def coco_one_file(root):
    """A single split called val."""
    images(root / "images/val2017", FLAT)
    write(root / "annotations/instances_val2017.json", coco_json(FLAT, outlines=False))


def roboflow_coco(root):
    for split, names in (("train", TRAIN), ("valid", VAL)):
        for name in names:
            image(root / split / name)
        content = coco_json(names)
        content["categories"].insert(0, {"id": 0, "name": "animals", "supercategory": "none"})  # as it does
        write(root / split / "_annotations.coco.json", content)
    write(root / "README.dataset.txt", "exported\n")


def cvat_coco(root):
    images(root / "images/default", FLAT)
    write(root / "annotations/instances_default.json", coco_json(FLAT))


def label_studio_coco(root):
    images(root / "images", FLAT)
    write(root / "result.json", coco_json(FLAT, first_id=0, prefix="images/"))


# ---- VOC


def voc_xml(name, database="Unknown"):
    objects = "".join(
        f"<object><name>{label}</name><difficult>0</difficult><bndbox><xmin>{box[0]}</xmin>"
        f"<ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for label, box in OBJECTS.items()
    )
    return (
        f"<annotation><folder>x</folder><filename>{name}</filename><source><database>{database}</database>"
        f"</source><size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>{objects}"
        "</annotation>"
    )


def voc_official(root, database="The VOC2012 Database"):
    images(root / "JPEGImages", [*TRAIN, *VAL])
    for name in (*TRAIN, *VAL):
        write(root / f"Annotations/{name[:-4]}.xml", voc_xml(name, database))
    for split, names in (("train", TRAIN), ("val", VAL)):
        write(root / f"ImageSets/Main/{split}.txt", "".join(f"{name[:-4]}\n" for name in names))


def voc_devkit(root):
    """As unpacked: VOCdevkit/VOC2012 is below the folder."""
    voc_official(root / "VOCdevkit/VOC2012")


def voc_roboflow(root):
    for split, names in (("train", TRAIN), ("valid", VAL)):
        for name in names:
            image(root / split / name)
            write(root / split / name.replace(".png", ".xml"), voc_xml(name))


def voc_annots(root):
    images(root / "images", FLAT)
    for name in FLAT:
        write(root / f"annots/{name[:-4]}.xml", voc_xml(name))


def voc_with_negatives(root):
    """Two images have no XML file."""
    voc_annots(root)
    for name in FLAT[3:5]:  # of those that are not chosen as val
        (root / f"annots/{name[:-4]}.xml").unlink()


def label_studio_voc(root):
    images(root / "images", FLAT)
    for name in FLAT:
        write(root / f"Annotations/{name[:-4]}.xml", voc_xml(name))


# ---- YOLO


def yolo_rows(*, outlines=False):
    rows = []
    for number, (left, top, right, bottom) in enumerate(OBJECTS.values()):
        if outlines:
            numbers = [n for x, y in outline((left, top, right, bottom)) for n in (x / WIDTH, y / HEIGHT)]
        else:
            numbers = [(left + right) / 2 / WIDTH, (top + bottom) / 2 / HEIGHT]
            numbers += [(right - left) / WIDTH, (bottom - top) / HEIGHT]
        rows.append(" ".join([str(number), *(f"{n:.6f}" for n in numbers)]))
    return "\n".join(rows) + "\n"


def yolo_ultralytics(root, *, outlines=False):
    for split, names in (("train", TRAIN), ("val", VAL)):
        for name in names:
            image(root / f"images/{split}/{name}")
            write(root / f"labels/{split}/{name[:-4]}.txt", yolo_rows(outlines=outlines))
    write(root / "data.yaml", "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n")


def yolo_outlines(root):
    yolo_ultralytics(root, outlines=True)


def yolo_other_name(root):
    """The YAML file has another name, and there is one that is something else."""
    yolo_ultralytics(root)
    (root / "data.yaml").rename(root / "animals.yaml")
    write(root / "hyp.yaml", "lr: 0.1\n")


def yolo_roboflow(root):
    for split, names in (("train", TRAIN), ("valid", VAL)):
        for name in names:
            image(root / f"{split}/images/{name}")
            write(root / f"{split}/labels/{name[:-4]}.txt", yolo_rows())
    text = "train: ../train/images\nval: ../valid/images\n\nnc: 2\nnames: ['cat', 'dog']\n"
    write(root / "data.yaml", text)
    write(root / "README.roboflow.txt", "exported\n")


def cvat_yolo(root):
    """YOLO 1.1."""
    images(root / "obj_train_data", FLAT)
    for name in FLAT:
        write(root / f"obj_train_data/{name[:-4]}.txt", yolo_rows())
    write(root / "obj.names", "cat\ndog\n")
    write(
        root / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n"
    )
    write(root / "train.txt", "".join(f"data/obj_train_data/{name}\n" for name in FLAT))


def label_studio_yolo(root):
    images(root / "images", FLAT)
    for name in FLAT:
        write(root / f"labels/{name[:-4]}.txt", yolo_rows())
    write(root / "classes.txt", "cat\ndog\n")
    write(root / "notes.json", {"categories": [{"id": 0, "name": "cat"}], "info": {"year": 2026}})


# ---- annotation programs' own formats


def labelme_json(name, *, kinds=("polygon", "polygon")):
    shapes = []
    for (label, box), kind in zip(OBJECTS.items(), kinds, strict=True):
        points = outline(box) if kind == "polygon" else [list(box[:2]), list(box[2:])]
        shapes.append(
            {
                "label": label,
                "points": points,
                "group_id": None,
                "shape_type": kind,
                "flags": {},
                "mask": None,
            }
        )
    return {
        "version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": name, "imageData": None,
        "imageHeight": HEIGHT, "imageWidth": WIDTH,
    }  # fmt: skip


def labelme(root, *, kinds=("polygon", "polygon")):
    images(root, FLAT)
    for name in FLAT:
        write(root / name.replace(".png", ".json"), labelme_json(name, kinds=kinds))


def labelme_boxes(root):
    labelme(root, kinds=("rectangle", "rectangle"))


def cvat_xml(names, *, outlines=True, subset=""):
    rows = []
    for number, name in enumerate(names):
        shapes = ""
        for label, (left, top, right, bottom) in OBJECTS.items():
            points = ";".join(f"{x:.2f},{y:.2f}" for x, y in outline((left, top, right, bottom)))
            start = f'label="{label}" source="manual" occluded="0"'
            corners = f'xtl="{left}" ytl="{top}" xbr="{right}" ybr="{bottom}"'
            if outlines:
                shapes += f'<polygon {start} points="{points}" z_order="0"></polygon>'
            else:
                shapes += f'<box {start} {corners} z_order="0"></box>'
        within = f'subset="{subset}" ' if subset else ""
        rows.append(
            f'<image id="{number}" name="{name}" {within}width="{WIDTH}" height="{HEIGHT}">{shapes}</image>'
        )
    labels = "".join(f"<label><name>{name}</name><color>#ff0000</color></label>" for name in OBJECTS)
    return (
        '<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><meta><task><id>1</id>'
        f"<labels>{labels}</labels></task></meta>{''.join(rows)}</annotations>"
    )


def cvat(root):
    images(root / "images", FLAT)
    write(root / "annotations.xml", cvat_xml(FLAT))


def cvat_boxes(root):
    images(root / "images", FLAT)
    write(root / "annotations.xml", cvat_xml(FLAT, outlines=False))


def label_studio_region(label, box, kind):
    left, top, right, bottom = box
    if kind == "polygonlabels":
        value = {"points": [[x / WIDTH * 100, y / HEIGHT * 100] for x, y in outline(box)], "closed": True}
    else:
        value = {
            "x": left / WIDTH * 100, "y": top / HEIGHT * 100, "rotation": 0,
            "width": (right - left) / WIDTH * 100, "height": (bottom - top) / HEIGHT * 100,
        }  # fmt: skip
    return {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}, {**value, kind: [label]}


def label_studio(root, *, kind="polygonlabels", minimal=False):
    images(root / "images", FLAT)
    tasks = []
    for number, name in enumerate(FLAT):
        path = f"/data/upload/1/0a1b2c3d-{name}"
        regions = [label_studio_region(label, box, kind) for label, box in OBJECTS.items()]
        if minimal:
            tasks.append({
                "image": path, "id": number, "label": [{**value, **outer} for outer, value in regions],
                "annotator": 1, "annotation_id": number, "lead_time": 1.0,
            })  # fmt: skip
            continue
        result = [
            {
                **outer, "value": value, "id": f"r{index}", "from_name": "label", "to_name": "image",
                "type": kind, "origin": "manual",
            }
            for index, (outer, value) in enumerate(regions)
        ]  # fmt: skip
        annotation = {"id": number, "completed_by": 1, "result": result, "was_cancelled": False}
        tasks.append({
            "id": number, "annotations": [annotation], "file_upload": f"0a1b2c3d-{name}",
            "predictions": [], "data": {"image": path}, "meta": {},
        })  # fmt: skip
    write(root / "project-1-at-2026-11-29-10-00-0a1b2c3d.json", tasks)


def label_studio_boxes(root):
    label_studio(root, kind="rectanglelabels")


def label_studio_min(root):
    label_studio(root, minimal=True)


def supervisely_bitmap(box):
    """A mask as Supervisely stores it: PNG with an alpha channel, compressed, in base 64."""
    left, top, right, bottom = box
    pixels = np.full((bottom - top, right - left, 4), 255, np.uint8)
    data = zlib.compress(cv2.imencode(".png", pixels)[1].tobytes())
    return {"data": base64.b64encode(data).decode(), "origin": [left, top]}


def supervisely_object(label, box, kind):
    empty = {"exterior": [], "interior": []}
    entry = {"id": 1, "classTitle": label, "geometryType": kind, "tags": [], "labelerLogin": "x"}
    if kind == "bitmap":
        return {**entry, "bitmap": supervisely_bitmap(box), "points": empty}
    points = outline(box) if kind == "polygon" else [list(box[:2]), list(box[2:])]
    return {**entry, "bitmap": None, "points": {"exterior": points, "interior": []}}


def supervisely(root, *, kinds=("polygon", "bitmap")):
    for dataset, names in (("train", TRAIN), ("val", VAL)):
        for name in names:
            image(root / dataset / "img" / name)
            objects = [
                supervisely_object(label, box, kind)
                for (label, box), kind in zip(OBJECTS.items(), kinds, strict=True)
            ]
            content = {
                "description": "", "tags": [], "size": {"height": HEIGHT, "width": WIDTH}, "objects": objects,
            }  # fmt: skip
            write(root / dataset / "ann" / f"{name}.json", content)
    classes = [
        {"title": label, "shape": kind, "color": "#FF0000"}
        for label, kind in zip(OBJECTS, kinds, strict=True)
    ]
    write(root / "meta.json", {"classes": classes, "tags": []})


def supervisely_boxes(root):
    supervisely(root, kinds=("rectangle", "rectangle"))


# ---- classification


def class_folders(root):
    for label, count in (("cat", 4), ("dog", 4)):
        for number in range(count):
            image(root / label / f"{number}.png")


def class_folders_by_split(root, train="train", val="val"):
    for split, count in ((train, 3), (val, 2)):
        for label in ("cat", "dog"):
            for number in range(count):
                image(root / split / label / f"{split}{number}.png")


def roboflow_classes(root):
    class_folders_by_split(root, "train", "valid")
    write(root / "README.roboflow.txt", "exported\n")


def imagenet(root):
    for split, count in (("train", 3), ("val", 2)):
        for synset in ("n01440764", "n01443537"):
            for number in range(count):
                image(root / split / synset / f"{synset}_{number}.png")
