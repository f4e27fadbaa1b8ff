"""Memory does not grow over steps, over evaluated images, or in forked workers (measured on Linux)."""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from engine.io.files import pack_paths
from seg.data.cityscapes import CITYSCAPES_CLASSES, label_reader
from seg.data.dataset import SegmentationDataset, SegmentationSplit
from seg.eval.evaluator import SegmentationEvaluator
from seg.transforms import EvalTransform
from tests.engine.toy import make_trainer

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/smaps_rollup")

LIMIT_MB = 4.0  # per 1000 steps or images
ENTRIES = 60_000


def memory_mb(kind: str = "Rss") -> float:
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:")) / 1024


def growth_of_training(folder: Path, leak_bytes: int = 0) -> float:
    """MB added in the second half of 2000 steps; every step leaks `leak_bytes`."""
    trainer = make_trainer(folder, steps=2000, eval_every=500, save_every=500, log_every=10)
    schedule, kept, readings = trainer.schedule, [], {}

    def watched(step: int) -> float:
        kept.append(np.ones(leak_bytes, np.uint8))
        if step in (1000, 1999):
            readings[step] = memory_mb()
        return schedule(step)

    trainer.schedule = watched
    trainer.fit()
    return readings[1999] - readings[1000]


@pytest.mark.weekly
def test_memory_does_not_grow_in_training(tmp_path):
    # New processes: in this one what grows may fit into what earlier tests have left.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as new:
        assert new.submit(growth_of_training, tmp_path / "plain").result() < LIMIT_MB
        # The measurement notices a leak of 10 kB per step.
        leak = new.submit(growth_of_training, tmp_path / "leaking", leak_bytes=10_000)
        assert leak.result() > 2 * LIMIT_MB


def test_memory_does_not_grow_in_evaluation():
    evaluator = SegmentationEvaluator(classes=CITYSCAPES_CLASSES)
    random = np.random.default_rng(0)
    label = random.integers(0, 19, (1, 64, 64)).astype(np.uint8)
    instances = np.array(CITYSCAPES_CLASSES.ids, np.int32)[label] * 1000 + 1
    before = 0.0
    for number in range(2000):
        if number == 1000:
            before = memory_mb()
        evaluator.update(label, {"label": label, "instances": instances, "index": np.array([number])})
    assert memory_mb() - before < LIMIT_MB
    assert evaluator.compute()["num_images"] == 2000


def entries() -> list[str]:
    return [
        f"/data/leftImg8bit/train/city/city_{number:06d}_000019_leftImg8bit.png" for number in range(ENTRIES)
    ]


def packed(paths: list[str]) -> SegmentationDataset:
    split = SegmentationSplit(images=pack_paths(paths), names=pack_paths(paths), labels=pack_paths(paths))
    return SegmentationDataset(
        split=split, read_label=label_reader("labelIds"), transform=EvalTransform(), seed=0
    )


def own_mb_of_a_worker(access) -> float:
    """MB of private memory of a forked process after two epochs of `access` in random order."""

    def work(answer):
        order = np.random.default_rng(0).permutation(ENTRIES)
        before = memory_mb("Private_Dirty")
        for _ in range(2):
            for index in order:
                access(int(index))
        answer.send(memory_mb("Private_Dirty") - before)

    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs,))
    process.start()
    assert mine.poll(60)
    process.join(10)
    return mine.recv()


def test_workers_share_the_memory_of_the_file_list():
    dataset = packed(entries())
    assert own_mb_of_a_worker(lambda index: (dataset.image_path(index), dataset.name(index))) < 5
    # What is avoided: Python strings carry reference counts, which each access writes.
    paths = entries()
    assert own_mb_of_a_worker(lambda index: len(paths[index])) > 5
