"""LabelMe: one JSON file per image, next to the image or in a separate folder."""

from collections.abc import Mapping, Sequence

from det.data.cleaning import Sizes
from det.data.dataset import DetectionSource
from det.data.formats import labelme_json
from det.data.reader_options import OnError
from det.data.voc import Kind, Missing, Others, VocOptions, read_files
from engine.data.images import Orientation

LABELME = Kind("LabelMe", "JSON file", ".json", labelme_json.read, "labelme")


def labelme(
    *,
    root: str,
    images: str | None = None,
    annotations: str | None = None,
    splits: Mapping[str, str] | None = None,
    classes: Sequence[str] | None = None,
    others: Others = "refuse",
    missing: Missing = "refuse",
    sizes: Sizes = "check",
    allow_same_names: bool = False,
    allow_same_files: bool = False,
    orientation: Orientation = "upright",
    on_error: OnError = "fail",
) -> DetectionSource:
    """Images and JSON files with the same names, in the layouts of `det.data.formats.voc_layout`.

    Rectangles (also rotated ones), polygons, circles and masks become their bounding boxes; shapes with the
    same label and group id become one box around all of them. Points and lines are left out. Objects marked
    difficult are not trained on, and are neither hits nor misses.

    Args: those of `det.data.voc.voc`.

    Raises:
        UserError: if a file is wrong; names the file and the shape, before training.
        ValueError: if an option is unknown.
    """
    options = VocOptions(
        classes=classes,
        others=others,
        missing=missing,
        sizes=sizes,
        allow_same_names=allow_same_names,
        allow_same_files=allow_same_files,
        orientation=orientation,
        on_error=on_error,
    )
    return read_files(LABELME, options, root=root, images=images, annotations=annotations, splits=splits)
