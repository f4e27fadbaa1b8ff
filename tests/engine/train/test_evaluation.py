"""Scoring overlaps with prediction and gives the same results as without overlap."""

import threading

import pytest
import torch
from torch import nn

from engine.train.evaluation import MAX_UNSCORED, evaluate, evaluate_unless_stopped
from tests.engine.toy import CPU


class Doubles(nn.Module):
    """Predicts twice the number; `started` lists the numbers whose prediction has started."""

    def __init__(self, fails_at=None):
        super().__init__()
        self.model, self.fails_at, self.started = nn.Identity(), fails_at, []
        self.begun = threading.Condition()

    def predict(self, batch):
        with self.begun:
            self.started.append(int(batch["x"]))
            self.begun.notify_all()
        if self.started[-1] == self.fails_at:
            raise ArithmeticError("no prediction")
        return {"twice": [2 * batch["x"]], "file": "a.png"}

    def wait_for(self, number):
        with self.begun:
            return self.begun.wait_for(lambda: number in self.started, timeout=10)


class Sum:
    main_metric = "sum"

    def __init__(self, check=lambda number: None):
        self.check = check

    def reset(self):
        self.seen, self.total = [], 0

    def update(self, outputs, batch):
        self.check(int(batch["x"]))
        self.seen.append(int(batch["x"]))
        self.total += int(outputs["twice"][0])

    def state(self):
        return {"total": self.total, "seen": self.seen}

    def merge(self, states):
        assert len(states) == 1
        self.reset()
        self.total, self.seen = states[0]["total"], states[0]["seen"]

    def compute(self):
        return {"sum": self.total, "seen": self.seen}


def numbers(count):
    return [{"x": torch.tensor(n), "boxes": [torch.zeros(n, 4)], "size": (2, 3)} for n in range(count)]


def test_batches_are_scored_once_and_in_order():
    assert evaluate(Doubles(), numbers(20), Sum(), CPU) == {"sum": 380, "seen": list(range(20))}


def test_a_process_without_samples():
    assert evaluate(Doubles(), [], Sum(), CPU) == {"sum": 0, "seen": []}


def test_a_batch_is_predicted_while_the_previous_one_is_scored():
    task = Doubles()

    def check(number):
        assert number == 5 or task.wait_for(number + 1)

    assert evaluate(task, numbers(6), Sum(check), CPU)["seen"] == list(range(6))


def test_the_number_of_unscored_predictions_is_limited():
    task, most = Doubles(), []

    def check(number):
        most.append(len(task.started) - number)
        threading.Event().wait(0.01)

    evaluate(task, numbers(30), Sum(check), CPU)
    assert 1 < max(most) <= MAX_UNSCORED + 2  # the one being scored, those waiting, and the latest prediction


def test_the_first_scoring_error_ends_the_evaluation():
    task = Doubles()

    def check(number):
        if number >= 3:
            raise LookupError(f"number {number}")

    evaluator = Sum(check)
    with pytest.raises(LookupError, match="number 3"):
        evaluate(task, numbers(1000), evaluator, CPU)
    assert evaluator.seen == [0, 1, 2]
    assert len(task.started) <= 3 + MAX_UNSCORED + 2


def test_a_scoring_error_takes_precedence_over_a_later_prediction_error():
    task = Doubles(fails_at=4)

    def check(number):
        if number == 3:
            task.wait_for(4)
            raise LookupError("number 3")

    with pytest.raises(LookupError):
        evaluate(task, numbers(9), Sum(check), CPU)


def test_earlier_batches_are_scored_before_a_prediction_error_is_raised():
    evaluator = Sum()
    with pytest.raises(ArithmeticError):
        evaluate(Doubles(fails_at=4), numbers(9), evaluator, CPU)
    assert evaluator.seen == [0, 1, 2, 3]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("evaluator")]


def test_on_batch_is_called_after_the_evaluator():
    calls, evaluator = [], Sum()

    def on_batch(done, batch, outputs):
        assert evaluator.seen[-1] == int(batch["x"]) == done - 1
        assert batch["boxes"][0].shape == (done - 1, 4)
        calls.append((done, int(outputs["twice"][0]), outputs["file"]))

    evaluate(Doubles(), numbers(4), evaluator, CPU, on_batch=on_batch)
    assert calls == [(n + 1, 2 * n, "a.png") for n in range(4)]


def test_a_request_to_stop_takes_effect_at_the_next_batch():
    task, asked = Doubles(), iter([False, False, True])
    assert evaluate_unless_stopped(task, numbers(9), Sum(), CPU, stop=lambda: next(asked)) is None
    assert task.started == [0, 1, 2]
    assert task.training
