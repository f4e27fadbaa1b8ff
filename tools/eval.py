"""Evaluate a run on a split: metrics.json, per-class table, confusion matrix, worst images.

Usage: python tools/eval.py run=<run folder> [key=value ...]

Examples:
  python tools/eval.py run=runs/seg/streets/2026-11-24_12-00-00
  python tools/eval.py run=<run folder> data.split=test out=results
  python tools/eval.py run=<run folder> inference=multi_scale              flip and six scales
  python tools/eval.py run=<run folder> inference.window=[512,1024]        sliding window
  python tools/eval.py run=<run folder> artifact=<exported file>           the very file that ships
  python tools/eval.py run=<run folder> data.root=/data/cityscapes save_label_ids=true
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

from pathlib import Path

from omegaconf import DictConfig

from deploy.artifact import in_place_of_model
from engine import runtime
from engine.config.compose import build, launch, load_trained, open_trained
from engine.data.dataset_builder import DatasetBuilder
from engine.data.loader import loader
from engine.data.sample_stream import Shard
from engine.errors import UserError
from engine.io.files import write_json
from engine.io.progress import Progress
from engine.run import run_folder
from engine.train.evaluation import evaluate


def evaluate_run(config: DictConfig) -> None:
    run, trained = open_trained(config)
    where = runtime.start(device=config.device, precision=config.precision)
    data = build(trained.data.source, key="data.source")
    task = load_trained(run, trained, data.classes, config.checkpoint)
    if config.artifact is not None:
        task = in_place_of_model(
            task, trained.room, Path(config.artifact), threads=config.threads, precision=config.precision
        )
    task = where.place(task)
    if config.save_label_ids and not hasattr(task, "save_label_ids"):
        raise UserError("save_label_ids is for segmentation; detections.json is written anyway")
    intake = DatasetBuilder.of(trained.data, runtime=where)
    dataset = intake.dataset(data, trained.data.split, task.eval_transform)
    split = Shard(
        num_samples=len(dataset), batch=trained.data.eval_batch, rank=where.rank, world_size=where.world_size
    )
    evaluator = task.evaluator(dataset)
    beside = run.path if config.artifact is None else Path(config.artifact).parent
    out = run_folder.make(Path(config.out or beside / f"eval-{trained.data.split}"))
    progress = Progress(len(split), unit="batch")

    def on_batch(done: int, batch: dict, outputs: object) -> None:
        progress.update(done)
        if config.save_label_ids:
            task.save_label_ids(outputs, batch, dataset, out / "label_ids")

    batches = loader(dataset, split, workers=trained.data.workers)
    metrics = evaluate(task, batches, evaluator, where, on_batch=on_batch)
    progress.close()
    if where.is_main:
        metrics |= {"split": trained.data.split, "checkpoint": config.checkpoint, "run": str(run.path)}
        if config.artifact is not None:
            metrics |= {"artifact": str(config.artifact), "runtime": task.model.session.runtime}
        metrics |= intake.counts
        write_json(out / "metrics.json", metrics)
        task.save_report(evaluator, dataset, out, worst=config.worst)
        intake.write(out)
        print("\n".join([*intake.notes(), evaluator.table()]))
        print(f"out: {out}")
    where.close()


if __name__ == "__main__":
    launch(evaluate_run, "eval", __doc__)
