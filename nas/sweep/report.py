"""The results of a sweep: trials.csv and report.md."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from engine.errors import UserError, counted
from engine.io.files import write_text
from engine.train.run_log import percent
from nas.report import markdown_table, write_report
from nas.sweep.search import Trial, best_of

_LISTED = 20


def write_sweep_report(
    folder: Path, trials: Sequence[Trial], *, metric: str, commands: Sequence[str]
) -> None:
    """Write `trials.csv`, one row per trial, and `report.md` with the best ones.

    Args:
        metric: name of the score.
        commands: what to run next.

    Raises:
        UserError: if a file cannot be written, or all trials have failed.
    """
    best, keys = best_of(trials), list(trials[0].settings)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["trial", metric, *keys, "run", "error"])
    for trial in trials:
        score = "" if trial.score is None else trial.score
        table.writerow([trial.number, score, *trial.settings.values(), trial.run, trial.error])
    try:
        write_text(folder / "trials.csv", text.getvalue())
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from None
    scored = sorted(
        (trial for trial in trials if trial.score is not None), key=lambda trial: -(trial.score or 0)
    )
    rows = [
        [trial.number, percent(trial.score or 0.0), *trial.settings.values()] for trial in scored[:_LISTED]
    ]
    failed = len(trials) - len(scored)
    settings = " ".join(f"{key}={value}" for key, value in best.settings.items())
    parts = [
        "# Sweep",
        f"{counted(len(trials), 'trial')}, {failed} failed. The best is trial {best.number}: {metric} "
        f"{percent(best.score or 0.0)} with `{settings}`.",
        markdown_table(["trial", metric, *keys], rows),
    ]
    write_report(folder / "report.md", parts, commands)
