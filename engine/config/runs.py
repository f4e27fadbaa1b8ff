"""Opens a trained run, for evaluation, prediction, export and search."""

import math
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from engine.config.instantiate import options, plain, task_info
from engine.config.options import DataOptions
from engine.config.saved import Reads, differences, load_config, refuse_unused_data
from engine.config.training import (
    WITHOUT_TEACHER,
    build_source,
    build_task,
    image_notes,
    limit_images,
    reads_as_stored,
    trained_on,
    validate,
)
from engine.contracts import Image, TaskInfo
from engine.data.class_map import ClassMap
from engine.data.dataset_builder import DatasetBuilder
from engine.data.images import Range, read_image
from engine.data.images.messages import DamagedFileError
from engine.data.loader import BatchLoader, EvaluationSampler
from engine.data.preprocessing import as_pixel_range, header_notes, range_notes, refuse_incomplete
from engine.errors import UserError, counted
from engine.io.progress import PartProgress, Progress, announced
from engine.run import checkpoint, run_folder
from engine.run.run_folder import RunFolder
from engine.runtime import Runtime
from engine.train.evaluation import evaluate

IF_MOVED = "or pass data.root=<folder> if the data have moved"
"""What `TrainedRun.source` adds to the error if the folder does not exist."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of evaluating a run.

    Attributes:
        metrics: the content of metrics.json, including the split and the number of skipped samples.
        evaluator: the input of `Reporter.save_evaluation`.
        dataset: the evaluated split.
        notes: lines for the console: what was left out or corrected, and the choice of the split.
        write_skipped: writes `skipped.json` into a folder if samples were checked.
    """

    metrics: dict[str, Any]
    evaluator: Any
    dataset: Any
    notes: list[str]
    write_skipped: Callable[[Path], None]


