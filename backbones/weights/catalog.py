"""Weights that are published under a name: what torchvision offers of the networks here.

Addresses, categories, metrics and the evaluation's resize and crop are read from torchvision's own
enumerations; which spec and options fit them is written here. Names are `<torchvision's model>.<weights>` in
lower case, `mobilenet_v3_large.imagenet1k_v2`; without the second part it is torchvision's default.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Literal

from backbones.mnasnet import mnasnet_b1
from backbones.mobilenet_v2 import mobilenet_v2
from backbones.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from backbones.spec import NetSpec

Pixels = Literal["imagenet", "inception"]


Room = Literal["cls", "seg", "det"]


LICENSE = (
    "BSD-3-Clause (torchvision); torchvision passes on that the terms of the data set, {data}, may bind its "
    "weights too"
)


@dataclass(frozen=True, kw_only=True)
class Published:
    """A weight file that can be had.

    url, sha256: where, and the first eight digits of its hash (torchvision puts them into the file's name).
    room: `cls`, `seg` or `det`: what kind of model the file holds.
    categories: a name per class, without detection's background, all different.
    data, metrics: what it was evaluated on, and the results as published there, in percent.
    pixels: the normalization it was trained with (`engine.data.preprocessing`).
    resize, crop: shorter side and center crop of the published evaluation, in pixels; None: none.
    spec: the network.
    overrides: what to type for a model that the file fits, evaluated as it was published.
    """

    name: str
    url: str
    sha256: str
    license: str
    room: Room
    num_params: int
    categories: tuple[str, ...]
    data: str
    metrics: Mapping[str, float]
    pixels: Pixels
    resize: int | None
    crop: int | None
    spec: NetSpec
    overrides: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Classes, background of a detector not counted."""
        return len(self.categories)


@dataclass(frozen=True)
class _Entry:
    """A model of torchvision's, and what it is here."""

    model: str
    spec: NetSpec
    overrides: tuple[str, ...]
    room: Room = "cls"
    pixels: Pixels = "imagenet"


def _mnasnet(name: str, width_mult: float) -> _Entry:
    options = (f"backbone.width_mult={width_mult}", "backbone.bn_eps=1e-5", "task.pixels=imagenet")
    spec = mnasnet_b1(width_mult=width_mult, bn_eps=1e-5)
    return _Entry(name, spec, ("task=cls", "data=imagenet", "backbone=mnasnet_b1", *options))


_ENTRIES = (
    _Entry("mobilenet_v3_large", mobilenet_v3_large(), ("experiment=cls/mobilenet_v3_large_torchvision",)),
    _Entry("mobilenet_v3_small", mobilenet_v3_small(), ("experiment=cls/mobilenet_v3_small_torchvision",)),
    _Entry("mobilenet_v2", mobilenet_v2(bn_eps=1e-5), ("experiment=cls/mobilenet_v2_torchvision",)),
    _mnasnet("mnasnet0_5", 0.5),
    _mnasnet("mnasnet0_75", 0.75),
    _mnasnet("mnasnet1_0", 1.0),
    _mnasnet("mnasnet1_3", 1.3),
    _Entry(
        "lraspp_mobilenet_v3_large",
        mobilenet_v3_large(output_stride=16, dilate_first=True),
        ("experiment=seg/lraspp_torchvision",),
        room="seg",
    ),
    _Entry(
        "ssdlite320_mobilenet_v3_large",
        mobilenet_v3_large(tail="dagger", bn_momentum=0.03),
        ("experiment=det/ssdlite_torchvision",),
        room="det",
        pixels="inception",  # torchvision's builder sets mean and deviation 0.5, its enumeration does not say
    ),
)


def names() -> tuple[str, ...]:
    """All full names, in the order of the table."""
    return tuple(found.name for found in _published().values())


def find(name: str) -> Published:
    """The weights of a name; a model's name alone means torchvision's default.

    Raises:
        ValueError: there are none of that name; says the nearest one, and all.
    """
    known = _published()
    found = known.get(name.lower()) or known.get(f"{name.lower()}.{_defaults().get(name.lower())}")
    if found is None:
        near = difflib.get_close_matches(name.lower(), [*_defaults(), *known], n=1, cutoff=0.5)
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"no published weights have that name{meant}; there are {', '.join(known)}")
    return found


def _enumeration(model: str) -> Any:
    from torchvision.models import get_model_weights  # takes a second, and a file's path needs none of it

    return get_model_weights(model)


@cache
def _defaults() -> Mapping[str, str]:
    """Model -> the weights that torchvision takes by default."""
    return {entry.model: _enumeration(entry.model).DEFAULT.name.lower() for entry in _ENTRIES}


@cache
def _published() -> Mapping[str, Published]:
    pairs = ((entry, weights) for entry in _ENTRIES for weights in _enumeration(entry.model))
    return {found.name: found for found in (_record(entry, weights) for entry, weights in pairs)}


def _record(entry: _Entry, weights: Any) -> Published:
    [(data, metrics)] = weights.meta["_metrics"].items()
    hashed = re.search(r"-([0-9a-f]{8})[0-9a-f]*\.pth$", weights.url)
    assert hashed is not None, weights.url
    seen = weights.transforms()
    resize = _side(seen, "resize_size")
    # 256 for a crop of 224 is what conf/data/imagenet.yaml does without being told.
    other = (f"data.resize={resize}",) if entry.room == "cls" and resize != 256 else ()
    return Published(
        name=f"{entry.model}.{weights.name.lower()}",
        url=weights.url,
        sha256=hashed[1],
        license=LICENSE.format(data=data),
        room=entry.room,
        num_params=weights.meta["num_params"],
        categories=_categories(weights.meta["categories"], entry.room),
        data=data,
        metrics=MappingProxyType(dict(metrics)),
        pixels=entry.pixels,
        resize=resize,
        crop=_side(seen, "crop_size"),
        spec=entry.spec,
        overrides=(*entry.overrides, *other),
    )


def _side(transform: Any, name: str) -> int | None:
    sides = getattr(transform, name, None)
    return int(sides[0]) if sides else None


def _categories(given: list[str], room: Room) -> tuple[str, ...]:
    """Class names without detection's background; COCO's ids without a class, "N/A", get their number."""
    clear = [f"class {number}" if name == "N/A" else name for number, name in enumerate(given)]
    return tuple(clear[1:] if room == "det" else clear)
