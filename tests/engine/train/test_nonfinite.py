"""A step that went wrong can be repeated from the file that the run left."""

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
from engine.train import nonfinite
from engine.train.nonfinite import NonFiniteTracer, value_range
from tests.engine.test_processes import in_processes
from tests.engine.toy import trainer
from tests.engine.train.test_trainer import Kink

ROOT = Path(__file__).resolve().parents[3]


def fail(folder, *, drop=None, **options):
    """Train until a step goes wrong; returns the path of what is left."""
    made = trainer(folder, **options)
    if drop is not None:
        made.learner.model.drop = nn.Sequential(made.learner.model.drop, drop)
    with pytest.raises(UserError, match="not finite") as caught:
        made.fit()
    assert f"replay={made.run.replay} repeats the step" in str(caught.value)
    return made.run.replay


def repeat(path, *, drop=None, **options):
    """Repeat it as tools/train.py does."""
    made = trainer(path.parent, **options)
    if drop is not None:
        made.learner.model.drop = nn.Sequential(made.learner.model.drop, drop)
    return nonfinite.read(path).repeat(made).splitlines()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_that_is_not_finite_is_repeated(tmp_path, accumulate):
    path = fail(tmp_path, poison=3, accumulate=accumulate)
    step, files = (checkpoint.read(path)[1][key] for key in ("state", "files"))
    lines = repeat(path, poison=3, accumulate=accumulate)
    assert lines[0] == (f"step {step['step']}, samples: 4, processes: 1, micro-batches of each: {accumulate}")
    assert [line.split()[0] for line in lines if line.endswith("equal bit for bit")] == [
        "cross_entropy",
        "extra",
        "gradient",
    ]
    alone = dict(line.strip().split(": ", 1) for line in lines if line.startswith("  picture_"))
    assert list(alone) == files
    for file, losses in alone.items():
        assert losses.endswith("<- not finite") == (file == "picture_3.png")
    assert "the output of every module is finite; the loss that is computed from them is not" in lines
    assert "whose gradient is not finite: model.classify." in lines[-1]


def test_a_gradient_that_is_not_finite_is_repeated_with_the_same_bits(tmp_path):
    path = fail(tmp_path, drop=Kink({5}), ema=0.9, dropout=0.5)
    recorded = checkpoint.read(path)[1]["losses"]
    lines = repeat(path, drop=Kink(range(99)), ema=0.9, dropout=0.5)
    table = {line.split()[0]: line for line in lines[2:5]}
    for name, loss in recorded.items():
        assert table[name].split()[1:] == [f"{loss:.8g}"] * 2 + ["equal", "bit", "for", "bit"]
    assert "nan" in table["gradient"]
    assert "the output of every module is finite" in lines
    # The backward pass meets the head first, whose gradient is fine, then the norm before the kink.
    found = re.search(r"gradient is not finite: (.*); input of (.*): (-[\d.]+) \.\. ([\d.]+)$", lines[-1])
    assert found[1] in ("model.norm.weight", "model.norm.bias")
    assert found[2] == "model.norm"


def test_one_process_repeats_what_two_did(tmp_path):
    # Random numbers, statistics of BatchNorm and the shares in the mean are those of each process.
    options = {"batch": 8, "accumulate": 2, "dropout": 0.5}
    in_processes(2, lambda where: str(fail(tmp_path, drop=Kink({6}), runtime=where, **options)))
    path = tmp_path / "replay.safetensors"
    metadata = checkpoint.read(path)[1]
    assert (metadata["state"]["step"], metadata["processes"]) == (3, 2)
    options["runtime"] = Runtime(torch.device("cpu"), channels_last=False)  # Dropout follows the layout.
    lines = repeat(path, drop=Kink(range(99)), **options)
    assert lines[0] == "step 3, samples: 8, processes: 2, micro-batches of each: 2"
    repeated = {line.split()[0]: float(line.split()[2]) for line in lines[2:4]}
    assert repeated == pytest.approx(metadata["losses"], rel=1e-6)
    # Without the seeds of the processes it would be another loss.
    metadata["accumulate"], metadata["processes"] = 4, 1
    checkpoint.write(path, checkpoint.read(path)[0], metadata)
    other = {
        line.split()[0]: float(line.split()[2]) for line in repeat(path, drop=Kink(range(99)), **options)[2:4]
    }
    assert other != pytest.approx(metadata["losses"], rel=1e-3)


def test_scaled_losses_are_repeated(tmp_path):
    path = fail(tmp_path, drop=Kink(range(1, 99)), precision="fp16", steps=40)
    lines = repeat(path, drop=Kink(range(99)), precision="fp16", steps=40)
    assert lines[0].startswith("step 17")
    assert all(line.endswith("equal bit for bit") for line in lines[2:5])


