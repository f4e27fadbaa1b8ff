"""The training loop: exact means, non-finite losses, evaluation and reporting."""

import itertools
import math
import time
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from engine.data.loader import SampleKey
from engine.errors import UserError
from engine.io import progress
from engine.run import checkpoint
from engine.runtime import Runtime
from engine.train import evaluation, run_log
from engine.train.trainer import TrainerOptions
from tests.engine.toy import Kink, NoiseImages, ToyTask, make_trainer, weights

PLAIN = {"norm": False, "dropout": 0.0, "batch": 6, "steps": 6, "eval_every": 6}


def close(one, other, tolerance=1e-6):
    return all(torch.allclose(one[name], other[name], rtol=0, atol=tolerance) for name in one)


@pytest.mark.parametrize("accumulate", [2, 3, 6])
def test_accumulated_micro_batches_equal_the_whole_batch(tmp_path, accumulate):
    one = make_trainer(tmp_path / "one", **PLAIN)
    many = make_trainer(tmp_path / "many", accumulate=accumulate, **PLAIN)
    start = weights(one)
    one.fit(), many.fit()
    assert not close(start, weights(one), 0.01)
    assert close(weights(one), weights(many))
    rows = [run_log.read_rows(trainer.run.log)[0] for trainer in (one, many)]
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], rel=1e-6)


def test_a_mean_of_means_would_give_a_different_result(tmp_path):
    # The test above must be able to notice this: micro-batches that count different numbers of pixels.
    trainer = make_trainer(tmp_path / "one", accumulate=3, **PLAIN)
    trainer.learner.task.weight = lambda batch: torch.tensor(1.0)
    exact = make_trainer(tmp_path / "two", **PLAIN)
    trainer.fit(), exact.fit()
    assert not close(weights(trainer), weights(exact), 1e-3)


def test_the_trainer_equals_a_minimal_loop(tmp_path):
    trainer = make_trainer(tmp_path, **PLAIN)
    model = make_trainer(tmp_path / "other", **PLAIN).learner.model
    optimizer = torch.optim.SGD(
        [
            {"params": [p for n, p in model.named_parameters() if "weight" in n], "weight_decay": 1e-3},
            {"params": [p for n, p in model.named_parameters() if "bias" in n]},
        ],
        lr=0.2,
        momentum=0.9,
    )
    trainer.fit()
    images = NoiseImages(10)
    for step in range(6):
        items = [images[key] for key in trainer.data.step_samples(step, batch=6)]
        for group in optimizer.param_groups:
            group["lr"] = 0.2 * (1 - step / 6) ** 0.9 * min(1.0, 0.1 + 0.45 * step)
        scores = model(torch.stack([item["image"] for item in items]))
        labels = torch.stack([item["label"] for item in items])
        optimizer.zero_grad()
        (1.1 * F.cross_entropy(scores, labels, ignore_index=255)).backward()
        optimizer.step()
    assert close(weights(trainer), model.state_dict())


def test_results_depend_only_on_the_seed(tmp_path):
    trainers = [make_trainer(tmp_path / name) for name in "abc"]
    trainers[2].data = replace(trainers[2].data, seed=1)
    for trainer in trainers:
        trainer.fit()
    a, b, c = (trainer.run.last.read_bytes() for trainer in trainers)
    assert a == b != c


def test_the_average_is_evaluated_and_saved_as_best(tmp_path):
    trainer = make_trainer(tmp_path, ema=0.9, eval_every=12)
    trainer.fit()
    tensors, _ = checkpoint.inference_weights(trainer.run.last)
    assert torch.equal(tensors["conv.weight"], trainer.learner.average.model.state_dict()["conv.weight"])
    assert not torch.equal(tensors["conv.weight"], weights(trainer)["conv.weight"])
    best, _ = checkpoint.inference_weights(trainer.run.best)
    assert all(torch.equal(best[name], tensors[name]) for name in tensors)


