"""Scenes to files, once: a Cityscapes tree and COCO annotations of the same pictures.

<root>/leftImg8bit/<split>/<city>/<city>_<seq>_<frame>_leftImg8bit.png
<root>/gtFine/<split>/<city>/<city>_<seq>_<frame>_gtFine_{labelIds.png,instanceIds.png,polygons.json}
<root>/annotations/instances_<split>.json
<root>/streets.json                          what the tree was made from; a tree without it is not ours
"""

import json
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import cv2
from cityscapesscripts.helpers.labels import name2label

from streets.annotate import annotations
from streets.canvas import THINGS
from streets.scene import Scene, scene

# Raise it when the drawing changes: a tree of another version is not taken for this one's.
VERSION = 1
CITIES = {
    "train": ("ahornau", "birkenfelde", "eschental", "lindenrode"),
    "val": ("ulmenbach", "weidenstadt"),
    "test": ("tannwalde",),
}
_FRAME = "000019"
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1]

Job = tuple[str, str, int, int, tuple[int, int]]


def write_streets(
    root: str | Path,
    *,
    num_train: int = 400,
    num_val: int = 100,
    num_test: int = 50,
    size: tuple[int, int] = (128, 256),
    seed: int = 0,
    num_workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the scenes under `root` unless they are there already; returns `root`.

    Nothing appears under `root` before everything is written, so an interrupted call leaves no half tree, and
    several processes that start at once all end up with the same one. `progress(done, total)` is called after
    each scene. `num_workers` > 0 draws in that many spawned processes, with the same result; a script that
    asks for them needs its `if __name__ == "__main__":`.

    Raises ValueError where `root` holds something else: other scenes, or files that are not ours.
    """
    counts = {"train": num_train, "val": num_val, "test": num_test}
    for split, count in counts.items():
        if count < 0:
            raise ValueError(f"num_{split} must not be negative, got {count}")
    manifest = {"version": VERSION, "seed": seed, "size": list(size), "counts": counts}
    root = Path(root).absolute()
    if _is_complete(root, manifest):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
    try:
        _write_tree(draft, manifest, num_workers, progress)
        # mkdtemp makes a folder for its owner's eyes only; this one is to be shared like any other
        draft.chmod(root.parent.stat().st_mode & 0o777)
        _publish(draft, root, manifest)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return root


def _is_complete(root: Path, manifest: dict[str, Any]) -> bool:
    """True: these very scenes are there. False: nothing is."""
    path = root / "streets.json"
    remedy = "choose another folder, or delete this one to have it written anew"
    if not path.is_file():
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise ValueError(f"{root} exists and has no streets.json, so it is not ours to fill: {remedy}")
        return False
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): {remedy}") from error
    if found != manifest:
        found = found if isinstance(found, dict) else {}
        keys = [key for key in manifest if found.get(key) != manifest[key]]
        other = (
            ", ".join(f"{key} {found.get(key)!r} instead of {manifest[key]!r}" for key in keys)
            or "unknown keys"
        )
        raise ValueError(f"{root} holds other scenes ({other}): ask for those, {remedy}")
    return True


def _publish(draft: Path, root: Path, manifest: dict[str, Any]) -> None:
    """Move the finished draft into place, or leave it to whoever was faster."""
    with suppress(OSError):
        root.rmdir()  # an empty folder, which not every system lets a rename replace
    try:
        os.replace(draft, root)
    except OSError:
        if not _is_complete(root, manifest):
            raise


def _write_tree(
    root: Path, manifest: dict[str, Any], num_workers: int, progress: Callable[[int, int], None] | None
) -> None:
    size = (manifest["size"][0], manifest["size"][1])
    jobs: list[Job] = [
        (str(root), split, manifest["seed"], index, size)
        for split, count in manifest["counts"].items()
        for index in range(count)
    ]
    for split in manifest["counts"]:
        for city in CITIES[split]:
            for kind in ("leftImg8bit", "gtFine"):
                (root / kind / split / city).mkdir(parents=True)
    found: dict[str, list[list[dict[str, Any]]]] = {split: [] for split in manifest["counts"]}
    # closed at once when interrupted, so that no worker goes on writing into a folder that is being removed
    with closing(_run(jobs, num_workers)) as results:
        for done, (job, things) in enumerate(zip(jobs, results, strict=True), start=1):
            found[job[1]].append(things)
            if progress:
                progress(done, len(jobs))
    (root / "annotations").mkdir()
    for split, scenes in found.items():
        coco = _coco(split, scenes, size)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(coco), encoding="utf-8")
    (root / "streets.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _run(jobs: list[Job], num_workers: int) -> Generator[list[dict[str, Any]], None, None]:
    if num_workers <= 0:
        yield from map(_write_scene, jobs)
        return
    # spawn: the caller may have threads (torch), which do not survive a fork
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, mp_context=context)
    try:
        yield from pool.map(_write_scene, jobs, chunksize=4)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def stem(split: str, index: int) -> str:
    """`<city>/<city>_<seq>_<frame>`; a split's scenes go round its cities."""
    cities = CITIES[split]
    city = cities[index % len(cities)]
    return f"{city}/{city}_{index // len(cities):06d}_{_FRAME}"


def _write_scene(job: Job) -> list[dict[str, Any]]:
    """Draw and write one scene; returns its annotations."""
    root, split, seed, index, size = job
    drawn = scene(seed, index, size, split=split)
    image = Path(root, "leftImg8bit", split, f"{stem(split, index)}_leftImg8bit.png")
    truth = Path(root, "gtFine", split, f"{stem(split, index)}_gtFine")
    _write_png(image, cv2.cvtColor(drawn.image, cv2.COLOR_RGB2BGR))
    _write_png(Path(f"{truth}_labelIds.png"), drawn.label_ids)
    _write_png(Path(f"{truth}_instanceIds.png"), drawn.instance_ids)
    Path(f"{truth}_polygons.json").write_text(json.dumps(_polygons(drawn)), encoding="utf-8")
    return annotations(drawn)


def _write_png(path: Path, pixels: Any) -> None:
    if not cv2.imwrite(str(path), pixels, _PNG):
        raise OSError(f"could not write {path}: is the disk full?")


def _polygons(drawn: Scene) -> dict[str, Any]:
    height, width = drawn.label_ids.shape
    objects = [{"label": outline.label, "polygon": outline.polygon.tolist()} for outline in drawn.polygons]
    return {"imgHeight": height, "imgWidth": width, "objects": objects}


def _coco(split: str, scenes: list[list[dict[str, Any]]], size: tuple[int, int]) -> dict[str, Any]:
    """One split in the format of COCO's instances_*.json; category ids are Cityscapes label ids."""
    images = [
        {"id": i + 1, "file_name": f"{stem(split, i)}_leftImg8bit.png", "height": size[0], "width": size[1]}
        for i in range(len(scenes))
    ]
    flat = [{**thing, "image_id": i + 1} for i, things in enumerate(scenes) for thing in things]
    labels = sorted((name2label[name] for name in THINGS), key=lambda label: label.id)
    return {
        "info": {"description": f"procedural street scenes, version {VERSION}"},
        "licenses": [],
        "images": images,
        "annotations": [{"id": i + 1, **thing} for i, thing in enumerate(flat)],
        "categories": [
            {"id": label.id, "name": label.name, "supercategory": label.category} for label in labels
        ],
    }
