"""`trainer.patience`: a run ends when its score no longer improves."""

import json

import pytest

from engine.run import checkpoint
from tests.engine.processes import in_processes
from tests.engine.toy import Accuracy, make_trainer

PLAN = {"steps": 12, "eval_every": 2, "save_every": 100, "patience": 2}


def scored(trainer, scores):
    """The trainer, with these scores in its evaluations."""
    left = list(scores)

    class Scored(Accuracy):
        def compute(self):
            return {"accuracy": left.pop(0)}

    trainer.evaluator = Scored()
    return trainer


@pytest.mark.parametrize(
    ("scores", "last", "best"),
    [
        ([0.1, 0.2, 0.2, 0.15], 8, 4),  # equal is not better
        ([0.1, 0.2, 0.1, 0.3, 0.2, 0.1], 12, 8),  # two in a row only at the last step
        ([0.3, 0.2, 0.1], 6, 2),
        ([float("nan"), float("nan")], 4, 0),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 12, 12),
    ],
)
def test_it_ends_after_evaluations_without_improvement(tmp_path, scores, last, best):
    trainer = scored(make_trainer(tmp_path, **PLAN), scores)
    trainer.fit()
    assert (trainer.state.step, trainer.state.best_step) == (last, best)
    assert trainer.finished
    assert bool(trainer.state.stopped_early) == (last < 12)


def test_the_reason_is_printed_and_saved(tmp_path, capsys):
    trainer = scored(make_trainer(tmp_path, **PLAN), [0.1, 0.2, 0.2, 0.15])
    trainer.fit()
    reason = "accuracy has not improved in 2 evaluations (the best is from step 4), at step 8 of 12"
    assert f"stopped early: {reason}" in capsys.readouterr().out
    assert json.loads(trainer.run.metrics.read_text())["stopped_early"] == reason
    assert checkpoint.read(trainer.run.last)[1]["state"]["stopped_early"] == reason


def test_a_run_that_stopped_early_is_finished_until_its_patience_grows(tmp_path):
    scores = [0.1, 0.2, 0.2, 0.15]
    scored(make_trainer(tmp_path / "early", **PLAN), scores).fit()
    again = make_trainer(tmp_path / "early", **PLAN)
    again.restore()
    assert again.finished
    assert again.fit()["accuracy"] == 0.15
    assert again.state.step == 8

    for patience in (3, None):
        longer = make_trainer(tmp_path / "early", **{**PLAN, "patience": patience})
        longer.restore()
        assert not longer.finished
    scored(longer, [0.3, 0.1]).fit()
    assert (longer.state.step, longer.state.best_step, longer.state.stopped_early) == (12, 10, "")

    # The same as a run that never stopped.
    whole = scored(make_trainer(tmp_path / "whole", **{**PLAN, "patience": None}), [*scores, 0.3, 0.1])
    whole.fit()
    last = [tmp_path / name / "checkpoints" / "last.safetensors" for name in ("early", "whole")]
    assert last[0].read_bytes() == last[1].read_bytes()


def test_all_processes_stop_together(tmp_path):
    def fit(group):
        trainer = make_trainer(tmp_path, runtime=group, **{**PLAN, "batch": 8})
        scored(trainer, [0.1, 0.2, 0.2, 0.15]).fit()
        return trainer.state.step, trainer.finished

    assert in_processes(2, fit) == [(8, True), (8, True)]
