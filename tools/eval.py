"""Evaluate a run on a split; saves metrics.json, report.html, and a list of suspicious labels.

Usage: python tools/eval.py run=<run folder> [key=value ...]

Examples:
  python tools/eval.py run=runs/seg/streets/2026-11-24_12-00-00
  python tools/eval.py run=lraspp_v3_small_cityscapes data.root=/data/cityscapes   a published network
  python tools/eval.py run=<run folder> data.split=test out=results
  python tools/eval.py run=<run folder> data.split=train suspicious=50     training labels that look wrong
  python tools/eval.py run=<run folder> inference=multi_scale              flipping and six scales
  python tools/eval.py run=<run folder> inference.window=[512,1024]        sliding window
  python tools/eval.py run=<run folder> artifact=<exported file>           the exported file that you deploy
  python tools/eval.py run=<run folder> data.root=/data/cityscapes save_predictions=true
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from backbones.weights import catalog
from deploy.artifact import exported_checkpoint, next_command, origin_notes, with_exported_file
from engine import runtime
from engine.config.launch import launch
from engine.config.options import EvalOptions
from engine.config.runs import TrainedRun
from engine.errors import some
from engine.fonts import font_notes
from engine.io.files import write_json
from engine.prediction import SavedPredictions
from engine.published import run_by_name
from engine.report.run import PREDICTIONS, REPORT, of_earlier_evaluations
from engine.run import run_folder


def evaluate(options: EvalOptions) -> dict[str, Any]:
    """Evaluate a run and write the results into a folder; returns the metrics."""
    chosen: dict[str, Any] = {"overrides": options.overrides, "checkpoint": options.checkpoint}
    run = TrainedRun.open(options.run, **chosen, reads="dataset")
    started, here = time.time_ns(), runtime.start(device=options.device, precision=options.precision)
    task, artifact_info, parent, notes = run.task(), {}, run.folder.path, list[str]()
    if options.artifact is not None:
        file = Path(options.artifact)
        task = with_exported_file(task, run.info, file, threads=options.threads, precision=options.precision)
        metadata = task.model.session.metadata
        weights = exported_checkpoint(metadata, run.folder, options.checkpoint)
        artifact_info = {"checkpoint": weights, "artifact": str(file), "runtime": task.model.session.runtime}
        parent, notes = file.parent, origin_notes(file, metadata, run.folder)
    reporter: Any = run.info.reporter(task)
    folder = Path(options.out or parent / f"eval-{run.split}")
    with run_folder.claim(folder, key="out") if here.is_main else nullcontext(folder) as out:
        saved = SavedPredictions(reporter, out / PREDICTIONS) if options.save_predictions else None
        result = run.evaluate(task, runtime=here, on_batch=None if saved is None else saved.add)
        if saved is not None:
            saved.write_summary(here)
        facts = {"checkpoint": options.checkpoint, "run": str(run.folder.path), **artifact_info}
        metrics = {**result.metrics, **facts}
        if here.is_main:
            write_json(out / "metrics.json", metrics)
            reporter.save_evaluation(result.evaluator, result.dataset, out, worst=options.worst)
            result.write_skipped(out)
            print("\n".join([*notes, *result.notes, *font_notes(task.classes), result.evaluator.table()]))
            searched = 0 if options.artifact else options.suspicious
            run.write_report(result, reporter, out, metrics=metrics, worst=options.worst, suspicious=searched)
            if earlier := of_earlier_evaluations(out, started):
                print(f"{out}: {some(earlier)} of an earlier evaluation, not of this one")
            print(f"report: {out / REPORT}")
            print(f"next: {next_command(run.folder.path, options.artifact, config=run.config, **chosen)}")
            print(f"out: {out}")
    here.close()
    return metrics


if __name__ == "__main__":
    launch(evaluate, "eval", __doc__, complete=partial(run_by_name, published=catalog.find))
