"""The trainer of candidates: what its options change in a training."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from engine.data.images import write_png
from engine.errors import UserError
from nas.task_trainer import NewTrainerFactory, TrialOptions, with_held_out

SEED = 3


@pytest.fixture(scope="module")
def changes(tmp_path_factory):
    """changes(lr_factor=..., overrides=[...]) -> by how much a step of plain SGD changes each parameter."""
    root = tmp_path_factory.mktemp("streets")
    streets = {"root": root, "num_train": 6, "num_val": 2, "num_test": 1, "size": "[64,96]"}
    options = [
        "task=seg", "data.crop=[32,64]", "data.workers=0", "trainer.batch=2", "trainer.device=cpu",
        "optimizer=sgd", "optimizer.lr=0.01", "optimizer.momentum=0", "optimizer.weight_decay=0",
        *(f"data.source.{key}={value}" for key, value in streets.items()),
    ]  # fmt: skip

    def measure(*overrides, steps=1, **trials):
        trials = TrialOptions(held_out=0.3, device="cpu", **trials)
        trainer = NewTrainerFactory(overrides=(*options, *overrides), trials=trials)()
        torch.manual_seed(SEED)
        task = trainer.make_task(trainer.spec)
        before = [parameter.detach().clone() for parameter in task.model.parameters()]
        trainer.train(task, steps=steps, seed=SEED)
        pairs = zip(task.model.parameters(), before, strict=True)
        return torch.cat([(after.detach() - old).flatten() for after, old in pairs])

    return measure


def test_the_learning_rate_is_multiplied_by_lr_factor(changes):
    whole = changes()
    assert whole.abs().max() > 1e-3
    torch.testing.assert_close(changes(lr_factor=0.25), 0.25 * whole, rtol=1e-2, atol=2e-7)


def test_a_new_training_follows_the_schedule(changes):
    """The first of ten steps of a warm-up that starts at a fifth of the learning rate."""
    warm = changes("schedule.warmup_steps=10", "schedule.warmup_factor=0.2")
    torch.testing.assert_close(warm, 0.2 * changes(), rtol=1e-2, atol=2e-7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"held_out": 0}, "held_out must be a share"),
        ({"held_out": 1}, "held_out must be a share"),
        ({"lr_factor": 0}, "lr_factor must be positive, got 0"),
    ],
)
def test_options_out_of_range_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        TrialOptions(**options)


def test_data_without_a_train_split_are_refused():
    source = SimpleNamespace(splits={"val": range(3)}, description="masks at my_data (val 3)")
    with pytest.raises(
        UserError, match=r"^masks at my_data \(val 3\): a search needs a train split; set data"
    ):
        with_held_out(source, 0.3)


def test_damaged_images_stop_a_search_before_its_first_step(tmp_path, changes):
    for number in range(6):
        image = np.random.default_rng(number).integers(0, 256, (64, 96, 3), dtype=np.uint8)
        write_png(tmp_path / f"images/{number}.png", image)
        write_png(tmp_path / f"masks/{number}.png", (image[..., 0] > 99).astype(np.uint8))
    damaged = tmp_path / "images/4.png"
    damaged.write_bytes(damaged.read_bytes()[:-200])
    overrides = [
        "task=seg", "data=masks", f"data.root={tmp_path}", "data.split=train", "data.crop=[32,64]",
        "data.workers=0", "trainer.batch=1", "trainer.device=cpu",
    ]  # fmt: skip
    trainer = NewTrainerFactory(overrides=overrides, trials=TrialOptions(held_out=0.3, device="cpu"))()
    with pytest.raises(UserError, match=r"images/4\.png: .*data\.on_error=skip"):
        trainer.train(trainer.make_task(trainer.spec), steps=1, seed=SEED)
