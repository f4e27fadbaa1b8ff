"""ms per image of the mIoU: this project's evaluator against cityscapesScripts, with and without instances.

Usage: python benchmarks/miou_evaluation.py [--size 1024 2048] [--images 6] [--rounds 5]

cityscapesScripts evaluates files, so its time includes reading two (with instances three) PNG files. Ours has
two rows: the update alone, which is what an evaluation adds to each prediction, and the update after reading
the same files. Both must give the same scores, up to rounding, or the benchmark fails.
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

import argparse
import math
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np

from benchmarks.support.images import as_strings, drawn_images
from benchmarks.support.report import heading, table
from benchmarks.support.rounds import clocked, ratio, spread, take_turns
from engine.data.images import read_labels, write_png
from seg.data.cityscapes import CITYSCAPES_CLASSES
from seg.eval.evaluator import SegmentationEvaluator
from seg.transforms import EvalTransform

IDS = np.array(CITYSCAPES_CLASSES.ids, np.uint8)
REFERENCE = "cityscapesScripts, files"


def official() -> Any:
    """The evaluation of cityscapesScripts, with a function that numpy 2.4 no longer has."""
    if not hasattr(np, "in1d"):
        vars(np)["in1d"] = lambda values, among, invert=False: np.isin(np.ravel(values), among, invert=invert)
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as script

    script.args.quiet, script.args.JSONOutput = True, False
    return script


class LabelMaps:
    """Labels and predictions, as files and in memory. A prediction is a label map, damaged in stripes."""

    def __init__(self, source: Any, folder: Path) -> None:
        split = source.splits["train"]
        assert split.labels is not None
        assert split.instances is not None
        self.truth, self.instances = as_strings(split.labels), as_strings(split.instances)
        self.predicted = [str(folder / f"{number:04d}.png") for number in range(len(self.truth))]
        self.read_label = source.dataset("train", EvalTransform()).masks().read
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
        """Read prediction `number`, and the batch that it belongs to."""
        prediction = cv2.LUT(read_labels(self.predicted[number]), self.lut[:256])
        batch = {"label": self.read_label(self.truth[number])[None], "index": np.array([number])}
        if instances:
            batch["instances"] = read_labels(self.instances[number]).astype(np.int32)[None]
        return prediction[None], batch


def ours(maps: LabelMaps, *, instances: bool, files: bool) -> dict[str, Any]:
    """Evaluate all images; with `files`, each is read first."""
    evaluator = SegmentationEvaluator(classes=CITYSCAPES_CLASSES)
    for number in range(len(maps.truth)):
        evaluator.update(*(maps.read(number, instances) if files else maps.in_memory[instances][number]))
    return evaluator.compute()


def theirs(maps: LabelMaps, *, instances: bool) -> dict[str, Any]:
    script = official()
    script.args.evalInstLevelScore = instances
    scores: dict[str, Any] = script.evaluateImgLists(maps.predicted, maps.truth, script.args)
    return scores


def check(maps: LabelMaps, instances: bool) -> None:
    """Both must give the same scores."""
    scores, expected = ours(maps, instances=instances, files=True), theirs(maps, instances=instances)
    pairs = [("miou", "averageScoreClasses"), ("miou_category", "averageScoreCategories")]
    if instances:
        pairs += [("iiou", "averageScoreInstClasses"), ("iiou_category", "averageScoreInstCategories")]
    for mine, other in pairs:
        if not math.isclose(scores[mine], expected[other], rel_tol=1e-9):
            raise SystemExit(f"{mine} is {scores[mine]}, but {expected[other]} in cityscapesScripts")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048))
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    rows = []
    with drawn_images(options.images, tuple(options.size)) as source, TemporaryDirectory() as folder:
        maps = LabelMaps(source, Path(folder))
        for instances in (False, True):
            check(maps, instances)
            jobs = {
                REFERENCE: partial(theirs, maps, instances=instances),
                "ours, files": partial(ours, maps, instances=instances, files=True),
                "ours, update": partial(ours, maps, instances=instances, files=False),
            }
            turns = {name: clocked(job) for name, job in jobs.items()}
            seconds = take_turns(turns, rounds=options.rounds)
            for name, times in seconds.items():
                cost = spread([1000 * time / options.images for time in times])
                ratios = spread(ratio(seconds[REFERENCE], times))
                rows.append([name, "yes" if instances else "no", cost, ratios])
    print(heading(__file__))
    print(table(["evaluation", "instance scores", "ms per image", "times as fast"], rows))


if __name__ == "__main__":
    main()
