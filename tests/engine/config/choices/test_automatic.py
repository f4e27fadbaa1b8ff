"""Values that choose themselves: printed with a reason, stored as numbers, and not chosen again on resume."""

import numpy as np
import pytest
import torch

from engine.config.choices import automatic
from engine.config.compose import compose_config
from engine.config.instantiate import build
from engine.config.runs import TrainedRun
from engine.config.saved import load_config
from engine.config.training import automatic_keys, open_training
from engine.run import checkpoint
from engine.runtime import Runtime
from engine.train import batch_size, rehearsal
from tests.refusals import refuses

SMALL = [
    "data.source.num_train=4", "data.source.num_val=2", "data.source.num_test=1", "data.source.size=[64,128]",
    "data.workers=0", "trainer.batch=2", "trainer.device=cpu", "trainer.tensorboard=false", "samples=0",
    "backbone.width_mult=0.35",
]  # fmt: skip
SEG, DET = ["task=seg", "data.crop=64", *SMALL], ["task=det", *SMALL]


def opened(*overrides):
    return open_training(
        compose_config("train", list(overrides)), published=lambda name: None, find_teacher=lambda *_: None
    )


def trained(*overrides):
    """The folder of a finished run."""
    training = opened(*overrides)
    training.fit()
    return training.run


@pytest.mark.slow
def test_class_weights_are_stored_as_numbers_and_kept_on_resume(tmp_path, capsys):
    auto = ["task.loss.class_weights=auto", "trainer.steps=2", f"run={tmp_path / 'run'}"]
    run = trained(*SEG, *auto)
    assert "task.loss.class_weights=auto: [" in capsys.readouterr().out
    stored = load_config(run.config, []).task.loss.class_weights
    assert len(stored) == 19
    assert all(isinstance(weight, float) for weight in stored)
    assert min(stored) < 5 < max(stored)

    again = opened(f"resume={run.path}", "trainer.steps=3")
    np.testing.assert_allclose(again.trainer.learner.task.loss.class_weights.numpy(), stored, rtol=1e-6)
    again.fit()
    assert "auto" not in capsys.readouterr().out
    assert load_config(run.config, []).task.loss.class_weights == stored
    assert checkpoint.step_of(run.last) == 3


@pytest.mark.slow
def test_a_run_with_chosen_weights_equals_one_with_the_same_numbers(tmp_path):
    run = trained(*SEG, "task.loss.class_weights=auto", "trainer.steps=2", f"run={tmp_path / 'auto'}")
    weights = list(load_config(run.config, []).task.loss.class_weights)
    typed = f"task.loss.class_weights={weights}".replace(" ", "")
    same = trained(*SEG, typed, "trainer.steps=2", f"run={tmp_path / 'typed'}")
    assert run.last.read_bytes() == same.last.read_bytes()
    plain = trained(*SEG, "trainer.steps=2", f"run={tmp_path / 'plain'}")
    assert run.last.read_bytes() != plain.last.read_bytes()


@pytest.mark.slow
def test_the_input_size_is_used_everywhere(tmp_path, capsys):
    run = trained(*DET, "data.size=auto", "trainer.steps=1", f"run={tmp_path / 'run'}")
    assert "data.size=auto: [" in capsys.readouterr().out
    config = load_config(run.config, [])
    height, width = config.data.size
    assert height % 32 == width % 32 == 0
    assert width == pytest.approx(2 * height, abs=32)  # the scenes are twice as wide as high
    for node in (config.model.input_size, config.augment.size, config.task.eval_transform.size):
        assert node == [height, width]
    # Other tools open the run with these numbers.
    task = TrainedRun.open(run.path).task()
    assert task.predict_image(np.zeros((64, 128, 3), np.uint8)).boxes.shape[1] == 4


