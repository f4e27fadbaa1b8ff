"""A failed step can be repeated from its replay file."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from engine.errors import UserError
from engine.run import checkpoint
from engine.runtime import Runtime
from engine.train import failed_step
from tests.engine.processes import in_processes
from tests.engine.toy import Kink, make_trainer

ROOT = Path(__file__).resolve().parents[3]


def fail(folder, *, drop=None, **options):
    """Train until a step fails; returns the path of the replay file."""
    trainer = make_trainer(folder, **options)
    if drop is not None:
        trainer.learner.model.drop = nn.Sequential(trainer.learner.model.drop, drop)
    with pytest.raises(UserError, match="not finite") as caught:
        trainer.fit()
    assert f"replay={trainer.run.replay} repeats the step" in str(caught.value)
    return trainer.run.replay


def repeat(path, *, drop=None, **options):
    """Repeat the step like tools/train.py; returns the lines of the report."""
    trainer = make_trainer(path.parent, **options)
    if drop is not None:
        trainer.learner.model.drop = nn.Sequential(trainer.learner.model.drop, drop)
    return replay(path, trainer).splitlines()


def replay(path, trainer):
    failed = failed_step.read(path)
    return failed.repeat(trainer.learner, trainer.data.train_set, trainer.identity)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_with_a_nonfinite_loss_is_repeated(tmp_path, accumulate):
    path = fail(tmp_path, poison=3, accumulate=accumulate)
    step, files = (checkpoint.read(path)[1][key] for key in ("state", "files"))
    lines = repeat(path, poison=3, accumulate=accumulate)
    assert lines[0] == (
        f"step {step['step']}, samples: 4, processes: 1, micro-batches per process: {accumulate}"
    )
    assert [line.split()[0] for line in lines if line.endswith("equal bit for bit")] == [
        "cross_entropy",
        "extra",
        "gradient",
    ]
    alone = dict(line.strip().split(": ", 1) for line in lines if line.startswith("  image_"))
    assert list(alone) == files
    for file, losses in alone.items():
        assert losses.endswith("<- not finite") == (file == "image_3.png")
    assert "the outputs of all modules are finite; the loss computed from them is not" in lines
    assert "whose gradient is not finite: model.classify." in lines[-1]


def test_a_step_with_a_nonfinite_gradient_is_repeated_bit_for_bit(tmp_path):
    path = fail(tmp_path, drop=Kink({5}), ema=0.9, dropout=0.5)
    recorded = checkpoint.read(path)[1]["losses"]
    lines = repeat(path, drop=Kink(range(99)), ema=0.9, dropout=0.5)
    table = {line.split()[0]: line for line in lines[2:5]}
    for name, loss in recorded.items():
        assert table[name].split()[1:] == [f"{loss:.8g}"] * 2 + ["equal", "bit", "for", "bit"]
    assert "nan" in table["gradient"]
    assert "the outputs of all modules are finite" in lines
    # The backward pass reaches the head first, whose gradient is finite, then the norm before the kink.
    match = re.search(r"gradient is not finite: (.*); input of (.*): (-[\d.]+) \.\. ([\d.]+)$", lines[-1])
    assert match[1] in ("model.norm.weight", "model.norm.bias")
    assert match[2] == "model.norm"


def test_one_process_repeats_the_step_of_two_processes(tmp_path):
    # Random numbers, BatchNorm statistics and shares in the mean are those of each process.
    options = {"batch": 8, "accumulate": 2, "dropout": 0.5}
    in_processes(2, lambda where: str(fail(tmp_path, drop=Kink({6}), runtime=where, **options)))
    path = tmp_path / "replay.safetensors"
    metadata = checkpoint.read(path)[1]
    assert (metadata["state"]["step"], metadata["processes"]) == (3, 2)
    options["runtime"] = Runtime(
        torch.device("cpu"), channels_last=False
    )  # The memory layout decides what dropout drops.
    lines = repeat(path, drop=Kink(range(99)), **options)
    assert lines[0] == "step 3, samples: 8, processes: 2, micro-batches per process: 2"
    repeated = {line.split()[0]: float(line.split()[2]) for line in lines[2:4]}
    assert repeated == pytest.approx(metadata["losses"], rel=1e-6)
    # Without the processes' seeds, the loss is another.
    metadata["accumulate"], metadata["processes"] = 4, 1
    checkpoint.write(path, checkpoint.read(path)[0], metadata)
    other = {
        line.split()[0]: float(line.split()[2]) for line in repeat(path, drop=Kink(range(99)), **options)[2:4]
    }
    assert other != pytest.approx(metadata["losses"], rel=1e-3)


def test_a_step_with_loss_scaling_is_repeated(tmp_path):
    path = fail(tmp_path, drop=Kink(range(1, 99)), precision="fp16", steps=40)
    lines = repeat(path, drop=Kink(range(99)), precision="fp16", steps=40)
    assert lines[0].startswith("step 17")
    assert all(line.endswith("equal bit for bit") for line in lines[2:5])


def test_the_first_module_with_nonfinite_output_is_reported(tmp_path):
    trainer = make_trainer(tmp_path)
    with torch.no_grad():
        trainer.learner.model.conv.weight.fill_(3e38)
    with pytest.raises(UserError):
        trainer.fit()
    lines = repeat(trainer.run.replay)
    (first,) = [line for line in lines if line.startswith("first module")]
    match = re.fullmatch(
        r"first module whose output is not finite: model\.conv \(Conv2d\); its input: (\S+) \.\. (\S+)", first
    )
    samples = [trainer.data.train_set[key] for key in trainer.data.step_samples(0, batch=4)]
    pixels = torch.stack([sample["image"] for sample in samples])
    assert float(match[1]) == pytest.approx(pixels.min().item(), rel=1e-4)
    assert float(match[2]) == pytest.approx(pixels.max().item(), rel=1e-4)


def test_weights_that_were_nonfinite_before_the_step_are_reported(tmp_path):
    trainer = make_trainer(tmp_path)
    with torch.no_grad():
        trainer.learner.model.classify.bias[0] = math.nan
    with pytest.raises(UserError):
        trainer.fit()
    assert "already not finite before the step: model/classify.bias" in repeat(trainer.run.replay)


def test_a_model_that_cannot_process_a_single_image(tmp_path):
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(8))

        def forward(self, x):
            return x + self.pool(x)

    torch.manual_seed(1)
    path = fail(tmp_path, poison=3, drop=Pooled())
    alone = [line for line in repeat(path, poison=3, drop=Pooled()) if line.startswith("  image_")]
    assert len(alone) == 4
    assert all("not possible (Expected more than 1 value per channel" in line for line in alone)


def test_replay_does_not_change_the_run_folder(tmp_path):
    path = fail(tmp_path, poison=3)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    repeat(path, poison=3)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_a_step_that_is_finite_when_repeated_is_reported_in_one_line(tmp_path):
    path = fail(tmp_path, poison=3)
    with pytest.raises(
        UserError, match=r"repeated, and everything is finite \(cross_entropy 0\.\d+"
    ) as caught:
        repeat(path)
    assert "the run had cross_entropy nan" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 11}, "num_samples=10, now 11"),
        ({"optimizer": "adamw"}, "optimizer=SGD, now AdamW"),
        ({"runtime": Runtime(torch.device("cpu"), world_size=2)}, "replay= runs in a single process"),
    ],
)
def test_other_settings_are_rejected(tmp_path, options, message):
    path = fail(tmp_path, poison=3)
    with pytest.raises(UserError, match=message):
        repeat(path, poison=3, **options)


def test_other_data_is_rejected(tmp_path):
    path = fail(tmp_path, poison=3)
    trainer = make_trainer(tmp_path, poison=3)
    trainer.data.train_set.image_path = lambda index: f"other_{index}.png"
    with pytest.raises(UserError, match=r"sample \d was image_\d\.png and is now other_\d\.png"):
        replay(path, trainer)


def test_a_checkpoint_is_not_a_replay_file(tmp_path):
    make_trainer(tmp_path).fit()
    with pytest.raises(UserError, match=r"last\.safetensors: not a replay file \(it has no losses\)"):
        failed_step.read(tmp_path / "checkpoints" / "last.safetensors")


def test_unreadable_files_are_rejected(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 0")
    for name, message in (
        ("config.yaml", "not a safetensors file"),
        ("replay.safetensors", "replay=.*no such file"),
    ):
        with pytest.raises(UserError, match=message):
            failed_step.read(tmp_path / name)


@pytest.mark.weekly
def test_the_replay_command(tmp_path):
    def train(*arguments):
        done = subprocess.run(
            [sys.executable, str(ROOT / "tools" / "train.py"), *arguments],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "OMP_NUM_THREADS": "1",
                "XDG_CACHE_HOME": str(tmp_path),
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.returncode, done.stdout, done.stderr

    small = ["data.source.num_train=2", "data.source.num_val=1", "data.source.num_test=1"]
    small += ["data.source.size=[64,128]", "data.crop=[64,96]", "data.workers=0", "trainer.batch=2"]
    status, _, errors = train(*small, "trainer.steps=9", "optimizer.lr=1e18", "run=it")
    assert status == 1, errors
    assert "repeats the step" in errors
    status, output, errors = train("replay=it/replay.safetensors")
    assert (status, errors) == (0, "")
    assert "equal bit for bit" in output
    assert "first module whose output is not finite: model.backbone." in output
