"""NetAdapt (section 4.2 of "Searching for MobileNetV3"): narrow a trained network step by step.

1. Proposals: each unit that can be cut, by the smallest amount that saves `delta` of the seed's latency.
2. Each proposal starts from the weights of the previous step, pruned, and is fine-tuned for `steps` steps.
3. The proposal with the best change of accuracy per saved latency is kept.

The steps are repeated until the budget is reached.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from backbones.spec import NetSpec
from deploy.latency_table.table import NotInTable
from engine.errors import UserError
from engine.io.progress import PATIENCE_S, Progress
from engine.run import checkpoint
from engine.run.run_folder import make as make_folder
from nas.candidates import LatencyModel, LogLine, TrainerFactory
from nas.executors import Executor
from nas.history import SearchHistory
from nas.netadapt.proposals import Proposal, propose
from nas.netadapt.pruning import prunable_units, uniform_cuts
from nas.netadapt.trials import Cuts, PruningTrials, ScoredNetwork


@dataclass(frozen=True, kw_only=True)
class NetAdaptResult:
    """The result of a search.

    trajectory: from the seed to the final network. width_multipliers: the seed with all channels cut by the
    same factor.
    """

    trajectory: tuple[ScoredNetwork, ...]
    width_multipliers: tuple[ScoredNetwork, ...]

    @property
    def seed(self) -> ScoredNetwork:
        return self.trajectory[0]

    @property
    def final(self) -> ScoredNetwork:
        return self.trajectory[-1]


class NetAdaptSearch:
    """The search; it works for any task.

    Args:
        budget: latency to reach, as a share of the seed's.
        steps: T, fine-tuning steps of each proposal; 10,000 in the paper.
        delta: smallest latency that a step saves, as a share of the seed's; 0.01 in the paper.
        decay: factor on `delta` from step to step.
        criterion: `ratio`: change of accuracy over change of latency, as in the paper; `drop`: change of
            accuracy alone, as in the original NetAdapt.
        divisor: channels are multiples of it.
        widths: number of width multipliers of the seed that are fine-tuned for comparison.

    Raises:
        ValueError: if a value is out of range.
    """

    def __init__(
        self,
        *,
        budget: float,
        steps: int = 100,
        delta: float = 0.01,
        decay: float = 1.0,
        criterion: Literal["ratio", "drop"] = "ratio",
        divisor: int = 8,
        widths: int = 2,
    ) -> None:
        for name, share in (("budget", budget), ("delta", delta)):
            if not 0 < share < 1:
                raise ValueError(f"{name} must be a share of the seed's latency between 0 and 1, got {share}")
        if not 0 < decay <= 1:
            raise ValueError(f"decay must be in (0, 1], got {decay}")
        for name, number, least in (("steps", steps, 0), ("divisor", divisor, 1), ("widths", widths, 0)):
            if number < least:
                raise ValueError(f"{name} must be at least {least}, got {number}")
        if criterion not in ("ratio", "drop"):
            raise ValueError(f"criterion must be ratio or drop, got {criterion!r}")
        self.budget, self.steps, self.delta, self.decay = budget, steps, delta, decay
        self.criterion, self.divisor, self.widths = criterion, divisor, widths

    def search(
        self,
        make_trainer: TrainerFactory,
        *,
        latency: LatencyModel,
        history: SearchHistory,
        folder: Path,
        executor: Executor,
        seed: int = 0,
        log: LogLine = print,
    ) -> NetAdaptResult:
        """Run the search, or resume it.

        Args:
            history: trials that it contains are not repeated.
            folder: for weights.
            log: shows progress.

        Raises:
            UserError: if the budget cannot be reached, or all trials of a step failed.
        """
        trials = PruningTrials(
            make_trainer,
            history,
            folder=make_folder(folder),
            executor=executor,
            steps=self.steps,
            seed=seed,
            log=log,
        )
        network = trials.seed_network(latency)
        trajectory = [network]
        log(_progress_row(network, network))
        target_ms = self.budget * network.latency_ms
        while network.latency_ms > target_ms:
            proposals = self._proposals(network, trajectory[0], latency)
            network = trials.run_step(network, proposals, partial(self._choose, network, proposals))
            trajectory.append(network)
            log(_progress_row(network, trajectory[0]))
        return NetAdaptResult(
            trajectory=tuple(trajectory),
            width_multipliers=self._width_multipliers(trials, trajectory, latency),
        )

    def _width_multipliers(
        self, trials: PruningTrials, trajectory: list[ScoredNetwork], latency: LatencyModel
    ) -> tuple[ScoredNetwork, ...]:
        """The seed with all channels cut by the same factor, at latencies evenly spaced between the seed's
        and the final network's, each fine-tuned for as many steps as the trajectory took to get there."""
        seed, final = trajectory[0], trajectory[-1]
        networks = []
        for number in range(1, self.widths + 1 if final.step else 1):
            share = number / self.widths
            target_ms = seed.latency_ms + share * (final.latency_ms - seed.latency_ms)
            multiplier = _largest_multiplier(seed, latency, target_ms, self.divisor)
            if multiplier is None:
                continue
            factor, spec, cuts = multiplier
            network = trials.tune_width_multiplier(
                seed,
                spec,
                cuts,
                number=number,
                change=f"all channels x {factor}",
                latency_ms=latency(spec),
                steps=self.steps * max(1, round(share * final.step)),
            )
            networks.append(network)
        return tuple(network for network in networks if network is not None)

    def _proposals(
        self, network: ScoredNetwork, seed: ScoredNetwork, latency: LatencyModel
    ) -> list[Proposal]:
        saving_ms = self.delta * self.decay**network.step * seed.latency_ms
        state = checkpoint.inference_weights(network.weights)[0]
        gaps: list[str] = []

        def latency_noting_gaps(spec: NetSpec) -> float:
            try:
                return latency(spec)
            except NotInTable as error:
                gaps.append(str(error))
                raise

        units = prunable_units(network.spec, state)
        bar = Progress(len(units), unit="cut found", after=PATIENCE_S)
        proposals = propose(
            network.spec,
            units,
            latency_noting_gaps,
            target_ms=network.latency_ms - saving_ms,
            divisor=self.divisor,
            progress=bar.update,
        )
        bar.close()
        if not proposals:
            share = network.latency_ms / seed.latency_ms
            reached = f"budget={self.budget} cannot be reached: at {share:.1%} of the seed's latency,"
            if gaps:
                raise UserError(f"{reached} narrower layers are not in the latency table: {gaps[0]}")
            raise UserError(
                f"{reached} no cut saves another {saving_ms:.3g} ms; raise budget or lower method.delta"
            )
        return proposals

    def _choose(self, network: ScoredNetwork, proposals: Sequence[Proposal], scores: Sequence[float]) -> int:
        """The index of the best proposal; ties go to the largest saving."""

        def rank(index: int) -> tuple[float, float]:
            saved_ms = network.latency_ms - proposals[index].latency_ms
            if math.isnan(scores[index]):
                return -math.inf, saved_ms
            change = scores[index] - network.score
            return (change / saved_ms if self.criterion == "ratio" else change), saved_ms

        return max(range(len(proposals)), key=rank)


def _progress_row(network: ScoredNetwork, seed: ScoredNetwork) -> str:
    share = network.latency_ms / seed.latency_ms
    return (
        f"step {network.step:>3}  {network.latency_ms:9.3f} ms {share:7.1%}  {network.score:.4f} "
        f"({network.score - seed.score:+.4f})  {network.change or 'the seed'}"
    )


def _largest_multiplier(
    seed: ScoredNetwork, latency: LatencyModel, target_ms: float, divisor: int
) -> tuple[float, NetSpec, Cuts] | None:
    """The largest width multiplier of the seed, in hundredths, that takes at most `target_ms`, with its spec
    and cuts; None if the latency table has no network that is narrow enough."""
    state = checkpoint.inference_weights(seed.weights)[0]
    low, high, best = 0, 100, None
    while high - low > 1:
        middle = (low + high) // 2
        spec, cuts = uniform_cuts(seed.spec, state, middle / 100, divisor=divisor)
        try:
            too_slow = latency(spec) > target_ms
        except NotInTable:
            low = middle
            continue
        if too_slow:
            high = middle
        else:
            low, best = middle, (middle / 100, spec, cuts)
    return best
