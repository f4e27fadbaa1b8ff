"""The files of a scene, named and encoded as in Cityscapes.

<root>/leftImg8bit/<split>/<city>/<city>_<seq>_<frame>_leftImg8bit.png
<root>/gtFine/<split>/<city>/<city>_<seq>_<frame>_gtFine_{labelIds.png,instanceIds.png,polygons.json}
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2

from streets.scene import Scene

CITIES = {
    "train": ("ahornau", "birkenfelde", "eschental", "lindenrode"),
    "val": ("ulmenbach", "weidenstadt"),
    "test": ("tannwalde",),
}
_FRAME = "000019"
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1]


def image_stem(split: str, index: int) -> str:
    """`<city>/<city>_<seq>_<frame>`; the scenes of a split are dealt out to its cities in turn."""
    cities = CITIES[split]
    city = cities[index % len(cities)]
    return f"{city}/{city}_{index // len(cities):06d}_{_FRAME}"


def make_folders(root: Path, splits: Iterable[str]) -> None:
    for split in splits:
        for city in CITIES[split]:
            for kind in ("leftImg8bit", "gtFine"):
                (root / kind / split / city).mkdir(parents=True)


def write_scene_files(root: Path, split: str, index: int, scene: Scene) -> None:
    """Write the image, label ids, instance ids and polygons of a scene.

    Raises:
        OSError: if a file cannot be written.
    """
    image = root / "leftImg8bit" / split / f"{image_stem(split, index)}_leftImg8bit.png"
    truth = root / "gtFine" / split / f"{image_stem(split, index)}_gtFine"
    _write_png(image, cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR))
    _write_png(Path(f"{truth}_labelIds.png"), scene.label_ids)
    _write_png(Path(f"{truth}_instanceIds.png"), scene.instance_ids)
    Path(f"{truth}_polygons.json").write_text(json.dumps(_polygons(scene)), encoding="utf-8")


def _write_png(path: Path, pixels: Any) -> None:
    if not cv2.imwrite(str(path), pixels, _PNG):
        raise OSError(f"cannot write {path}: is the disk full?")


def _polygons(scene: Scene) -> dict[str, Any]:
    height, width = scene.label_ids.shape
    objects = [{"label": outline.label, "polygon": outline.polygon.tolist()} for outline in scene.polygons]
    return {"imgHeight": height, "imgWidth": width, "objects": objects}
