"""The report.html of a training and of an evaluation."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.contracts import TaskInfo
from engine.html.page import Page
from engine.report.sections import add_curves, add_images, add_results, add_settings, add_speed
from engine.report.settings import Difference
from engine.report.suspicious import EXCLUDE, SUSPICIOUS, Suspicion, add_suspicious
from engine.run.run_folder import RunFolder
from engine.train.run_log import read_rows

REPORT = "report.html"
PREDICTIONS = "predictions"
"""Folder of the predictions that an evaluation saves."""


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What the reports of a training and of its evaluations both show.

    Attributes: run, info (the task), differences (from the default configuration), batch (images per step).
    """

    run: RunFolder
    info: TaskInfo
    differences: Sequence[Difference]
    batch: int


def write_training_report(
    facts: RunFacts, *, reporter: Any, evaluator: Any | None, dataset: Any, split: str, count: int
) -> None:
    """Write the report of a finished training into its run folder.

    Args:
        evaluator: holds the best evaluation; None if this process made none.
        count: how many of the worst and of random images to draw.
    """
    run = facts.run
    page = Page(f"Training of {run.path.name}", _subtitle(facts, split))
    if evaluator is None:
        _add_body(page, facts, _read(run.metrics), reporter, None, dataset, worst=0, random=count)
    else:
        metrics = {**evaluator.compute(), **_best_step(run)}
        _add_body(page, facts, metrics, reporter, evaluator, dataset, worst=count, random=count)
    folder = shlex.quote(str(run.path))
    page.section("Next").code(
        f"python tools/eval.py run={folder}    # also lists suspicious labels\n"
        f"python tools/predict.py run={folder} input=<image, folder or video>\n"
        f"python tools/export.py run={folder} format=onnx"
    )
    page.write(run.path / REPORT)


def write_evaluation_report(
    facts: RunFacts,
    *,
    reporter: Any,
    evaluator: Any,
    dataset: Any,
    metrics: Mapping[str, Any],
    notes: Sequence[str],
    suspicions: Sequence[Suspicion] | None,
    out: Path,
    worst: int,
) -> None:
    """Write the report of an evaluation into its folder. suspicions: None if they were not searched for."""
    split = str(metrics["split"])
    page = Page(f"Evaluation of {facts.run.path.name} on {split}", _subtitle(facts, split))
    for note in notes:
        page.text(note)
    _add_body(
        page, facts, metrics, reporter, evaluator, dataset, worst=worst, random=worst,
        suspicions=suspicions, out=out, split=split,
    )  # fmt: skip
    folder = shlex.quote(str(facts.run.path))
    page.section("Next").code(
        f"python tools/export.py run={folder} format=onnx\n"
        f"python tools/predict.py run={folder} input=<image, folder or video>"
    )
    page.write(out / REPORT)


def of_earlier_evaluations(out: Path, started_ns: int) -> list[str]:
    """Results in the folder of an evaluation that were there before this time, and are not of this one."""
    summary = f"{PREDICTIONS}/summary.json"
    files = {PREDICTIONS: out / summary, SUSPICIOUS: out / SUSPICIOUS, EXCLUDE: out / EXCLUDE}
    return [name for name, file in files.items() if file.exists() and file.stat().st_mtime_ns < started_ns]


def _add_body(
    page: Page,
    facts: RunFacts,
    metrics: Mapping[str, Any],
    reporter: Any,
    evaluator: Any | None,
    dataset: Any,
    *,
    worst: int,
    random: int,
    suspicions: Sequence[Suspicion] | None = None,
    out: Path = Path(),
    split: str = "",
) -> None:
    rows = read_rows(facts.run.log)
    add_results(page, metrics)
    if evaluator is not None and hasattr(reporter, "report"):
        reporter.report(evaluator, dataset, page)
    add_curves(page, rows, facts.info.metric)
    if suspicions is not None:
        add_suspicious(page, out, split, suspicions)
    if hasattr(reporter, "draw_sample"):
        find_worst = getattr(evaluator, "worst", None)
        lowest = find_worst(worst) if find_worst else []
        worst_by = getattr(evaluator, "worst_by", "lowest scores")
        add_images(page, reporter, dataset, lowest, worst_by=worst_by, random=random)
    add_speed(page, rows, facts.batch)
    add_settings(page, facts.differences, facts.info.name)


def _subtitle(facts: RunFacts, split: str) -> str:
    environment = _read(facts.run.path / "environment.json")
    where = f"{environment['device']}, {environment['precision']}" if "device" in environment else ""
    parts = [facts.info.title, f"evaluated on {split}", where and f"trained on {where}", str(facts.run.path)]
    return "; ".join(part for part in parts if part)


def _best_step(run: RunFolder) -> dict[str, Any]:
    saved = _read(run.metrics)
    return {"best_step": saved["best_step"]} if "best_step" in saved else {}


def _read(path: Path) -> dict[str, Any]:
    """The content of a JSON file of the run; empty if it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
