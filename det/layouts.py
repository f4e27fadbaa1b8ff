"""The layouts of files in a folder that `task=det` can train on, in place or after a conversion."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from det.data import cvat
from det.data.cleaning import AnnotationIssues
from det.data.formats import voc_layout, yolo_layout
from det.data.formats.yolo_config import find_config, read_classes
from engine.contracts import Layout
from engine.data.splits import SPLIT_NAMES
from engine.data.survey.kinds import Kind
from engine.data.survey.matching import Content, find_layouts, in_place
from engine.errors import UserError

_OFFICIAL, _DATASET, _EXPORT, _CONVERTED = 90, 80, 70, 60


def layouts(root: Path) -> list[Layout]:
    """The layouts that match a folder. Few of its files are read; lists of names are.

    Raises: UserError if none does, but the folder is almost in one, or it cannot be read.
    """
    return find_layouts(root, (_voc, _coco, _yolo, _labelme, _cvat, _label_studio, _supervisely))


_layout = partial(in_place, "det")


def _converted(content: Content, title: str, format_name: str) -> Layout:
    """A layout whose shapes are written as COCO first."""
    content.require_images(title)
    out = content.converted("coco")
    return Layout(
        task="det",
        data="coco",
        title=title,
        overrides=(f"data.root={out}",),
        conversion=(f"input={content.root}", f"out={out}", "to=coco", f"format={format_name}"),
        rank=_CONVERTED,
    )


def _voc(content: Content) -> Iterator[Layout]:
    if (kind := content.xml.get("voc")) is None:
        return
    content.require_images("Pascal VOC's XML files")
    splits, _ = voc_layout.find_undivided(content.root)
    overrides = [f"data.root={content.root}", *_missing("XML", splits)]
    overrides += ["data.source.one_based=true"] if kind.official else []
    title = "Pascal VOC, one XML file per image"
    rank = _OFFICIAL if kind.official else _DATASET
    yield _layout(content, "voc", title, rank, overrides=tuple(overrides), train="train" in splits)


def _labelme(content: Content) -> Iterator[Layout]:
    if (kind := content.json.get("labelme")) is None:
        return
    content.require_images("LabelMe's JSON files")
    splits, _ = voc_layout.find_undivided(content.root, suffix=".json")
    shapes = "boxes" if kind.boxes or not kind.outlines else "outlines as boxes"
    title = f"LabelMe, one JSON file per image ({shapes})"
    overrides = (f"data.root={content.root}", *_missing("JSON", splits))
    yield _layout(content, "labelme", title, _EXPORT, overrides=overrides, train="train" in splits)


def _missing(noun: str, splits: dict[str, voc_layout.SplitFiles]) -> list[str]:
    """The option for images without an annotation file, if there are any among annotated ones.

    Raises: UserError if no image has an annotation file.
    """
    annotated = {split: sum(n in part.annotations for n in part.names) for split, part in splits.items()}
    if not any(annotated.values()):
        part = next(iter(splits.values()))
        raise UserError(
            f"{next(iter(part.images.values()))}: no {noun} file is named like this or any other image; "
            f"rename the {noun} files to match"
        )
    some = any(0 < annotated[split] < len(part.names) for split, part in splits.items())
    return ["data.source.missing=negative"] if some else []


def _coco(content: Content) -> Iterator[Layout]:
    if "coco" in content.json:
        yield _layout(content, "coco", "COCO JSON", _DATASET, overrides=content.coco())


def _yolo(content: Content) -> Iterator[Layout]:
    file = content.yolo
    if file is None:
        if content.rows is not None:
            raise UserError(
                f"{content.root}: YOLO label files, but no data.yaml or classes.txt with class names; add "
                "classes.txt with one name per line"
            )
        return
    config = find_config(file.absolute())
    read_classes(config.file, config.content)
    images: dict[str, list[str]] = {}
    for split, names in SPLIT_NAMES.items():
        if place := next((config.content[name] for name in names if config.content.get(name)), None):
            issues = AnnotationIssues()
            found = yolo_layout.images_of_split(
                config.file, config.content, split, place, issues, on_error="skip"
            )
            images |= {split: found} if found else {}
    if not images:
        raise UserError(f"{config.file}: none of its train, val and test paths exists; correct them")
    paths = [path for found in images.values() for path in found]
    if not any(Path(yolo_layout.label_file(path)).is_file() for path in paths):
        raise UserError(f"{paths[0]}: no label file {yolo_layout.label_file(paths[0])}, nor for other images")
    title = "YOLO, one text file per image"
    overrides = (f"data.root={file}",)
    yield _layout(content, "yolo", title, _DATASET, overrides=overrides, train="train" in images)


def _cvat(content: Content) -> Iterator[Layout]:
    if "cvat_video" in content.xml:
        raise UserError(f"{content.root}: tracks of a video; export the task as CVAT for images 1.1")
    if "cvat" in content.xml:
        cvat.find_files(content.root)
        content.require_images("CVAT's XML file")
        yield _layout(content, "cvat", "CVAT for images 1.1", _EXPORT)


def _label_studio(content: Content) -> Iterator[Layout]:
    if _has_shapes(content.json.get("label_studio")):
        yield _converted(content, "Label Studio's JSON", "label_studio")


def _supervisely(content: Content) -> Iterator[Layout]:
    if _has_shapes(content.json.get("supervisely")):
        yield _converted(content, "Supervisely, one JSON file per image", "supervisely")


def _has_shapes(kind: Kind | None) -> bool:
    return kind is not None and (kind.boxes or kind.outlines)
