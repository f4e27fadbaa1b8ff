"""Convert other libraries' state dicts to our names, with pure functions.

Classifier, Segmenter and Detector all have their `MobileNet` as `backbone`, so its keys start with
"backbone." here. `backbones.weights.torchvision`, `.timm` and `.tensorflow` list the names, `.catalog` the
published files.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from backbones.network import MobileNet
from backbones.spec import NetSpec
from backbones.weights import tensorflow, timm, torchvision
from backbones.weights.layer_keys import Keys

StateDict = dict[str, Tensor]

Format = Literal["ours", "torchvision", "torchvision_dense", "timm", "tensorflow"]

_DENSE, _MNASNET = "backbone.0.0.weight", "layers.0.weight"


def detect_format(state: StateDict) -> Format:
    """Which library's names a state dict has, judging by its first convolution.

    "torchvision": mobilenet_v3_large, mobilenet_v3_small, mobilenet_v2 or mnasnet*, with or without its
    classifier. "torchvision_dense": a torchvision segmentation model, whose backbone is numbered directly
    after "backbone.". "timm": one of timm's mobilenetv4_conv_*, mobilenetv3_*, mobilenetv2_*,
    mnasnet_* or semnasnet_*.
    "tensorflow": the constants of one of the authors' graphs.

    Raises:
        ValueError: the names are unknown.
    """
    first_convolutions: dict[str, Format] = {
        "backbone.stem.conv.weight": "ours",
        "stem.conv.weight": "ours",
        "features.0.0.weight": "torchvision",
        _MNASNET: "torchvision",
        _DENSE: "torchvision_dense",
        "conv_stem.weight": "timm",
        **{f"{root}/Conv/weights": "tensorflow" for root in tensorflow.ROOTS},
    }
    for key, name in first_convolutions.items():
        if key in state:
            return name
    raise ValueError(
        f"unknown tensor names: none of {', '.join(first_convolutions)}; the file starts with "
        f"{', '.join(list(state)[:3]) or 'nothing'}"
    )


def from_torchvision(state: StateDict, spec: NetSpec) -> StateDict:
    """A torchvision state dict under the names of `cls.model.Classifier`; half precision becomes float32.

    Without classifier keys the result has only "backbone.*". For a segmentation model, the result is the
    backbone; the caller handles its head.

    Raises:
        ValueError: the names are not torchvision's; keys that `spec` needs are missing or left over.
    """
    match detect_format(state):
        case "ours":
            raise ValueError("this state dict already has this project's names; load it directly")
        case "timm":
            raise ValueError("this state dict is from a timm classifier; pass it as weights=")
    return translated(state, spec)


def translated(state: StateDict, spec: NetSpec) -> StateDict:
    """A state dict of any known format under the names of `cls.model.Classifier`, float32.

    A state dict with our names is returned unchanged. The result has a classifier only if `state` has one.

    Raises:
        ValueError: unknown names; keys that `spec` needs are missing, or keys are left over.
    """
    names_of = detect_format(state)
    if names_of == "ours":
        return state
    if names_of == "tensorflow":
        return _from_tensorflow(state, spec)
    keys, theirs_to_use = _keys(state, spec, names_of)
    if not any(key.startswith("classifier.") for key in state):
        heads = ("classifier.", "hidden.")
        theirs_to_use -= {theirs for ours, theirs in keys.items() if ours.startswith(heads)}
        keys = {ours: theirs for ours, theirs in keys.items() if not ours.startswith(heads)}
    missing = [theirs for theirs in keys.values() if theirs not in state and not _is_counter(theirs)]
    left_over = sorted(theirs_to_use - set(keys.values()))
    if missing or left_over:
        raise ValueError(
            f"these weights do not fit {spec.name} with these options: "
            f"missing {_listed(missing)}; left over {_listed(left_over)}"
        )
    # Files from before torch 0.4.1 have no batch counters; only a momentum of None would read them.
    zero = torch.zeros((), dtype=torch.long)
    return _with_linear_layers({ours: _full_precision(state.get(k, zero)) for ours, k in keys.items()})


def _from_tensorflow(constants: StateDict, spec: NetSpec) -> StateDict:
    """A classifier of TF-Slim, or only the backbone of another graph; see `backbones.weights.tensorflow`."""
    layers = tensorflow.classifier_layers(spec, constants)
    root = tensorflow.root_of(constants)
    own = (name for name in constants if name.startswith(f"{root}/") and f"{root}/layer_" not in name)
    return _with_linear_layers(layers.state(constants, spec, all_of=own))


def _with_linear_layers(state: StateDict) -> StateDict:
    """1x1 convolutions after the pooling, as in timm and TensorFlow, become linear layers."""
    linear = [key for key in ("hidden.weight", "classifier.weight") if key in state]
    return state | {key: state[key].flatten(1) for key in linear}


def classifier_state(state: StateDict, spec: NetSpec) -> StateDict:
    """A whole classifier of any known format, for `cls.model.Classifier`.

    The number of classes is that of the state dict; see `without_background`.

    Raises:
        ValueError: the state dict is from a different network, or has no classifier.
    """
    ours = translated(state, spec)
    if "classifier.weight" not in ours:
        raise ValueError("these weights have no classifier; pass them as weights= to load only the backbone")
    return ours


def without_background(state: StateDict, num_classes: int) -> StateDict:
    """A classifier under our names, without its row 0 if it has one class too many.

    Only the ImageNet networks released by Google have 1001 classes, where class 0 is background.

    Raises:
        ValueError: it has neither `num_classes` classes nor one more.
    """
    rows = len(state["classifier.weight"])
    if rows == num_classes:
        return state
    if rows != num_classes + 1:
        raise ValueError(
            f"the weights have {rows} classes (or {rows - 1} and background), but the model has {num_classes}"
        )
    return state | {key: state[key][1:] for key in ("classifier.weight", "classifier.bias")}


def backbone_part(state: StateDict) -> StateDict:
    """The "backbone.*" tensors, without the prefix, for `MobileNet.load_state_dict`."""
    return {key.removeprefix("backbone."): t for key, t in state.items() if key.startswith("backbone.")}


def backbone_state(state: StateDict, network: Any) -> StateDict:
    """Convert a state dict of ours or of a known library for `network.load_state_dict`.

    The state dict can be that of a backbone, a classifier or a dense model. Layers that `network` does not
    have (those after its last feature) are left out. A network that is not a `MobileNet` can translate its
    library's names itself, with a method `adapt`.

    Raises:
        ValueError: the names are unknown, or belong to a different network.
    """
    if not isinstance(network, MobileNet):
        if any(key.startswith("backbone.") for key in state):
            return backbone_part(state)
        adapted: StateDict = network.adapt(state) if hasattr(network, "adapt") else state
        return adapted
    if detect_format(state) != "ours":
        state = backbone_part(translated(state, network.spec))
    elif any(key.startswith("backbone.") for key in state):
        state = backbone_part(state)
    with torch.device("meta"):
        whole = MobileNet(network.spec, taps=(network.spec.last_feature,)).state_dict()
    beyond = whole.keys() - network.state_dict().keys()
    return {key: tensor for key, tensor in state.items() if key not in beyond}


def _keys(state: StateDict, spec: NetSpec, names_of: Format) -> tuple[Keys, set[str]]:
    """Our key -> theirs for the whole classifier, and which of their keys must all be used."""
    if names_of == "timm":
        return timm.classifier_keys(spec, state), set(state)
    if _MNASNET in state:
        return torchvision.mnasnet_keys(spec, state), set(state)
    if names_of == "torchvision":
        return torchvision.mobilenet_keys(spec, state, "features."), set(state)
    keys = torchvision.mobilenet_keys(spec, state, "backbone.")
    keys = {ours: theirs for ours, theirs in keys.items() if ours.startswith("backbone.")}
    return keys, {key for key in state if key.startswith("backbone.")}


def _is_counter(key: str) -> bool:
    return key.endswith(".num_batches_tracked")


def _full_precision(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _listed(keys: list[str], most: int = 4) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return (", ".join(keys[:most]) or "nothing") + more
