"""YOLO: data.yaml, folders of images, and label files at the same path with `labels` instead of `images`."""

import os
from collections import Counter
from pathlib import Path

import numpy as np

from det.data.cleaning import AnnotationIssues, RawSplit, clean_split, read_size
from det.data.dataset import DetectionSource, DetectionSplit
from det.data.division import part_of, with_val
from det.data.formats import yolo_layout
from det.data.formats.yolo_config import find_config, read_classes
from det.data.formats.yolo_rows import LabelReader
from det.data.reader_options import OnError, ReaderOptions
from det.data.source_checks import checked_source
from engine.data.images import Orientation
from engine.data.splits import SPLIT_NAMES
from engine.errors import UserError, raise_or_collect


def yolo(
    *,
    root: str,
    allow_same_names: bool = False,
    allow_same_files: bool = False,
    orientation: Orientation = "upright",
    on_error: OnError = "fail",
) -> DetectionSource:
    """A dataset described by a data.yaml with class names and the paths of the splits.

    data.yaml: `names`, a list or {0: name}; `train`, `val` (or `valid`) and `test`: a folder of images, a
    .txt list of images, or several of either; `path`, the folder that they are relative to (default: that
    of the yaml file). The labels of a/images/b/c.jpg are a/labels/b/c.txt or, if no folder is called images,
    c.txt next to the image. An image without a label file has no objects; a split without any is not
    annotated. `kpt_shape`, [number of keypoints, 2 or 3], says that rows have keypoints, which are not used;
    [] that they have none. `det.data.cleaning` has the rules for boxes, `det.data.source_checks` those for
    splits.

    Args:
        root: the folder of data.yaml (or of another .yaml, if it is the only one), or that file. Without a
            yaml file, obj.names or classes.txt has the classes, and train.txt, val.txt or folders of these
            names the splits. Without val, `det.data.division` makes it.
        allow_same_names: whether images of train and val may have the same names.
        allow_same_files: whether splits may share images.
        orientation: whether boxes refer to upright or to stored images, as in `data.orientation`.
        on_error: `skip` leaves out listed images that do not exist like those that cannot be read.

    Raises:
        UserError: if a file is wrong; names the file and the line or key, before training.
    """
    file, content, divided = find_config(Path(os.path.abspath(Path(root).expanduser())))
    classes = read_classes(file, content)
    labels = LabelReader.from_yaml(file, content, len(classes))
    issues, warnings, splits = AnnotationIssues(), list[str](), dict[str, DetectionSplit]()
    used: list[str] = []
    for split, names in SPLIT_NAMES.items():
        place = next((content[name] for name in names if content.get(name)), None)
        if place is None:
            continue
        images = yolo_layout.images_of_split(file, content, split, place, issues, on_error=on_error)
        if images is None:
            other = "; remove this key to use a fifth of train" if split == "val" else ""
            warnings.append(f"{file}: {split}: {place} does not exist; the split is left out{other}")
            continue
        used += images
        splits[split] = part_of(images, splits, files_of=_real_files) or clean_split(
            _raw_split(images, split, labels, issues, orientation), issues, orientation=orientation
        )
    yolo_layout.add_unused(file.parent, used, issues)
    if not any(content.get(name) for name in SPLIT_NAMES["val"]):
        is_yaml = file.suffix in (".yaml", ".yml")
        remedy = f"add val to {file.name}" if is_yaml else "add train.txt and val.txt"
        splits, lines = with_val(f"YOLO at {file}", splits, remedy=remedy, whole=divided)
        warnings += lines
    if not splits:
        reason = warnings[0] if warnings else f"{file}: names no train, val or test"
        raise UserError(f"{reason}; it must name folders or lists of images, such as train: images/train")
    return checked_source(
        name=f"YOLO at {file}",
        classes=classes,
        splits=splits,
        issues=issues,
        warnings=warnings,
        options=ReaderOptions(allow_same_names=allow_same_names, allow_same_files=allow_same_files),
    )


def _real_files(image: str) -> tuple[str, str]:
    """An image and its label file, without symbolic links."""
    return os.path.realpath(image), os.path.realpath(yolo_layout.label_file(image))


def _raw_split(
    images: list[str], split: str, labels: LabelReader, issues: AnnotationIssues, orientation: Orientation
) -> RawSplit:
    names = _names(images)
    files = [yolo_layout.label_file(image) for image in images]
    exist = [os.path.isfile(file) for file in files]
    sizes = [read_size(image, orientation) for image in images]
    if not all(exist):
        yolo_layout.check_folders(files)
    if not any(exist):
        if split == "train":
            findings = issues.findings()
            known = f" ({'; '.join(findings)})" if findings else ""
            message = f"no label file {files[0]}, and none for the other images of train{known}; add them"
            raise_or_collect(UserError(f"{images[0]}: {message}", files=images))
        return RawSplit(images=images, names=names, files=files, sizes=sizes, has_labels=False)
    annotated = [owner for owner, exists in enumerate(exist) if exists]
    rows = labels.read([files[owner] for owner in annotated], issues)
    owners = np.repeat(annotated, [len(part.labels) for part in rows]).astype(np.int64)
    # The boxes of unreadable images are left out later.
    scales = np.array([(width, height) * 2 for height, width in (size or (0, 0) for size in sizes)])
    absent = [
        os.path.basename(image)
        for image, size, exists in zip(images, sizes, exist, strict=True)
        if size is not None and not exists
    ]
    issues.add("image", "without a label file: treated as having no objects", absent)
    return RawSplit(
        images=images,
        names=names,
        files=[os.path.basename(file) for file in files],
        sizes=sizes,
        owners=owners,
        boxes=np.concatenate([part.boxes for part in rows]) * scales[owners],
        labels=np.concatenate([part.labels for part in rows]),
        format="yolo",
    )


def _names(images: list[str]) -> list[str]:
    """Names without suffix, relative to the folder that all images share."""
    shared = os.path.dirname(images[0]) if len(images) == 1 else os.path.commonpath(images)
    names = [os.path.splitext(os.path.relpath(image, shared))[0] for image in images]
    if len(set(names)) < len(names):
        duplicate = next(name for name, count in Counter(names).items() if count > 1)
        raise UserError(
            f"{os.path.join(shared, duplicate)}: two images share this name and its label file; rename one"
        )
    return names
