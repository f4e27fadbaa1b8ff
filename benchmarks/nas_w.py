"""What the exponent w of the reward does: two searches with real trainings, and their scatter as a picture.

Usage: python benchmarks/nas_w.py [key=value of tools/train.py ...] [--samples 48] [--steps 60] ...

Examples:
  python benchmarks/nas_w.py --samples 48 --steps 60                        built-in streets, around V3-Small
  python benchmarks/nas_w.py task=cls --samples 48 --steps 150              their road users and signs, faster
  python benchmarks/nas_w.py data=masks data.root=my_data --latency phone.json --target-ms 20

Both searches (w = -0.07, and -0.15) train every network they ask for, from new weights, for `steps` steps,
and score it on a held-out part of train. They share the space, the seed, the target and one latency table,
whose gaps are measured on this machine. The target is the latency of the skeleton, unless it is given. After
`--seconds` no further trial begins; the same command goes on where it ended.
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from backbones.spec import NetSpec
from deploy.latency_table.build import provenance
from deploy.latency_table.layer_timing import measurer
from deploy.latency_table.network_latency import NetworkLatency
from deploy.latency_table.table import LatencyTable
from deploy.timing.latency import Rounds
from engine.errors import UserError
from engine.io.files import write_json
from engine.run.run_folder import make as make_folder
from nas.candidates import LatencyModel
from nas.executors import SerialExecutor
from nas.history import SearchHistory
from nas.mnas.controller import Controller
from nas.mnas.report import draw_scatter
from nas.mnas.reward import Reward
from nas.mnas.search import MnasSearch
from nas.mnas.space import MnasSpace
from nas.mnas.trials import MnasResult, ShortTraining
from nas.task_trainer import NewTrainerFactory, TaskTrainer, TrialOptions

EXPONENTS = (-0.07, -0.15)
ROUNDS = Rounds(warmup=3, least=7, most=100, interval=0.01, budget_s=0.4)


class OutOfTime(BaseException):
    """Ends a search between two trials; no crash of a trial, so it is no Exception."""


@dataclass(frozen=True)
class Until:
    """`evaluate`, until a moment of `time.monotonic`; a network of both searches is trained once."""

    evaluate: Callable[[NetSpec, int], float]
    moment: float
    known: dict[NetSpec, float] = field(default_factory=dict)

    def __call__(self, spec: NetSpec, seed: int) -> float:
        if time.monotonic() > self.moment:
            raise OutOfTime
        if spec not in self.known:
            self.known[spec] = self.evaluate(spec, seed)
        return self.known[spec]


def main() -> None:
    given, overrides = parsed()
    out = make_folder(Path(given.out))
    factory = NewTrainerFactory(
        overrides=tuple(overrides), trials=TrialOptions(held_out=given.held_out, device=given.device)
    )
    trainer = factory()
    latency = latency_of(trainer, out / "latency.json", given.latency, given.runtime)
    target_ms = given.target_ms or latency(trainer.spec)
    print(
        f"skeleton {trainer.spec.name}: {latency(trainer.spec):.3f} ms; target {target_ms:.3f} ms", flush=True
    )
    evaluate = Until(ShortTraining(make_trainer=factory, steps=given.steps), time.monotonic() + given.seconds)
    results = {}
    for w in EXPONENTS:
        method = MnasSearch(
            samples=given.samples,
            batch=given.batch,
            steps=given.steps,
            reward=Reward(target_ms=target_ms, w=w),
            space=MnasSpace,
            strategy=partial(Controller, **({} if given.lr is None else {"lr": given.lr})),
        )
        try:
            results[f"w = {w:g}"] = run(method, trainer, evaluate, latency, out / f"w{w:g}", overrides)
        except OutOfTime:
            raise SystemExit(f"out of time at w={w:g}; the same command goes on") from None
    draw_scatter(out / "nas_w.png", results, metric=trainer.metric)
    rows = [summary(label, result) for label, result in results.items()]
    write_json(out / "nas_w.json", {"target_ms": target_ms, "steps": given.steps, "searches": rows})
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    print(f"picture: {out / 'nas_w.png'}")


def parsed() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--samples", type=int, default=48, help="networks of each search")
    parser.add_argument("--steps", type=int, default=60, help="of the proxy training")
    parser.add_argument(
        "--batch", type=int, default=4, help="networks that the controller is told of at once"
    )
    parser.add_argument("--lr", type=float, help="of the controller")
    parser.add_argument("--held-out", type=float, default=0.1, help="share of train that is scored on")
    parser.add_argument("--device", default="auto", help="of the trainings; latency is the processor's")
    parser.add_argument("--latency", help="table of a device; default: measured here")
    parser.add_argument(
        "--runtime", default="torch", help="what the table's gaps are measured in: torch, onnx"
    )
    parser.add_argument("--target-ms", type=float, help="default: the skeleton's latency")
    parser.add_argument("--seconds", type=float, default=3600, help="after which no trial begins")
    parser.add_argument("--out", default="runs/nas_w")
    given, overrides = parser.parse_known_args()
    if wrong := [override for override in overrides if "=" not in override or override[0] == "-"]:
        parser.error(f"unknown: {' '.join(wrong)}")
    return given, overrides if any(o.startswith("task=") for o in overrides) else ["task=seg", *overrides]


def latency_of(trainer: TaskTrainer, path: Path, given: str | None, runtime: str) -> LatencyModel:
    """By the table kept at `path`, at first the one that was given; what it lacks is measured here."""
    clock = None if given else measurer(runtime, rounds=ROUNDS)
    size = trainer.input_size()
    if path.exists() or given:
        table = LatencyTable.load(path if path.exists() else Path(str(given)))
    else:
        assert clock is not None
        table = LatencyTable(about=provenance(clock, size))
    return NetworkLatency(
        table=table,
        size=size,
        taps=trainer.taps,
        head=trainer.head,
        model=trainer.make_model,
        measure=clock,
        path=path,
    )


def run(
    method: MnasSearch,
    trainer: TaskTrainer,
    evaluate: Until,
    latency: LatencyModel,
    folder: Path,
    overrides: list[str],
) -> MnasResult:
    identity = {"overrides": overrides, **method.identity()}
    return method.search(
        trainer.spec,
        evaluate,
        latency=latency,
        history=SearchHistory(folder / "history.jsonl", identity=identity),
        folder=folder,
        executor=SerialExecutor(),
        log=partial(print, flush=True),
    )


def summary(label: str, result: MnasResult) -> dict[str, object]:
    """The best network, and where the last third of the samples lay: what the controller had come to like."""
    late = [t for t in result.trials[-(len(result.trials) // 3 or 1) :] if t.scored]
    found = result.best
    return {
        "search": label,
        "best_accuracy": round(found.accuracy, 4),
        "best_ms": round(found.latency_ms, 3),
        "late_accuracy": round(statistics.mean(t.accuracy for t in late), 4) if late else None,
        "late_ms": round(statistics.mean(t.latency_ms for t in late), 3) if late else None,
        "failed": sum(not trial.scored for trial in result.trials),
    }


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
