"""Trackio: local first, or a Hugging Face Space named by TRACKIO_SPACE_ID."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.train.trackers.tracked_run import PROJECT, TrackedRun, caption, flat, scalars


class Trackio:
    """An `engine.train.run_log.Tracker`. TRACKIO_PROJECT names the project."""

    def __init__(self, run: TrackedRun) -> None:
        import trackio

        self._trackio = trackio
        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=f"{run.name}-{run.id}",
            config=flat(run.config),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def row(self, row: Mapping[str, Any]) -> None:
        self._run.log(scalars(row), step=row["step"])

    def images(self, step: int, paths: Sequence[Path]) -> None:
        images = {
            f"samples/{caption(path)}": self._trackio.Image(str(path), caption=caption(path))
            for path in paths
        }
        self._run.log(images, step=step)

    def close(self) -> None:
        self._run.finish()
