"""The chain of NetAdapt as a user types it: train, search, go on, train and evaluate what was found."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from backbones.spec import NetSpec
from deploy.latency_table.table import build_table
from engine.config.compose import compose_config
from nas.training_problem import OpenRun, OpenTraining, with_held_out
from tests.deploy.latency_table.test_latency_table import MAdds
from tests.tools.commands import run
from tests.tools.test_end_to_end import SMALL
from tools.search import known_table, network_latency, search

OPTIONS = ["budget=0.8", "method.steps=2", "method.delta=0.2", "method.widths=1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run, and a latency table of its network from another device."""
    folder = tmp_path_factory.mktemp("work")
    run("train", *SMALL, "data.source.num_train=10", "trainer.steps=4", "run=run", cwd=folder)
    monkey = pytest.MonkeyPatch()
    monkey.setenv("XDG_CACHE_HOME", str(folder / "cache"))  # where the command has drawn its streets
    problem = OpenRun(run=str(folder / "run"))()
    table = build_table(
        problem.spec,
        size=(64, 128),
        measure=MAdds(),
        model=problem.make_model,
        shares=(1.0, 0.6, 0.3, 0.1),
        taps=problem.taps(problem.spec),
        head=problem.head,
    )
    table.save(folder / "phone.json")
    monkey.undo()
    return folder


@pytest.fixture(autouse=True)
def _cache(trained, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(trained / "cache"))


@pytest.fixture(scope="module")
def found(trained):
    output = run("search", "run=run", "latency=phone.json", "out=adapted", *OPTIONS, cwd=trained)
    return output, trained / "adapted"


def spec_of(path):
    return NetSpec.from_dict(yaml.safe_load(path.read_text()))


def test_the_budget_is_met_and_all_is_written_down(trained, found):
    output, out = found
    assert "network: adapted/network.yaml" in output
    rows = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    seed = next(row for row in rows if row["kind"] == "seed")
    steps = [row for row in rows if row["kind"] == "step"]
    assert steps[-1]["latency_ms"] <= 0.8 * seed["latency_ms"]
    assert NetSpec.from_dict(steps[-1]["spec"]) == spec_of(out / "network.yaml")
    trials = [row for row in rows if row["kind"] == "trial"]
    assert all(row["status"] == "done" and 0 <= row["metric"] <= 1 and row["seconds"] > 0 for row in trials)
    for name in ("report.md", "trajectory.png", "latency.json"):
        assert (out / name).stat().st_size > 0
    report = (out / "report.md").read_text()
    assert "python tools/train.py task=seg backbone=adapted/network.yaml" in report
    assert "all channels x" in report
    wide, narrow = (OpenRun(run=str(folder))() for folder in (trained / "run", out / "width"))
    pairs = zip(wide.spec.blocks, narrow.spec.blocks, strict=True)
    assert all(after.exp <= before.exp for before, after in pairs)
    assert narrow.spec.last < wide.spec.last
    assert narrow.spec == spec_of(out / "width.yaml")
    model = narrow.make_model(narrow.spec)
    model.load_state_dict(narrow.weights())  # to be trained for as long as the found network


def test_the_same_command_again_repeats_nothing(trained, found):
    _, out = found
    before = (out / "history.jsonl").read_bytes()
    output = run("search", "run=run", "latency=phone.json", "out=adapted", *OPTIONS, cwd=trained)
    assert "going on with adapted/history.jsonl" in output
    assert (out / "history.jsonl").read_bytes() == before


def test_what_was_found_is_a_run_and_a_backbone(trained, found):
    _, out = found
    run("eval", "run=adapted/found", "out=scores", "worst=0", cwd=trained)
    assert json.loads((trained / "scores" / "metrics.json").read_text())["num_images"] == 3
    output = run(
        "train", *SMALL, "backbone=adapted/network.yaml", "init_from=adapted/found", "trainer.steps=1",
        "run=next", cwd=trained,
    )  # fmt: skip
    assert "starting from" in output
    config = yaml.safe_load((trained / "next" / "config.yaml").read_text())
    assert NetSpec.from_dict(config["backbone"]["data"]) == spec_of(out / "network.yaml")


