"""Compare the results, curves and settings of runs, in the terminal and in report.html.

Usage: python tools/compare.py run=[<run folder>,<run folder>,...] [out=<folder>]

Examples:
  python tools/compare.py run=[runs/a,runs/b]
  python tools/compare.py run=[runs/a,runs/b,runs/c] out=results    several seeds: mean and standard deviation
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

from pathlib import Path

from engine.config.launch import launch
from engine.config.options import CompareOptions
from engine.config.runs import TrainedRun
from engine.config.saved import settings_of
from engine.io.progress import announced
from engine.report.comparison import Comparison, TrainedResult
from engine.report.run import REPORT
from engine.run import run_folder
from engine.train.run_log import damaged_line, read_rows


def compare(options: CompareOptions) -> None:
    """Print a comparison of runs and write it as report.html."""
    paths = list(dict.fromkeys(options.run))
    with announced("reading the runs"):
        comparison = Comparison([read_result(path, paths) for path in paths])
    out = run_folder.make(Path(options.out))
    print(comparison.text())
    with announced("writing the report"):
        comparison.write(out / REPORT)
    print(f"report: {out / REPORT}")


def read_result(path: str, paths: list[str]) -> TrainedResult:
    """What the comparison needs from a run. It is named by its folder, or by its path if names repeat."""
    run = TrainedRun.open(path)
    saved = run.folder.checkpoint("best").exists()
    names = [Path(other).name for other in paths]
    return TrainedResult(
        name=path if names.count(Path(path).name) > 1 else Path(path).name,
        task=run.info.name,
        split=run.split,
        metric=run.info.metric,
        settings=settings_of(run.config),
        rows=read_rows(run.folder.log),
        params=sum(weight.numel() for weight in run.task().model.parameters()) if saved else 0,
        batch=int(run.config.trainer.batch),
        damage=f"log.jsonl is damaged from line {line}" if (line := damaged_line(run.folder.log)) else "",
    )


if __name__ == "__main__":
    launch(compare, "compare", __doc__)
