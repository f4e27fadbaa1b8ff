"""The effect of the reward's exponent w: two searches with real trainings, and a scatter plot of both.

Usage: python benchmarks/search/reward_exponent.py [key=value for tools/train.py ...] [--samples 48] ...

Examples:
  python benchmarks/search/reward_exponent.py --samples 48 --steps 60
  python benchmarks/search/reward_exponent.py task=cls --samples 48 --steps 150
  python benchmarks/search/reward_exponent.py data=masks data.root=my_data --latency phone.json --target-ms 20

Both searches (w = -0.07 and w = -0.15) train every network that they try from new weights for `steps` steps
and score it on a held-out part of train. They share the space, the seed, the target and one latency table;
layers that it lacks are measured on this machine. The target is the latency of the skeleton by default. After
`--seconds` no further trial starts; repeat the command to continue the searches.
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
from deploy.latency_table.measurers import measurer
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
    """Ends a search between two trials; not an Exception, because it is not the failure of a trial."""


@dataclass(frozen=True)
class UntilDeadline:
    """`evaluate` until `deadline` (of `time.monotonic`); a network that both searches try is trained once."""

    evaluate: Callable[[NetSpec, int], float]
    deadline: float
    known: dict[NetSpec, float] = field(default_factory=dict)

    def __call__(self, spec: NetSpec, seed: int) -> float:
        if time.monotonic() > self.deadline:
            raise OutOfTime
        if spec not in self.known:
            self.known[spec] = self.evaluate(spec, seed)
        return self.known[spec]


def main() -> None:
    options, overrides = parsed()
    out = make_folder(Path(options.out))
    factory = NewTrainerFactory(
        overrides=tuple(overrides), trials=TrialOptions(held_out=options.held_out, device=options.device)
    )
    trainer = factory()
    latency = latency_model(trainer, out / "latency.json", options.latency, options.runtime)
    target_ms = options.target_ms or latency(trainer.spec)
    print(
        f"skeleton {trainer.spec.name}: {latency(trainer.spec):.3f} ms; target {target_ms:.3f} ms", flush=True
    )
    evaluate = UntilDeadline(
        ShortTraining(make_trainer=factory, steps=options.steps), time.monotonic() + options.seconds
    )
    results = {}
    for w in EXPONENTS:
        method = MnasSearch(
            samples=options.samples,
            batch=options.batch,
            steps=options.steps,
            reward=Reward(target_ms=target_ms, w=w),
            space=MnasSpace,
            strategy=partial(Controller, **({} if options.lr is None else {"lr": options.lr})),
        )
        try:
            results[f"w = {w:g}"] = run(method, trainer, evaluate, latency, out / f"w{w:g}", overrides)
        except OutOfTime:
            raise SystemExit(f"out of time at w={w:g}; repeat the command to continue") from None
    draw_scatter(out / "reward_exponent.png", results, metric=trainer.metric)
    rows = [summary(label, result) for label, result in results.items()]
    write_json(
        out / "reward_exponent.json", {"target_ms": target_ms, "steps": options.steps, "searches": rows}
    )
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    print(f"chart: {out / 'reward_exponent.png'}")


def parsed() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--samples", type=int, default=48, help="networks per search")
    parser.add_argument("--steps", type=int, default=60, help="of each training")
    parser.add_argument("--batch", type=int, default=4, help="networks per update of the controller")
    parser.add_argument("--lr", type=float, help="of the controller")
    parser.add_argument("--held-out", type=float, default=0.1, help="share of train to score on")
    parser.add_argument("--device", default="auto", help="of the trainings; latency is always the CPU's")
    parser.add_argument("--latency", help="latency table of a device; default: measured here")
    parser.add_argument(
        "--runtime", default="eager", help="runtime for layers missing from the table: eager or onnx"
    )
    parser.add_argument("--target-ms", type=float, help="default: the skeleton's latency")
    parser.add_argument("--seconds", type=float, default=3600, help="after which no trial starts")
    parser.add_argument("--out", default="runs/reward_exponent")
    options, overrides = parser.parse_known_args()
    if wrong := [override for override in overrides if "=" not in override or override[0] == "-"]:
        parser.error(f"unknown: {' '.join(wrong)}")
    has_task = any(override.startswith("task=") for override in overrides)
    return options, overrides if has_task else ["task=seg", *overrides]


def latency_model(trainer: TaskTrainer, path: Path, initial: str | None, runtime: str) -> LatencyModel:
    """Latency by the table at `path`, at first a copy of `initial`; without that, layers are measured."""
    clock = None if initial else measurer(runtime, rounds=ROUNDS)
    size = trainer.input_size()
    if path.exists() or initial:
        table = LatencyTable.load(path if path.exists() else Path(str(initial)))
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
    evaluate: UntilDeadline,
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
    """The best network, and the last third of the samples, which shows what the controller has learned."""
    late = [t for t in result.trials[-(len(result.trials) // 3 or 1) :] if t.scored]
    best = result.best
    return {
        "search": label,
        "best_accuracy": round(best.accuracy, 4),
        "best_ms": round(best.latency_ms, 3),
        "late_accuracy": round(statistics.mean(t.accuracy for t in late), 4) if late else None,
        "late_ms": round(statistics.mean(t.latency_ms for t in late), 3) if late else None,
        "failed": sum(not trial.scored for trial in result.trials),
    }


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