def test_every_sample_is_evaluated_once(tmp_path):
    assert make_trainer(tmp_path, eval_size=7).fit()["seen"] == list(range(7))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_nonfinite_loss_stops_the_run(tmp_path, accumulate):
    healthy = make_trainer(tmp_path / "healthy", accumulate=accumulate)
    order = healthy.data.step_samples
    poison = next(
        key.index for key in order(2, batch=4) if key.index not in {k.index for k in order(1, batch=4)}
    )
    step = next(s for s in itertools.count() if poison in {key.index for key in order(s, batch=4)})
    trainer = make_trainer(tmp_path / "poisoned", accumulate=accumulate, poison=poison)
    with pytest.raises(UserError) as caught:
        trainer.fit()
    message = str(caught.value)
    assert f"not finite at step {step} (cross_entropy nan, extra nan)" in message
    assert f"image_{poison}.png" in message
    assert str(trainer.run.replay) in message
    assert "\n" not in message

    tensors, metadata = checkpoint.read(trainer.run.replay)
    assert metadata["state"]["step"] == step
    assert [SampleKey(*key) for key in metadata["samples"]] == order(step, batch=4)
    assert metadata["files"] == [f"image_{key.index}.png" for key in order(step, batch=4)]
    stepped = make_trainer(tmp_path / "stepped", accumulate=accumulate, steps=12, save_every=step or 99)
    if step:
        stepped.learner.update, update = (
            lambda: stepped.state.step < step and update(),
            stepped.learner.update,
        )
        stepped.fit()
        expected, _ = stepped.learner.capture()
        names = [name for name in expected if name.startswith("optimizer/") or "running" not in name]
        same = [
            name for name in names if "num_batches" not in name and torch.equal(tensors[name], expected[name])
        ]
        assert [name for name in names if "num_batches" not in name] == same


@pytest.mark.parametrize("options", [{}, {"clip": 1.0}, {"accumulate": 2}, {"precision": "bf16"}])
def test_a_nonfinite_gradient_stops_the_run_before_the_update(tmp_path, options):
    cpu = Runtime(torch.device("cpu"), precision=options.get("precision", "fp32"))
    trainer = make_trainer(tmp_path, runtime=cpu, ema=0.9, dropout=0.0, **options)
    calls = 3 * options.get("accumulate", 1)
    trainer.learner.model.drop = Kink({calls})
    update, before = trainer.learner.update, []
    trainer.learner.update = lambda: (update(), before.append(trainer.learner.capture()[0]))
    with pytest.raises(UserError, match=r"the gradient is not finite at step 3 \(cross_entropy \d") as caught:
        trainer.fit()
    assert "\n" not in str(caught.value)
    assert len(before) == 3
    tensors, metadata = checkpoint.read(trainer.run.replay)
    assert (metadata["state"]["step"], metadata["not_finite"]) == (3, "gradient")
    assert math.isnan(metadata["gradient_norm"])
    assert all(math.isfinite(loss) for loss in metadata["losses"].values())
    for name, tensor in trainer.learner.capture()[0].items():
        assert torch.equal(tensors[name], tensor), name
        assert torch.isfinite(tensor).all(), name


def scaled(folder, **options):
    """A trainer with fp16's loss scaling, on the CPU."""
    trainer = make_trainer(folder, precision="fp16", dropout=0.0, **options)
    assert trainer.learner.scaler.is_enabled()
    return trainer


def test_loss_scaling_skips_a_nonfinite_step(tmp_path):
    trainer = scaled(tmp_path, steps=4)
    trainer.learner.model.drop = Kink({2})
    seen, update = [], trainer.learner.update

    def observed():
        before = weights(trainer)["conv.weight"]
        update()
        seen.append(
            (torch.equal(before, weights(trainer)["conv.weight"]), trainer.learner.scaler.get_scale())
        )

    trainer.learner.update = observed
    trainer.fit()
    assert seen == [(False, 65536.0), (False, 65536.0), (True, 32768.0), (False, 32768.0)]
    assert not trainer.run.replay.exists()


