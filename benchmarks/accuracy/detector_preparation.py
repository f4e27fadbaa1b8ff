"""Average precision of a detector whose images are prepared in other ways than it was trained with.

Usage: python benchmarks/accuracy/detector_preparation.py <run folder> <image folder> <instances .json>

Prints COCO's AP with OpenCV's bilinear resizing (as in training), with Pillow's, which antialiases, with the
image padded to a square first (letterboxing), and with blue and red exchanged.
"""

import argparse
import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.support.report import heading, table
from engine.config.runs import TrainedRun
from engine.contracts import Image as Pixels
from engine.data.images import read_image
from engine.io.progress import Progress

_GRAY = 128


def antialiased(image: Pixels, size: tuple[int, int]) -> Pixels:
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))


def letterboxed(image: Pixels) -> Pixels:
    """A square with the image at its top left, where boxes keep their coordinates."""
    height, width = image.shape[:2]
    side = max(height, width)
    return np.pad(
        image, ((0, side - height), (0, side - width), (0, 0)), mode="constant", constant_values=_GRAY
    )


def predictors(task: Any) -> dict[str, Callable[[Pixels], Any]]:
    """Ways to prepare an image -> functions that predict on it."""
    trained = task.eval_transform

    def with_transform(transform: Callable[[Pixels], Pixels]) -> Callable[[Pixels], Any]:
        def predict(image: Pixels) -> Any:
            task.eval_transform = transform
            return task.predict_image(image)

        return predict

    return {
        "as in training": with_transform(trained),
        "antialiased": with_transform(lambda image: antialiased(image, trained.size)),
        "letterboxed": lambda image: with_transform(trained)(letterboxed(image)),
        "BGR": with_transform(lambda image: trained(image)[..., ::-1]),
    }


def results(predict: Callable[[Pixels], Any], image: Pixels, image_id: int, ids: list[int]) -> list[Any]:
    """COCO's list of detections of one image."""
    boxes, scores, labels = (part.numpy() for part in predict(image))
    height, width = image.shape[:2]
    boxes = boxes.clip(0, [width, height, width, height])  # those of a letterboxed image can lie below it
    corners = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    return [
        {"image_id": image_id, "category_id": ids[label], "bbox": box.tolist(), "score": float(score)}
        for box, score, label in zip(corners, scores, labels, strict=True)
    ]


def average_precision(truth: COCO, detections: list[Any]) -> float:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * float(evaluation.stats[0])


def parse(arguments: list[str] | None, description: str | None) -> argparse.Namespace:
    """The run, the folder of images and the file of annotations that were typed."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("images", type=Path)
    parser.add_argument("annotations", type=Path)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments, __doc__)

    run = TrainedRun.open(options.run)
    task = run.task().eval()
    entries = json.loads(options.annotations.read_text(encoding="utf-8"))["images"]
    preparations = predictors(task)
    detections: dict[str, list[Any]] = {name: [] for name in preparations}
    progress = Progress(len(entries), unit="image")
    for done, entry in enumerate(entries, start=1):
        image = read_image(options.images / entry["file_name"])
        for name, predict in preparations.items():
            detections[name] += results(predict, image, entry["id"], list(task.classes.ids))
        progress.update(done)
    progress.close()
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(options.annotations))
    print(heading(__file__))
    rows = [[name, f"{average_precision(truth, found):.1f}"] for name, found in detections.items()]
    print(table(["preparation", "AP"], rows))


if __name__ == "__main__":
    main()
