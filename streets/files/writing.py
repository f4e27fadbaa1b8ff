"""Writes a dataset of street scenes once: a Cityscapes tree with COCO annotations of the same images.

<root>/leftImg8bit, gtFine                   see `streets.files.cityscapes`
<root>/annotations/instances_<split>.json    see `streets.files.coco`
<root>/streets.json                          the arguments; a folder without it was not written here
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

from streets.files.cityscapes import make_folders, write_scene_files
from streets.files.coco import instances_file, scene_annotations
from streets.scene import draw_scene

# Raise this when the drawing changes: a folder of another version is never reused.
VERSION = 1

SceneJob = tuple[str, str, int, int, tuple[int, int]]
"""(root, split, seed, index, size) of a scene to draw and write."""


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
    """Write the scenes under `root`, unless they are already there; returns `root`.

    Nothing appears under `root` until everything is written, so an interrupted call leaves nothing behind,
    and processes that start at the same time end up with the same folder.

    Args:
        num_workers: processes that draw, with the same result for any number; 0: draw in this process. They
            are spawned, so a script that uses them needs `if __name__ == "__main__":`.
        progress: called with (scenes done, scenes in total) after each scene.

    Raises:
        ValueError: if `root` contains other scenes, or files that were not written here.
        OSError: if a file cannot be written.
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
        # mkdtemp makes private folders; this one gets the permissions of its parent.
        draft.chmod(root.parent.stat().st_mode & 0o777)
        _publish(draft, root, manifest)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return root


def _is_complete(root: Path, manifest: dict[str, Any]) -> bool:
    """Whether `root` contains these scenes; False if it is empty or missing, an error for anything else."""
    path = root / "streets.json"
    remedy = "choose another folder, or delete this one to have it written again"
    if not path.is_file():
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise ValueError(
                f"{root}: not a folder of the built-in street scenes (it has no streets.json); if it "
                "contains your own data, set data= to its format, otherwise choose another folder"
            )
        return False
    try:
        existing = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): {remedy}") from error
    if existing != manifest:
        existing = existing if isinstance(existing, dict) else {}
        keys = [key for key in manifest if existing.get(key) != manifest[key]]
        differences = (
            ", ".join(f"{key} {existing.get(key)!r} instead of {manifest[key]!r}" for key in keys)
            or "unknown keys"
        )
        raise ValueError(f"{root} contains other scenes ({differences}): use the same arguments, {remedy}")
    return True


def _publish(draft: Path, root: Path, manifest: dict[str, Any]) -> None:
    """Move the finished draft to `root`, unless another process was faster."""
    with suppress(OSError):
        root.rmdir()  # an empty folder, which some systems do not replace in a rename
    try:
        os.replace(draft, root)
    except OSError:
        if not _is_complete(root, manifest):
            raise


def _write_tree(
    root: Path, manifest: dict[str, Any], num_workers: int, progress: Callable[[int, int], None] | None
) -> None:
    size = (manifest["size"][0], manifest["size"][1])
    jobs: list[SceneJob] = [
        (str(root), split, manifest["seed"], index, size)
        for split, count in manifest["counts"].items()
        for index in range(count)
    ]
    make_folders(root, manifest["counts"])
    annotations: dict[str, list[list[dict[str, Any]]]] = {split: [] for split in manifest["counts"]}
    # Closed at once if interrupted, so that no worker keeps writing into a folder that is being removed.
    with closing(_results(jobs, num_workers)) as results:
        for done, (job, things) in enumerate(zip(jobs, results, strict=True), start=1):
            annotations[job[1]].append(things)
            if progress:
                progress(done, len(jobs))
    (root / "annotations").mkdir()
    for split, scenes in annotations.items():
        content = instances_file(split, scenes, size, version=VERSION)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")
    (root / "streets.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _results(jobs: list[SceneJob], num_workers: int) -> Generator[list[dict[str, Any]], None, None]:
    if num_workers <= 0:
        yield from map(_write_scene, jobs)
        return
    # spawn: the caller may have threads (torch), which do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, mp_context=context)
    try:
        yield from pool.map(_write_scene, jobs, chunksize=4)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _write_scene(job: SceneJob) -> list[dict[str, Any]]:
    """Draw and write one scene; returns its annotations."""
    root, split, seed, index, size = job
    scene = draw_scene(seed, index, size, split=split)
    write_scene_files(Path(root), split, index, scene)
    return scene_annotations(scene)