def test_a_gradient_that_is_nonfinite_at_any_scale_stops_the_run(tmp_path):
    trainer = scaled(tmp_path, steps=40)
    trainer.learner.model.drop = Kink(range(1, 99))
    with pytest.raises(UserError, match="the gradient is not finite at step 17"):  # 65536 is halved 16 times
        trainer.fit()


@pytest.mark.parametrize("options", [{}, {"clip": 1.0}])
def test_loss_scaling_does_not_change_the_training(tmp_path, options):
    plain, other = make_trainer(tmp_path / "a", dropout=0.0, **options), scaled(tmp_path / "b", **options)
    plain.fit(), other.fit()
    assert close(weights(plain), weights(other), 1e-5)


def test_the_gradient_norm_covers_all_parameters(tmp_path):
    trainer = make_trainer(tmp_path, accumulate=2)
    results, compute_gradients = [], trainer.learner.compute_gradients

    def checked(*arguments, **options):
        results.append(compute_gradients(*arguments, **options))
        flat = torch.cat([p.grad.flatten() for p in trainer.learner.model.parameters()])
        assert results[-1].gradient_norm == pytest.approx(flat.norm().item(), rel=1e-6)
        return results[-1]

    trainer.learner.compute_gradients = checked
    trainer.fit()
    assert len(results) == 12


def test_sync_bn_changes_nothing_in_one_process(tmp_path):
    plain, synced = make_trainer(tmp_path / "a"), make_trainer(tmp_path / "b", sync_bn=True)
    plain.fit(), synced.fit()
    assert type(synced.learner.model.norm) is nn.BatchNorm2d
    assert plain.run.last.read_bytes() == synced.run.last.read_bytes()


def test_sync_bn_keeps_parameters_and_the_names_in_a_checkpoint(tmp_path, monkeypatch):
    # What several CUDA processes would do at the start; no exchange takes place.
    monkeypatch.setattr(Runtime, "parallel", lambda self, task: task)
    monkeypatch.setattr(Runtime, "place", lambda self, module: module)
    trainer = make_trainer(
        tmp_path, ema=0.9, sync_bn=True, runtime=Runtime(torch.device("cuda"), world_size=2)
    )
    parameters, names = list(trainer.learner.model.parameters()), set(trainer.learner.capture()[0])
    trainer.learner.start(compile=False)
    assert type(trainer.learner.model.norm) is nn.SyncBatchNorm
    assert all(a is b for a, b in zip(parameters, trainer.learner.model.parameters(), strict=True))
    assert set(trainer.learner.capture()[0]) == names
    with torch.no_grad():
        trainer.learner.model.norm.running_mean.fill_(
            5.0
        )  # The average follows the buffers of the new layer.
    trainer.learner.average.update()
    assert trainer.learner.average.model.norm.running_mean.mean() == pytest.approx(4.5)


def test_sync_bn_is_rejected_without_cuda(tmp_path):
    with pytest.raises(UserError, match="sync_bn=true needs CUDA, not cpu"):
        make_trainer(tmp_path, sync_bn=True, runtime=Runtime(torch.device("cpu"), world_size=2))


def test_a_finite_run_writes_no_replay_file(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.fit()
    assert not trainer.run.replay.exists()


def test_bf16_runs_on_the_cpu(tmp_path):
    trainer = make_trainer(tmp_path, runtime=Runtime(torch.device("cpu"), precision="bf16"), precision="bf16")
    start = weights(trainer)["conv.weight"]
    assert trainer.fit()["accuracy"] > 0
    after = weights(trainer)["conv.weight"]
    assert after.dtype == torch.float32
    assert torch.isfinite(after).all()
    assert not torch.equal(start, after)


def test_clipping_bounds_the_step(tmp_path):
    clip, lr = 1e-3, 0.2 * 0.1  # The first rate of the warm-up.
    trainer = make_trainer(tmp_path, clip=clip, steps=1, norm=False)
    start = weights(trainer)
    trainer.optimizer.param_groups[0]["weight_decay"] = 0.0
    trainer.fit()
    moved = torch.cat([(weights(trainer)[name] - start[name]).flatten() for name in start]).norm()
    assert moved == pytest.approx(lr * clip, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "set exactly one of steps, epochs and minutes"),
        ({"steps": 1, "epochs": 1}, "set exactly one of steps, epochs and minutes"),
        ({"steps": -1}, "steps must be positive, got -1"),
        ({"epochs": 0}, "epochs must be positive"),
        ({"steps": 1, "batch": 6, "accumulate": 4}, "batch=6 must be a multiple of accumulate=4"),
        ({"steps": 1, "ema": 1.0}, "ema must be between 0 and 1"),
        ({"steps": 1, "clip": float("nan")}, "clip must be positive"),
    ],
)
def test_invalid_options_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        TrainerOptions(**options)