def test_a_search_from_new_weights_and_its_network(trained):
    options = ["method=random", "method.steps=1", "method.batch=2", "target_ms=3", "samples=2"]
    output = run("search", *options, "runtime=torch", "size=[32,64]", "out=by chance", *SMALL, cwd=trained)
    assert "network: by chance/network.yaml" in output
    assert spec_of(trained / "by chance" / "network.yaml").blocks
    report = (trained / "by chance" / "report.md").read_text()
    (line,) = [line for line in report.splitlines() if line.startswith("python tools/train.py")]
    assert shlex.split(line)[-1] == "backbone=by chance/network.yaml"  # one word in a shell


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["budget=0.8"], "give run=<run folder>"),
        (["run=nowhere"], "nowhere: no run folder"),
        (["run=run", "budget=2"], "method: budget is a share"),
        (["run=run", "latency=none.json"], "none.json: unreadable latency table"),
        (["run=run", "latency=phone.json", "executor=threads"], "executor must be serial or ray"),
        (["run=run", "measure=false"], "measure=false needs the table of a device"),
        (["run=run", "latency=phone.json", "size=[32,64]"], "the latency table has no entry for stem"),
        (["run=run", "method.stepz=3"], "unknown key 'method.stepz'; did you mean 'method.steps'?"),
        (["method=mnas", "task=seg"], "give target_ms=<milliseconds>"),
        (["run=run", "method=netadept"], "method=netadept: no such option; did you mean 'netadapt'?"),
        (["run=run", "held_out=0", "latency=phone.json"], "held_out is a share"),
    ],
)
def test_mistakes_are_explained(trained, arguments, message, monkeypatch, tmp_path):
    monkeypatch.chdir(trained)
    with pytest.raises(ValueError, match=re.escape(message)):
        search(compose_config("search", [*arguments, f"out={tmp_path}"]))


def test_a_table_without_the_head_counts_the_backbone(trained, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(trained)
    content = json.loads((trained / "phone.json").read_text())
    content["layers"] = [row for row in content["layers"] if row["kind"] != "head"]
    (tmp_path / "bare.json").write_text(json.dumps(content))
    config = compose_config("search", ["run=run", f"latency={tmp_path}/bare.json"])
    problem = OpenRun(run="run")()
    latency = network_latency(config, problem, tmp_path, problem.taps(problem.spec))
    assert f"no head {problem.head}: only the backbone's latency counts" in capsys.readouterr().out
    whole = network_latency(
        compose_config("search", ["run=run", "latency=phone.json"]), problem, trained, latency.taps
    )
    head = whole.layers(problem.spec)[-1]
    assert latency(problem.spec) == pytest.approx(whole(problem.spec) - whole.table.layer_ms(head))


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("seed=1", "seed=0, not 1"),
        ("held_out=0.3", "held_out=0.1, not 0.3"),
        ("lr_factor=1", "lr_factor=0.1, not 1"),
        ("checkpoint=last", "checkpoint='best', not 'last'"),
        ("optimizer.lr=9", "training=[], not ['optimizer.lr=9']"),
    ],
)
def test_a_search_of_other_options_does_not_go_on(trained, found, option, said, monkeypatch):
    monkeypatch.chdir(trained)
    with pytest.raises(ValueError, match=re.escape(f"belongs to a search with {said}; choose another out=")):
        search(compose_config("search", ["run=run", "latency=phone.json", "out=adapted", *OPTIONS, option]))


def test_a_table_may_grow_but_not_change(trained, found, tmp_path):
    kept, given = tmp_path / "latency.json", tmp_path / "phone.json"
    assert known_table(kept, None) is None
    shutil.copy(trained / "phone.json", given)
    shutil.copy(given, kept)
    content = json.loads(given.read_text())
    more = {"kind": "block", "channels_in": 8, "exp": 24, "out": 8, "kernel": 3, "act": "RE"}
    content["layers"].append({**more, "height": 9, "width": 9, "latency_ms": 0.5})
    given.write_text(json.dumps(content))
    assert len(known_table(kept, given).entries) == len(content["layers"])
    content["layers"][0]["latency_ms"] += 1
    given.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="has other latencies than"):
        known_table(kept, given)
    given.unlink()
    assert len(known_table(kept, given).entries) == len(content["layers"]) - 1


def test_the_held_out_samples_are_not_trained_on(trained):
    data = OpenRun(run=str(trained / "run"))().data
    divided = with_held_out(data, 0.3)
    names = {
        split: [data_name(divided, split, i) for i in range(n)]
        for split, n in (("train", 7), ("held out", 3))
    }
    assert not set(names["train"]) & set(names["held out"])
    assert len(data.splits["train"]) == 10  # the data themselves are left as they are


def data_name(data, split, index):
    return Path(data.dataset(split, None).image_path(index)).name


def test_a_trial_is_a_function_of_its_seed(trained):
    problem = OpenRun(run=str(trained / "run"))()

    def weights(seed):
        task = problem.make_task(problem.spec)
        task.model.load_state_dict(problem.weights())
        problem.finetune(task, 2, seed)
        return task.model.state_dict()["backbone.stem.conv.weight"]

    assert weights(1).equal(weights(1))
    assert not weights(1).equal(weights(2))


def test_a_training_is_a_problem_too():
    """What a search from new weights needs: the task of a composed configuration, its own schedule."""
    problem = OpenTraining(overrides=(*SMALL, "data.source.num_train=10"))()
    task = problem.make_task(problem.spec)
    before = task.model.state_dict()["backbone.stem.conv.weight"].clone()
    problem.finetune(task, 2, 0)
    assert not task.model.state_dict()["backbone.stem.conv.weight"].equal(before)
    assert 0 <= problem.score(task) <= 1
    assert (problem.metric, problem.input_size()) == ("miou", (64, 128))
