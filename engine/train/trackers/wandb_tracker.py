"""Weights & Biases; WANDB_MODE=offline writes to the run folder, for `wandb sync`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.train.trackers.tracked_run import PROJECT, TrackedRun, caption, scalars

_TIMEOUT_S = 60.0


class Wandb:
    """An `engine.train.run_log.Tracker`. WANDB_PROJECT names the project."""

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run.id,
            name=run.name,
            resume="allow",
            dir=str(run.folder.path),
            config=dict(run.config),
            allow_val_change=True,
            reinit="create_new",
            settings=wandb.Settings(
                init_timeout=_TIMEOUT_S, login_timeout=_TIMEOUT_S, console="off", silent=True
            ),
        )
        self._run.define_metric("*", step_metric="step")

    def row(self, row: Mapping[str, Any]) -> None:
        self._run.log({**scalars(row), "step": row["step"]})

    def images(self, step: int, paths: Sequence[Path]) -> None:
        images = [self._wandb.Image(str(path), caption=caption(path)) for path in paths]
        self._run.log({"samples": images, "step": step})

    def close(self) -> None:
        self._run.finish()