class TrainedRun:
    """A run folder with its configuration, classes and trained network.

    Attributes: folder, config, info (the `TaskInfo` of its task), classes (the classes it was trained on),
    checkpoint_name (`best` or `last`), limit (how many images to evaluate; None: all).
    """

    def __init__(
        self,
        folder: RunFolder,
        config: DictConfig,
        *,
        checkpoint_name: str = "best",
        limit: int | None = None,
    ) -> None:
        self.folder, self.config, self.checkpoint_name = folder, config, checkpoint_name
        self.limit = limit
        self.info: TaskInfo = task_info(config)
        self.classes = ClassMap.read(folder.classes)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        overrides: Sequence[str] = (),
        checkpoint: str = "best",
        reads: Reads | None = None,
    ) -> "TrainedRun":
        """Open the run at `path`, with `key=value` overrides for its configuration.

        Args:
            reads: what is read with this run's settings; an override of `data` without effect on it is an
                error. None: such overrides are allowed.

        Raises:
            UserError: if there is no run at `path`, its configuration is invalid, or an override has an
                unknown key.
        """
        folder = run_folder.find(Path(path))
        config = load_config(folder.config, overrides)
        validate(config)
        if reads is not None:
            refuse_unused_data(config, overrides, reads=reads)
        # In the configuration, data.limit is for the training split; as an override, for the evaluation.
        limited = any(override.partition("=")[0].strip("+") == "data.limit" for override in overrides)
        limit = config.data.get("limit") if limited else None
        return cls(folder, config, checkpoint_name=checkpoint, limit=limit)

    def task(self) -> Any:
        """A new task with the trained weights, in evaluation mode.

        Raises:
            UserError: if the checkpoint cannot be read or does not match the network.
        """
        task = build_task(self.config, self.classes)
        state, metadata = checkpoint.inference_weights(self.folder.checkpoint(self.checkpoint_name))
        checkpoint.load_strict(task.model, state)
        training = metadata.get("state")
        metrics = training.get("metrics") if isinstance(training, dict) else None
        if isinstance(metrics, dict) and hasattr(task, "use_metrics"):
            task.use_metrics(metrics)
        return task.eval()

    @cached_property
    def source(self) -> Any:
        """The run's data source (`engine.contracts.DataSource`)."""
        try:
            return build_source(self.config)
        except UserError as error:
            if str(error).endswith(": no such folder; check the path"):
                raise UserError(f"{error}, {IF_MOVED}", files=error.files) from None
            raise

    def read_image(self, path: str | os.PathLike[str]) -> Image:
        """Read an image for prediction as in training (data.pixel_range, data.orientation)."""
        limit_images(self.config)
        try:
            return read_image(path, pixel_range=self.pixel_range, upright=self.upright)
        except DamagedFileError as error:
            raise UserError(error.alone) from error

    def image_notes(self, files: Sequence[Path]) -> list[str]:
        """Lines about images with an EXIF or TIFF orientation, with several pages, or of 16 bits that use
        little of the range."""
        limit_images(self.config)
        paths = [str(file) for file in files]
        with announced("looking at the images"):
            unused = range_notes(paths, self.pixel_range)
            return [*header_notes(paths, upright=self.upright, annotated=False), *unused]

    @property
    def image_settings(self) -> list[str]:
        """`key=value` for the keys by which `read_image` reads otherwise than a new run would."""
        data = plain(self.config.data, "data")
        return [
            f"data.{key}={str(data[key]).replace(' ', '')}"
            for key in ("pixel_range", "orientation", "max_megapixels")
            if key in data and data[key] != getattr(DataOptions, key)
        ]

    @property
    def upright(self) -> bool:
        """Whether images are rotated by their EXIF or TIFF orientation (`data.orientation`)."""
        return not reads_as_stored(self.config)

    @cached_property
    def pixel_range(self) -> Range | None:
        """`data.pixel_range`: the stored values that become 0 and 255."""
        return as_pixel_range(plain(self.config.data, "data").get("pixel_range"))

    @property
    def split(self) -> str:
        """The split to evaluate: `data.split`."""
        return str(self.config.data.split)

    def evaluate(
        self,
        task: Any = None,
        *,
        runtime: Runtime,
        on_batch: Callable[[Any, dict[str, Any], Any], None] | None = None,
        quiet: bool = False,
    ) -> Evaluation:
        """Evaluate a task on the run's split (`data.split`), each sample once.

        Args:
            task: by default, the run's own task with its trained weights.
            runtime: device and precision; its processes share the work.
            on_batch: called with the dataset, each batch and its predictions.
            quiet: show no progress bar.

        Raises:
            UserError: if the split is missing, unlabeled or unreadable, its classes differ from the run's, or
                (without `on_batch`) no label in it counts.
        """
        task = runtime.place(self.task() if task is None else task)
        task.check_classes(self.source.classes)
        data = options(DataOptions, self.config.data, "data")
        builder = DatasetBuilder.from_config(data, runtime=runtime)
        dataset = builder.dataset(self.source, data.split, task.eval_transform, limit=self.limit)
        if data.on_error == "fail" and data.cache is None:
            refuse_incomplete([dataset], runtime=runtime, budget=data.error_budget)
        share = EvaluationSampler(
            num_samples=len(dataset), batch=data.eval_batch, rank=runtime.rank, world_size=runtime.world_size
        )
        evaluator = task.evaluator(dataset)
        progress = None if quiet else Progress(len(share), unit="batch")
        first = announced("evaluation") if runtime.is_main and not quiet else nullcontext(lambda: None)
        if not quiet and runtime.is_main:
            task.on_part = PartProgress(unit="window")

        def after_batch(done: int, batch: dict[str, Any], outputs: Any) -> None:
            end_first()
            if progress is not None:
                progress.update(done)
            if on_batch is not None:
                on_batch(dataset, batch, outputs)

        batches = BatchLoader(dataset, share, workers=data.workers)
        with first as end_first:
            metrics = evaluate(task, batches, evaluator, runtime, on_batch=after_batch)
        if progress is not None:
            progress.close()
        # Saved predictions are useful without scores: Cityscapes' server scores those of its test split.
        if on_batch is None and math.isnan(metrics[evaluator.main_metric]):
            limit = "" if self.limit is None else f" (data.limit={self.limit})"
            raise UserError(
                f"data.split={data.split}: nothing can be scored, because the labels of its "
                f"{counted(len(dataset), 'image')}{limit} are all ignored or empty; correct them (for masks, "
                "check the ids and `ignore` in classes.json), choose another data.split, or use "
                "tools/predict.py"
            )
        return Evaluation(
            metrics={**metrics, "split": data.split, **builder.skipped_counts},
            evaluator=evaluator,
            dataset=dataset,
            notes=[
                *getattr(self.source, "warnings", ()),
                *image_notes(self.source, dataset),
                *builder.notes(),
                *trained_on(data.split),
                *self._limited(dataset),
            ],
            write_skipped=partial(_write_skipped, builder),
        )

    def write_report(
        self,
        result: Evaluation,
        reporter: Any,
        out: Path,
        *,
        metrics: dict[str, Any],
        worst: int,
        suspicious: int,
    ) -> None:
        """Write the report.html of an evaluation into `out`, with suspicious.json and exclude.json.

        Args:
            worst: number of worst and of random images to draw.
            suspicious: number of images with suspicious labels to list; 0: do not search for any.

        Raises:
            UserError: if a file cannot be written.
        """
        from engine.report.run import RunFacts, write_evaluation_report
        from engine.report.suspicious import write_suspicious

        evaluator, dataset, found = result.evaluator, result.dataset, None
        if suspicious and hasattr(reporter, "suspicious"):
            found = reporter.suspicious(evaluator, dataset, suspicious)
            write_suspicious(out, self.split, found)
        write_evaluation_report(
            RunFacts(
                run=self.folder,
                info=self.info,
                differences=differences(self.config),
                batch=int(self.config.trainer.batch),
            ),
            reporter=reporter,
            evaluator=evaluator,
            dataset=dataset,
            metrics=metrics,
            notes=result.notes,
            suspicions=found,
            out=out,
            worst=worst,
        )

    def _limited(self, dataset: Any) -> list[str]:
        """A line if only part of the split is evaluated."""
        if self.limit is None:
            return []
        return [f"data.limit={self.limit}: {len(dataset)} evenly spaced images of {self.split} are evaluated"]


