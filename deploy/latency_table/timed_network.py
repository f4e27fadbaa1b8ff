"""The network whose layers are timed, and its model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backbones.spec import NetSpec
from deploy.export.job import exported_task
from deploy.export.samples import read_samples, split_files
from deploy.latency_table.layers import head_name
from engine.config import network_file
from engine.config.compose import compose_config
from engine.config.instantiate import build, plain, task_info
from engine.config.options import Checkpoint
from engine.config.runs import TrainedRun
from engine.data.preprocessing import Size
from engine.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TimedNetwork:
    """A network, and what `build_table` and `NetworkLatency` need to know about its model.

    taps: spec -> the features that the model uses. head: name of the model's head. model: spec -> the model.
    They are None or "" for a network without a model.
    """

    spec: NetSpec
    taps: Callable[[NetSpec], Sequence[str]] | None = None
    head: str = ""
    model: Callable[[NetSpec], nn.Module] | None = None

    @property
    def model_options(self) -> dict[str, Any]:
        """Keyword arguments for `build_table` and `NetworkLatency`."""
        return {"taps": self.taps, "head": self.head, "model": self.model}


def network_and_size(
    spec: str | None, run: str | None, size: Size | None, overrides: Sequence[str], checkpoint: Checkpoint
) -> tuple[TimedNetwork, Size]:
    """The network of an experiment, a file or a run, and the size of its images: by default those of the run.

    Raises:
        UserError: if it cannot be read.
    """
    if spec is not None:
        assert size is not None
        return read_network(spec), size
    assert run is not None
    trained = TrainedRun.open(run, overrides=overrides, checkpoint=checkpoint)
    return network_of_run(trained), size or _image_size(trained)


def _image_size(run: TrainedRun) -> Size:
    """(height, width) of the first image of the run's data, as fed to the network.

    Raises:
        UserError: if it cannot be read.
    """
    module = exported_task(run, {})
    files = split_files(run.source, run.split, module, 1)
    (sample,) = read_samples(files, module, dynamic_size=True, read=run.read_image)
    height, width = sample.input.shape[1:]
    return int(height), int(width)


def read_network(name: str) -> TimedNetwork:
    """The network of an experiment (with its model), or of a YAML file (without one).

    Raises:
        UserError: if there is no such experiment, or if the file cannot be read or is not a network.
    """
    file = Path(name)
    return (
        TimedNetwork(spec=read_spec(file))
        if file.suffix in (".yaml", ".yml")
        else network_of_experiment(name)
    )


def read_spec(file: Path) -> NetSpec:
    """The network in a YAML file. Raises: UserError if the file cannot be read or is not a network."""
    fields = network_file.read(file)
    try:
        return NetSpec.from_dict(fields)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file}: not a network ({error})") from None


def network_of_experiment(experiment: str) -> TimedNetwork:
    """The network that an experiment trains, with its model."""
    try:
        config = compose_config("train", [f"experiment={experiment}"])
    except UserError as error:
        raise UserError(str(error).replace("experiment=", "spec=", 1)) from None
    num_classes = task_info(config).paper_classes
    spec = build(config.backbone, key="backbone")
    options = plain(config.model, "model")
    options.pop("backbone")
    return _timed(spec, options, num_classes)


def _timed(spec: NetSpec, options: dict[str, Any], num_classes: int) -> TimedNetwork:
    """options: of the model, without its backbone."""
    model = partial(_build_model, options, num_classes)

    def taps(spec: NetSpec) -> Sequence[str]:
        with torch.device("meta"):
            backbone: Any = model(spec).backbone
        features: Sequence[str] = backbone.taps
        return features

    with torch.device("meta"):
        head = head_name(model(spec), options, num_classes)
    return TimedNetwork(spec=spec, taps=taps, head=head, model=model)


def network_of_run(run: TrainedRun) -> TimedNetwork:
    """The network of a run, with its model.

    Raises:
        UserError: if its backbone has no `NetSpec`, so it is not made of layers that can be timed.
    """
    spec = build(run.config.backbone, key="backbone")
    if not isinstance(spec, NetSpec):
        raise UserError(f"{run.folder.path}: latency tables are for backbones of this project")
    options, num_classes = plain(run.config.model, "model"), len(run.classes)
    options.pop("backbone")
    return _timed(spec, options, num_classes)


def _build_model(options: dict[str, Any], num_classes: int, spec: NetSpec) -> nn.Module:
    built: nn.Module = build(options, key="model", num_classes=num_classes, backbone=spec)
    return built
