"""tools/search.py: train, search, resume, and use the resulting network."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from backbones.spec import NetSpec
from deploy.latency_table.build import build_table
from engine.config.compose import compose_config
from engine.config.instantiate import tool_options
from nas.latency import combined_table, network_latency
from nas.options import SearchOptions
from nas.task_trainer import NewTrainerFactory, RunTrainerFactory, with_held_out
from tests.deploy.latency_table.test_latency_table import MAdds
from tests.tools.commands import run
from tests.tools.test_end_to_end import SMALL
from tools.search import search

OPTIONS = ["budget=0.8", "method.steps=2", "method.delta=0.2", "method.widths=1"]


def options(*overrides: str) -> SearchOptions:
    return tool_options(compose_config("search", list(overrides)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run, and a latency table of its network for another device."""
    folder = tmp_path_factory.mktemp("work")
    run("train", *SMALL, "data.source.num_train=10", "trainer.steps=4", "run=run", cwd=folder, alone=True)
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))  # the street scenes that the command has drawn
    trainer = RunTrainerFactory(run=str(folder / "run"))()
    table = build_table(
        trainer.spec,
        size=(64, 128),
        measure=MAdds(),
        model=trainer.make_model,
        shares=(1.0, 0.6, 0.3, 0.1),
        taps=trainer.taps(trainer.spec),
        head=trainer.head,
    )
    table.save(folder / "phone.json")
    patch.undo()
    return folder


@pytest.fixture(autouse=True)
def _cache(trained, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(trained / "cache"))


@pytest.fixture(scope="module")
def adapted(trained):
    output = run("search", "run=run", "latency=phone.json", "out=adapted", *OPTIONS, cwd=trained)
    return output, trained / "adapted"


