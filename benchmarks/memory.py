"""Memory over time: loader processes on a large data set, an evaluation, a training. Linux.

Usage: python benchmarks/memory.py [--entries 100000] [--workers 4] [--images 2000] [--steps 2000]

Each row tells where memory stood in the first, second and last third of a job, its start left out, in MB: the
sum over the process and its workers of their proportional shares (PSS), so that pages that forked workers
share count once. What grows goes on growing in the last third.

1. Loader: two epochs over a data set of `entries` files (links to one small picture), in the sampler's order.
2. The same entries as Python lists of paths, for comparison: each access writes a reference count into a page
   that the workers shared until then.
3. Evaluation: `images` label maps through `evaluate` with instance scores.
4. Training: `steps` steps of `Trainer.fit` on a tiny network, the rows of its log included.
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

import argparse
import contextlib
import io
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import measuring
import numpy as np
import overhead
import torch
from torch import nn

from engine import runtime
from engine.data.images import write_png
from engine.data.loader import BatchLoader, DataLoaders, EvaluationSampler, SampleKey, TrainingSampler
from engine.io.files import pack_paths
from engine.run.run_folder import RunFolder
from engine.train import optimizers, schedules
from engine.train.evaluation import evaluate
from engine.train.trainer import Trainer, TrainerOptions
from seg.data.cityscapes import CITYSCAPES_CLASSES, label_reader
from seg.data.dataset import SegmentationDataset, SegmentationSplit
from seg.eval.evaluator import SegmentationEvaluator
from seg.transforms import EvalTransform

BATCH = 50
SIDE = 32


def total_mb() -> float:
    """Of this process and its workers."""
    children = [child.pid for child in multiprocessing.active_children() if child.pid is not None]
    return sum(measuring.pss_mb(pid) for pid in [multiprocessing.current_process().pid, *children])


class Gauge:
    """Reads memory at regular calls out of `total`, the first tenth and the very end left out.

    At the start workers are still loading code, and at the end they have nothing left to do.
    """

    def __init__(self, total: int, readings: int = 21) -> None:
        first, last = max(total // 10, 1), max(total - total // 20, 1)
        self._when = {round(at) for at in np.linspace(first, last, min(readings, last - first + 1))}
        self._calls = 0
        self.readings: list[float] = []

    def __call__(self) -> None:
        self._calls += 1
        if self._calls in self._when:
            self.readings.append(total_mb())

    @property
    def thirds(self) -> tuple[float, ...]:
        """The median of the readings in each third of the time."""
        assert len(self.readings) == len(self._when), f"{len(self.readings)} of {len(self._when)} readings"
        return tuple(float(np.median(part)) for part in np.array_split(self.readings, 3))


def linked(folder: Path, entries: int) -> tuple[list[str], list[str]]:
    """`entries` names for one picture, and for one mask."""
    image, mask = folder / "picture.png", folder / "mask.png"
    write_png(image, np.full((SIDE, SIDE, 3), 99, np.uint8))
    write_png(mask, np.full((SIDE, SIDE), 7, np.uint8))
    images, masks = [], []
    for number in range(entries):
        images.append(str(folder / f"some_city_{number:06d}_000019_leftImg8bit.png"))
        masks.append(str(folder / f"some_city_{number:06d}_000019_gtFine_labelIds.png"))
        Path(images[-1]).symlink_to(image)
        Path(masks[-1]).symlink_to(mask)
    return images, masks


def packed(images: list[str], masks: list[str]) -> SegmentationDataset:
    """The data set as this project keeps it."""
    names = pack_paths([Path(path).stem for path in images])
    split = SegmentationSplit(images=pack_paths(images), names=names, labels=pack_paths(masks))
    read = label_reader("labelIds")
    return SegmentationDataset(split=split, read_label=read, transform=EvalTransform(), seed=0)


class Listed:
    """The same entries as Python objects: a dict of strings each."""

    def __init__(self, images: list[str], masks: list[str]) -> None:
        pairs = zip(images, masks, strict=True)
        self.entries = [{"image": image, "mask": mask, "name": Path(image).stem} for image, mask in pairs]

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, draw: SampleKey) -> dict[str, Any]:
        entry = self.entries[draw.index]
        return {"index": draw.index, "length": sum(len(value) for value in entry.values())}


def over_epochs(dataset: Any, *, workers: int, epochs: int = 2) -> tuple[float, ...]:
    """Memory while a loader reads the data set `epochs` times."""
    stream = TrainingSampler(num_samples=len(dataset), batch=BATCH, seed=0)
    steps = epochs * len(dataset) // BATCH
    gauge = Gauge(steps)
    batches: Any = (stream.step_batches(step)[0] for step in range(steps))
    for _ in BatchLoader(dataset, batches, workers=workers):
        gauge()
    return gauge.thirds


class Echo(nn.Module):
    """Predicts the truth."""

    model: nn.Module = nn.Identity()

    def predict(self, batch: dict[str, Any]) -> torch.Tensor:
        return batch["label"].clamp(max=len(CITYSCAPES_CLASSES) - 1)


class Scenes:
    """Label maps with instances, made up."""

    def __init__(self, images: int, side: int = 128) -> None:
        self.images, self.side = images, side

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, draw: SampleKey) -> dict[str, Any]:
        label = np.random.default_rng(draw.index).integers(0, 19, (self.side, self.side), np.uint8)
        instances = np.array(CITYSCAPES_CLASSES.ids, np.int32)[label] * 1000 + 1
        return {
            "label": torch.from_numpy(label),
            "instances": torch.from_numpy(instances),
            "index": draw.index,
        }


def over_images(images: int) -> tuple[float, ...]:
    """Memory while an evaluation counts `images` label maps."""
    gauge = Gauge(images)
    scenes = Scenes(images)
    evaluate(
        Echo(),
        BatchLoader(scenes, EvaluationSampler(num_samples=images)),
        SegmentationEvaluator(classes=CITYSCAPES_CLASSES),
        runtime.Runtime(torch.device("cpu")),
        on_batch=lambda *_: gauge(),
    )
    return gauge.thirds


def over_steps(steps: int, *, tensorboard: bool = True) -> tuple[float, ...]:
    """Memory while a tiny network trains, from step to step."""
    gauge = Gauge(steps)

    class Gauged(DataLoaders):
        def train_batches(self, *_: Any, **__: Any) -> Iterator[overhead.Batch]:
            while True:
                yield batch
                gauge()

        def eval_batches(self, **_: Any) -> Iterator[overhead.Batch]:
            return iter(())

    model = overhead.tiny()
    batch = overhead.batch_for(model, (16, 16), 1)
    every = max(1, steps // 4)
    plan = TrainerOptions(
        steps=steps + 1, eval_every=every, save_every=every, ema=0.9, tensorboard=tensorboard
    )
    with TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        Trainer(
            options=plan.in_steps(64),
            task=overhead.PixelTask(model),
            optimizer=optimizers.adamw(model, lr=1e-4),
            schedule=schedules.poly(steps=steps + 1),
            runtime=runtime.Runtime(torch.device("cpu")),
            run=RunFolder(Path(folder)),
            data=Gauged(train_set=[None] * 64, eval_set=overhead.NoImages()),  # type: ignore[arg-type]
        ).fit()
    return gauge.thirds


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--steps", type=int, default=2_000)
    options = parser.parse_args(arguments)
    with TemporaryDirectory() as folder:
        files = linked(Path(folder), options.entries)
        what = f"{options.entries} entries, {options.workers} workers, 2 epochs"
        found = {
            f"loader, {what}": over_epochs(packed(*files), workers=options.workers),
            f"lists of paths, {what}": over_epochs(Listed(*files), workers=options.workers),
        }
    found[f"evaluation, {options.images} images"] = over_images(options.images)
    found[f"training, {options.steps} steps"] = over_steps(options.steps)
    rows = [
        [name, *(f"{third:.1f}" for third in thirds), f"{thirds[2] - thirds[1]:+.1f}"]
        for name, thirds in found.items()
    ]
    print(measuring.heading(__file__))
    print(measuring.table(["MB", "first third", "second", "last", "growth"], rows))


if __name__ == "__main__":
    main()
