"""Segmentation training as `python tools/train.py` does it, clocked: one side of `training_speed.py`.

Its argument is JSON: `overrides`, as on the tool's command line, and `steps`. It trains once per line on its
standard input, each time from the start of the loader to the end of the last step.
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

import contextlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine import runtime
from engine.config.compose import compose_config
from engine.config.instantiate import build
from engine.config.training import build_source, build_task
from engine.data.loader import BatchLoader, DataLoaders, SampleKey, TrainingSampler
from engine.run.run_folder import RunFolder
from engine.train.trainer import Trainer

PARTS = ("wait", "forward", "backward", "optimizer", "decode", "augment")


class ClockedDataset:
    """The training split; a sample includes what it cost, in CPU seconds."""

    def __init__(self, source: Any, transform: Any) -> None:
        self.transform, self.augmenting = transform, 0.0
        self.dataset = source.dataset("train", self._augment)
        self.has_labels = True

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        started = time.process_time()
        sample = self.dataset[key]
        whole = time.process_time() - started
        return {**sample, "decode": whole - self.augmenting, "augment": self.augmenting}

    def _augment(self, image: Any, label: Any, seed: int) -> Any:
        started = time.process_time()
        augmented = self.transform(image, label, seed)
        self.augmenting = time.process_time() - started
        return augmented


@dataclass
class Clock:
    """Seconds by part of a step; the parts follow each other."""

    spent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    last: float = 0.0
    running: bool = True

    def mark(self, part: str | None) -> None:
        """The time since the last mark went to `part`."""
        now = time.perf_counter()
        if part is not None and self.running:
            self.spent[part] += now - self.last
        self.last = now

    def watch(self, task: nn.Module, optimizer: torch.optim.Optimizer) -> list[Any]:
        """Mark the parts of a step. Returns: the hooks that do it, to be removed."""
        return [
            task.register_forward_pre_hook(lambda *_: self.mark(None)),
            task.register_forward_hook(lambda *_: self.mark("forward")),
            optimizer.register_step_pre_hook(lambda *_: self.mark("backward")),
            optimizer.register_step_post_hook(lambda *_: self.mark("optimizer")),
        ]


@dataclass(frozen=True, kw_only=True)
class ClockedLoaders(DataLoaders):
    """Reads exactly `steps` batches: all work of the loader falls into the time that is measured."""

    steps: int
    clock: Clock

    def train_batches(self, first_step: int, *, batch: int, **options: Any) -> Iterator[dict[str, Any]]:
        sampler = TrainingSampler(num_samples=len(self.train_set), batch=batch, seed=self.seed)
        keys: Any = [sampler.step_batches(step)[0] for step in range(first_step, first_step + self.steps)]
        clock, started = self.clock, time.perf_counter()
        clock.mark(None)
        batches = iter(BatchLoader(self.train_set, keys, workers=self.workers))
        for _ in range(self.steps):  # up to the last batch, not to the end of the workers
            read = next(batches)
            clock.mark("wait")
            for part in ("decode", "augment"):
                clock.spent[part] += float(read[part].sum())
            yield read
            clock.mark(None)
        clock.spent["seconds"] = time.perf_counter() - started
        clock.running = False
        yield read  # the trainer evaluates after its last step, so it gets one more, which does not count

    def eval_batches(self, **_: Any) -> Iterator[dict[str, Any]]:
        return iter(())


class Training:
    """What `tools/train.py` builds from the same overrides."""

    def __init__(self, overrides: list[str], *, steps: int) -> None:
        self.steps = steps
        # Neither an evaluation nor a checkpoint before the last step, which does not count.
        length = [f"trainer.{key}={steps + 1}" for key in ("steps", "eval_every", "save_every")]
        self.config = compose_config("train", [*overrides, *length])
        self.options = build(self.config.trainer, key="trainer")
        self.runtime = runtime.start(
            device=self.options.device,
            precision=self.options.precision,
            channels_last=self.options.channels_last,
        )
        self.source = build_source(self.config)
        self.task = self.runtime.place(build_task(self.config, self.source.classes))
        self.augment = build(self.config.augment, key="augment")

    def round(self) -> dict[str, float]:
        """Train for `steps` batches: seconds, in total and by part."""
        clock = Clock()
        optimizer = build(self.config.optimizer, key="optimizer", model=self.task.model)
        data = ClockedLoaders(
            train_set=ClockedDataset(self.source, self.augment),  # type: ignore[arg-type]
            eval_set=self.source.dataset("val", self.task.eval_transform),
            workers=self.config.data.workers,
            steps=self.steps,
            clock=clock,
        )
        hooks = clock.watch(self.task, optimizer)
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            Trainer(
                options=self.options.in_steps(len(data.train_set)),
                task=self.task,
                optimizer=optimizer,
                schedule=build(self.config.schedule, key="schedule", steps=self.steps + 1),
                runtime=self.runtime,
                run=RunFolder(Path(folder)),
                data=data,
            ).fit()
        for hook in hooks:
            hook.remove()
        return {"images": self.steps * self.options.batch, **clock.spent}


def main() -> None:
    training = Training(**json.loads(sys.argv[1]))
    for _ in sys.stdin:
        print(json.dumps(training.round()), flush=True)


if __name__ == "__main__":
    main()
