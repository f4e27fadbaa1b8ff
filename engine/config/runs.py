"""A training's configuration and its run folder: new ones, resumed ones, and trained ones to work with."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from engine.config.compose import FORMAT
from engine.config.instantiate import build, check_node, options, task_info
from engine.config.options import DataOptions, TrainOptions
from engine.contracts import TaskInfo
from engine.data.class_map import ClassMap
from engine.errors import UserError
from engine.run import run_folder
from engine.run.run_folder import RunFolder
from engine.runtime import Runtime

_PATHS = ("data.root", "data.cache", "weights", "init_from", "distill.teacher")
_PATHS_OF_SPLITS = ("images", "annotations")


def validate(config: DictConfig) -> TrainOptions:
    """Check whatever can be checked of a training before any data is read: nothing missing, targets, options,
    types; returns the options that belong to no group.

    Raises:
        UserError: naming the first key that is wrong.
    """
    trained = options(TrainOptions, config)
    task_info(config)
    options(DataOptions, config.data, "data")
    for name, node in config.items():
        if isinstance(node, DictConfig):
            check_node(node, str(name))
    return trained


def open_training(config: DictConfig) -> tuple[DictConfig, RunFolder, bool]:
    """The configuration and the run folder of a training: a new one, or that of `resume=` or `replay=`.

    Returns:
        (configuration, run folder, whether it resumes)
    """
    if config.resume is not None and config.replay is not None:
        raise UserError("give one of resume= and replay=")
    if config.resume is not None or config.replay is not None:
        path = Path(config.resume) if config.replay is None else Path(config.replay).parent
        run = run_folder.find(path)
        config = load_config(run.config, list(config.overrides))
        validate(config)
        return config, run, True
    validate(config)
    name = config.experiment or config.data.source._target_.rpartition(".")[2]
    default = run_folder.default_path(config.package, name.removeprefix(f"{config.package}/"))
    _make_paths_absolute(config)
    return config, RunFolder(Path(config.run or default)), False


def _make_paths_absolute(config: DictConfig) -> None:
    """A run can be opened from any folder later."""
    splits = [key for key, node in config.data.items_ex(resolve=False) if isinstance(node, DictConfig)]
    in_splits = [f"data.{split}.{name}" for split in splits for name in _PATHS_OF_SPLITS]
    for key in (*_PATHS, *in_splits):
        value = OmegaConf.select(config, key)
        if isinstance(value, str) and not (key in _PATHS[2:] and _is_name(value)):
            OmegaConf.update(config, key, os.path.abspath(os.path.expanduser(value)))


def _is_name(value: str) -> bool:
    from engine.run.initial_weights import is_name

    return is_name(value)


def load_config(path: Path, overrides: Sequence[str]) -> DictConfig:
    """Read a run's `config.yaml` and apply `key=value` overrides to keys that it has.

    Raises:
        UserError: the file is unreadable or of another format, it needs code that `extend=` did not name, or
            an override names a key that the run's configuration lacks.
    """
    from engine.config.saved import load

    return load(path, overrides, format_number=FORMAT)


def build_task(config: DictConfig, classes: Any) -> Any:
    """Build the model for a data set's classes, and the task around it."""
    model = build(config.model, key="model", num_classes=len(classes))
    return build(config.task, key="task", model=model, classes=classes)


def load_initial_weights(config: DictConfig, task: Any, *, published: Callable[[str], Any]) -> str:
    """Load what a training starts from (`init_from`, `weights`) into a new task; returns what was loaded.

    Args:
        published: name -> published weight file.

    Raises:
        UserError: there is no such file or name, or the weights do not fit.
    """
    if config.init_from is None and config.weights is None:
        return "random weights"
    from engine.run.initial_weights import load_initial

    return load_initial(
        task.model,
        task.classes,
        init_from=config.init_from,
        weights=config.weights,
        checkpoint_name=config.checkpoint,
        skip=config.skip,
        published=published,
        normalization=config.task.get("pixels"),
    )


def find_teacher(config: DictConfig, classes: ClassMap) -> Any:
    """The distillation loss towards `distill.teacher`, a run or a model of torchvision; None without one.

    Raises:
        UserError: there is no such teacher, it knows other classes, or the task cannot be distilled.
    """
    if OmegaConf.select(config, "distill.teacher") is None:
        return None
    from engine.train import distillation

    info = task_info(config)
    if not info.distills:
        raise UserError(f"distill.teacher: not available for task={info.name}; leave it out")

    def load_run(path: Path) -> Any:
        teacher = TrainedRun.open(path)
        if teacher.info.name != info.name:
            raise UserError(
                f"distill.teacher={path}: a run of task={teacher.info.name}, and this one is of task={info.name}"
            )
        return teacher.task()

    teacher = distillation.find_teacher(config.distill.teacher, classes, load_run)
    loss = {name: config.distill[name] for name in ("weight", "temperature")}
    return distillation.Distillation(teacher=teacher, **loss)


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
    checkpoint (`best` or `last`).
    """

    def __init__(self, folder: RunFolder, config: DictConfig, *, checkpoint: str = "best") -> None:
        self.folder, self.config, self.checkpoint = folder, config, checkpoint
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
        return cls(folder, config, checkpoint=checkpoint)

    def task(self) -> Any:
        """A new task with the trained weights, in evaluation mode.

        Raises:
            UserError: the checkpoint cannot be read or does not fit.
        """
        from engine.run import checkpoint

        task = build_task(self.config, self.classes)
        state, _ = checkpoint.inference_weights(self.folder.checkpoint(self.checkpoint))
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
        from engine.data.dataset_builder import DatasetBuilder
        from engine.data.loader import BatchLoader
        from engine.data.loader import EvaluationSampler
        from engine.io.progress import Progress
        from engine.train.evaluation import evaluate

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
            metrics={**metrics, "split": data.split, **builder.counts},
            evaluator=evaluator,
            dataset=dataset,
            notes=builder.notes(),
            write_skipped=builder.write,
        )


def open_trained(config: DictConfig) -> tuple[RunFolder, DictConfig]:
    run = TrainedRun.open(config.run, overrides=list(config.overrides))
    return run.folder, run.config


def load_trained(run: RunFolder, config: DictConfig, classes: Any, checkpoint_name: str) -> Any:
    trained = TrainedRun(run, config, checkpoint=checkpoint_name).task()
    trained.check_classes(classes)
    return trained
