"""The main of every tool: from the command line to a job, and from what went wrong to one line."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from omegaconf import DictConfig

from engine.config.compose import (
    completed,
    compose_config,
    search_path,
    split_network,
    with_network_file,
)
from engine.config.instantiate import tool_options
from engine.config.overrides import CONF, TRAINING_TOOLS, emptied, take_extensions, with_task
from engine.errors import UserError
from engine.runtime import EXIT_STOPPED, Stopped, exit_process

Job = Callable[[Any], Any]
_IN_PLACE = (
    "hydra/job_logging=disabled",
    "hydra/hydra_logging=disabled",
    "hydra.output_subdir=null",  # the run folder is ours; Hydra makes none and stays where it was started
    "hydra.run.dir=.",
    "hydra.sweep.dir=runs",  # where -m leaves its multirun.yaml
    "hydra.sweep.subdir=.",
)


def launch(job: Job, tool: str, help_text: str) -> None:
    """Run a tool and exit: 0 if it ends well, 1 with one line for a user's error, 75 if it was stopped.

    Hydra's own flags (`--multirun`, `--cfg job`, `--info` ...) are left to Hydra; a job of a sweep that fails
    does not keep the others from running.

    Args:
        job: called with the tool's options, an object of the `_target_` in conf/<tool>.yaml; the job of a
            training gets the whole composed configuration.
    """
    arguments = sys.argv[1:]
    if any(argument in ("-h", "--help") for argument in arguments):
        from engine.config.help import readable_help

        sys.exit(guarded(lambda: print(readable_help(tool, help_text))))
    if not any(argument.startswith("-") for argument in arguments):
        exit_process(guarded(lambda: job(_typed(tool, compose_config(tool, arguments)))))
    exit_process(guarded(lambda: _launch_hydra(job, tool, arguments)))


def _launch_hydra(job: Job, tool: str, arguments: Sequence[str]) -> int:
    from hydra import main
    from hydra.core.hydra_config import HydraConfig

    statuses = [0]
    sys.argv[1:], network = hydra_arguments(tool, arguments)

    def hydra_job(config: DictConfig) -> None:
        choices = HydraConfig.get().runtime.choices
        whole = with_network_file(completed(config, choices, []), network)
        statuses.append(guarded(lambda: job(_typed(tool, whole))))

    main(config_path=str(CONF), config_name=tool, version_base="1.3")(hydra_job)()
    return max(statuses)


def hydra_arguments(tool: str, arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """What Hydra is started with for these arguments, and the file of `backbone=<file>`."""
    rest, network = split_network(with_task(tool, take_extensions(arguments)))
    # Hydra takes overrides in one piece, before or after its flags: what is added follows the last one.
    typed = [at for at, argument in enumerate(rest) if "=" in argument and argument[0] != "-"]
    end = max(typed, default=-1) + 1
    added = [*emptied([rest[at] for at in typed]), *_IN_PLACE, *search_path()]
    return [*rest[:end], *added, *rest[end:]], network


def _typed(tool: str, config: DictConfig) -> Any:
    return config if tool in TRAINING_TOOLS or "_target_" not in config else tool_options(config)


def guarded(job: Callable[[], Any]) -> int:
    """The exit status of a job. A user's error is printed in one line, any other keeps its traceback."""
    try:
        status = job()
        return status if type(status) is int else 0
    except Stopped as stopped:
        print(str(stopped), file=sys.stderr)
        return EXIT_STOPPED
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