def _write_skipped(builder: DatasetBuilder, folder: Path) -> None:
    """Write `skipped.json`, or remove that of an earlier evaluation; a run's own list is kept."""
    own = RunFolder(folder)
    if own.config.exists():
        return
    own.skipped.unlink(missing_ok=True)
    builder.write(folder)


def find_teacher(
    config: DictConfig, *, find_run: Callable[[str], str | Path] = Path
) -> Callable[[ClassMap], Any]:
    """Find `distill.teacher`: a run folder, a published network, a folder with a `transformers` model, or a
    torchvision model.

    Args:
        find_run: path or name of a published network -> its run folder.

    Returns:
        classes -> distillation loss, with the teacher's weights. Raises a UserError if the teacher has other
        classes.

    Raises:
        UserError: if there is no such teacher, or the task does not support distillation.
    """
    from engine.train.distillation import Distillation, hugging_face, teachers

    info = task_info(config)
    if not info.distills:
        raise UserError(f"distill.teacher: task={info.name} does not support distillation; leave it out")
    for key, default in WITHOUT_TEACHER.items():
        if key not in info.distills and config.distill[key] != default:
            raise UserError(f"distill.{key} does not apply to task={info.name}; leave it out")

    def load_run(path: Path) -> Any:
        teacher = TrainedRun.open(path)
        if teacher.info.name != info.name:
            raise UserError(
                f"distill.teacher={path}: a run of task={teacher.info.name}, not {info.name}; choose another"
            )
        return teacher.task()

    name = config.distill.teacher
    foreign = teachers.is_torchvision(name) or hugging_face.is_model_folder(Path(name))
    if foreign and "temperature" not in info.distills:  # what they return are scores of classes alone
        raise UserError(
            f"distill.teacher={name}: for task={info.name}, the teacher must be a run or a published name"
        )
    if not foreign:
        try:
            name = str(find_run(name))
        except UserError as error:
            raise UserError(f"{error}; a torchvision model such as resnet50 can be a teacher too") from None
    loss = {name: config.distill[name] for name in ("weight", "temperature", "method")}
    return lambda classes: Distillation(teacher=teachers.load_teacher(name, classes, load_run), **loss)