def test_the_first_module_whose_output_is_not_finite(tmp_path):
    made = trainer(tmp_path)
    with torch.no_grad():
        made.learner.model.conv.weight.fill_(3e38)
    with pytest.raises(UserError):
        made.fit()
    lines = repeat(made.run.replay)
    (first,) = [line for line in lines if line.startswith("first module")]
    found = re.fullmatch(
        r"first module whose output is not finite: model\.conv \(Conv2d\); its input: (\S+) \.\. (\S+)", first
    )
    samples = [made.feed.train_set[draw] for draw in made.feed.draws(0, batch=4)]
    pixels = torch.stack([sample["image"] for sample in samples])
    assert float(found[1]) == pytest.approx(pixels.min().item(), rel=1e-4)
    assert float(found[2]) == pytest.approx(pixels.max().item(), rel=1e-4)


def test_weights_that_were_spoilt_before_are_named(tmp_path):
    made = trainer(tmp_path)
    with torch.no_grad():
        made.learner.model.classify.bias[0] = math.nan
    with pytest.raises(UserError):
        made.fit()
    assert "not finite before the step already: model/classify.bias" in repeat(made.run.replay)


def test_a_model_that_cannot_see_one_image_alone(tmp_path):
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(8))

        def forward(self, x):
            return x + self.pool(x)

    torch.manual_seed(1)
    path = fail(tmp_path, poison=3, drop=Pooled())
    alone = [line for line in repeat(path, poison=3, drop=Pooled()) if line.startswith("  picture_")]
    assert len(alone) == 4
    assert all("not possible (Expected more than 1 value per channel" in line for line in alone)


def test_nothing_in_the_run_folder_changes(tmp_path):
    path = fail(tmp_path, poison=3)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    repeat(path, poison=3)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_a_step_that_is_finite_this_time_is_said_in_one_line(tmp_path):
    path = fail(tmp_path, poison=3)
    with pytest.raises(UserError, match=r"repeated and all is finite \(cross_entropy 0\.\d+") as caught:
        repeat(path)
    assert "the run had cross_entropy nan" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 11}, "num_samples=10, now 11"),
        ({"optimizer": "adamw"}, "optimizer=SGD, now AdamW"),
        ({"runtime": Runtime(torch.device("cpu"), world_size=2)}, "one process repeats what all did"),
    ],
)
def test_another_training_is_refused(tmp_path, options, message):
    path = fail(tmp_path, poison=3)
    with pytest.raises(UserError, match=message):
        repeat(path, poison=3, **options)


def test_other_files_are_refused(tmp_path):
    path = fail(tmp_path, poison=3)
    made = trainer(tmp_path, poison=3)
    made.feed.train_set.image_path = lambda index: f"other_{index}.png"
    with pytest.raises(UserError, match=r"sample \d was picture_\d\.png, now it is other_\d\.png"):
        nonfinite.read(path).repeat(made)


def test_a_checkpoint_is_no_replay_file(tmp_path):
    trainer(tmp_path).fit()
    with pytest.raises(UserError, match=r"last\.safetensors: no replay file \(it holds no losses\)"):
        nonfinite.read(tmp_path / "checkpoints" / "last.safetensors")


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 0")
    for name, message in (
        ("config.yaml", "no safetensors file"),
        ("replay.safetensors", "no such checkpoint"),
    ):
        with pytest.raises(UserError, match=message):
            nonfinite.read(tmp_path / name)


def test_ranges_of_what_is_not_all_finite():
    value = {"a": [torch.tensor([1.0, -2.5]), "text"], "b": (torch.tensor([3, 4], dtype=torch.uint8),)}
    assert value_range(value) == "-2.5 .. 4"
    assert value_range(torch.tensor([1.0, math.nan, -math.inf])) == "1 .. 1, and 2 of 3 values not finite"
    assert value_range(torch.tensor([math.nan])) == "nothing finite, and 1 of 1 values not finite"
    assert value_range({}) == value_range(torch.empty(0)) == "no numbers"


def test_a_trace_leaves_no_hook_behind():
    module = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with NonFiniteTracer(module) as trace:
        module(torch.ones(1, 2)).sum().backward()
    assert trace.lines() == [
        "the output of every module is finite",
        "the gradient of every parameter is finite",
    ]
    assert not any(part._forward_hooks for part in module.modules())
    assert not any(parameter._post_accumulate_grad_hooks for parameter in module.parameters())


def test_the_command(tmp_path):
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
