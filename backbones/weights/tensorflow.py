"""TensorFlow's names for our tensors, as in the networks that the paper's authors released.

All of them have a backbone under `<root>/MobilenetV3` or `/MobilenetV2` (TF-Slim). Their squeeze-and-excite
gates multiply by 0.16667, not by 1/6: `Layers.state` puts that factor, 1.00002, into the weights of the
convolution after a gate, so that the networks here compute exactly the same with the usual hard sigmoid.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from backbones.spec import NetSpec

LEARNED = ("weights", "depthwise_weights", "biases", "gamma", "beta", "moving_mean", "moving_variance")
"""Last parts of the names of trained variables; a graph's other constants are not learned."""

ROOTS = ("MobilenetV3", "MobilenetV2", "FeatureExtractor/MobilenetV3")

HARD_SIGMOID_FACTOR = 0.16667 * 6

LOGITS = "Logits/Conv2d_1c_1x1"

_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def root_of(names: Iterable[str]) -> str | None:
    """Where the backbone is in a frozen graph with these names; None if it is not one of the authors'."""
    stems = {f"{root}/Conv/weights": root for root in ROOTS}
    return next((stems[name] for name in names if name in stems), None)


@dataclass
class Layers:
    """Pairs of layers, ours and TensorFlow's, and the translation of their tensors.

    Attributes:
        pairs: our key -> TensorFlow's name.
        gated: our keys of the convolutions after a hard-sigmoid gate.
    """

    pairs: dict[str, str] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)

    def conv(self, ours: str, theirs: str, *, weights: str = "weights") -> None:
        """A convolution with batch norm, our `ConvNormAct`."""
        self.pairs[f"{ours}.conv.weight"] = f"{theirs}/{weights}"
        self.norm(f"{ours}.bn", theirs)

    def norm(self, ours: str, theirs: str) -> None:
        """The batch norm of one of TensorFlow's layers."""
        self.pairs |= {f"{ours}.{part}": f"{theirs}/BatchNorm/{name}" for part, name in _NORM.items()}

    def biased(self, ours: str, theirs: str) -> None:
        """A convolution or linear layer with a bias."""
        self.pairs |= {f"{ours}.weight": f"{theirs}/weights", f"{ours}.bias": f"{theirs}/biases"}

    def depthwise(self, ours: str, theirs: str) -> None:
        """A depthwise convolution with batch norm."""
        self.conv(ours, theirs, weights="depthwise_weights")

    def backbone(self, spec: NetSpec, root: str, *, last: bool = True) -> None:
        """The `MobileNet` of a spec; `last`: with the 1x1 convolution after the blocks."""
        self.conv("backbone.stem", f"{root}/Conv")
        for i, (block, channels_in) in enumerate(zip(spec.blocks, spec.block_inputs, strict=True)):
            ours, theirs = f"backbone.blocks.{i}", f"{root}/expanded_conv" + (f"_{i}" if i else "")
            if block.expands(channels_in):
                self.conv(f"{ours}.expand", f"{theirs}/expand")
            self.depthwise(f"{ours}.depthwise", f"{theirs}/depthwise")
            if block.se:
                self.biased(f"{ours}.se.reduce", f"{theirs}/squeeze_excite/Conv")
                self.biased(f"{ours}.se.expand", f"{theirs}/squeeze_excite/Conv_1")
                self.gated |= {f"{ours}.project.conv.weight"} if spec.se.gate == "hard_sigmoid" else set()
            self.conv(f"{ours}.project", f"{theirs}/project")
        if last:
            self.conv("backbone.last", f"{root}/Conv_1")

    def state(
        self, constants: Mapping[str, Tensor], spec: NetSpec, *, all_of: Iterable[str] | None = None
    ) -> dict[str, Tensor]:
        """The constants of these layers under our names, in our layout, float32.

        Args:
            all_of: names whose trained variables must all belong to these layers (None: all constants).

        Raises:
            ValueError: the network pads symmetrically, or constants are missing or left over.
        """
        if spec.padding != "same":
            raise ValueError("TensorFlow weights need TensorFlow's padding; set backbone.padding=same")
        fits_not = f"not the weights of {spec.name} with these options"
        missing = [name for name in self.pairs.values() if name not in constants]
        if missing:
            raise ValueError(f"{fits_not}: {missing[0]} is missing")
        used = set(self.pairs.values())
        names = constants if all_of is None else all_of
        surplus = sorted(name for name in names if is_learned(name) and name not in used)
        if surplus:
            raise ValueError(f"{fits_not}: {surplus[:4]} are unexpected")
        state: dict[str, Tensor] = {}
        for ours, theirs in self.pairs.items():
            state[ours] = _our_layout(theirs, constants[theirs], HARD_SIGMOID_FACTOR * (ours in self.gated))
            if ours.endswith(".running_var"):
                state[f"{ours.removesuffix('.running_var')}.num_batches_tracked"] = torch.tensor(0)
        return state


def is_learned(name: str) -> bool:
    """Whether a constant is a trained variable, judging by its name."""
    return name.rpartition("/")[2] in LEARNED


def classifier_layers(spec: NetSpec, names: Iterable[str]) -> Layers:
    """The layers of a TF-Slim classifier; of another of the authors' networks, those of its backbone."""
    names = set(names)
    root = root_of(names)
    assert root is not None
    layers = Layers()
    layers.backbone(spec, root, last=f"{root}/Conv_1/weights" in names)
    if f"{root}/{LOGITS}/weights" in names:
        if spec.hidden:
            layers.biased("hidden", f"{root}/Conv_2")
        layers.biased("classifier", f"{root}/{LOGITS}")
    return layers


def _our_layout(name: str, constant: Tensor, factor: float) -> Tensor:
    """Convolutions from [h, w, in, out] (depthwise: [h, w, channels, 1]) to torch's [out, in, h, w].

    Per anchor, the released box predictors return (y, x, h, w), ours (x, y, w, h).
    """
    if "/BoxEncodingPredictor/" in name:
        by_anchor = constant.reshape(*constant.shape[:-1], -1, 4)
        constant = by_anchor[..., [1, 0, 3, 2]].flatten(-2)
    if constant.ndim == 4:
        depthwise = re.search(r"/depthwise_weights$", name)
        constant = constant.permute(2, 3, 0, 1) if depthwise else constant.permute(3, 2, 0, 1)
    if factor:
        constant = constant.double() * factor
    return constant.float().contiguous()
