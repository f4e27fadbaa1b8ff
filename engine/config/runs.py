"""A trained run to work with: evaluate, predict, export, search."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from engine.config.instantiate import build, options, task_info
from engine.config.options import DataOptions
from engine.config.saved import load_config
from engine.config.training import build_task, validate
from engine.contracts import TaskInfo
from engine.data.class_map import ClassMap
from engine.data.dataset_builder import DatasetBuilder
from engine.data.loader import BatchLoader, EvaluationSampler
from engine.errors import UserError
from engine.io.progress import Progress
from engine.run import checkpoint, run_folder
from engine.run.run_folder import RunFolder
from engine.runtime import Runtime
from engine.train.evaluation import evaluate


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation of a run came to.

    Attributes:
        metrics: as metrics.json holds them, with the split and what was left out of it.
        evaluator: holds what `Reporter.save_evaluation` draws.
        dataset: the split.
        notes: lines about samples that were left out.
        write_skipped: writes `skipped.json` into a folder if anything was left out.
    """

    metrics: dict[str, Any]
    evaluator: Any
    dataset: Any
    notes: list[str]
    write_skipped: Callable[[Path], None]


class TrainedRun:
    """A run folder, opened to work with: its configuration, its classes, its network with trained weights.

    Attributes: folder, config, info (the `TaskInfo` of its task), classes (that it was trained on),
    checkpoint_name (`best` or `last`).
    """

    def __init__(self, folder: RunFolder, config: DictConfig, *, checkpoint_name: str = "best") -> None:
        self.folder, self.config, self.checkpoint_name = folder, config, checkpoint_name
        self.info: TaskInfo = task_info(config)
        self.classes = ClassMap.read(folder.classes)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, overrides: Sequence[str] = (), checkpoint: str = "best"
    ) -> "TrainedRun":
        """Open the run at `path`, with `key=value` overrides for its configuration.

        Raises:
            UserError: there is no run, its configuration cannot be used, or an override names an unknown key.
        """
        folder = run_folder.find(Path(path))
        config = load_config(folder.config, overrides)
        validate(config)
        return cls(folder, config, checkpoint_name=checkpoint)

    def task(self) -> Any:
        """A new task with the trained weights, in evaluation mode.

        Raises:
            UserError: the checkpoint cannot be read or does not fit.
        """
        task = build_task(self.config, self.classes)
        state, _ = checkpoint.inference_weights(self.folder.checkpoint(self.checkpoint_name))
        checkpoint.load_strict(task.model, state)
        return task.eval()

    @cached_property
    def source(self) -> Any:
        """The data source (`engine.contracts.DataSource`) of the run's configuration."""
        return build(self.config.data.source, key="data.source")

    @property
    def split(self) -> str:
        """The split that is evaluated: `data.split`."""
        return str(self.config.data.split)

    def evaluate(
        self,
        task: Any = None,
        *,
        runtime: Runtime,
        on_batch: Callable[[Any, dict[str, Any], Any], None] | None = None,
        quiet: bool = False,
    ) -> Evaluation:
        """Score a task on the run's split (`data.split`), every sample once.

        Args:
            task: by default the run's own, with its trained weights.
            runtime: device and precision; its processes share the work.
            on_batch: called with the data set, each batch and its predictions.
            quiet: no progress bar.

        Raises:
            UserError: the split is missing, unlabeled or unreadable, or has other classes than the run.
        """
        task = runtime.place(self.task() if task is None else task)
        task.check_classes(self.source.classes)
        data = options(DataOptions, self.config.data, "data")
        builder = DatasetBuilder.from_config(data, runtime=runtime)
        dataset = builder.dataset(self.source, data.split, task.eval_transform)
        share = EvaluationSampler(
            num_samples=len(dataset), batch=data.eval_batch, rank=runtime.rank, world_size=runtime.world_size
        )
        evaluator = task.evaluator(dataset)
        progress = None if quiet else Progress(len(share), unit="batch")

        def after_batch(done: int, batch: dict[str, Any], outputs: Any) -> None:
            if progress is not None:
                progress.update(done)
            if on_batch is not None:
                on_batch(dataset, batch, outputs)

        batches = BatchLoader(dataset, share, workers=data.workers)
        metrics = evaluate(task, batches, evaluator, runtime, on_batch=after_batch)
        if progress is not None:
            progress.close()
        return Evaluation(
            metrics={**metrics, "split": data.split, **builder.skipped_counts},
            evaluator=evaluator,
            dataset=dataset,
            notes=builder.notes(),
            write_skipped=builder.write,
        )


def load_teacher(config: DictConfig, classes: ClassMap) -> Any:
    """The distillation loss of a training towards its `distill.teacher`, a run or a model of torchvision.

    Raises:
        UserError: there is no such teacher, it knows other classes, or the task cannot be distilled.
    """
    from engine.train import distillation

    info = task_info(config)
    if not info.distills:
        raise UserError(f"distill.teacher: not available for task={info.name}; leave it out")

    def load_run(path: Path) -> Any:
        teacher = TrainedRun.open(path)
        if teacher.info.name != info.name:
            raise UserError(
                f"distill.teacher={path}: a run of task={teacher.info.name}, and this is task={info.name}"
            )
        return teacher.task()

    teacher = distillation.load_teacher(config.distill.teacher, classes, load_run)
    loss = {name: config.distill[name] for name in ("weight", "temperature")}
    return distillation.Distillation(teacher=teacher, **loss)
