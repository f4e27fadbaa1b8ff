"""Makes weights for MobileNetV3 with a halved last stage (`backbone.tail=rf2`) from the full network's.

Usage: python benchmarks/accuracy/halved_last_stage.py WEIGHTS OUT.safetensors [--backbone mobilenet_v3_small]

Published weights have the full last stage. In each layer that the paper halves (section 6.4), the channels
with the largest norms are kept, as in a NetAdapt step. To train from the result, set
`backbone.tail=rf2 weights=OUT.safetensors`.
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

import argparse
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn

from backbones import mobilenet_v3
from backbones.network import MobileNet
from backbones.spec import NetSpec
from backbones.weights.state_dict import backbone_state
from engine.run.checkpoint import read_weights
from nas.netadapt.pruning import PrunableUnit, prunable_units, prune


class Network(nn.Module):
    """A backbone with all its layers, as part of a model."""

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        self.backbone = MobileNet(spec, taps=(spec.last_feature,))


def halved(state: dict[str, Tensor], full: NetSpec, goal: NetSpec) -> dict[str, Tensor]:
    """The tensors of `goal`, from those of `full`; both are backbones."""
    spec, state = full, {f"backbone.{name}": tensor for name, tensor in state.items()}
    while (cut := _next_cut(spec, goal, state)) is not None:
        spec, state = prune(spec, state, *cut, make_model=Network)
    assert replace(spec, name=goal.name) == goal
    return {name.removeprefix("backbone."): tensor for name, tensor in state.items()}


def _next_cut(spec: NetSpec, goal: NetSpec, state: dict[str, Tensor]) -> tuple[PrunableUnit, int] | None:
    for unit in prunable_units(spec, state):
        if unit.kind == "last":
            channels = goal.last
        elif unit.blocks[-1] == 0:
            channels = goal.stem
        else:
            block = goal.blocks[unit.blocks[-1] - 1]
            channels = block.exp if unit.kind == "expansion" else block.out
        if channels < unit.channels:
            return unit, channels
    return None


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", type=Path, help="file with weights of the full network")
    parser.add_argument("out", type=Path, help="file to write, such as halved.safetensors")
    parser.add_argument(
        "--backbone", choices=("mobilenet_v3_large", "mobilenet_v3_small"), default="mobilenet_v3_large"
    )
    options = parser.parse_args(arguments)
    make = getattr(mobilenet_v3, options.backbone)
    full, goal = make(), make(tail="rf2")
    network = MobileNet(full, taps=(full.last_feature,))
    network.load_state_dict(backbone_state(read_weights(options.weights), network))
    save_file(halved(dict(network.state_dict()), full, goal), options.out)
    print(f"to train from it: backbone={options.backbone} backbone.tail=rf2 weights={options.out}")


if __name__ == "__main__":
    main()
