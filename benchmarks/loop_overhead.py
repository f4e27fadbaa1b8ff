"""Microseconds per step that the training loop adds to a bare torch loop.

Usage: python benchmarks/loop_overhead.py [--steps 200] [--rounds 9] [--cpu] [--profile]

Network, optimizer, batch (in memory) and loss are the same on both sides. The bare loop is forward, loss,
backward, step, zero_grad and reading the loss. Ours is `Trainer.fit`, with its log on disk; it also moves the
batch, seeds the step, sets the learning rate, checks that losses and gradients are finite, and reports. Four
networks: two convolutions on one image of 16x16, where the loop is most of the work; four convolutions on
images of CIFAR's size, eight at a time; and the default network at two crop sizes. `--cpu` counts CPU time of
all threads instead of wall time, for a machine that runs other jobs at the same time. `--profile` prints
the functions where the steps of the smallest network spend their time.
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

import argparse
import contextlib
import cProfile
import io
import pstats
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from backbones.mobilenet_v3 import mobilenet_v3_small
from benchmarks.support.report import heading, table
from benchmarks.support.rounds import spread, take_turns
from benchmarks.support.tiny_task import CLASSES, Batch, PixelTask, UnreadSplit, random_batch, tiny_network
from engine import runtime
from engine.data.loader import DataLoaders
from engine.run.run_folder import RunFolder
from engine.train import optimization
from engine.train.trainer import Trainer, TrainerOptions
from seg.heads import LRASPP
from seg.model import Segmenter


@dataclass(frozen=True, kw_only=True)
class RepeatedBatch(DataLoaders):
    """The same batch at every step. Records when the first was requested, and the one after `steps`.

    The others are not recorded: reading the CPU clock is a system call of up to 0.1 ms, which the bare loop
    does not make.
    """

    batch: Batch
    steps: int
    clock: Callable[[], float]
    requested: list[float] = field(default_factory=list)

    def train_batches(self, *_: Any, **__: Any) -> Iterator[Batch]:
        for step in count():
            if step in (0, self.steps):
                self.requested.append(self.clock())
            yield self.batch

    def eval_batches(self, **_: Any) -> Iterator[Batch]:
        return iter(())


def four_convolutions() -> nn.Module:
    layers: list[nn.Module] = []
    for channels_in, out in ((3, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(channels_in, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(64, CLASSES, 1))


def default_network() -> nn.Module:
    head = partial(LRASPP, pool="large_kernel", align_corners=False)
    return Segmenter(backbone=mobilenet_v3_small(output_stride=16), head=head, num_classes=CLASSES)


def bare(
    task: PixelTask, optimizer: torch.optim.Optimizer, batch: Batch, steps: int, clock: Callable[[], float]
) -> float:
    """Seconds per step of the plain loop."""
    task.train()
    started = clock()
    for _ in range(steps):
        loss = task(batch)["cross_entropy"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
    return (clock() - started) / steps


def ours(
    task: PixelTask, optimizer: torch.optim.Optimizer, batch: Batch, steps: int, clock: Callable[[], float]
) -> float:
    """Seconds per step of `Trainer.fit`, from its first batch to the batch after `steps`."""
    data = RepeatedBatch(train_set=[None] * 64, eval_set=UnreadSplit(), batch=batch, steps=steps, clock=clock)  # type: ignore[arg-type]
    training = TrainerOptions(steps=steps + 1, eval_every=steps + 1, save_every=steps + 1).in_steps(64)
    with TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        Trainer(
            options=training,
            task=task,
            optimizer=optimizer,
            schedule=optimization.poly(steps=steps + 1),
            runtime=runtime.start(device="cpu"),
            run=RunFolder(Path(folder)),
            data=data,
        ).fit()
    first, last = data.requested
    return (last - first) / steps


def sides(
    make: Callable[[], nn.Module], size: tuple[int, int], images: int, steps: int, clock: Callable[[], float]
) -> dict[str, Any]:
    """The two loops, each with its own network and optimizer."""
    jobs = {}
    for name, loop in (("bare", bare), ("ours", ours)):
        torch.manual_seed(0)
        model = make().to(memory_format=torch.channels_last)
        optimizer = optimization.adamw(model, lr=1e-4)
        jobs[name] = partial(
            loop, PixelTask(model), optimizer, random_batch(model, size, images), steps, clock
        )
    return jobs


def profile(job: Callable[[], float]) -> str:
    profiler = cProfile.Profile()
    job()
    profiler.runcall(job)
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).strip_dirs().sort_stats("tottime").print_stats(25)
    return text.getvalue()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200, help="per round; a tenth of it for large networks")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cpu", action="store_true", help="CPU time instead of wall time")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args(arguments)
    runtime.start(device="cpu")  # both loops use its settings
    clock = time.process_time if options.cpu else time.perf_counter
    fewer = max(1, options.steps // 10)
    cases = {
        "two convolutions, 1 x 16x16": (tiny_network, (16, 16), 1, options.steps),
        "four convolutions, 8 x 32x32": (four_convolutions, (32, 32), 8, fewer),
        "default network, 1 x 64x64": (default_network, (64, 64), 1, fewer),
        "default network, 8 x 128x256": (default_network, (128, 256), 8, fewer),
    }
    if options.profile:
        print(profile(sides(*cases["two convolutions, 1 x 16x16"], clock)["ours"]))
        return
    rows = []
    for name, case in cases.items():
        seconds = take_turns(sides(*case, clock), rounds=options.rounds)
        extra = [1e6 * (mine - other) for mine, other in zip(seconds["ours"], seconds["bare"], strict=True)]
        microseconds = {side: [1e6 * time for time in times] for side, times in seconds.items()}
        share = statistics.median(extra) / statistics.median(microseconds["bare"])
        shown = [spread(values, 0) for values in (microseconds["bare"], microseconds["ours"], extra)]
        rows.append([name, *shown, f"{100 * share:.1f}%"])
    print(heading(__file__))
    print(
        table(
            [
                "us of CPU time per step" if options.cpu else "us per step",
                "bare loop",
                "ours",
                "added",
                "added share",
            ],
            rows,
        )
    )


if __name__ == "__main__":
    main()
