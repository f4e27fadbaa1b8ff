"""Builds a training from its configuration: run folder, data, task, initial weights and trainer."""

import contextlib
import copy
import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from engine import runtime
from engine.config.compose import make_paths_absolute, to_yaml
from engine.config.instantiate import build, check_node, options, plain, task_info
from engine.config.options import DataOptions, TrainOptions, refuse_unused
from engine.contracts import DataSource, TaskInfo
from engine.data.class_map import ClassMap
from engine.data.dataset_builder import DatasetBuilder
from engine.data.images import set_max_megapixels
from engine.data.loader import DataLoaders
from engine.data.preprocessing import (
    as_pixel_range,
    files_of,
    header_notes,
    range_notes,
    refuse_incomplete,
)
from engine.errors import UserError
from engine.io.files import write_json
from engine.io.progress import announced
from engine.run import checkpoint, run_folder
from engine.run.run_folder import Claim, RunFolder
from engine.train.run_log import Tracker
from engine.train.trainer import Trainer, TrainerOptions

_FEW_IMAGES, _FEW_SCENES = 1000, 200  # of own data, and of the built-in scenes


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training that is ready to run.

    Attributes:
        config, run, info: the configuration, the run folder and the `TaskInfo`.
        resumes: whether it continues an existing run.
        trainer: the trainer, with the task, the data and the runtime.
        notes: lines to print before training starts.
        builder: builds the datasets and records skipped samples; None in a new run that uses neither
            `data.limit`, `data.on_error`, `data.exclude` nor `data.cache`.
        classes: the classes of the data source.
        claim: keeps other processes out of the run folder; None if no process, or another one, writes to it.
    """

    config: DictConfig
    run: RunFolder
    info: TaskInfo
    resumes: bool
    trainer: Trainer
    notes: list[str]
    builder: DatasetBuilder | None
    classes: ClassMap
    claim: Claim | None

    def fit(self) -> None:
        """Save the configuration, train to the last step, and save curves and sample predictions."""
        try:
            self._fit()
        finally:
            if self.claim is not None:
                self.claim.release()

    def _fit(self) -> None:
        trainer, is_main = self.trainer, self.trainer.runtime.is_main
        finished = trainer.finished
        if is_main and finished:
            print(_how_to_extend(trainer))
        elif is_main:
            write = run_folder.update if self.resumes else run_folder.create
            write(self.run, config=to_yaml(self.config), environment=runtime.describe(trainer.runtime))
            if not self.resumes or not self.run.classes.exists():
                write_json(self.run.classes, self.classes.to_dict())
            if not self.run.train_names.exists():
                sets = {self.config.data.split: trainer.data.eval_set, "train": trainer.data.train_set}
                names = {split: [part.name(i) for i in range(len(part))] for split, part in sets.items()}
                write_json(self.run.train_names, names)
            if self.builder is not None:
                self.builder.write(self.run.path)
            print("\n".join(self.notes))
        trainer.trackers = trackers = [] if finished or not is_main else self._open_trackers()
        try:
            trainer.fit()
            if is_main:
                self._finish(trackers, finished=finished)
        finally:
            for tracker in trackers:
                tracker.close()
        trainer.runtime.close()

    def _finish(self, trackers: Sequence[Tracker], *, finished: bool) -> None:
        """Print the results, and save what the run folder still lacks."""
        from engine.config.saved import differences
        from engine.report import finished_training
        from engine.train.trackers.opening import track_samples

        trainer, split = self.trainer, self.config.data.split
        if not finished:
            print("\n".join([trainer.results(), *trained_on(split)]))
        if not finished or not self.run.curves.exists():
            finished_training.draw(
                trainer,
                self.info,
                self.classes,
                samples=self.config.samples,
                split=split,
                evaluated=not finished,
                differences=partial(differences, self.config),
            )
        if not finished:
            track_samples(trackers, self.run, trainer.state.step, trainer.options.trackers)
            print(f"next: python tools/eval.py run={shlex.quote(str(self.run.path))}")
        print(f"run: {self.run.path}")

    def _open_trackers(self) -> Sequence[Tracker]:
        names = [name for name in self.trainer.options.trackers if name != "tensorboard"]
        if not names:
            return []
        from engine.train.trackers.opening import open_trackers
        from engine.train.trackers.tracked_run import TrackedRun

        return open_trackers(names, TrackedRun(self.run, plain(self.config, "")))


def _how_to_extend(trainer: Trainer) -> str:
    if early := trainer.state.stopped_early:
        return f"this run stopped early: {early}; to continue, increase trainer.patience or set it to null"
    return f"this run already finished, at step {trainer.steps}; to extend it, increase trainer.steps"


def open_training(
    config: DictConfig,
    *,
    published: Callable[[str], Any],
    find_teacher: Callable[[DictConfig], Callable[[ClassMap], Any]],
) -> Training:
    """Build a training from its configuration: a new run, or the run named by `resume=` or `replay=`.

    Args:
        published: name -> published weight file, for `init_from` and `weights`.
        find_teacher: configuration -> (classes -> distillation loss); see `engine.config.runs.find_teacher`.

    Raises:
        UserError: if the configuration, the data or the weights are invalid.
    """
    started = time.monotonic()
    replays = config.replay is not None
    automatic = [] if replays or config.resume is not None else automatic_keys(config)
    if automatic:
        from engine.config.choices.automatic import with_defaults

        config = with_defaults(config, automatic)
    config, run, resumes = open_run(config)
    if not resumes:
        _check_weights(config, published=published)
    load_teacher = None if config.distill.teacher is None else find_teacher(config)
    settings = build(config.trainer, key="trainer")
    if resumes and settings.minutes is not None:
        raise UserError("trainer.minutes: a resumed run keeps its length; leave it out, or set trainer.steps")
    if others := [name for name in settings.trackers if name != "tensorboard"]:
        from engine.train.trackers.opening import check_installed

        check_installed(others)
    here = runtime.start(
        device=settings.device,
        precision=settings.precision,
        channels_last=settings.channels_last,
        deterministic=settings.deterministic,
        key="trainer.device",
    )
    claim = None
    if here.is_main and not replays:
        claim = run_folder.claim_run(run, resumes=resumes, renames=not resumes and config.run is None)
    run = here.broadcast(run if claim is None else RunFolder(claim.path))
    read: list[str] = []
    try:
        return _build_training(
            config,
            here,
            settings,
            run=run,
            claim=claim,
            resumes=resumes,
            replays=replays,
            automatic=automatic,
            started=started,
            published=published,
            load_teacher=load_teacher,
            read=read,
        )
    except BaseException:
        if claim is not None:
            claim.release()
        if here.is_main and read:  # such as that it created classes.json
            print("\n".join(read))
        raise


def _build_training(
    config: DictConfig,
    here: runtime.Runtime,
    settings: TrainerOptions,
    *,
    run: RunFolder,
    claim: Claim | None,
    resumes: bool,
    replays: bool,
    automatic: list[str],
    started: float,
    published: Callable[[str], Any],
    load_teacher: Callable[[ClassMap], Any] | None,
    read: list[str],
) -> Training:
    """The training; `read` receives the lines of the reader, to be printed even if a later part fails."""
    builder = _builder(config, here, run if resumes else None)
    augment = build(config.augment, key="augment")
    source = build_source(config)
    read += source.warnings
    if resumes and run.classes.exists():
        ClassMap.read(run.classes).check_unchanged(source.classes, run=run.path)
    chosen: list[str] = []
    if automatic:
        from engine.config.choices.automatic import choose_from_data

        chosen = choose_from_data(config, automatic, source, here)
        augment = build(config.augment, key="augment")
    torch.manual_seed(config.seed)
    task = build_task(config, source.classes)
    restores = resumes and checkpoint.exists(run.last) and not replays
    started_from = "" if restores or replays else load_initial_weights(config, task, published=published)
    if load_teacher is not None:
        task.distillation = load_teacher(source.classes)
    frozen = freeze(config, task)
    here.place(task)
    data = _data_loaders(config, here, source, builder, augment, task.eval_transform)
    if config.distill.images is not None:
        from engine.train.distillation.unlabeled import with_unlabeled

        data = with_unlabeled(data, config.distill.images, here, source=source)
    if "trainer.batch" in automatic or settings.minutes is not None:
        from engine.config.choices.automatic import choose_batch_and_steps

        make_trainer = partial(_build_trainer, config, here, data=data)
        chosen += choose_batch_and_steps(config, automatic, task, data, here, make_trainer, started=started)
        settings = build(config.trainer, key="trainer")
    trainer = _build_trainer(config, here, settings=settings, run=run, task=task, data=data)
    if restores:
        started_from = trainer.restore()
    skipped = builder.notes() if builder else []
    if resumes:
        from engine.data.sample_list import changed_since

        skipped += changed_since(run.train_names, config.data.split, data.eval_set)
    notes = [*([] if resumes else _recipe(config)), *source.warnings, *image_notes(source, data.train_set)]
    notes += [source.description, *chosen, *skipped]
    notes += [*task.notes(data.train_set), *frozen, *trained_on(config.data.split)]
    notes += [f"starting from {started_from}"]
    if not resumes:
        notes += few_images(config, len(data.train_set))
    return Training(
        config=config,
        run=run,
        info=task_info(config),
        resumes=resumes,
        trainer=trainer,
        notes=notes,
        builder=builder,
        classes=source.classes,
        claim=claim,
    )


def _data_loaders(
    config: DictConfig,
    here: runtime.Runtime,
    source: DataSource,
    builder: DatasetBuilder | None,
    augment: Any,
    eval_transform: Any,
) -> DataLoaders:
    """The data of a training. Raises: UserError if files are damaged."""
    data = DataLoaders(
        train_set=_dataset(source, builder, "train", augment, seed=config.seed, limit=config.data.limit),
        eval_set=_dataset(source, builder, config.data.split, eval_transform),
        seed=config.seed,
        workers=config.data.workers,
        eval_batch=config.data.eval_batch,
        extra_metrics=builder.skipped_counts if builder else {},
    )
    if config.data.on_error == "fail" and config.data.cache is None:
        sets = (data.train_set, data.eval_set)
        refuse_incomplete(sets, runtime=here, budget=config.data.error_budget)
    return data


def _build_trainer(
    config: DictConfig,
    here: runtime.Runtime,
    *,
    settings: TrainerOptions,
    run: RunFolder,
    task: Any,
    data: DataLoaders,
) -> Trainer:
    settings = settings.in_steps(len(data.train_set))
    with _announced("preparing the optimizer"):  # it loads a large part of PyTorch
        optimizer = build(config.optimizer, key="optimizer", model=task.model)
    return Trainer(
        options=settings,
        task=task,
        optimizer=optimizer,
        schedule=build(config.schedule, key="schedule", steps=settings.steps),
        runtime=here,
        run=run,
        data=data,
    )


def limit_images(config: DictConfig) -> None:
    """Apply data.max_megapixels."""
    set_max_megapixels(options(DataOptions, config.data, "data").max_megapixels)


def _announced(what: str) -> contextlib.AbstractContextManager[Any]:
    """`announced` in the first process of the run."""
    return announced(what) if os.environ.get("RANK", "0") == "0" else contextlib.nullcontext()


def build_source(config: DictConfig) -> Any:
    """The data source of a configuration, which reads images as set in `data`. Raises: UserError."""
    if config.data.get("root") == "<data.root>":
        raise UserError("data.root is not set in this run; pass data.root=<folder>")
    limit_images(config)
    with _announced("reading the annotations"):
        source = build(config.data.source, key="data.source")
    pixel_range = as_pixel_range(plain(config.data, "data").get("pixel_range"))
    if pixel_range is not None and not hasattr(source, "pixel_range"):
        raise UserError("data.pixel_range: this data source reads images itself; leave it out")
    if pixel_range is not None:
        source.pixel_range = pixel_range
    if reads_as_stored(config):
        if not hasattr(source, "upright"):
            raise UserError("data.orientation: this data source reads images itself; leave it out")
        source.upright = False
    return source


def build_changed_source(config: DictConfig, changes: Mapping[str, Any]) -> Any:
    """The data source with other values for some keys, such as {"data.on_error": "skip"}; keys that the
    configuration does not have are ignored. Raises: UserError."""
    changed = copy.deepcopy(config)
    for key, value in changes.items():
        group, _, name = key.rpartition(".")
        if name in OmegaConf.select(changed, group):
            OmegaConf.update(changed, key, value)
    return build_source(changed)


def reads_as_stored(config: DictConfig) -> bool:
    """Whether images are read without rotating them by their orientation."""
    return bool(config.data.get("orientation") == "stored")


def _recipe(config: DictConfig) -> list[str]:
    """A line about the experiment, if the data format recommends it."""
    recipe = config.data.get("recipe")
    if recipe is None or config.experiment != recipe:
        return []
    return [f"recipe: experiment={recipe}, the default for this data format; data.recipe=null turns it off"]


def few_images(config: DictConfig, number: int) -> list[str]:
    """A line if a network with published weights is trained on few images from random weights."""
    name = str(config.get("backbone", {}).get("_target_", "")).rpartition(".")[2]
    few = _FEW_SCENES if ".streets." in config.data.source._target_ else _FEW_IMAGES
    random = config.weights is None and config.init_from is None
    if not random or number >= few or not name.startswith("mobilenet_v"):
        return []
    backbone = plain(config.backbone, "backbone")
    as_published = backbone.get("tail", "full") == "full" and backbone.get("width_mult", 1) == 1
    pixels = "" if config.task.get("pixels") == "imagenet" else " task.pixels=imagenet"
    how = f"weights={name}{pixels}" if as_published else "starting from published weights"
    return [
        f"{number} training images are few for random weights; {how} usually gives far better results "
        "(docs/guides/weights.md)"
    ]


def trained_on(split: str) -> list[str]:
    """A line if a run is evaluated on its training images."""
    if split != "train":
        return []
    return [
        "data.split=train: evaluated on the training images, so the scores do not show how good the network "
        "is on new images"
    ]


def image_notes(source: Any, dataset: Any) -> list[str]:
    """Lines about images of a dataset with an EXIF or TIFF orientation, with several pages, or of 16 bits
    that use little of the range."""
    files = [sample for sample in files_of(dataset) if sample]
    paths = [sample[0] for sample in files]
    with _announced("looking at the images"):
        return _image_notes(source, dataset, files, paths)


def _image_notes(
    source: Any, dataset: Any, files: Sequence[tuple[str, ...]], paths: Sequence[str]
) -> list[str]:
    unused = range_notes(paths, getattr(source, "pixel_range", None))
    if not hasattr(dataset, "read_pixels"):
        return unused
    masks = [path for sample in files for path in sample[1:]]
    return [*header_notes(paths, masks, upright=getattr(source, "upright", True)), *unused]


def _builder(config: DictConfig, here: runtime.Runtime, resumed: RunFolder | None) -> DatasetBuilder | None:
    """A `DatasetBuilder` for a resumed run, or options that limit, check or cache data; otherwise None."""
    data = config.data
    if resumed is None:
        wanted = data.on_error != "fail" or any(
            data[key] is not None for key in ("cache", "exclude", "limit")
        )
        return DatasetBuilder.from_config(data, runtime=here) if wanted else None
    from engine.data import sample_list

    names = sample_list.read(resumed.train_names)
    return DatasetBuilder.from_config(data, runtime=here, resumed_from=resumed.skipped, samples=names)


def _dataset(
    source: DataSource,
    builder: DatasetBuilder | None,
    split: str,
    transform: Any,
    *,
    seed: int = 0,
    limit: int | None = None,
) -> Any:
    if builder is None:
        return source.dataset(split, transform, seed=seed)
    return builder.dataset(source, split, transform, seed=seed, limit=limit)


def automatic_keys(config: DictConfig) -> list[str]:
    """The keys set to `auto` whose values are chosen when a training starts."""
    keys = ["trainer.batch", *task_info(config).automatic]
    in_groups = [key for key in keys if isinstance(config.get(key.partition(".")[0]), DictConfig)]
    return [key for key in in_groups if OmegaConf.select(config, key) == "auto"]


def check_excluded(config: DictConfig) -> None:
    """Raises: UserError if the file in `data.exclude` cannot be read."""
    if config.data.exclude is not None:
        from engine.data.exclude import read_excluded

        read_excluded(Path(config.data.exclude).expanduser())


def validate(config: DictConfig) -> TrainOptions:
    """Check a training configuration as far as possible without reading data: missing values, targets,
    options and types. Returns the options that belong to no group.

    Raises:
        UserError: if a value is invalid; the message names the first such key.
    """
    contents = plain(config, "")
    for key in ("data", "task", "model", "trainer"):
        if not isinstance(contents.get(key), dict):
            raise UserError(
                f"{key} must be a group of keys, got {contents.get(key)!r}; choose an option of {key}="
            )
    trained = options(TrainOptions, config)
    task_info(config)
    options(DataOptions, config.data, "data")
    as_pixel_range(contents["data"].get("pixel_range"))
    for name, node in config.items():
        if isinstance(node, DictConfig):
            check_node(node, str(name))
    target = config.task.get("_target_")
    if str(target).partition(".")[0] != config.package:
        raise UserError(
            f"package={config.package}: does not match the task {target}; choose the task with task=, and do "
            "not set package"
        )
    return trained


_OF_A_NEW_RUN = ("run", "init_from", "weights", "checkpoint", "skip", "data.recipe")
WITHOUT_TEACHER = {"method": "pixels", "images": None, "weight": 1.0, "temperature": 1.0}
"""The keys of `distill` that a teacher needs, with their defaults."""


def _refuse_distillation(config: DictConfig) -> None:
    for name, default in WITHOUT_TEACHER.items():
        if config.distill[name] != default:
            raise UserError(f"distill.{name} needs distill.teacher=; set that too, or leave it out")


def open_run(config: DictConfig) -> tuple[DictConfig, RunFolder, bool]:
    """Open the run folder of a training: a new one, or the one named by `resume=` or `replay=`.

    Returns:
        (configuration, run folder, whether it resumes)
    """
    if config.resume is not None and config.replay is not None:
        raise UserError("resume= and replay= cannot be combined; pass only one of them")
    if config.resume is not None or config.replay is not None:
        path = Path(config.resume) if config.replay is None else Path(config.replay).parent
        run = run_folder.find(path, key="resume" if config.replay is None else "replay")
        from engine.config.saved import load_config

        for override in config.overrides:
            key, _, value = override.lstrip("+").partition("=")
            if key in _OF_A_NEW_RUN and value not in ("", "null"):
                raise UserError(f"{key}= has no effect on an existing run, {path}; leave it out")
        config = load_config(run.config, list(config.overrides))
        validate(config)
        make_paths_absolute(config)
        return config, run, True
    chosen = validate(config)
    without_weights = chosen.init_from is None and chosen.weights is None
    if without_weights and (chosen.checkpoint, *chosen.skip) != ("best",):
        refuse_unused(chosen, "checkpoint", "skip", needs="init_from= or weights=")
    if config.distill is None:
        raise UserError("distill=null: distill is a group of keys; for no distillation, leave it out")
    if config.distill.teacher is None:
        _refuse_distillation(config)
    name = config.experiment or config.data.source._target_.rpartition(".")[2]
    default = run_folder.default_path(config.package, name.removeprefix(f"{config.package}/"))
    make_paths_absolute(config)
    return config, RunFolder(Path(config.run or default)), False


def build_task(config: DictConfig, classes: Any) -> Any:
    """Build the model for the given classes, and its task."""
    model = build(config.model, key="model", num_classes=len(classes))
    return build(config.task, key="task", model=model, classes=classes)


def build_task_for(config: DictConfig, source: Any, automatic: Sequence[str] = ()) -> Any:
    """The task that a training on `source` would build, for `tools/check.py`.

    Args:
        config: has the defaults of keys set to `auto`.
        automatic: those keys. `data.size` is chosen from the data; the others do not matter to a check.
    """
    from engine.config.choices.automatic import choose_from_data

    config, in_data = copy.deepcopy(config), [key for key in automatic if key.startswith("data.")]
    with contextlib.suppress(UserError):  # the check reports what is wrong with the data
        choose_from_data(config, in_data, source, runtime.Runtime(torch.device("cpu")))
    return build_task(config, source.classes)


def load_initial_weights(config: DictConfig, task: Any, *, published: Callable[[str], Any]) -> str:
    """Load the initial weights (`init_from`, `weights`) into a new task; returns a description of them.

    Args:
        published: name -> published weight file.

    Raises:
        UserError: if there is no such file or name, or the weights do not match the model.
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
        task=str(config.package),
    )


def _check_weights(config: DictConfig, *, published: Callable[[str], Any]) -> None:
    """Raise a UserError if `init_from` or `weights` is neither a file nor a known name."""
    key = "weights" if config.init_from is None else "init_from"
    if config[key] is not None:
        from engine.run.initial_weights import find_published

        find_published(str(config[key]), key=key, published=published)


def freeze(config: DictConfig, task: Any) -> list[str]:
    """Freeze the parameters that `freeze` names; returns a line with their number, for the console."""
    if not config.freeze:
        return []
    from engine.train import freezing

    return [f"{freezing.freeze(task.model, config.freeze)} parameters are frozen"]