def test_epochs_are_converted_to_steps():
    options = TrainerOptions(epochs=2.5, batch=8).in_steps(101)
    assert (options.steps, options.epochs) == (32, None)  # 252.5 images of 8 a step
    assert options.eval_every == options.save_every == 4
    assert TrainerOptions(steps=7, eval_every=3).in_steps(5).eval_every == 3


def test_a_split_without_labels_is_rejected_before_training(tmp_path, monkeypatch):
    def refuse(task, dataset):
        raise UserError("this split has no labels")

    monkeypatch.setattr(ToyTask, "evaluator", refuse)
    make_trainer(tmp_path)  # the evaluator is built when it is first needed
    monkeypatch.setattr(NoiseImages, "has_labels", False)
    with pytest.raises(UserError, match="no labels"):
        make_trainer(tmp_path)


def test_a_slow_evaluation_and_a_slow_first_step_show_that_they_run(tmp_path, capsys, monkeypatch):
    """Seven batches; the sign of the first step comes before its end."""
    trainer = make_trainer(tmp_path, steps=1, eval_size=7)
    monkeypatch.setattr(evaluation, "PATIENCE_S", 1e-9)
    monkeypatch.setattr(progress, "PATIENCE_S", 0.01)
    monkeypatch.setattr(progress, "_active_at", [-math.inf])  # as if no other test had just shown progress
    step = trainer.take_step
    monkeypatch.setattr(trainer, "take_step", lambda batches: (time.sleep(0.1), step(batches)))
    trainer.fit()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("the first step ... 0 s")
    assert any(line.startswith("evaluation batch 1/7  ETA") for line in lines)
    assert any(line.startswith("evaluation batch 7/7") for line in lines)


def test_the_results_and_samples_of_a_training_are_of_the_best_weights(tmp_path, monkeypatch):
    """Three evaluations that score .5, .8 and .3: the table shows the second one's, and says so."""
    trainer = make_trainer(tmp_path, steps=3, eval_every=1, ema=None)
    scores, metric = iter([0.5, 0.8, 0.3]), trainer.evaluator.main_metric
    compute, state = trainer.evaluator.compute, trainer.evaluator.state
    monkeypatch.setattr(trainer.evaluator, "compute", lambda: {**compute(), metric: next(scores)})
    states = []
    monkeypatch.setattr(trainer.evaluator, "state", lambda: states.append(state()) or states[-1])
    trainer.fit()
    merged = []
    monkeypatch.setattr(trainer.evaluator, "merge", merged.append)
    monkeypatch.setattr(trainer.evaluator, "table", lambda: "a table", raising=False)
    text = trainer.results()
    assert text.splitlines()[-1].startswith("weights: best, from step 2 of 3 (checkpoint=best")
    assert len(merged) == 1
    best, _ = checkpoint.inference_weights(trainer.run.best)
    last = {name: tensor.clone() for name, tensor in trainer.inference_task.model.state_dict().items()}
    used: list[dict] = []
    monkeypatch.setattr(trainer.inference_task, "use_metrics", used.append, raising=False)
    trainer.load_best()
    assert [metrics[metric] for metrics in used] == [0.8]  # such as the threshold of the drawn boxes
    loaded = trainer.inference_task.model.state_dict()
    assert all(torch.equal(loaded[name], best[name]) for name in best)
    assert any(not torch.equal(loaded[name], last[name]) for name in best)
