"""NetAdapt (section 4.2 of "Searching for MobileNetV3"): a trained network is narrowed step by step.

1. Proposals: everything that can be cut, each by as little as saves `delta` of the seed's latency.
2. Each starts from the weights of the step before, truncated, and is fine-tuned for `steps` steps.
3. The proposal with the best change of accuracy for the latency that it saves is kept; on with 1, until the
   budget is reached.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from backbones.spec import NetSpec
from deploy.latency_table.table import NotInTable
from engine.errors import UserError
from engine.run import checkpoint
from engine.run.run_folder import make as make_folder
from nas.executors import Executor
from nas.history import History
from nas.netadapt.proposals import Proposal, propose
from nas.netadapt.pruning import Unit, uniform_cuts, units
from nas.netadapt.trials import Latency, MakeProblem, NarrowingTrials, Point, Say

CRITERIA = ("ratio", "drop")


@dataclass(frozen=True, kw_only=True)
class NetAdaptResult:
    """trajectory: from the seed to the found network. widths: the seed with all its channels cut alike."""

    trajectory: tuple[Point, ...]
    widths: tuple[Point, ...]

    @property
    def seed(self) -> Point:
        return self.trajectory[0]

    @property
    def found(self) -> Point:
        return self.trajectory[-1]


class NetAdapt:
    """The search.

    Args:
        budget: latency to reach, as a share of the seed's.
        steps: T, fine-tuning steps of each proposal; the paper has 10,000.
        delta: latency that a step saves at the least, as a share of the seed's; the paper has 0.01.
        decay: factor on `delta` from step to step.
        criterion: `ratio`: change of accuracy over change of latency, the paper's; `drop`: accuracy alone,
            that of the original NetAdapt.
        divisor: channels are multiples of it.
        widths: how many width multipliers of the seed are fine-tuned to compare with.

    Raises:
        ValueError: a value out of range.
    """

    def __init__(
        self,
        *,
        budget: float,
        steps: int = 100,
        delta: float = 0.01,
        decay: float = 1.0,
        criterion: str = "ratio",
        divisor: int = 8,
        widths: int = 2,
    ) -> None:
        for name, share in (("budget", budget), ("delta", delta)):
            if not 0 < share < 1:
                raise ValueError(f"{name} is a share of the seed's latency between 0 and 1, got {share}")
        if not 0 < decay <= 1:
            raise ValueError(f"decay is a factor in (0, 1], got {decay}")
        if steps < 0 or divisor < 1 or widths < 0:
            raise ValueError(f"steps, widths >= 0 and divisor >= 1, got {steps}, {widths}, {divisor}")
        if criterion not in CRITERIA:
            raise ValueError(f"criterion must be one of {', '.join(CRITERIA)}, got {criterion!r}")
        self.budget, self.steps, self.delta, self.decay = budget, steps, delta, decay
        self.criterion, self.divisor, self.widths = criterion, divisor, widths

    def search(
        self,
        make_problem: MakeProblem,
        *,
        latency: Latency,
        history: History,
        folder: Path,
        executor: Executor,
        seed: int = 0,
        say: Say = print,
    ) -> NetAdaptResult:
        """Run, or go on with, the search.

        Args:
            latency: spec -> predicted ms; must give the same whenever a search goes on.
            history: what was done before is not done again.
            folder: for weights.
            say: takes lines on the progress.

        Raises:
            UserError: the budget cannot be reached, or all trials of a step crashed.
        """
        trials = NarrowingTrials(
            make_problem,
            history,
            folder=make_folder(folder),
            executor=executor,
            steps=self.steps,
            seed=seed,
            say=say,
        )
        point = trials.seed(latency)
        trajectory = [point]
        say(_line(point, point))
        target_ms = self.budget * point.latency_ms
        while point.latency_ms > target_ms:
            proposals = self._proposals(point, trajectory[0], latency)
            point = trials.step(point, proposals, partial(self._choose, point, proposals))
            trajectory.append(point)
            say(_line(point, trajectory[0]))
        return NetAdaptResult(
            trajectory=tuple(trajectory), widths=self._width_multipliers(trials, trajectory, latency)
        )

    def _width_multipliers(
        self, trials: NarrowingTrials, trajectory: list[Point], latency: Latency
    ) -> tuple[Point, ...]:
        """The seed with all channels cut alike, at latencies evenly between its own and that of the found
        network, each fine-tuned for as many steps as the trajectory took to get there."""
        seed, found = trajectory[0], trajectory[-1]
        points = []
        for number in range(1, self.widths + 1 if found.step else 1):
            part = number / self.widths
            target_ms = seed.latency_ms + part * (found.latency_ms - seed.latency_ms)
            multiplied = _multiplied(seed, latency, target_ms, self.divisor)
            if multiplied is None:
                continue
            factor, spec, cuts = multiplied
            steps = self.steps * max(1, round(part * found.step))
            change = f"all channels x {factor}"
            point = trials.width(
                seed, spec, cuts, number=number, change=change, latency_ms=latency(spec), steps=steps
            )
            points.append(point)
        return tuple(point for point in points if point is not None)

    def _proposals(self, point: Point, seed: Point, latency: Latency) -> list[Proposal]:
        saved = self.delta * self.decay**point.step * seed.latency_ms
        state = checkpoint.inference_weights(point.weights)[0]
        lacking: list[str] = []

        def known(spec: NetSpec) -> float:
            try:
                return latency(spec)
            except NotInTable as error:
                lacking.append(str(error))
                raise

        target_ms = point.latency_ms - saved
        found = propose(
            point.spec, units(point.spec, state), known, target_ms=target_ms, divisor=self.divisor
        )
        if not found:
            cannot = f"budget={self.budget} cannot be reached: at {point.latency_ms / seed.latency_ms:.1%}"
            if lacking:
                raise UserError(f"{cannot} narrower layers are not in the table: {lacking[0]}")
            raise UserError(f"{cannot} no cut saves {saved:.3g} ms more; raise budget, or lower method.delta")
        return found

    def _choose(self, point: Point, proposals: Sequence[Proposal], scores: Sequence[float]) -> int:
        """The number of the best proposal, of equal ones that which saves most; NaN: it crashed."""

        def worth(number: int) -> tuple[float, float]:
            saved = point.latency_ms - proposals[number].latency_ms
            if math.isnan(scores[number]):
                return -math.inf, saved
            change = scores[number] - point.score
            return (change / saved if self.criterion == "ratio" else change), saved

        return max(range(len(proposals)), key=worth)


def _line(point: Point, seed: Point) -> str:
    """A row of the table of the best networks so far."""
    share = point.latency_ms / seed.latency_ms
    return (
        f"step {point.step:>3}  {point.latency_ms:9.3f} ms {share:7.1%}  {point.score:.4f} "
        f"({point.score - seed.score:+.4f})  {point.change or 'the seed'}"
    )


def _multiplied(
    seed: Point, latency: Latency, target_ms: float, divisor: int
) -> tuple[float, NetSpec, list[tuple[Unit, int]]] | None:
    """The largest width multiplier of the seed, to hundredths, that takes at most `target_ms`, its spec and
    cuts; None where the latency table knows none that is so narrow."""
    state = checkpoint.inference_weights(seed.weights)[0]
    low, high, best = 0, 100, None
    while high - low > 1:
        middle = (low + high) // 2
        tried = uniform_cuts(seed.spec, state, middle / 100, divisor=divisor)
        try:
            too_slow = latency(tried[0]) > target_ms
        except NotInTable:
            low = middle
            continue
        if too_slow:
            high = middle
        else:
            low, best = middle, (middle / 100, *tried)
    return best
