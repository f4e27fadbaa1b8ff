"""One trial of a sweep: a whole training with given settings."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from backbones.weights import catalog
from engine.config.compose import compose_config
from engine.config.runs import find_teacher
from engine.config.training import open_training
from engine.errors import UserError
from engine.published import find_run, with_network

_find_run_of_teacher = partial(find_run, published=catalog.find, parent=None, key="distill.teacher=")


@dataclass(frozen=True)
class Job:
    """The settings of a trial, as overrides of `tools/train.py`, and its run folder."""

    overrides: tuple[str, ...]
    run: str


def train(job: Job) -> dict[str, Any]:
    """Train, or resume a training that was stopped; the output goes to `<run folder>.log`.

    Returns:
        `score` (the best of the run) and `step` (at which it was reached).

    Raises:
        UserError: if the training fails, or its score was never finite.
    """
    folder = Path(job.run)
    arguments = list(job.overrides)
    if (folder / "config.yaml").exists():
        arguments = [f"resume={folder}"]
    else:
        arguments = with_network([*arguments, f"run={folder}"], published=catalog.find)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        open(f"{folder}.log", "a", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        training = open_training(
            compose_config("train", arguments),
            published=catalog.find,
            find_teacher=partial(find_teacher, find_run=_find_run_of_teacher),
        )
        training.fit()
    metrics = json.loads(training.run.metrics.read_text(encoding="utf-8"))
    score = metrics[f"best_{training.info.metric}"]
    if score is None or not math.isfinite(score):
        raise UserError(f"{training.info.metric} was never finite; see {folder}.log")
    return {"score": float(score), "step": int(metrics["best_step"])}
