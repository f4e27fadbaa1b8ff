"""Plans a training of a given duration: measures steps and an evaluation in advance, on a copy.

The number of steps is known before the first update that counts, so the learning rate remains a function of
the step alone, and a resumed run is identical to an uninterrupted one.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from engine.errors import UserError, counted
from engine.train.trainer import Trainer

EVALUATIONS = 10
"""Evaluations in a run, if there is time for them."""

_WARM_UP = 3  # steps
_FEWEST, _MOST = 6, 200  # measured steps
_SHARE_FOR_STEPS = 0.1  # of the time, at most a minute
_SHARE_FOR_EVALUATIONS = 0.2
_RESERVE, _RESERVE_S = 0.02, 5.0  # share of the time, and at least: for imports, curves, tables


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of the parts of a training.

    Attributes:
        start: the first step, with starting the processes that read data, and compilation.
        step: one step, with waiting for data.
        evaluation: one evaluation, with saving a checkpoint.
        end: what follows the last step: drawing samples.
    """

    start: float
    step: float
    evaluation: float
    end: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The length of a training in steps, and the steps between its evaluations."""

    steps: int
    eval_every: int

    @property
    def evaluations(self) -> int:
        return math.ceil(self.steps / self.eval_every)


def plan(timing: Timing, *, seconds: float, eval_every: int | None = None) -> Plan:
    """The longest training that ends within `seconds`, with its evaluations.

    By default, there are up to 10 evaluations, evenly spaced, which take at most a fifth of the time, but at
    least one.

    Raises:
        ValueError: if there is no time for a step and an evaluation.
    """
    left = seconds - timing.start - timing.end
    if eval_every is None:
        fit = int(_SHARE_FOR_EVALUATIONS * seconds / max(timing.evaluation, 1e-9))
        evaluations = min(max(fit, 1), EVALUATIONS)
        steps = int((left - evaluations * timing.evaluation) / timing.step)
        every = math.ceil(steps / evaluations)
    else:
        every = eval_every
        rounds, rest = divmod(left, every * timing.step + timing.evaluation)
        steps = int(rounds) * every + max(0, int((rest - timing.evaluation) / timing.step))
    if steps < 1:
        least = timing.start + timing.step + timing.evaluation + timing.end
        raise ValueError(
            f"too short: startup, one step, one evaluation and the samples take {least:.0f} s, but only "
            f"{max(seconds, 0):.0f} s are left"
        )
    return Plan(steps=steps, eval_every=max(1, min(every, steps)))


def rehearse(
    trainer: Trainer, *, seconds: float, finish: Callable[[Trainer], None], clock: Callable[[], float]
) -> Timing:
    """Time a few steps, one evaluation and one finish with a throwaway trainer.

    Args:
        trainer: a trainer of a copy of the task, in a temporary run folder.
        seconds: available for the whole training.
        finish: what is done after training, such as drawing samples.
        clock: seconds, such as `time.perf_counter`.

    Returns:
        The times measured by the main process, in all processes.

    Raises:
        UserError: as in a training.
    """
    runtime, started = trainer.runtime, clock()
    trainer.learner.start(compile=trainer.options.compile)
    batches = trainer.batches(trainer.data)
    trainer.take_step(batches)
    start, warm = clock() - started, clock()
    for _ in range(_WARM_UP):
        trainer.take_step(batches)
    about = max((clock() - warm) / _WARM_UP, 1e-6)
    count = runtime.broadcast(min(max(int(min(_SHARE_FOR_STEPS * seconds, 60) / about), _FEWEST), _MOST))
    measured = clock()
    for _ in range(count):
        trainer.take_step(batches)
    step = (clock() - measured) / count
    del batches
    evaluated = clock()
    trainer.evaluate()
    evaluation, finished = clock() - evaluated, clock()
    if runtime.is_main:
        finish(trainer)
    timing = Timing(start=start, step=step, evaluation=evaluation, end=clock() - finished)
    result: Timing = runtime.broadcast(timing)
    return result


def steps_for(
    trainer: Trainer,
    *,
    minutes: float,
    eval_every: int | None,
    elapsed: Callable[[], float],
    finish: Callable[[Trainer], None],
) -> tuple[Plan, str]:
    """The plan of a training that ends `minutes` minutes after its start, and a line that explains it.

    Args:
        elapsed: seconds since the training was started.

    Raises:
        UserError: if the time is too short.
    """
    total = 60 * minutes
    timing = rehearse(trainer, seconds=total, finish=finish, clock=time.perf_counter)
    left = trainer.runtime.broadcast(total - max(_RESERVE * total, _RESERVE_S) - elapsed())
    try:
        chosen = plan(timing, seconds=left, eval_every=eval_every)
    except ValueError as error:
        raise UserError(
            f"trainer.minutes={minutes:g}: {error}; use more minutes, or set trainer.steps"
        ) from None
    every = "" if eval_every else f" trainer.eval_every={chosen.eval_every}"
    measured = f"a step takes {timing.step:.3g} s, an evaluation {timing.evaluation:.2g} s"
    evaluations = counted(chosen.evaluations, "evaluation")
    result = f"trainer.steps={chosen.steps}{every} with {evaluations}"
    return chosen, f"trainer.minutes={minutes:g}: {measured}, so {result}"
