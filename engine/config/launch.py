"""The entry point of every tool: parses the command line, runs the job, prints user errors as one line."""

import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from omegaconf import DictConfig

from engine.config.compose import (
    compose_config,
    finish_config,
    needs_an_option,
    search_path,
    split_network,
    with_network_file,
)
from engine.config.instantiate import first_line, tool_options
from engine.config.overrides import (
    CONF,
    TRAINING_TOOLS,
    add_recipe,
    add_task_prefix,
    apply_extend,
    cleared_alternatives,
    groups,
    quote_path,
    with_home,
    without_empty_groups,
)
from engine.errors import UserError, out_of_memory
from engine.runtime import EXIT_STOPPED, Stopped, exit_process

Job = Callable[[Any], Any]

_OF_PATHS = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), "check its permissions and those of its parent folders"),
    errno.EROFS: "choose another folder",
    errno.ENAMETOOLONG: "check the path",
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space, or choose another folder"),
    **dict.fromkeys((errno.EIO, errno.ESTALE), "check the disk or the connection to it"),
}
"""What a user can do about errors of the operating system with a path."""
_LESS_MEMORY = (
    "lower trainer.batch, data.eval_batch, data.workers, data.crop or data.size; segmentation predicts large "
    "images in windows with inference.window=[512,512]"
)
_HYDRA_SETTINGS = (
    "hydra/job_logging=disabled",
    "hydra/hydra_logging=disabled",
    "hydra.output_subdir=null",  # we create the run folder; Hydra must not create one or change directory
    "hydra.run.dir=.",
    "hydra.sweep.dir=runs",  # where -m writes multirun.yaml
    "hydra.sweep.subdir=.",
)


_SWEEP = {"-m", "--multirun"}
_FLAGS = {*_SWEEP, "--resolve", "--version", "--hydra-help", "-sc", "--shell-completion"}
_FLAGS_WITH_VALUE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("-c", "--cfg"), ("job", "hydra", "all")),
    **dict.fromkeys(
        ("-i", "--info"), ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
    ),
    **dict.fromkeys(("-p", "--package", "-cn", "--config-name", "-cd", "--config-dir"), ()),
}
"""Hydra's flags, except those that these tools set themselves; with a value, the values that it can have."""


def launch(
    job: Job,
    tool: str,
    help_text: str,
    *,
    complete: Callable[[Sequence[str]], Sequence[str]] = list,
) -> None:
    """Run a tool and exit: 0 on success, 1 with a one-line message for a user error, 75 if it was stopped.

    Hydra's own flags (`--multirun`, `--cfg job`, `--info` ...) are passed on to Hydra. If one job of a sweep
    fails, the others still run.

    Args:
        job: called with the tool's options (the dataclass that `_target_` names in conf/<tool>.yaml). The
            training tools' jobs are called with the whole composed configuration instead.
        complete: the arguments as typed -> as they are used, with the names of published networks looked up.
    """
    make_output_safe()
    arguments = sys.argv[1:]
    if any(argument in ("-h", "--help") for argument in arguments):
        from engine.config.help import readable_help

        sys.exit(run_job(lambda: print(readable_help(tool, help_text))))

    def run() -> Any:
        completed = complete([with_home(argument) for argument in arguments])
        if any(argument.startswith("-") for argument in completed):
            return _launch_hydra(job, tool, completed)
        return job(_options(tool, compose_config(tool, completed)))

    exit_process(run_job(run))


def make_output_safe() -> None:
    """Print letters that the console's encoding lacks, in class or file names for example, as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _launch_hydra(job: Job, tool: str, arguments: Sequence[str]) -> int:
    from hydra import main
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from engine.config.compose import composition_error

    statuses = [0]
    sys.argv[1:], network = hydra_arguments(tool, arguments)

    def hydra_job(config: DictConfig) -> None:
        choices = HydraConfig.get().runtime.choices

        def run() -> Any:
            whole = finish_config(config, choices, [], arguments)
            return job(_options(tool, with_network_file(whole, network)))

        statuses.append(run_job(run))

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors are raised, not printed on several lines
    try:
        main(config_path=str(CONF), config_name=tool, version_base="1.3")(hydra_job)()
    except (HydraException, OmegaConfBaseException) as error:
        raise composition_error(tool, arguments, error) from None
    return max(statuses)


def hydra_arguments(tool: str, arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """The command line to start Hydra with, and the file of `backbone=<file>` if there is one.

    Raises: UserError if there is a flag that Hydra does not know.
    """
    typed, flags = _split_flags(arguments)
    if _SWEEP.isdisjoint(flags):  # in a sweep, a comma separates values
        typed = [quote_path(override) for override in typed]
    chosen = without_empty_groups(tool, add_recipe(tool, add_task_prefix(tool, apply_extend(typed))))
    overrides, network = split_network(chosen)
    for override in overrides:
        key, _, value = override.partition("=")
        if key in groups(tool) and "null" in value.split(","):
            raise UserError(needs_an_option(tool, override))
    # Hydra needs all overrides in one contiguous group.
    return [*overrides, *cleared_alternatives(overrides), *_HYDRA_SETTINGS, *search_path(), *flags], network


def _split_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate overrides from Hydra's flags and their values."""
    overrides: list[str] = []
    flags: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, _, value = argument.partition("=")
        if not argument.startswith("-"):
            overrides.append(argument)
        elif argument in _FLAGS:
            flags += [argument]
        elif name in _FLAGS_WITH_VALUE:
            value = value or next(rest, "")
            known = _FLAGS_WITH_VALUE[name]
            if not value or (known and value not in known):
                raise UserError(f"{name} needs a value: {' | '.join(known) or 'a name'}")
            flags += [name, value]
        else:
            key = name.lstrip("-").replace("-", "_")
            raise UserError(f"{argument}: no such flag; keys are written without dashes: {key}=<value>")
    return overrides, flags


def _options(tool: str, config: DictConfig) -> Any:
    return config if tool in TRAINING_TOOLS or "_target_" not in config else tool_options(config)


def run_job(job: Callable[[], Any]) -> int:
    """Run a job and return its exit status. User errors are printed as one line, other exceptions raised."""
    try:
        status = job()
        return status if type(status) is int else 0
    except Stopped as stopped:
        print(str(stopped), file=sys.stderr)
        return EXIT_STOPPED
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _OF_PATHS and error.filename is not None:
            path = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
            print(
                f"error: {UserError(f'{path}: {error.strerror}; {_OF_PATHS[error.errno]}')}", file=sys.stderr
            )
            return 1
        if not out_of_memory(error):
            raise
        print(f"error: out of memory ({first_line(error)}); {_LESS_MEMORY}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
