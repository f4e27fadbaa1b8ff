"""One trial of platform-aware NAS: a short training from new weights, and the latency."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from backbones.count import count
from backbones.mobilenet_v3 import SMALL
from backbones.network import MobileNet
from backbones.spec import NetSpec, with_width
from deploy.latency_table.layers import layers_of
from deploy.latency_table.network_latency import NetworkLatency
from deploy.latency_table.table import LatencyTable
from nas.mnas.space import MnasSpace
from nas.mnas.trials import ShortTraining
from nas.task_trainer import NewTrainerFactory, TrialOptions
from seg.heads import LRASPP
from seg.model import Segmenter

SKELETON = with_width(SMALL, 0.5)


class CountingTrainer:
    """Its score shows how a network was trained."""

    made = 0

    def __init__(self) -> None:
        CountingTrainer.made += 1

    def make_task(self, spec: NetSpec) -> nn.Module:
        return MobileNet(spec)

    def train(self, task: nn.Module, steps: int, seed: int) -> None:
        self.steps = steps + seed

    def score(self, task: nn.Module) -> float:
        weight = next(task.parameters()).sum().item()
        return count(task, (32, 32)).params + self.steps + abs(weight)


def test_a_short_training_starts_from_new_weights_that_depend_on_the_seed() -> None:
    CountingTrainer.made = 0
    score = ShortTraining(make_trainer=CountingTrainer, steps=100)
    first, again, other = (score(SKELETON, seed) for seed in (1, 1, 2))
    assert first == again
    assert other != first
    assert int(first - count(MobileNet(SKELETON), (32, 32)).params) >= 101
    assert CountingTrainer.made == 1


def test_a_short_training_trains_a_real_task(tmp_path: Path) -> None:
    streets = {"root": tmp_path, "num_train": 6, "num_val": 2, "num_test": 1, "size": "[64,96]"}
    source = [f"data.source.{key}={value}" for key, value in streets.items()]
    options = ["task=seg", "data.crop=[32,64]", "data.workers=0", "trainer.batch=2", "trainer.device=cpu"]
    trials = TrialOptions(held_out=0.3, device="cpu")
    factory = NewTrainerFactory(overrides=(*options, *source), trials=trials)
    specs = [MnasSpace(SKELETON).decode([token] * 24) for token in (0, 1)]
    scores = [
        ShortTraining(make_trainer=factory, steps=2)(spec, seed)
        for spec, seed in zip(specs, (0, 1), strict=True)
    ]
    assert all(0 <= score <= 1 for score in scores)
    assert ShortTraining(make_trainer=factory, steps=2)(specs[0], 0) == scores[0]


class Sized:
    """Measures nothing: a module takes as many milliseconds as it has parameters."""

    def __init__(self) -> None:
        self.about: dict[str, str] = {}

    def __call__(self, module: nn.Module, inputs: Sequence[Tensor]) -> float:
        with torch.no_grad():
            module.eval()(*inputs)
        return float(sum(p.numel() for p in module.parameters()))


def test_latency_counts_the_layers_that_a_head_reads() -> None:
    def segmenter(spec: NetSpec) -> Segmenter:
        return Segmenter(backbone=spec, head=partial(LRASPP, pool="global"), num_classes=3)

    space, table = MnasSpace(SKELETON), LatencyTable(about={})
    ms = NetworkLatency(
        table=table,
        size=(64, 64),
        taps=lambda spec: segmenter(spec).backbone.taps,
        head="LRASPP",
        model=segmenter,
        measure=Sized(),
    )
    for token in (0, 1, 2):
        spec = space.decode([min(token, count - 1) for count in space.num_options])
        model = segmenter(spec)
        expected = layers_of(spec, size=(64, 64), taps=model.backbone.taps, head="LRASPP")
        assert ms(spec) == table.latency_ms(expected) > 0
        assert expected[-1].inputs[0][0] == model.backbone.channels[spec.skip_feature]
