"""Training for a given time: the plan is worked out from measured times, before the first step."""

import itertools

import pytest

from engine.errors import UserError
from engine.train.rehearsal import Plan, Timing, plan, rehearse, steps_for
from tests.engine.processes import in_processes
from tests.engine.toy import make_trainer

TIMING = Timing(start=4.0, step=0.5, evaluation=3.0, end=6.0)


def test_ten_evaluations_take_at_most_a_fifth_of_the_time():
    # 200 s - 4 s start - 6 s end - 10 evaluations of 3 s = 160 s: 320 steps, an evaluation every 32.
    assert plan(TIMING, seconds=200) == Plan(steps=320, eval_every=32)
    assert plan(TIMING, seconds=200).evaluations == 10


def test_in_a_short_time_there_are_fewer_evaluations():
    # A fifth of 40 s is 8 s: 2 evaluations. 40 - 10 - 6 = 24 s: 48 steps.
    assert plan(TIMING, seconds=40) == Plan(steps=48, eval_every=24)
    # At least one: 14 - 10 - 3 = 1 s: 2 steps.
    assert plan(TIMING, seconds=14) == Plan(steps=2, eval_every=2)


def test_evaluations_at_a_given_distance():
    # 10 steps and an evaluation take 8 s. 100 - 10 = 90 s: 11 times, and 2 s are left, too few for another.
    assert plan(TIMING, seconds=100, eval_every=10) == Plan(steps=110, eval_every=10)
    # 95 - 10 = 85 s: 10 times, and 5 s are left: 4 steps and an evaluation.
    chosen = plan(TIMING, seconds=95, eval_every=10)
    assert chosen == Plan(steps=104, eval_every=10)
    assert chosen.evaluations == 11


@pytest.mark.parametrize("seconds", [13.0, 5.0, -2.0])
@pytest.mark.parametrize("eval_every", [None, 5])
def test_too_short(seconds, eval_every):
    with pytest.raises(ValueError, match=r"take 14 s, but only \d+ s are left"):
        plan(TIMING, seconds=seconds, eval_every=eval_every)


@pytest.mark.parametrize("eval_every", [None, 7])
def test_the_plan_never_exceeds_the_time(eval_every):
    for seconds in range(15, 400):
        chosen = plan(TIMING, seconds=seconds, eval_every=eval_every)
        assert 10 + chosen.steps * 0.5 + chosen.evaluations * 3.0 <= seconds


def ticking(trainer, *, first=5.0, step=2.0, evaluation=7.0):
    """A clock that the trainer's work moves on."""
    now, steps = [0.0], itertools.count()
    take, evaluate = trainer.take_step, trainer.evaluate

    def counted_step(batches):
        take(batches)
        now[0] += first if next(steps) == 0 else step

    def counted_evaluation():
        evaluate()
        now[0] += evaluation

    trainer.take_step, trainer.evaluate = counted_step, counted_evaluation
    return now


def test_what_is_measured(tmp_path):
    trainer = make_trainer(tmp_path, steps=10**9, eval_every=10**9, save_every=10**9)
    now = ticking(trainer)

    def finish(rehearsed):
        assert rehearsed is trainer
        now[0] += 11

    timing = rehearse(trainer, seconds=100, finish=finish, clock=lambda: now[0])
    assert timing == Timing(start=5, step=2, evaluation=7, end=11)
    # A tenth of 100 s, but at least 6 steps, after the first and 3 more.
    assert trainer.state.step == 1 + 3 + 6


def test_all_processes_use_the_times_of_the_first(tmp_path):
    def measure(group):
        trainer = make_trainer(tmp_path / str(group.rank), runtime=group, batch=8)
        now = ticking(trainer, step=1.0 + group.rank)
        return rehearse(
            trainer, seconds=60, finish=lambda trainer: None, clock=lambda: now[0]
        ), trainer.state.step

    first, second = in_processes(2, measure)
    assert first == second == (Timing(start=5, step=1, evaluation=7, end=0), 10)


def test_the_reason_names_what_was_measured(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path)
    monkeypatch.setattr("engine.train.rehearsal.rehearse", lambda *_, **__: TIMING)
    chosen, line = steps_for(trainer, minutes=5, eval_every=None, elapsed=lambda: 94.0, finish=print)
    # 2% of 300 s are a reserve, 6 s: 294 - 94 = 200 s.
    assert chosen == Plan(steps=320, eval_every=32)
    assert line == (
        "trainer.minutes=5: a step takes 0.5 s, an evaluation 3 s, so trainer.steps=320 "
        "trainer.eval_every=32 with 10 evaluations"
    )
    with pytest.raises(UserError, match=r"trainer.minutes=0.1: too short: .*; use more minutes, or set"):
        steps_for(trainer, minutes=0.1, eval_every=None, elapsed=lambda: 3.0, finish=print)
