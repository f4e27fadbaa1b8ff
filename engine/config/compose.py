"""Configuration: from the command line to objects in one jump.

`launch` is the main of every tool: it composes `conf/<tool>.yaml` with the overrides of the command line,
runs the job and turns what a user can get wrong into one line. `build` makes objects from config nodes.
"""

import copy
import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir, main
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from engine.config import network_file, untrusted
from engine.config.help import CONF, MAKE_RUNS, groups, own_groups, readable_help, top_keys
from engine.config.instantiate import check, make, nearest
from engine.data.class_map import ClassMap
from engine.errors import UserError
from engine.run import checkpoint, initial_weights, run_folder
from engine.run.run_folder import RunFolder
from engine.runtime import exit_process
from engine.train.signals import EXIT_STOPPED, Stopped

_NUMBERS = {
    "seed": (int, 0),
    "samples": (int, 0),
    "worst": (int, 0),
    "data.workers": (int, 0),
    "data.eval_batch": (int, 1),
    "data.limit": (int, 1),
}


EITHER_OR = (("trainer.steps", "trainer.epochs"),)
"""Keys of which only one may be set: naming one on the command line empties the other."""


_DATA_PATHS = (
    "data.root",
    "data.cache",
    *(f"data.{split}.{part}" for split in ("train", "val", "test") for part in ("images", "annotations")),
)


_PATHS = (
    "run",
    "input",
    "out",
    "resume",
    "replay",
    "init_from",
    "weights",
    "labels",
    "distill.teacher",
    "spec",
    "artifact",
    *_DATA_PATHS,
)


_OF_THE_NETWORK = (
    "size",
    "min_scale",
    "resize",
    "square",
)  # of data: a run keeps them when it reads other data


# In configs: a learning rate for a batch, scaled linearly to another; and epochs of some images, in steps.
OmegaConf.register_new_resolver("linear", lambda lr, of_batch, batch: lr * batch / of_batch)


OmegaConf.register_new_resolver("steps", lambda epochs, images, batch: max(1, round(epochs * images / batch)))


_COMPOSED_ONLY = ("task", "experiment", "debug")  # groups that write to keys of other groups


def launch(job: Callable[[DictConfig], int | None], tool: str, help_text: str) -> None:
    """Run a tool and exit: 0 when it ends well, 1 with one line for a user's error, 75 when it was stopped.

    Hydra's own flags (`--multirun`, `--cfg job`, `--info` ...) are left to Hydra; a job of a sweep that fails
    does not keep the others from running.
    """
    arguments = sys.argv[1:]
    if any(argument in ("-h", "--help") for argument in arguments):
        print(readable_help(tool, help_text))
        sys.exit(0)
    if not any(argument.startswith("-") for argument in arguments):
        exit_process(_guarded(lambda: job(compose_config(tool, arguments))))
    statuses = [0]
    rest, network = _split_network(arguments)

    def hydra_job(config: DictConfig) -> None:
        choices = HydraConfig.get().runtime.choices
        statuses.append(_guarded(lambda: job(_with_network(_completed(config, choices, []), network))))

    sys.argv[1:] = _with_emptied(rest)
    main(config_path=str(CONF), config_name=tool, version_base="1.3")(hydra_job)()
    exit_process(max(statuses))