@pytest.mark.slow
def test_minutes_become_steps_and_the_rehearsal_leaves_no_trace(tmp_path, monkeypatch, capsys):
    chosen = rehearsal.Plan(steps=3, eval_every=2)
    seen = []

    def plan(timing, *, seconds, eval_every):
        seen.append((timing, seconds, eval_every))
        return chosen

    monkeypatch.setattr(rehearsal, "plan", plan)
    run = trained(*SEG, "trainer.minutes=2", f"run={tmp_path / 'minutes'}")
    ((timing, seconds, eval_every),) = seen
    assert eval_every is None
    assert min(timing.start, timing.step, timing.evaluation) > 0
    assert 0 < seconds < 0.98 * 120
    assert "so trainer.steps=3 trainer.eval_every=2 with 2 evaluations" in capsys.readouterr().out
    trainer = load_config(run.config, []).trainer
    assert (trainer.steps, trainer.eval_every, trainer.minutes, trainer.epochs) == (3, 2, None, None)

    same = trained(*SEG, "trainer.steps=3", "trainer.eval_every=2", f"run={tmp_path / 'steps'}")
    assert run.last.read_bytes() == same.last.read_bytes()
    assert run.best.read_bytes() == same.best.read_bytes()

    again = opened(f"resume={run.path}", "trainer.steps=4")
    assert (again.trainer.steps, again.trainer.state.step) == (4, 3)
    assert len(seen) == 1
    again.claim.release()
    refuses(lambda: opened(f"resume={run.path}", "trainer.minutes=1"), "trainer.minutes: a resumed run keeps")


@pytest.mark.weekly
def test_too_few_minutes_name_the_key(tmp_path):
    refuses(
        lambda: opened(*SEG, "trainer.minutes=0.001", f"run={tmp_path}"), "trainer.minutes=0.001: too short"
    )


def test_one_length_can_be_set():
    config = compose_config("train", ["trainer.minutes=1"])
    assert (config.trainer.steps, config.trainer.epochs, config.trainer.minutes) == (None, None, 1)
    assert compose_config("train", ["trainer.steps=1"]).trainer.minutes is None
    both = compose_config("train", ["trainer.minutes=1", "trainer.steps=5"]).trainer
    refuses(lambda: build(both, key="trainer"), "set exactly one of steps, epochs and minutes", "steps=5")


@pytest.mark.weekly
def test_on_a_cpu_the_batch_is_the_default(tmp_path, capsys):
    small = [override for override in SEG if not override.startswith("trainer.batch")]
    run = trained(*small, "trainer.batch=auto", "trainer.steps=1", f"run={tmp_path / 'run'}")
    line = "trainer.batch=auto: 8 (the default, because auto fits batches to the memory of CUDA devices"
    assert line in capsys.readouterr().out
    config = load_config(run.config, [])
    assert (config.trainer.batch, config.optimizer.lr) == (8, 0.002)


class FakeDevice:
    """The memory of a CUDA device, without one: a step fits if it has at most `most` images."""

    def __init__(self, monkeypatch, *, most):
        self.tried = []
        monkeypatch.setattr(automatic, "_fits", lambda *arguments: self.fits(arguments[-1], most))

    def fits(self, images, most):
        self.tried.append(images)
        return images <= most


def choose(monkeypatch, *overrides, most, images=10_000):
    device = FakeDevice(monkeypatch, most=most)
    config = compose_config("train", [*overrides, "trainer.batch=auto"])
    config = automatic.with_defaults(config, automatic_keys(config))
    data = type("Data", (), {"train_set": range(images)})()
    lines = automatic.choose_batch(config, Runtime(torch.device("cuda")), torch.nn.Identity(), data)
    return config, lines, device.tried


def test_the_largest_power_of_two_that_fits(monkeypatch):
    config, lines, tried = choose(monkeypatch, "task=seg", most=100)
    assert tried == [2, 4, 8, 16, 32, 64, 128]
    assert config.trainer.batch == 64
    assert config.optimizer.lr == pytest.approx(0.002 * 64 / 8)
    assert lines == [
        "trainer.batch=auto: 64 (128 images do not fit into the memory of cuda)",
        "optimizer.lr=0.016 (0.002 for a batch of 8, scaled linearly)",
    ]


@pytest.mark.slow
def test_an_epoch_keeps_16_steps(monkeypatch):
    config, lines, tried = choose(monkeypatch, "task=seg", most=100, images=400)
    assert (config.trainer.batch, tried) == (16, [2, 4, 8, 16])  # 400 / 16 = 25
    assert "a larger batch would exceed a sixteenth of the 400 training images" in lines[0]
    # A small dataset, or little memory: not more than the default, or less.
    assert choose(monkeypatch, "task=seg", most=100, images=30)[0].trainer.batch == 8
    small, lines, _ = choose(monkeypatch, "task=seg", most=5)
    assert (small.trainer.batch, small.optimizer.lr) == (4, pytest.approx(0.001))


