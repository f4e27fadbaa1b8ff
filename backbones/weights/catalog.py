"""Published weights by name: those of the paper's authors, torchvision's and timm's.

torchvision's URLs, categories, metrics, resize and crop come from its enumerations; the network and options
that they fit are defined here. Their names are `<torchvision's model>.<weights>` in lower case, such as
`mobilenet_v3_large.imagenet1k_v2`; without the second part it is torchvision's default.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

from backbones.spec import NetSpec
from backbones.weights.published import Pixels, Published, TaskName, backbone_overrides

_SOFTMAX = ("task.pixels=inception", "task.postprocess.activation=softmax")

LICENSE = (
    "BSD-3-Clause (torchvision); according to torchvision, the terms of the dataset, {data}, may apply to "
    "the weights too"
)


def names() -> tuple[str, ...]:
    """The full names of all weights for this project's networks."""
    return tuple(_all())


def find(name: str) -> Published:
    """The weights with this name; a torchvision model's name alone means torchvision's default.

    Names of torchvision's other classifiers work too: their weights fit `backbones.external`.

    Raises:
        ValueError: the name is unknown; the message gives the nearest name.
    """
    known = _all()
    if name.lower() in known:
        return known[name.lower()]
    model, _, weights = name.lower().partition(".")
    ours = {entry.model: entry for entry in _entries()}
    entry = ours.get(model) or _external(model)
    if entry is not None:
        enumeration = _enumeration(model)
        for member in enumeration:
            if member.name.lower() == (weights or enumeration.DEFAULT.name.lower()):
                return _published(entry, member)
    if name.lower() in ("default", *(other.partition(".")[2] for other in known)):
        raise ValueError(
            "no published weights have that name (name the network: mobilenet_v3_small, or "
            "mobilenet_v3_large.imagenet1k_v2); `python tools/models.py` lists them"
        )
    plain = {other: re.sub(r"\W|_", "", other) for other in (*ours, *known)}
    start = re.sub(r"\W|_", "", name.lower())
    near = [other for other in plain if len(start) > 2 and plain[other].startswith(start)][:3]
    near = near or difflib.get_close_matches(name.lower(), list(plain), n=1, cutoff=0.7)
    meant = f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""
    raise ValueError(f"no published weights have that name{meant}; `python tools/models.py` lists them")


@cache
def _all() -> Mapping[str, Published]:
    from backbones.weights.authors import authors_models  # not needed without published weights
    from backbones.weights.timm_models import timm_models

    files = (_published(entry, member) for entry in _entries() for member in _enumeration(entry.model))
    torchvisions = {published.name: published for published in files}
    return {**authors_models(), **torchvisions, **timm_models()}


@dataclass(frozen=True)
class _Entry:
    """A model of torchvision, as this project's network."""

    model: str
    spec: NetSpec | None
    network: tuple[str, ...]
    overrides: tuple[str, ...]
    task: TaskName = "cls"
    pixels: Pixels = "imagenet"


@cache
def _entries() -> tuple[_Entry, ...]:
    from backbones.mnasnet import mnasnet_b1  # not needed without published weights
    from backbones.mobilenet_v2 import mobilenet_v2
    from backbones.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small

    def mnasnet(model: str, width_mult: float) -> _Entry:
        options: dict[str, Any] = {"width_mult": width_mult, "bn_eps": 1e-5}
        network = (*backbone_overrides("mnasnet_b1", options), "task.pixels=imagenet")
        return _Entry(model, mnasnet_b1(**options), network, ("task=cls", "data=imagenet", *network))

    def classifier(model: str, spec: NetSpec, **options: float) -> _Entry:
        network = (*backbone_overrides(model, options), "task.pixels=imagenet")
        return _Entry(model, spec, network, (f"experiment=cls/{model}_torchvision",))

    dilated = backbone_overrides("mobilenet_v3_large", {"output_stride": 16, "dilate_first": True})
    dagger = backbone_overrides("mobilenet_v3_large_dagger", {"bn_eps": 0.001})
    return (
        classifier("mobilenet_v3_large", mobilenet_v3_large()),
        classifier("mobilenet_v3_small", mobilenet_v3_small()),
        classifier("mobilenet_v2", mobilenet_v2(bn_eps=1e-5), bn_eps=1e-5),
        mnasnet("mnasnet0_5", 0.5),
        mnasnet("mnasnet0_75", 0.75),
        mnasnet("mnasnet1_0", 1.0),
        mnasnet("mnasnet1_3", 1.3),
        _Entry(
            "lraspp_mobilenet_v3_large",
            mobilenet_v3_large(output_stride=16, dilate_first=True),
            (*dilated, "model=lraspp_torchvision", "task.pixels=imagenet", "task.align_corners=false"),
            ("experiment=seg/lraspp_torchvision",),
            task="seg",
        ),
        _Entry(
            "ssdlite320_mobilenet_v3_large",
            mobilenet_v3_large(tail="dagger", bn_momentum=0.03),
            (*dagger, "model=ssdlite_torchvision", "loss=multibox", "data.size=[320,320]", *_SOFTMAX),
            ("experiment=det/ssdlite_torchvision",),
            task="det",
            pixels="inception",  # torchvision's builder sets mean and std to 0.5; its enumeration does not
        ),
    )


def _external(model: str) -> _Entry | None:
    """A torchvision classifier that is not one of this project's networks."""
    from torchvision import models

    if model not in models.list_models(models):
        return None
    network = ("backbone=torchvision", f"backbone.name={model}", "task.pixels=imagenet")
    return _Entry(model, None, network, ("task=cls", "data=imagenet", *network))


def _enumeration(model: str) -> Any:
    from torchvision.models import get_model_weights  # takes a second; not needed for a file

    return get_model_weights(model)


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
        network=entry.network,
        overrides=(*entry.overrides, *sizes),
        source="torchvision",
        size_mb=weights.meta.get("_file_size"),
    )


def _side(transform: Any, name: str) -> int | None:
    sides = getattr(transform, name, None)
    return int(sides[0]) if sides else None


def _categories(names: Iterable[str], task: TaskName) -> tuple[str, ...]:
    """Class names without detection's background; COCO's ids without a class, "N/A", get their number."""
    unique = [f"class {number}" if name == "N/A" else name for number, name in enumerate(names)]
    return tuple(unique[1:] if task == "det" else unique)
