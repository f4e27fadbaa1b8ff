"""torchvision's state dicts under our names. Pure functions on dicts, which they leave unchanged.

Classifier, Segmenter and Detector all hold their `MobileNet` as `backbone`, so its keys start with
"backbone." here.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from backbones.network import MobileNet
from backbones.spec import NetSpec

StateDict = dict[str, Tensor]
Format = Literal["ours", "torchvision", "torchvision_dense"]
CONV = ("weight",)
BIASED = ("weight", "bias")
BN = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def detect_format(state: StateDict) -> Format:
    """Whose names a state dict uses, by the name of its first convolution.

    "torchvision": mobilenet_v3_large, mobilenet_v3_small or mobilenet_v2, with or without its classifier.
    "torchvision_dense": a torchvision segmentation model, whose trunk is numbered directly after "backbone.".
    """
    marks: dict[str, Format] = {
        "backbone.stem.conv.weight": "ours",
        "stem.conv.weight": "ours",
        "features.0.0.weight": "torchvision",
        "backbone.0.0.weight": "torchvision_dense",
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
    prefix = "backbone." if found == "torchvision_dense" else "features."
    names = _trunk_names(spec, prefix, _is_v2(state))
    taken = {k: v for k, v in state.items() if found == "torchvision" or k.startswith(prefix)}
    if any(key.startswith("classifier.") for key in taken):
        names |= _classifier_names(spec)
    missing = [theirs for theirs in names.values() if theirs not in state and not _is_counter(theirs)]
    unknown = sorted(taken.keys() - set(names.values()))
    if missing or unknown:
        raise ValueError(
            f"these weights are not those of {spec.name} with these options: "
            f"missing {_listed(missing)}; left over {_listed(unknown)}"
        )
    # Files from before torch 0.4.1 have no batch counters; only a momentum of None would read them.
    zero = torch.zeros((), dtype=torch.long)
    return {ours: _full_precision(state.get(theirs, zero)) for ours, theirs in names.items()}


def trunk(state: StateDict) -> StateDict:
    """The "backbone.*" part of our names, without the prefix: what `MobileNet.load_state_dict` takes."""
    return {key.removeprefix("backbone."): t for key, t in state.items() if key.startswith("backbone.")}


def backbone_state(state: StateDict, network: MobileNet) -> StateDict:
    """What `network.load_state_dict` takes, out of any state dict that we know, ours or torchvision's.

    It may be that of a backbone, a classifier or a dense model. Layers that `network` does not build (those
    after its deepest tap) are left out. ValueError listing the keys if torchvision's are of another network.
    """
    if detect_format(state) != "ours":
        state = trunk(from_torchvision(state, network.spec))
    elif any(key.startswith("backbone.") for key in state):
        state = trunk(state)
    with torch.device("meta"):
        deepest = "last" if network.spec.last else f"block{len(network.spec.blocks)}"
        whole = MobileNet(network.spec, taps=(deepest,)).state_dict()
    beyond = whole.keys() - network.state_dict().keys()
    return {key: tensor for key, tensor in state.items() if key not in beyond}


def _trunk_names(spec: NetSpec, prefix: str, v2: bool) -> dict[str, str]:
    """Our key -> torchvision's, for stem, blocks and last conv."""
    names = _conv_bn("backbone.stem", f"{prefix}0")
    for i, (block, channels_in) in enumerate(zip(spec.blocks, spec.block_inputs, strict=True), start=1):
        ours = f"backbone.blocks.{i - 1}"
        theirs = f"{prefix}{i}.conv" if v2 else f"{prefix}{i}.block"
        at = 0
        if block.exp != channels_in:
            names |= _conv_bn(f"{ours}.expand", f"{theirs}.{at}")
            at += 1
        names |= _conv_bn(f"{ours}.depthwise", f"{theirs}.{at}")
        at += 1
        if block.se:
            names |= _keys(f"{ours}.se.reduce", f"{theirs}.{at}.fc1", BIASED)
            names |= _keys(f"{ours}.se.expand", f"{theirs}.{at}.fc2", BIASED)
            at += 1
        if v2:  # whose projection and its batch norm stand side by side
            names |= _keys(f"{ours}.project.conv", f"{theirs}.{at}", CONV)
            names |= _keys(f"{ours}.project.bn", f"{theirs}.{at + 1}", BN)
        else:
            names |= _conv_bn(f"{ours}.project", f"{theirs}.{at}")
    return names | _conv_bn("backbone.last", f"{prefix}{len(spec.blocks) + 1}")


def _classifier_names(spec: NetSpec) -> dict[str, str]:
    if not spec.hidden:
        return _keys("classifier", "classifier.1", BIASED)
    return _keys("hidden", "classifier.0", BIASED) | _keys("classifier", "classifier.3", BIASED)


def _conv_bn(ours: str, theirs: str) -> dict[str, str]:
    return _keys(f"{ours}.conv", f"{theirs}.0", CONV) | _keys(f"{ours}.bn", f"{theirs}.1", BN)


def _keys(ours: str, theirs: str, tensors: tuple[str, ...]) -> dict[str, str]:
    return {f"{ours}.{name}": f"{theirs}.{name}" for name in tensors}


def _is_v2(state: StateDict) -> bool:
    return any(".conv." in key for key in state)


def _is_counter(key: str) -> bool:
    return key.endswith(".num_batches_tracked")


def _full_precision(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _listed(keys: list[str], most: int = 4) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return (", ".join(keys[:most]) or "nothing") + more