def test_micro_batches_must_fit_one_by_one(monkeypatch):
    config, lines, tried = choose(monkeypatch, "task=seg", "trainer.accumulate=4", most=20)
    assert (config.trainer.batch, tried[-1]) == (64, 32)
    assert "128 images do not fit" in lines[0]


def test_the_batch_is_chosen_before_the_length(monkeypatch):
    config, _, _ = choose(monkeypatch, "task=seg", "trainer.minutes=5", most=100)
    assert (config.trainer.batch, config.trainer.minutes, config.trainer.steps) == (64, 5, None)


def test_a_rate_that_follows_the_batch_is_not_scaled_twice(monkeypatch):
    config, lines, _ = choose(monkeypatch, "experiment=cls/modern", most=300)
    assert config.trainer.batch == 256
    assert config.optimizer.lr == pytest.approx(0.002 * 256 / 1024)
    assert len(lines) == 1


def test_no_batch_fits(monkeypatch):
    refuses(lambda: choose(monkeypatch, "task=seg", most=1), "trainer.batch=auto", "lower data.crop")


def test_a_real_batch_is_repeated():
    batch = {"image": torch.arange(6).reshape(2, 3), "boxes": ["a", "b"], "index": torch.tensor([4, 5])}
    large = batch_size.repeated(batch, 5)
    assert large["image"].tolist() == [[0, 1, 2], [3, 4, 5], [0, 1, 2], [3, 4, 5], [0, 1, 2]]
    assert large["boxes"] == ["a", "b", "a", "b", "a"]
    assert large["index"].tolist() == [4, 5, 4, 5, 4]


@pytest.mark.parametrize(
    ("error", "fits"),
    [(None, True), (torch.OutOfMemoryError("CUDA out of memory"), False), (ZeroDivisionError(), None)],
)
def test_only_a_lack_of_memory_means_that_a_batch_does_not_fit(monkeypatch, error, fits):
    def take_steps(*arguments, **options):
        if error is not None:
            raise error

    freed = []
    monkeypatch.setattr(batch_size, "_take_steps", take_steps)
    memory = {"max_memory_reserved": 50, "memory_reserved": 50, "mem_get_info": (50, 100)}
    for name, value in {**memory, "reset_peak_memory_stats": None}.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append(1))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1)
    call = lambda: batch_size.fits(  # noqa: E731
        torch.nn.Identity(), optimizer, Runtime(torch.device("cuda")), None, images=2, ema=None
    )
    if fits is None:
        with pytest.raises(ZeroDivisionError):
            call()
    else:
        assert call() is fits
    assert freed == [1]


def test_a_trial_step_trains_a_copy(tmp_path):
    training = opened(*SEG, "trainer.steps=1", f"run={tmp_path / 'run'}")
    trainer = training.trainer
    before = {name: value.clone() for name, value in trainer.learner.model.state_dict().items()}
    task = automatic.copy.deepcopy(trainer.learner.task)
    optimizer = build(training.config.optimizer, key="optimizer", model=task.model)
    batch_size._take_steps(task, optimizer, trainer.runtime, trainer.data, images=4, ema=0.9)
    assert all(torch.equal(before[name], value) for name, value in trainer.learner.model.state_dict().items())
    assert any(not torch.equal(before[name], value) for name, value in task.model.state_dict().items())
    training.claim.release()


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("trainer.batch=many", ["trainer.batch must be a whole number, got 'many'"]),
        ("data.crop=auto", ["data.crop must be", "'auto'"]),
        ("task.loss.class_weights=rare", ["task.loss.class_weights must be", "'rare'"]),
        ("trainer.patience=0", ["trainer.patience must be positive"]),
        ("trainer.minutes=-1", ["trainer.minutes must be positive"]),
        ("augment.class_crops=2", ["augment.class_crops is a probability", "2"]),
    ],
)
def test_other_values_are_refused_in_one_line(tmp_path, override, parts):
    small = [given for given in SEG if given.partition("=")[0] != override.partition("=")[0]]
    refuses(lambda: opened(*small, override, f"run={tmp_path / 'run'}"), *parts)


def test_nothing_is_chosen_if_nothing_is_automatic():
    assert automatic_keys(compose_config("train", ["task=seg"])) == []
    assert automatic_keys(compose_config("train", ["task=det", "data.size=auto"])) == ["data.size"]
