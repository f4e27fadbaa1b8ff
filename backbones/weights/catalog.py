"""Weights that torchvision publishes, by name: for this project's networks and torchvision's classifiers.

URLs, categories, metrics and the evaluation's resize and crop come from torchvision's enumerations; the
network and options that they fit are defined here. Names are `<torchvision's model>.<weights>` in lower
case, such as `mobilenet_v3_large.imagenet1k_v2`; without the second part it is torchvision's default.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Literal

from backbones.spec import NetSpec

Pixels = Literal["imagenet", "inception"]
TaskName = Literal["cls", "seg", "det"]

LICENSE = (
    "BSD-3-Clause (torchvision); according to torchvision, the terms of the dataset, {data}, may apply to "
    "the weights too"
)


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published weight file.

    url, sha256: address, and the first eight digits of the hash (torchvision puts them into the file's name).
    task: the kind of model in the file.
    categories: a name per class, without detection's background, all different.
    data, metrics: what it was evaluated on, and the published results, in percent.
    pixels: the normalization it was trained with (`engine.data.preprocessing`).
    resize, crop: shorter side and center crop of the published evaluation, in pixels; None: no such step.
    spec: the network; None: a network of torchvision's own (`backbones.external`).
    overrides: command-line overrides for a model that the file fits, evaluated as published.
    """

    name: str
    url: str
    sha256: str
    license: str
    task: TaskName
    num_params: int
    categories: tuple[str, ...]
    data: str
    metrics: Mapping[str, float]
    pixels: Pixels
    resize: int | None
    crop: int | None
    spec: NetSpec | None
    overrides: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes, without a detector's background."""
        return len(self.categories)


def names() -> tuple[str, ...]:
    """The full names of all weights for this project's networks."""
    return tuple(_ours())


def find(name: str) -> Published:
    """The weights with this name; a model's name alone means torchvision's default.

    Names of torchvision's other classifiers work too: their weights fit `backbones.external`.

    Raises:
        ValueError: the name is unknown; the message lists the nearest name and all others.
    """
    model, _, weights = name.lower().partition(".")
    known = {entry.model: entry for entry in _entries()}
    entry = known.get(model) or _external(model)
    if entry is not None:
        enumeration = _enumeration(model)
        for member in enumeration:
            if member.name.lower() == (weights or enumeration.DEFAULT.name.lower()):
                return _published(entry, member)
    near = difflib.get_close_matches(name.lower(), [*known, *_ours()], n=1, cutoff=0.7)
    meant = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(
        f"no published weights have that name{meant}; there are {', '.join(_ours())}, and those of "
        "torchvision's other classifiers"
    )


@dataclass(frozen=True)
class _Entry:
    """A model of torchvision, as this project's network."""

    model: str
    spec: NetSpec | None
    overrides: tuple[str, ...]
    task: TaskName = "cls"
    pixels: Pixels = "imagenet"


@cache
def _entries() -> tuple[_Entry, ...]:
    from backbones.mnasnet import mnasnet_b1  # not needed without published weights
    from backbones.mobilenet_v2 import mobilenet_v2
    from backbones.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small

    def mnasnet(model: str, width_mult: float) -> _Entry:
        options = (f"backbone.width_mult={width_mult}", "backbone.bn_eps=1e-5", "task.pixels=imagenet")
        spec = mnasnet_b1(width_mult=width_mult, bn_eps=1e-5)
        return _Entry(model, spec, ("task=cls", "data=imagenet", "backbone=mnasnet_b1", *options))

    def experiment(model: str, spec: NetSpec, name: str, **options: Any) -> _Entry:
        return _Entry(model, spec, (f"experiment={name}",), **options)

    large_dilated = mobilenet_v3_large(output_stride=16, dilate_first=True)
    large_dagger = mobilenet_v3_large(tail="dagger", bn_momentum=0.03)
    return (
        experiment("mobilenet_v3_large", mobilenet_v3_large(), "cls/mobilenet_v3_large_torchvision"),
        experiment("mobilenet_v3_small", mobilenet_v3_small(), "cls/mobilenet_v3_small_torchvision"),
        experiment("mobilenet_v2", mobilenet_v2(bn_eps=1e-5), "cls/mobilenet_v2_torchvision"),
        mnasnet("mnasnet0_5", 0.5),
        mnasnet("mnasnet0_75", 0.75),
        mnasnet("mnasnet1_0", 1.0),
        mnasnet("mnasnet1_3", 1.3),
        experiment("lraspp_mobilenet_v3_large", large_dilated, "seg/lraspp_torchvision", task="seg"),
        experiment(
            "ssdlite320_mobilenet_v3_large",
            large_dagger,
            "det/ssdlite_torchvision",
            task="det",
            pixels="inception",  # torchvision's builder sets mean and std to 0.5; its enumeration does not
        ),
    )


def _external(model: str) -> _Entry | None:
    """A torchvision classifier that is not one of this project's networks."""
    from torchvision import models

    if model not in models.list_models(models):
        return None
    backbone = ("backbone=torchvision", f"backbone.name={model}")
    return _Entry(model, None, ("task=cls", "data=imagenet", *backbone, "task.pixels=imagenet"))


def _enumeration(model: str) -> Any:
    from torchvision.models import get_model_weights  # takes a second; not needed for a file

    return get_model_weights(model)


@cache
def _ours() -> Mapping[str, Published]:
    files = (_published(entry, member) for entry in _entries() for member in _enumeration(entry.model))
    return {published.name: published for published in files}


def _published(entry: _Entry, weights: Any) -> Published:
    [(data, metrics)] = weights.meta["_metrics"].items()
    hashed = re.search(r"-([0-9a-f]{8})[0-9a-f]*\.pth$", weights.url)
    assert hashed is not None, weights.url
    transform = weights.transforms()
    resize, crop = _side(transform, "resize_size"), _side(transform, "crop_size")
    sizes: tuple[str, ...] = ()  # conf/data/cls/imagenet.yaml defaults to 256 for a crop of 224
    if entry.task == "cls":
        sizes += (f"data.size={crop}",) if crop != 224 else ()
        sizes += (f"data.resize={resize}",) if resize != 256 else ()
    return Published(
        name=f"{entry.model}.{weights.name.lower()}",
        url=weights.url,
        sha256=hashed[1],
        license=LICENSE.format(data=data),
        task=entry.task,
        num_params=weights.meta["num_params"],
        categories=_categories(weights.meta["categories"] or (), entry.task),
        data=data,
        metrics=MappingProxyType(dict(metrics)),
        pixels=entry.pixels,
        resize=resize,
        crop=crop,
        spec=entry.spec,
        overrides=(*entry.overrides, *sizes),
    )


def _side(transform: Any, name: str) -> int | None:
    sides = getattr(transform, name, None)
    return int(sides[0]) if sides else None


def _categories(names: Iterable[str], task: TaskName) -> tuple[str, ...]:
    """Class names without detection's background; COCO's ids without a class, "N/A", get their number."""
    unique = [f"class {number}" if name == "N/A" else name for number, name in enumerate(names)]
    return tuple(unique[1:] if task == "det" else unique)
