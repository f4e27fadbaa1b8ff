"""ms per image of the mIoU: this project's evaluator against cityscapesScripts, with and without instances.

Usage: python benchmarks/metric.py [--size 1024 2048] [--images 6] [--rounds 5]

cityscapesScripts evaluates files, so its figure holds the reading of two (with instances three) PNG files.
Ours is given twice: the update alone, which is what an evaluation adds to each prediction, and with the same
files read first. The scores of both are compared to the last digit that floating point leaves, or this fails.
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

import argparse
import math
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import measuring
import numpy as np
from pictures import drawn, paths

from engine.data.images import read_labels, write_png
from seg.data.cityscapes import CITYSCAPES_CLASSES
from seg.eval.evaluator import SegmentationEvaluator

IDS = np.array(CITYSCAPES_CLASSES.ids, np.uint8)
REFERENCE = "cityscapesScripts, files"


def official() -> Any:
    """The evaluation of cityscapesScripts, which calls a function that numpy 2.4 no longer has."""
    if not hasattr(np, "in1d"):
        np.in1d = lambda values, among, invert=False: np.isin(np.ravel(values), among, invert=invert)
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as script

    script.args.quiet, script.args.JSONOutput = True, False
    return script


class Images:
    """Truth and predictions, as files and in memory. A prediction is the truth, damaged in stripes."""

    def __init__(self, data: Any, folder: Path) -> None:
        split = data.splits["train"]
        assert split.labels is not None
        assert split.instances is not None
        self.truth, self.instances = paths(split.labels), paths(split.instances)
        self.predicted = [str(folder / f"{number:04d}.png") for number in range(len(self.truth))]
        self.read_label = data._read_label
        self.lut = CITYSCAPES_CLASSES.lut()
        for number, path in enumerate(self.predicted):
            label = self.read_label(self.truth[number])
            label[label >= len(IDS)] = 0
            label[number::7] = np.roll(label[number::7], 40, axis=1)
            write_png(path, IDS[label])
        self.in_memory = {
            with_instances: [self.read(number, with_instances) for number in range(len(self.truth))]
            for with_instances in (False, True)
        }

    def read(self, number: int, instances: bool) -> tuple[Any, dict[str, Any]]:
        """Read image `number`: its prediction, and the batch that it belongs to."""
        prediction = cv2.LUT(read_labels(self.predicted[number]), self.lut[:256])
        batch = {"label": self.read_label(self.truth[number])[None], "index": np.array([number])}
        if instances:
            batch["instances"] = read_labels(self.instances[number]).astype(np.int32)[None]
        return prediction[None], batch


def ours(images: Images, *, instances: bool, files: bool) -> dict[str, Any]:
    """Evaluate all images; with `files`, each is read first."""
    evaluator = SegmentationEvaluator(classes=CITYSCAPES_CLASSES)
    for number in range(len(images.truth)):
        evaluator.update(*(images.read(number, instances) if files else images.in_memory[instances][number]))
    return evaluator.compute()


def theirs(images: Images, *, instances: bool) -> dict[str, Any]:
    script = official()
    script.args.evalInstLevelScore = instances
    return script.evaluateImgLists(images.predicted, images.truth, script.args)


def check(images: Images, instances: bool) -> None:
    """Both must give the same scores."""
    found, expected = ours(images, instances=instances, files=True), theirs(images, instances=instances)
    pairs = [("miou", "averageScoreClasses"), ("miou_category", "averageScoreCategories")]
    if instances:
        pairs += [("iiou", "averageScoreInstClasses"), ("iiou_category", "averageScoreInstCategories")]
    for mine, other in pairs:
        if not math.isclose(found[mine], expected[other], rel_tol=1e-9):
            raise SystemExit(f"{mine} is {found[mine]}, cityscapesScripts says {expected[other]}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048))
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    rows = []
    with drawn(options.images, tuple(options.size)) as data, TemporaryDirectory() as folder:
        images = Images(data, Path(folder))
        for instances in (False, True):
            check(images, instances)
            jobs = {
                REFERENCE: partial(theirs, images, instances=instances),
                "ours, files": partial(ours, images, instances=instances, files=True),
                "ours, update": partial(ours, images, instances=instances, files=False),
            }
            turns = {name: measuring.clocked(job) for name, job in jobs.items()}
            seconds = measuring.take_turns(turns, rounds=options.rounds)
            for name, times in seconds.items():
                cost = measuring.spread([1000 * time / options.images for time in times])
                ratios = measuring.spread(measuring.ratio(seconds[REFERENCE], times))
                rows.append([name, "yes" if instances else "no", cost, ratios])
    print(measuring.heading(__file__))
    print(measuring.table(["evaluation", "instance scores", "ms per image", "times as fast"], rows))


if __name__ == "__main__":
    main()
