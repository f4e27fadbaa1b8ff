"""Train a task on a data set.

Usage: python tools/train.py [group=option ...] [key=value ...]

Examples:
  python tools/train.py task=seg                                            built-in streets, no data needed
  python tools/train.py task=seg data=masks data.root=my_data               images/, masks/, classes.json
  python tools/train.py data=cityscapes data.root=/data/cityscapes experiment=seg/lraspp_v3_large
  python tools/train.py experiment=seg/camvid data.root=camvid trainer.epochs=20 seed=1
  python tools/train.py task=cls                                            built-in pictures of road users
  python tools/train.py resume=runs/seg/streets/2026-11-24_12-00-00         go on where a run stopped
  python tools/train.py replay=<run folder>/replay.safetensors              repeat a step that went wrong
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from backbones.weights import catalog
from engine import plots, runtime
from engine.config.compose import build, build_task, launch, load_config, load_trained, open_run, to_yaml
from engine.data.class_map import ClassMap
from engine.data.dataset_builder import DatasetBuilder
from engine.data.loader import TrainingData
from engine.errors import UserError
from engine.io.files import write_json
from engine.run import checkpoint, initial_weights, run_folder
from engine.train import nonfinite, run_log
from engine.train.distillation import Distillation, find_teacher
from engine.train.freezing import freeze
from engine.train.trainer import Trainer


def train(config: DictConfig) -> None:
    left = nonfinite.read(Path(config.replay)) if config.replay is not None else None
    config, run, resumes = open_run(config)
    plan = build(config.trainer, key="trainer")
    where = runtime.start(
        device=plan.device,
        precision=plan.precision,
        channels_last=plan.channels_last,
        deterministic=plan.deterministic,
    )
    intake = DatasetBuilder.of(
        config.data, runtime=where, known=run.path / "skipped.json" if resumes else None
    )
    augment = build(config.augment, key="augment")
    data = build(config.data.source, key="data.source")
    torch.manual_seed(config.seed)
    task = build_task(config, data.classes)
    saved = left is not None or (resumes and checkpoint.exists(run.last))
    started_from = "" if saved else starting_weights(config, task.model, data.classes)
    if OmegaConf.select(config, "distill.teacher") is not None:  # a run of before has no such key
        task.distillation = distillation(config, data.classes)
    frozen = freeze(task.model, config.get("freeze") or [])
    where.place(task)
    train_set = intake.dataset(data, "train", augment, seed=config.seed, limit=config.data.limit)
    eval_set = intake.dataset(data, config.data.split, task.eval_transform)
    feed = TrainingData(
        train_set=train_set,
        eval_set=eval_set,
        seed=config.seed,
        workers=config.data.workers,
        eval_batch=config.data.eval_batch,
        notes=intake.counts,
    )
    plan = plan.resolved(len(feed.train_set))
    trainer = Trainer(
        plan=plan,
        task=task,
        optimizer=build(config.optimizer, key="optimizer", model=task.model),
        schedule=build(config.schedule, key="schedule", steps=plan.steps),
        runtime=where,
        run=where.broadcast(run),
        feed=feed,
        evaluator=task.evaluator(feed.eval_set),
    )
    if left is not None:
        return print(left.repeat(trainer))
    if saved:
        started_from = trainer.restore()
    finished = trainer.finished
    if where.is_main and finished:
        print(f"finished already, at step {trainer.steps}; trainer.steps=<more> goes on")
    elif where.is_main:
        write = run_folder.update if resumes else run_folder.create
        write(trainer.run, config=to_yaml(config), environment=runtime.describe(where))
        write_json(trainer.run.classes, data.classes.to_dict())
        intake.write(trainer.run.path)
        notes = [*intake.notes(), *task.notes(feed.train_set)]
        notes += [f"{frozen} parameters are frozen"] if frozen else []
        print("\n".join([*data.warnings, data.description, *notes, f"starting from {started_from}"]))
    trainer.fit()
    if where.is_main:
        if not finished:
            print(trainer.evaluator.table())
        if not finished or not trainer.run.curves.exists():
            draw(trainer, config.samples)
        print(f"run: {trainer.run.path}")
    where.close()


def draw(trainer: Trainer, samples: int) -> None:
    """Pictures to look at after a training: the curves, some predictions."""
    plots.draw_curves(run_log.read_rows(trainer.run.log), trainer.evaluator.main_metric, trainer.run.curves)
    trainer.inference_task.save_samples(trainer.feed.eval_set, trainer.run.path / "samples", count=samples)


def starting_weights(config: DictConfig, model: nn.Module, classes: ClassMap) -> str:
    """Load what the model starts from: init_from, else backbone weights, else nothing; says what it did."""
    options = {"name": config.checkpoint, "skip": list(config.skip)}
    if config.init_from is not None:
        path = initial_weights.locate(config.init_from, published=catalog.find)
        return initial_weights.init_from(path, model, classes, **options)
    if config.weights is None:
        return "random weights"
    path = initial_weights.locate(config.weights, published=catalog.find)
    report = initial_weights.backbone_weights(path, model, **options)
    if path.suffix == ".pth" and config.task.pixels != "imagenet":
        report += "; torchvision trains with task.pixels=imagenet, minimalistic weights excepted"
    return report


def distillation(config: DictConfig, classes: ClassMap) -> Distillation:
    """The loss towards `distill.teacher`: a run folder's network, or one of torchvision's."""
    if config.room == "det":
        raise UserError("distill.teacher: for classification and segmentation; leave it out with task=det")
    options = {name: config.distill[name] for name in ("weight", "temperature")}

    def load_run(path: Path) -> nn.Module:
        run = run_folder.find(path)
        trained = load_config(run.config, [])
        if trained.room != config.room:
            raise UserError(f"distill.teacher={path}: a run of task={trained.room}, not {config.room}")
        return load_trained(run, trained, ClassMap.read(run.classes), "best")

    return Distillation(teacher=find_teacher(config.distill.teacher, classes, load_run), **options)


if __name__ == "__main__":
    launch(train, "train", __doc__)
