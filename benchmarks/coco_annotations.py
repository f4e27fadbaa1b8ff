"""The cost of reading COCO's training annotations: time, memory, and memory per worker (Linux only).

Usage: python benchmarks/coco_annotations.py [--images N] [--boxes N] [--points N] [--workers N]

Reads a generated JSON file as large as instances_train2017.json (448 MB); its images are links to one file.
Each worker then goes through all annotations twice; its private memory should not grow from one epoch to the
next.
"""

import argparse
import json
import multiprocessing
import random
import resource
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from benchmarks.support.processes import private_mb
from det.data.coco import coco
from det.data.dataset import DetectionDataset
from det.transforms import EvalTransform
from engine.data.images import write_png

HEIGHT, WIDTH = 480, 640


def write_coco(folder: Path, *, images: int, boxes: int, points: int) -> Path:
    """Write the JSON file, with outlines of `points` points; a tenth of the images have no boxes."""
    rng = random.Random(0)
    write_png(folder / "image.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    (folder / "train").mkdir()
    names = [f"{number:012d}.png" for number in range(images)]
    for name in names:
        (folder / "train" / name).symlink_to("../image.png")
    outlines = [
        json.dumps([[round(rng.uniform(0, HEIGHT), 2) for _ in range(2 * points)]]) for _ in range(100)
    ]
    path = folder / "instances.json"
    with path.open("w") as file:
        entries = (
            f'{{"id": {id_}, "file_name": "{name}", "height": {HEIGHT}, "width": {WIDTH}, "license": 1}}'
            for id_, name in enumerate(names)
        )
        file.write('{"info": {}, "images": [' + ", ".join(entries))
        categories = [{"id": id_, "name": f"class {id_}"} for id_ in range(1, 81)]
        file.write('], "categories": ' + json.dumps(categories) + ', "annotations": [')
        for number in range(boxes):
            x, y, w, h = (round(rng.uniform(0, side / 2), 2) + 1 for side in (WIDTH, HEIGHT) * 2)
            file.write(
                f'{", " if number else ""}{{"segmentation": {rng.choice(outlines)}, "area": {w * h / 2:.4f}, '
                f'"iscrowd": 0, "image_id": {rng.randrange(images * 9 // 10)}, "bbox": [{x}, {y}, {w}, {h}], '
                f'"category_id": {rng.randint(1, 80)}, "id": {number}}}'
            )
        file.write("]}")
    return path


def read_twice(dataset: DetectionDataset, result: Connection) -> None:
    """A worker: two epochs over the annotations. Sends its private MB at the start and after each."""
    measured = [private_mb()]
    for _ in range(2):
        for index in range(len(dataset)):
            dataset.split.objects(index)
            dataset.image_path(index)
        measured.append(private_mb())
    result.send(measured)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=118_287)
    parser.add_argument("--boxes", type=int, default=860_001)
    parser.add_argument("--points", type=int, default=20, help="of an outline; sets the size of the file")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = write_coco(folder, images=arguments.images, boxes=arguments.boxes, points=arguments.points)
        before = private_mb()
        started, busy = time.perf_counter(), time.process_time()
        source = coco(train={"images": str(folder / "train"), "annotations": str(path)})
        seconds, busy = time.perf_counter() - started, time.process_time() - busy
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        after = private_mb()
        arrays = source.splits["train"].num_bytes / 2**20
        print(f"{source.description}; a file of {path.stat().st_size / 2**20:.0f} MB")
        print(f"read in {seconds:.1f} s, {busy:.1f} s of it CPU time")
        print(f"memory: {before:.0f} MB before, {peak:.0f} at the peak, {after:.0f} after")
        print(f"arrays of {arrays:.0f} MB")
        dataset = source.dataset("train", EvalTransform(size=320))
        context = multiprocessing.get_context("fork")
        for number in range(arguments.workers):
            receive, send = context.Pipe(duplex=False)
            worker = context.Process(target=read_twice, args=(dataset, send))
            worker.start()
            start, first, second = receive.recv()
            worker.join()
            print(
                f"worker {number}: private {start:.1f} MB at the start, {first:.1f} after one epoch, "
                f"{second:.1f} after two"
            )


if __name__ == "__main__":
    main()