def rows(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def spec_of(path):
    return NetSpec.from_dict(yaml.safe_load(path.read_text()))


@pytest.mark.slow
def test_a_search_reaches_its_budget_and_writes_its_results(trained, adapted):
    output, out = adapted
    assert "network: adapted/network.yaml" in output
    seed = next(row for row in rows(out) if row["kind"] == "seed")
    steps = [row for row in rows(out) if row["kind"] == "step"]
    assert steps[-1]["latency_ms"] <= 0.8 * seed["latency_ms"]
    assert NetSpec.from_dict(steps[-1]["spec"]) == spec_of(out / "network.yaml")
    trials = [row for row in rows(out) if row["kind"] == "trial"]
    assert all(row["status"] == "done" and 0 <= row["metric"] <= 1 and row["seconds"] > 0 for row in trials)
    for name in ("report.md", "trajectory.png", "latency.json"):
        assert (out / name).stat().st_size > 0
    report = (out / "report.md").read_text()
    assert "python tools/train.py task=seg backbone=adapted/network.yaml" in report
    assert "all channels x" in report


@pytest.mark.slow
def test_the_width_multiplier_can_be_used_as_a_run_and_a_backbone(trained, adapted):
    _, out = adapted
    wide, narrow = (RunTrainerFactory(run=str(folder))() for folder in (trained / "run", out / "width"))
    pairs = zip(wide.spec.blocks, narrow.spec.blocks, strict=True)
    assert all(after.exp <= before.exp for before, after in pairs)
    assert narrow.spec.last < wide.spec.last
    assert narrow.spec == spec_of(out / "width.yaml")
    narrow.make_model(narrow.spec).load_state_dict(narrow.weights())


@pytest.mark.slow
def test_repeating_the_command_runs_no_further_trials(trained, adapted):
    _, out = adapted
    before = (out / "history.jsonl").read_bytes()
    output = run("search", "run=run", "latency=phone.json", "out=adapted", *OPTIONS, cwd=trained)
    assert "resuming adapted/history.jsonl" in output
    assert (out / "history.jsonl").read_bytes() == before


@pytest.mark.weekly
def test_parallel_trials_give_the_same_results(trained, adapted):
    _, serial = adapted
    arguments = ["run=run", "latency=phone.json", "out=parallel", *OPTIONS]
    run("search", *arguments, "executor=processes", "workers=2", cwd=trained, alone=True)
    untimed = [
        sorted(json.dumps({key: row[key] for key in row if key != "seconds"}) for row in rows(folder))
        for folder in (serial, trained / "parallel")
    ]
    assert untimed[0] == untimed[1]


@pytest.mark.slow
def test_the_final_network_can_be_used_as_a_run_and_a_backbone(trained, adapted):
    _, out = adapted
    run("eval", "run=adapted/found", "out=scores", "worst=0", cwd=trained)
    assert json.loads((trained / "scores" / "metrics.json").read_text())["num_images"] == 3
    output = run(
        "train", *SMALL, "backbone=adapted/network.yaml", "init_from=adapted/found", "trainer.steps=1",
        "run=next", cwd=trained,
    )  # fmt: skip
    assert "starting from" in output
    config = yaml.safe_load((trained / "next" / "config.yaml").read_text())
    assert NetSpec.from_dict(config["backbone"]["data"]) == spec_of(out / "network.yaml")


@pytest.mark.weekly
def test_a_search_from_random_weights_writes_its_best_network(trained):
    arguments = ["method=random", "method.steps=1", "method.batch=2", "target_ms=3", "samples=2"]
    run("search", *arguments, "runtime=eager", "size=[32,64]", "out=at random", *SMALL, cwd=trained)
    assert spec_of(trained / "at random" / "network.yaml").blocks
    report = (trained / "at random" / "report.md").read_text()
    (line,) = [line for line in report.splitlines() if line.startswith("python tools/train.py")]
    assert shlex.split(line)[-1] == "backbone=at random/network.yaml"  # one word in a shell


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["budget=0.8"], "set run=<run folder>"),
        (["run=nowhere"], "nowhere: "),
        (["run=run", "budget=2"], "budget must be a share of the seed's latency between 0 and 1, got 2"),
        (["run=run", "latency=none.json"], "none.json: "),
        (["run=run", "executor=threads"], "executor must be one of serial, processes, ray, got 'threads'"),
        (["run=run", "executor=processes", "workers=0"], "workers must be at least 1, got 0"),
        (["run=run", "measure=false"], "measure=false needs the latency table of a device"),
        (["run=run", "measure=maybe"], "measure must be one of"),
        (["run=run", "latency=phone.json", "size=[32,64]"], "the latency table has no entry for stem"),
        (["run=run", "size=[32,0]"], "size must be a side or (height, width)"),
        (["run=run", "method.stepz=3"], "unknown key 'method.stepz'; did you mean 'method.steps'?"),
        (["method=mnas", "task=seg"], "target_ms is not set; pass target_ms=<value>"),
        pytest.param(
            ["method=mnas", "target_ms=1", "method.space.kernels=[4]", "data.source.num_train=10"],
            "method.space.kernels must be odd",
            marks=pytest.mark.slow,
        ),
        (["run=run", "method=netadept"], "method=netadept: no such option; did you mean 'netadapt'?"),
        (["run=run", "held_out=0"], "held_out must be a share of train between 0 and 1, got 0"),
    ],
)
def test_user_errors_are_reported_in_one_line(trained, arguments, message, monkeypatch, tmp_path):
    monkeypatch.chdir(trained)
    with pytest.raises(ValueError, match=re.escape(message)):
        search(options(*arguments, f"out={tmp_path}"))


