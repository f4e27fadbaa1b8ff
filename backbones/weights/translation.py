"""Other people's state dicts under our names. Pure functions on dicts, which they leave unchanged.

Classifier, Segmenter and Detector all hold their `MobileNet` as `backbone`, so its keys start with
"backbone." here. Who calls what how stands in `backbones.weights.key_names`, what can be had in
`backbones.weights.catalog`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from backbones.network import MobileNet
from backbones.spec import NetSpec
from backbones.weights.key_names import Names, timm_names, torchvision_mnasnet_names, torchvision_names

StateDict = dict[str, Tensor]


Format = Literal["ours", "torchvision", "torchvision_dense", "timm"]


_DENSE, _MNASNET = "backbone.0.0.weight", "layers.0.weight"


def detect_format(state: StateDict) -> Format:
    """Whose names a state dict uses, by the name of its first convolution.

    "torchvision": mobilenet_v3_large, mobilenet_v3_small, mobilenet_v2 or mnasnet*, with or without its
    classifier. "torchvision_dense": a torchvision segmentation model, whose trunk is numbered directly after
    "backbone.". "timm": one of timm's mobilenetv3_*, mobilenetv2_*, mnasnet_* or semnasnet_*.
    """
    marks: dict[str, Format] = {
        "backbone.stem.conv.weight": "ours",
        "stem.conv.weight": "ours",
        "features.0.0.weight": "torchvision",
        _MNASNET: "torchvision",
        _DENSE: "torchvision_dense",
        "conv_stem.weight": "timm",
    }
    for key, name in marks.items():
        if key in state:
            return name
    raise ValueError(
        f"not a state dict that we know: it has none of {', '.join(marks)}, but starts with "
        f"{', '.join(list(state)[:3]) or 'nothing'}"
    )


def from_torchvision(state: StateDict, spec: NetSpec) -> StateDict:
    """A torchvision state dict under the names of `cls.model.Classifier`; half precision becomes float32.

    Without classifier keys only "backbone.*" comes back. Of a segmentation model the trunk is taken and the
    head left to the caller. ValueError naming keys that are missing for this spec or left over.
    """
    found = detect_format(state)
    if found == "ours":
        raise ValueError("this state dict has our names already; load it as it is")
    if found == "timm":
        raise ValueError("this state dict has timm's names: it is of a classifier; give it as weights=")
    return translated(state, spec)


def translated(state: StateDict, spec: NetSpec) -> StateDict:
    """A state dict of any known format under the names of `cls.model.Classifier`, float32.

    Ours come back as they are. What theirs lack of a classifier is lacking here too.

    Raises:
        ValueError: an unknown format; keys that are missing for this spec, or left over.
    """
    found = detect_format(state)
    if found == "ours":
        return state
    names, taken = _names(state, spec, found)
    if not any(key.startswith("classifier.") for key in state):
        heads = ("classifier.", "hidden.")
        taken -= {theirs for ours, theirs in names.items() if ours.startswith(heads)}
        names = {ours: theirs for ours, theirs in names.items() if not ours.startswith(heads)}
    missing = [theirs for theirs in names.values() if theirs not in state and not _is_counter(theirs)]
    unknown = sorted(taken - set(names.values()))
    if missing or unknown:
        raise ValueError(
            f"these weights are not those of {spec.name} with these options: "
            f"missing {_listed(missing)}; left over {_listed(unknown)}"
        )
    # Files from before torch 0.4.1 have no batch counters; only a momentum of None would read them.
    zero = torch.zeros((), dtype=torch.long)
    ours = {key: _full_precision(state.get(theirs, zero)) for key, theirs in names.items()}
    for key in ("hidden.weight", "classifier.weight"):
        if key in ours:  # a 1x1 convolution at timm
            ours[key] = ours[key].flatten(1)
    return ours


def classifier_state(state: StateDict, spec: NetSpec) -> StateDict:
    """A whole classifier of any known format as `cls.model.Classifier` takes it.

    The number of classes is that of the state dict; see `without_background`.

    Raises:
        ValueError: it is of another network, or of no classifier.
    """
    ours = translated(state, spec)
    if "classifier.weight" not in ours:
        raise ValueError("these weights have no classifier: give them as weights=, for the backbone alone")
    return ours


def without_background(state: StateDict, num_classes: int) -> StateDict:
    """A classifier under our names, without its row 0 where it has one class too many.

    The ImageNet networks released by Google, and only those, count 1001 classes, of which 0 is background.

    Raises:
        ValueError: it has neither `num_classes` classes nor one more.
    """
    rows = len(state["classifier.weight"])
    if rows == num_classes:
        return state
    if rows != num_classes + 1:
        raise ValueError(f"a classifier of {rows} classes, with and without background not {num_classes}")
    return state | {key: state[key][1:] for key in ("classifier.weight", "classifier.bias")}


def trunk(state: StateDict) -> StateDict:
    """The "backbone.*" part of our names, without the prefix: what `MobileNet.load_state_dict` takes."""
    return {key.removeprefix("backbone."): t for key, t in state.items() if key.startswith("backbone.")}


def backbone_state(state: StateDict, network: MobileNet) -> StateDict:
    """What `network.load_state_dict` takes, out of any state dict that we know, ours or others'.

    It may be that of a backbone, a classifier or a dense model. Layers that `network` does not build (those
    after its deepest tap) are left out. ValueError listing the keys if others' are of another network.
    """
    if detect_format(state) != "ours":
        state = trunk(translated(state, network.spec))
    elif any(key.startswith("backbone.") for key in state):
        state = trunk(state)
    with torch.device("meta"):
        deepest = "last" if network.spec.last else f"block{len(network.spec.blocks)}"
        whole = MobileNet(network.spec, taps=(deepest,)).state_dict()
    beyond = whole.keys() - network.state_dict().keys()
    return {key: tensor for key, tensor in state.items() if key not in beyond}


def _names(state: StateDict, spec: NetSpec, found: Format) -> tuple[Names, set[str]]:
    """Our key -> theirs for the whole classifier, and which of their keys it has to account for."""
    if found == "timm":
        return timm_names(spec, state), set(state)
    if _MNASNET in state:
        return torchvision_mnasnet_names(spec, state), set(state)
    if found == "torchvision":
        return torchvision_names(spec, state, "features."), set(state)
    names = torchvision_names(spec, state, "backbone.")
    names = {ours: theirs for ours, theirs in names.items() if ours.startswith("backbone.")}
    return names, {key for key in state if key.startswith("backbone.")}


def _is_counter(key: str) -> bool:
    return key.endswith(".num_batches_tracked")


def _full_precision(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _listed(keys: list[str], most: int = 4) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return (", ".join(keys[:most]) or "nothing") + more
