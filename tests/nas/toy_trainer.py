"""A small network, random batch norms, and a trainer whose best network is known."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import nn

from backbones.mobilenet_v3 import mobilenet_v3_small
from backbones.spec import BlockSpec, NetSpec
from cls.model import Classifier

TINY = NetSpec(
    name="tiny",
    stem=16,
    blocks=(
        BlockSpec(kernel=3, exp=16, out=16, se=True),  # no expansion, residual: as wide as the stem
        BlockSpec(kernel=3, exp=64, out=24, stride=2),
        BlockSpec(kernel=5, exp=72, out=24, se=True, act="HS"),
        BlockSpec(kernel=3, exp=96, out=32, act="HS"),
    ),
    last=64,
    hidden=32,
)


def tiny_classifier(spec: NetSpec) -> Classifier:
    return Classifier(backbone=spec, num_classes=3, dropout=0.0)


def with_random_norms(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in eval mode, with random batch norms and biases, so that every channel matters."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.weight, 0.5), (module.bias, -0.5), (module.running_var, 0.5)):
                tensor.data.uniform_(low, low + 1, generator=generator)
            module.running_mean.uniform_(-0.5, 0.5, generator=generator)
        elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            module.bias.data.uniform_(-0.5, 0.5, generator=generator)
    return model.eval()


@dataclass(frozen=True)
class ToyTrainerFactory:
    """Makes a `ToyTrainer`.

    worth: what the expansion of a block adds to the score, by the block's name; if there are any, all outputs
    together add 1. log: file that gets a line per trial. crash: the expansion (block number, channels) whose
    trial raises an error.
    """

    worth: tuple[tuple[str, float], ...] = ()
    log: str = ""
    crash: tuple[int, int] | None = None

    def __call__(self) -> "ToyTrainer":
        return ToyTrainer(self)


@dataclass
class ToyTrainer:
    """Scores networks by how much of `worth` they keep; training changes next to nothing."""

    options: ToyTrainerFactory
    spec: NetSpec = field(default=TINY)

    def make_model(self, spec: NetSpec) -> nn.Module:
        return tiny_classifier(spec)

    def make_task(self, spec: NetSpec) -> nn.Module:
        task = nn.Module()
        task.model = self.make_model(spec)
        return task

    def weights(self) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        return with_random_norms(self.make_model(self.spec)).state_dict()

    def train(self, task: nn.Module, steps: int, seed: int) -> None:
        if self.options.log:
            with Path(self.options.log).open("a") as file:
                file.write(f"{steps} {seed}\n")
        if self.options.crash is not None:
            number, channels = self.options.crash
            if task.model.backbone.spec.blocks[number - 1].exp == channels:
                raise RuntimeError("out of luck")
        generator = torch.Generator().manual_seed(seed)
        for parameter in task.model.parameters():
            parameter.data += 1e-3 * torch.randn(parameter.shape, generator=generator)

    def score(self, task: nn.Module) -> float:
        spec = task.model.backbone.spec
        score = 0.5
        for name, worth in self.options.worth:
            block = int(name.removeprefix("block"))
            score -= worth * (1 - spec.blocks[block - 1].exp / self.spec.blocks[block - 1].exp)
        if self.options.worth:
            outs, seed_outs = (sum(block.out for block in net.blocks) for net in (spec, self.spec))
            score -= 1 - outs / seed_outs
        # A small part depends on the weights, so that a trial from other weights has another score.
        return score + 1e-6 * float(sum(p.detach().abs().sum() for p in task.model.parameters()) % 1)


SMALL = partial(mobilenet_v3_small, output_stride=16)