def test_if_the_table_lacks_the_head_only_the_backbone_is_timed(trained, monkeypatch, tmp_path):
    monkeypatch.chdir(trained)
    content = json.loads((trained / "phone.json").read_text())
    content["layers"] = [row for row in content["layers"] if row["kind"] != "head"]
    (tmp_path / "headless.json").write_text(json.dumps(content))
    trainer = RunTrainerFactory(run="run")()
    taps, lines = trainer.taps(trainer.spec), []
    headless, whole = (
        network_latency(options("run=run", f"latency={table}"), trainer, folder, taps, lines.append)
        for table, folder in ((tmp_path / "headless.json", tmp_path), ("phone.json", trained))
    )
    assert [line for line in lines if not line.startswith("latency of images of 64x128")] == [
        f"the latency table has no head {trainer.head}: only the backbone's latency counts"
    ]
    head = whole.layers(trainer.spec)[-1]
    assert headless(trainer.spec) == pytest.approx(whole(trainer.spec) - whole.table.layer_ms(head))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "difference"),
    [
        ("seed=1", "seed=0, not 1"),
        ("held_out=0.3", "held_out=0.1, not 0.3"),
        ("lr_factor=1", "lr_factor=0.1, not 1"),
        ("checkpoint=last", "checkpoint='best', not 'last'"),
        ("optimizer.lr=9", "training=[], not ['optimizer.lr=9']"),
    ],
)
def test_a_search_cannot_be_resumed_with_other_options(trained, adapted, option, difference, monkeypatch):
    monkeypatch.chdir(trained)
    with pytest.raises(
        ValueError, match=re.escape(f"belongs to a search with {difference}; choose another out=")
    ):
        search(options("run=run", "latency=phone.json", "out=adapted", *OPTIONS, option))


def test_a_latency_table_can_grow_but_not_change(trained, tmp_path):
    own, other = tmp_path / "latency.json", tmp_path / "phone.json"
    assert combined_table(own, None) is None
    shutil.copy(trained / "phone.json", other)
    shutil.copy(other, own)
    content = json.loads(other.read_text())
    more = {"kind": "block", "channels_in": 8, "exp": 24, "out": 8, "kernel": 3, "act": "RE"}
    content["layers"].append({**more, "height": 9, "width": 9, "latency_ms": 0.5})
    other.write_text(json.dumps(content))
    assert len(combined_table(own, other).entries) == len(content["layers"])
    content["layers"][0]["latency_ms"] += 1
    other.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="its latencies differ from those in"):
        combined_table(own, other)
    other.unlink()
    assert len(combined_table(own, other).entries) == len(content["layers"]) - 1


def test_held_out_samples_are_not_used_for_training(trained):
    source = RunTrainerFactory(run=str(trained / "run"))().source
    divided = with_held_out(source, 0.3)
    names = {
        split: [image_name(divided, split, index) for index in range(count)]
        for split, count in (("train", 7), ("held out", 3))
    }
    assert not set(names["train"]) & set(names["held out"])
    assert len(source.splits["train"]) == 10  # the source itself is unchanged


def image_name(source, split, index):
    return Path(source.dataset(split, None).image_path(index)).name


def test_a_trial_depends_only_on_its_seed(trained):
    trainer = RunTrainerFactory(run=str(trained / "run"))()

    def weights(seed):
        task = trainer.make_task(trainer.spec)
        task.model.load_state_dict(trainer.weights())
        trainer.train(task, 2, seed)
        return task.model.state_dict()["backbone.stem.conv.weight"]

    assert weights(1).equal(weights(1))
    assert not weights(1).equal(weights(2))


def test_a_search_can_start_from_a_new_training_configuration():
    trainer = NewTrainerFactory(overrides=(*SMALL, "data.source.num_train=10"))()
    task = trainer.make_task(trainer.spec)
    before = task.model.state_dict()["backbone.stem.conv.weight"].clone()
    trainer.train(task, 2, 0)
    assert not task.model.state_dict()["backbone.stem.conv.weight"].equal(before)
    assert 0 <= trainer.score(task) <= 1
    assert (trainer.metric, trainer.input_size()) == ("miou", (64, 128))


def test_a_backbone_without_a_network_description_cannot_be_searched(trained):
    overrides = ("backbone=torchvision", "backbone.name=resnet18")
    with pytest.raises(ValueError, match="a search needs a network described by"):
        NewTrainerFactory(overrides=(*SMALL, *overrides))()
