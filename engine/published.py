"""Published networks by name: run folders, made on first use, and the network of a training.

`run=<name>` becomes a run folder in `runs/`, as if the network had been trained here, so it works with every
tool. The weights are downloaded once, into the folder of `engine.run.initial_weights`.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeGuard

from engine import runtime
from engine.config.compose import FORMAT, compose_config, to_yaml
from engine.config.instantiate import options, task_info
from engine.config.options import TrainOptions
from engine.config.overrides import tasks
from engine.config.saved import without_data
from engine.config.training import build_task, validate
from engine.data.class_map import ClassMap
from engine.errors import UserError
from engine.io.files import locked, user_cache, write_json
from engine.run import checkpoint, initial_weights, run_folder
from engine.run.checkpoint import LoadReport
from engine.run.initial_weights import Remote
from engine.run.run_folder import RunFolder

RUNS = Path("runs")
FACTS = "published.json"
"""File in the run folder of a published network: what the folder was made from."""


class PublishedNetwork(Remote, Protocol):
    """A published network with its weights."""

    @property
    def name(self) -> str: ...

    @property
    def source(self) -> str: ...

    @property
    def license(self) -> str: ...

    @property
    def num_params(self) -> int: ...

    @property
    def spec(self) -> Any:
        """The backbone's `NetSpec`; None if it is not one of this project's."""
        ...

    @property
    def overrides(self) -> tuple[str, ...]:
        """Overrides that choose the network, evaluated as published."""
        ...


Find = Callable[[str], Any]
"""Name -> `PublishedNetwork`; raises a ValueError for an unknown name."""


def run_by_name(arguments: Sequence[str], *, published: Find) -> list[str]:
    """A tool's arguments with `run=<name>` replaced by the run folder of that published network.

    Raises:
        UserError: if `run=` is neither a folder nor a known name, or the network cannot be downloaded.
    """
    completed = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key == "run" and value and value[0] not in "'\"$[" and not os.path.exists(value):
            runs = (find_run(part, published=published) for part in value.split(","))
            argument = f"run={','.join(map(str, runs))}"
        completed.append(argument)
    return completed


def find_run(text: str, *, published: Find, parent: Path | None = RUNS, key: str = "run=") -> str | Path:
    """`text` unchanged if it is a path; the run folder of a published network, if it is the name of one.

    Args:
        parent: folder for the run folder; None, or if it cannot be written: the user's cache.
        key: begins messages.

    Raises:
        UserError: if `text` is a name, but not that of a published network, or it cannot be downloaded.
    """
    if not initial_weights.is_name(text):
        return text
    try:
        network = published(text)
    except ValueError as error:
        raise UserError(f"{key}{text}: not a run folder (it has no config.yaml), and {error}") from None
    return make_run(network, (parent if _writable(parent) else user_cache() / "models") / network.name)


def _writable(parent: Path | None) -> TypeGuard[Path]:
    if parent is None:
        return False
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(parent, os.W_OK)


def make_run(network: PublishedNetwork, folder: Path) -> Path:
    """Make the run folder of a published network, unless it exists; returns the folder.

    Raises:
        UserError: if the weights cannot be downloaded or do not fit, or the folder contains another run.
    """
    if network.spec is None:
        options = f"weights={network.name} {' '.join(network.network)}"
        raise UserError(f"{network.name}: can only be used as a backbone: {options}")
    facts = {"name": network.name, "url": network.url, "overrides": list(network.overrides), "format": FORMAT}
    if _facts(folder) == facts:
        return folder
    if _facts(folder) is None and RunFolder(folder).config.exists():
        raise UserError(f"{folder}: contains another run; rename it, or pass run={folder}")
    file = initial_weights.download(network, key=network.name)
    lock = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(lock, waiting_for=f"another process that is making {folder}"):
            if _facts(folder) != facts:
                _write_run(network, file, RunFolder(folder))
                write_json(folder / FACTS, facts)
            lock.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be created ({error.strerror}); free some space") from None
    return folder


def _facts(folder: Path) -> Any:
    try:
        return json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write_run(network: PublishedNetwork, file: Path, run: RunFolder) -> None:
    config = without_data(compose_config("train", [*network.overrides, f"init_from={network.name}"]))
    validate(config)
    task, classes, _ = load_for_classes(config, file, network.categories)
    count = sum(parameter.numel() for parameter in task.model.parameters())
    if count != network.num_params:
        raise UserError(f"{file}: {count} parameters instead of {network.num_params}; not the published file")
    tensors = checkpoint.prefixed("model", task.model.state_dict())
    checkpoint.write(run.best, tensors, {"source": network.url})
    write_json(run.classes, classes.to_dict())
    # Last: if the disk is full before, the folder is not taken for another run.
    run_folder.update(run, config=to_yaml(config), environment=runtime.describe(runtime.start(device="cpu")))
    print(f"{network.name}: {network.source}; {count / 1e6:.2f}M parameters; {network.license}")
    print(f"run folder: {run.path}", flush=True)


def load_for_classes(
    config: Any, source: Path, names: tuple[str, ...] | None
) -> tuple[Any, ClassMap, LoadReport]:
    """Build the task of a configuration for the classes of published weights, and load the weights.

    Args:
        names: of the classes; None: the task's default names for their number.

    Raises:
        UserError: if the weights do not fit, or the names are unknown or do not match their number.
    """
    chosen, info = options(TrainOptions, config), task_info(config)
    state = initial_weights.read_state(source, chosen.checkpoint)
    try:
        model = build_task(config, ClassMap.numbered(names or ("one",), first_id=info.first_id)).model
        count = model.num_classes_in(model.adapt(state))
        names = names or (info.default_names(count) if info.default_names else None)
        if names is None:
            raise UserError(f"{source}: its class names are unknown; pass labels=<file> (line n: class n)")
        extra = len(names) - count
        # A detector's label list can be longer. A classifier's first output can be an unnamed background.
        if extra not in (0, -1) if info.background else extra < 0:
            raise UserError(f"labels: {len(names)} names for weights of {count} classes; correct the file")
        known = info.known_classes(names[:count]) if info.known_classes else None
        classes = known or ClassMap.numbered(names[:count], first_id=info.first_id)
        task = build_task(config, classes)
        report = checkpoint.load_strict(task.model, task.model.adapt(state), skip=list(chosen.skip))
        return task, classes, report
    except ValueError as error:
        raise UserError(str(error) if isinstance(error, UserError) else f"{source}: {error}") from None


def with_network(arguments: Sequence[str], *, published: Find, as_published: bool = False) -> list[str]:
    """A training's arguments; for `init_from=<name>`, with options that choose the network of those weights.

    Nothing is added if the arguments already choose a network (`experiment=`, `backbone=` or `model=`) or a
    task other than that of the weights. Options that are typed take precedence.

    Args:
        as_published: also choose the data and the settings of the published evaluation.
    """
    typed = {key.lstrip("+"): value for key, _, value in (argument.partition("=") for argument in arguments)}
    name = typed.get("init_from", "").strip("'\"")
    own = {"experiment", "backbone", "model", "resume", "replay"} & typed.keys()
    if own or not name or not initial_weights.is_name(name):
        return list(arguments)
    try:
        network = published(name)
    except ValueError:  # reported when the weights are loaded
        return list(arguments)
    if typed.get("task", network.task) != network.task or network.task not in tasks():
        return list(arguments)
    chosen = network.overrides if as_published else network.network
    added = [override for override in chosen if override.partition("=")[0] not in typed]
    if not as_published:
        print(f"init_from={name} sets {' '.join(added)}", flush=True)
    if not any(override.startswith(("task=", "experiment=")) for override in [*added, *arguments]):
        added.insert(0, f"task={network.task}")
    return [*added, *arguments]