def _guarded(job: Callable[[], int | None]) -> int:
    try:
        return job() or 0
    except Stopped as stopped:
        print(str(stopped), file=sys.stderr)
        return EXIT_STOPPED
    except UserError as error:
        # A loader's worker hands an error on as the text of its whole traceback; the user's line is its last.
        text = str(error).rpartition("engine.errors.UserError: ")[2].strip()
        print(f"error: {text}", file=sys.stderr)
        return 1
    except ValueError as error:
        if not _is_ours(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _is_ours(error: Exception) -> bool:
    # A ValueError that this framework raises is addressed to the user; one from a library is a bug of ours,
    # also where the library is C code, which leaves no line of its own in the trace.
    trace = traceback.extract_tb(error.__traceback__)
    if not trace or CONF.parent not in Path(trace[-1].filename).parents:
        return False
    return (trace[-1].line or "").startswith("raise ")


def compose_config(tool: str, overrides: list[str]) -> DictConfig:
    """Compose `conf/<tool>.yaml` with command-line overrides.

    `backbone=<file>.yaml` takes the network of a file (`engine.config.network_file`). The name of the chosen
    experiment is stored as `experiment`. Overrides that are meant for the
    configuration of an existing run (of all tools that take one, and of train with `resume=` or `replay=`)
    are stored as `overrides`.

    Raises:
        UserError: an unknown key, group or option (with the nearest known one), or a value that cannot be
            parsed.
    """
    overrides, for_run = _split(tool, [_quoted(override) for override in overrides])
    overrides, network = _split_network(overrides)
    for override in overrides:
        _parsed(override)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            config = compose(tool, [*overrides, *_emptied(overrides)], return_hydra_config=True)
            config = _completed(config, config.hydra.runtime.choices, for_run)
        except Exception as error:  # for backbone=null, trainer=-1 or data=[[]] Hydra raises what Python does
            raise UserError(_explain(tool, overrides or for_run, error)) from None
    return _with_network(config, network)


def _split_network(overrides: list[str]) -> tuple[list[str], str | None]:
    """The overrides without `backbone=<file>`, and that file."""
    files = [o for o in overrides if o.startswith("backbone=") and o.endswith(network_file.SUFFIXES)]
    if files and (options := [o for o in overrides if o.startswith("backbone.")]):
        raise UserError(f"{options[0]}: {files[-1]} is a whole network, without options; edit the file")
    return [o for o in overrides if o not in files], files[-1].partition("=")[2] if files else None


def _with_network(config: DictConfig, file: str | None) -> DictConfig:
    return config if file is None else with_backbone(config, network_file.read(Path(file).expanduser()))


def with_backbone(config: DictConfig, fields: Mapping[str, Any]) -> DictConfig:
    """A copy of a training's configuration with the network of these fields (`NetSpec.to_dict`)."""
    changed = copy.deepcopy(config)
    OmegaConf.set_struct(changed, False)
    changed.backbone = network_file.node(fields)
    OmegaConf.set_struct(changed, True)
    return changed


def _completed(config: DictConfig, choices: Any, for_run: list[str]) -> DictConfig:
    OmegaConf.set_struct(config, False)
    config.pop("hydra", None)
    config.experiment, config.overrides = choices.get("experiment"), for_run
    OmegaConf.set_struct(config, True)
    return config


def _split(tool: str, overrides: list[str]) -> tuple[list[str], list[str]]:
    """Overrides of the tool itself, and those meant for the run that it works on."""
    if tool in MAKE_RUNS:
        own = [o for o in overrides if o.startswith(("resume=", "replay="))]
        return (own, [o for o in overrides if o not in own]) if own else (overrides, [])
    own_keys = [*top_keys(tool), *own_groups(tool)]
    own = [o for o in overrides if o.partition("=")[0].partition(".")[0].lstrip("+~") in own_keys]
    return own, [o for o in overrides if o not in own]


def load_config(path: Path, overrides: list[str]) -> DictConfig:
    """Read a run's `config.yaml` and apply `key=value` overrides to keys that it has.

    Raises:
        UserError: the file is unreadable, or an override names a key that the run's configuration lacks.
    """
    try:
        config = OmegaConf.load(io.StringIO(untrusted.read(path)))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: unreadable configuration ({_first_line(error)})") from None
    untrusted.check(OmegaConf.to_container(config), path)
    assert isinstance(config, DictConfig)
    known = set(_keys(config))
    parsed = [(override, *_parsed(override)) for override in overrides + _emptied(overrides)]
    # A group first, whatever the order, as when a training is composed.
    for override, key, value in sorted(parsed, key=lambda part: part[2] not in groups().get(part[1], ())):
        if key in _COMPOSED_ONLY:
            raise UserError(f"{override!r}: a run keeps its {key}; override single keys, or train a new run")
        if key in known and value in groups().get(key, ()):
            chosen = OmegaConf.load(CONF / key / f"{value}.yaml")
            for name in _OF_THE_NETWORK if key == "data" else ():
                if name in config.data and name in chosen:
                    OmegaConf.update(chosen, name, config.data[name])
            OmegaConf.update(config, key, chosen, merge=False)
            known = set(_keys(config))
            continue
        if key not in known and not override.startswith("+"):
            raise UserError(f"{override!r}: the run has no key {key!r}{nearest(key, known)}")
        try:
            OmegaConf.update(config, key, value, force_add=True)
        except OmegaConfBaseException as error:
            raise UserError(f"{_shown(override)}: {_first_line(error)}") from None
    untrusted.check(OmegaConf.to_container(config), path)
    OmegaConf.set_struct(config, True)
    return config


def _parsed(override: str) -> tuple[str, Any]:
    """(key, value) of one `key=value` in Hydra's grammar."""
    try:
        parsed = OverridesParser.create().parse_override(override)
        if parsed.is_sweep_override():
            raise UserError(f"{_shown(override)}: several values are a sweep, which needs -m")
        return parsed.key_or_group, None if parsed.is_delete() else parsed.value()
    except UserError:
        raise
    except (HydraException, ValueError, RecursionError):  # Python refuses numbers of 4300 digits by itself
        raise UserError(
            f"{_shown(override)}: not understood; write key=value, and values with special characters in "
            "quotes inside of quotes: 'key=\"value\"'"
        ) from None


def _quoted(override: str) -> str:
    """A path in quotes: commas, brackets and equals signs have a meaning of their own in Hydra's grammar."""
    key, _, value = override.partition("=")
    if key not in _PATHS or value in ("", "null", "???") or value[0] in "'\"$":
        return override
    escaped = re.sub(r"(\\*)('|$)", lambda end: end[1] * 2 + ("\\'" if end[2] else ""), value)
    return f"{key}='{escaped}'"


def to_yaml(config: DictConfig) -> str:
    """A configuration as text, references between keys kept."""
    return OmegaConf.to_yaml(config, resolve=False)


def build(node: Any, *, key: str, **arguments: Any) -> Any:
    """Build the object that a config node describes; see `engine.config.instantiate.make`.

    Raises:
        UserError: a value that must be given is missing, or what `make` refuses.
    """
    return make(plain(node, key), key, **arguments)


def validate(config: DictConfig) -> None:
    """Check all that can be checked before any data is read: nothing missing, targets, options, types.

    Raises:
        UserError: naming the first key that is wrong.
    """
    contents = plain(config, "")
    for key, (kind, least) in _NUMBERS.items():
        value = OmegaConf.select(config, key)
        if value is not None and (type(value) is not kind or value < least):
            raise UserError(f"{key} must be a whole number of at least {least}, got {value!r}")
    for key in ("freeze", "skip"):
        value = contents.get(key) or []
        if not isinstance(value, list) or not all(isinstance(pattern, str) for pattern in value):
            raise UserError(f"{key} must be a list of patterns, such as {key}=[backbone.*], got {value!r}")
    for name, node in config.items():
        if isinstance(node, DictConfig):
            check(plain(node, str(name)), str(name), complete=False)


def plain(node: Any, key: str) -> Any:
    """A config node as plain values, references followed. Raises: UserError for a value that is missing."""
    try:
        return OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        missing = re.search(r"Missing mandatory value: (\S+)", str(error))
        if missing is None:
            where = getattr(error, "full_key", None) or key or "the configuration"
            raise UserError(f"{where}: {_first_line(error)}") from None
        name = getattr(error, "full_key", None) or missing[1]
        name = missing[1] if "." in missing[1] or not name else name
        raise UserError(f"{name} is not set; give {name}=<value>") from None


def open_run(config: DictConfig) -> tuple[DictConfig, RunFolder, bool]:
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
    experiment = config.experiment or config.data.source._target_.rpartition(".")[2]
    default = run_folder.default_path(config.room, experiment.removeprefix(f"{config.room}/"))
    for key in (*_DATA_PATHS, "weights", "init_from", "distill.teacher"):
        value = OmegaConf.select(config, key)
        if value is not None and not (key not in _DATA_PATHS and initial_weights.is_name(value)):
            OmegaConf.update(config, key, os.path.abspath(os.path.expanduser(value)))
    return config, run_folder.RunFolder(Path(config.run or default)), False


def build_task(config: DictConfig, classes: Any) -> Any:
    """Build the model for a data set's classes, and the task around it."""
    model = build(config.model, key="model", num_classes=len(classes))
    return build(config.task, key="task", model=model, classes=classes)


def open_trained(config: DictConfig) -> tuple[RunFolder, DictConfig]:
    """The run that a tool works on, and its configuration with the tool's overrides."""
    validate(config)
    run = run_folder.find(Path(config.run))
    trained = load_config(run.config, list(config.overrides))
    validate(trained)
    return run, trained


def load_trained(run: RunFolder, config: DictConfig, classes: Any, checkpoint_name: str) -> Any:
    """The task of a run with its trained weights.

    Raises:
        UserError: the checkpoint does not fit, or the run was trained on other classes than `classes`.
    """
    task = build_task(config, ClassMap.read(run.classes))
    task.check_classes(classes)
    path = run.checkpoint(checkpoint_name)
    state, _ = checkpoint.inference_weights(path)
    checkpoint.load_strict(task.model, state)
    return task.eval()


def _emptied(overrides: list[str]) -> list[str]:
    named = {override.partition("=")[0].lstrip("+") for override in overrides}
    empty = []
    for keys in EITHER_OR:
        if len(named.intersection(keys)) == 1:
            empty += [f"{key}=null" for key in keys if key not in named]
    return empty


def _with_emptied(arguments: list[str]) -> list[str]:
    # Hydra takes overrides in one piece, before or after its flags: what is added follows the last one.
    overrides = [at for at, argument in enumerate(arguments) if "=" in argument and argument[0] != "-"]
    end = max(overrides, default=-1) + 1
    return [*arguments[:end], *_emptied([arguments[at] for at in overrides]), *arguments[end:]]


def _explain(tool: str, overrides: list[str], error: Exception) -> str:
    text = str(error)
    key = re.search(r"Could not override '([^']+)'", text) or re.search(r"full_key: (\S+)", text)
    option = re.search(r"Could not find '([^']+)'", text) or re.search(r"Could not load '([^']+)'", text)
    if option and "/" in option[1]:
        group, _, name = option[1].partition("/")
        return f"{group}={name}: no such option{nearest(name, groups(tool).get(group, []))}"
    if key:
        known = set(groups(tool)) | _all_keys(tool)
        return f"unknown key {key[1]!r}{nearest(key[1], known)}"
    return f"{_shown(' '.join(overrides))}: {_first_line(error)}"


def _shown(override: str) -> str:
    """An override on one line of readable length."""
    text = override if override.isprintable() else repr(override)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _all_keys(tool: str) -> set[str]:
    # Composed without the overrides that were refused, just to know what could have been meant.
    return set(_keys(compose(tool)))


def _keys(config: Any, prefix: str = "") -> Iterator[str]:
    items: Any = ()
    if isinstance(config, DictConfig):
        items = config.items_ex(resolve=False)
    for key, value in items:
        yield f"{prefix}{key}"
        if isinstance(value, (DictConfig, ListConfig)):
            yield from _keys(value, f"{prefix}{key}.")


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
