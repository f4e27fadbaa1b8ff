"""The record of a published weight file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from backbones.spec import NetSpec

Pixels = Literal["imagenet", "inception", "unit"]
TaskName = Literal["cls", "seg", "det"]

_METRICS = {
    "acc@1": "top-1",
    "acc@5": "top-5",
    "miou": "mIoU",
    "pixel_acc": "pixel accuracy",
    "box_map": "AP",
}


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published weight file.

    url, sha256: address, and the hash or its first digits; empty if none is published.
    file: name of the downloaded file, if the URL's is not unique.
    source: who published it.
    task: the kind of model in the file.
    num_params: of the network here, with one output per category.
    categories: a name per class, without a background that the paper's classifiers and detectors add, all
        different.
    data, metrics: what it was evaluated on, and the published results, in percent.
    pixels: the normalization it was trained with (`engine.data.preprocessing`).
    resize, crop: shorter side and center crop of the published evaluation, in pixels; None: no such step.
    spec: the network; None: a network of torchvision's own (`backbones.external`).
    network: command-line overrides that choose this network and its preprocessing for a training on any data.
    overrides: command-line overrides for a model that the file fits, evaluated as published.
    size_mb: size of the download; None: unknown.
    """

    name: str
    url: str
    sha256: str = ""
    file: str = ""
    source: str
    license: str
    task: TaskName
    num_params: int
    categories: tuple[str, ...]
    data: str
    metrics: Mapping[str, float]
    pixels: Pixels
    resize: int | None = None
    crop: int | None = None
    spec: NetSpec | None
    network: tuple[str, ...]
    overrides: tuple[str, ...]
    size_mb: float | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes, without a detector's background."""
        return len(self.categories)

    @property
    def file_name(self) -> str:
        """The name under which the file is saved."""
        return self.file or self.url.rpartition("/")[2]

    @property
    def results(self) -> str:
        """The published results, in percent, for people."""
        return ", ".join(f"{value:g} {_METRICS[name]}" for name, value in self.metrics.items())


def backbone_overrides(backbone: str, options: Mapping[str, object]) -> tuple[str, ...]:
    """Command-line overrides that choose a backbone of conf/backbone with these options."""
    written = {key: str(value).lower() for key, value in options.items()}
    return (f"backbone={backbone}", *(f"backbone.{key}={value}" for key, value in written.items()))
