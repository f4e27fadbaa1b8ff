"""Evaluate a run on a split: metrics.json, per-class table, charts, worst images.

Usage: python tools/eval.py run=<run folder> [key=value ...]

Examples:
  python tools/eval.py run=runs/seg/streets/2026-11-24_12-00-00
  python tools/eval.py run=<run folder> data.split=test out=results
  python tools/eval.py run=<run folder> inference=multi_scale              flip and six scales
  python tools/eval.py run=<run folder> inference.window=[512,1024]        sliding window
  python tools/eval.py run=<run folder> artifact=<exported file>           the very file that you deploy
  python tools/eval.py run=<run folder> data.root=/data/cityscapes save_label_ids=true
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

from pathlib import Path
from typing import Any

from deploy.artifact import with_exported_file
from engine import runtime
from engine.config.launch import launch
from engine.config.options import EvalOptions
from engine.config.runs import TrainedRun
from engine.errors import UserError
from engine.io.files import write_json
from engine.run import run_folder


def evaluate(options: EvalOptions) -> dict[str, Any]:
    """Evaluate a run, write everything into a folder, and return the metrics."""
    run = TrainedRun.open(options.run, overrides=options.overrides, checkpoint=options.checkpoint)
    here = runtime.start(device=options.device, precision=options.precision)
    task, facts, beside = run.task(), {}, run.folder.path
    if options.artifact is not None:
        file = Path(options.artifact)
        task = with_exported_file(task, run.info, file, threads=options.threads, precision=options.precision)
        facts = {"artifact": str(file), "runtime": task.model.session.runtime}
        beside = file.parent
    reporter: Any = run.info.reporter(task)
    if options.save_label_ids and not hasattr(reporter, "save_label_ids"):
        raise UserError(f"save_label_ids=true writes label maps, and task={run.info.name} predicts none")
    out = run_folder.make(Path(options.out or beside / f"eval-{run.split}"))

    def save_label_ids(dataset: Any, batch: dict[str, Any], outputs: Any) -> None:
        reporter.save_label_ids(outputs, batch, dataset, out / "label_ids")

    result = run.evaluate(task, runtime=here, on_batch=save_label_ids if options.save_label_ids else None)
    metrics = {**result.metrics, "checkpoint": options.checkpoint, "run": str(run.folder.path), **facts}
    if here.is_main:
        write_json(out / "metrics.json", metrics)
        reporter.save_evaluation(result.evaluator, result.dataset, out, worst=options.worst)
        result.write_skipped(out)
        print("\n".join([*result.notes, result.evaluator.table()]))
        print(f"out: {out}")
    here.close()
    return metrics


if __name__ == "__main__":
    launch(evaluate, "eval", __doc__)
