"""The config.yaml of a stranger's run folder, and command lines of any kind: a configuration, or one line."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import strategies as st

from engine.config import compose, saved, training, untrusted
from engine.errors import UserError
from engine.run import run_folder
from tests.fuzz.harness import damaged, fuzzed, outcome


def composed():
    return compose.to_yaml(compose.compose_config("train", ["experiment=seg/camvid", "data.root=/none"]))


GOOD = composed()
MARKER = "executed"


def read_run(folder, text):
    """What every tool does first with a run folder; returns whether it was taken."""
    path = folder / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    run = run_folder.find(folder)
    loaded = outcome(lambda: saved.load_config(run.config, []), path)
    if loaded is None:
        return False
    outcome(lambda: training.validate(loaded), "")
    for key in ("data.source", "model", "task", "trainer"):
        assert key.split(".")[0] in loaded
    return True


@fuzzed(damaged([GOOD.encode()], most=3), examples=40)
def test_a_damaged_run_configuration(folder, data):
    read_run(folder, data)


SCALARS = st.sampled_from(
    [
        None, True, 0, -1, 2**70, 1.5, float("nan"), float("inf"), "", "x", "???", "\0", "a\nb",
        "${seed}", "${data}", "${.x}", "${..data}", "${nope}", "${seed", "${oc.env:HOME}",
        "${oc.env:NOT_SET_ANYWHERE}", "${oc.create:{_target_: os.system}}", "${oc.decode:'[1,2]'}",
        "${oc.select:data}", "${oc.dict.values:data}", "${hydra:run.dir}", "${now:%Y}", "${nope:1}",
        "${${seed}}", "\\${seed}", "${data}${data}",
    ]
)  # fmt: skip
TARGETS = st.sampled_from(
    [
        "os.system", "builtins.eval", "subprocess.Popen", "engine.run_folder.subprocess.run", "engine.",
        "seg", "engine.checkpoint.torch.load", "engine.errors.UserError.__init__.__globals__",
        "engine.config.main", "seg.task.Segmentation", "torch.optim.Adam", "albumentations.Compose",
        "albumentations.core.serialization.load", "engine.train.run_log.read_rows", "engine..log",
        "engine:log", "engine/../os", "", 3, None, ["os.system"], {"a": 1},
    ]
)  # fmt: skip
NODES = st.recursive(
    SCALARS
    | st.fixed_dictionaries({"_target_": TARGETS}, optional={"_partial_": SCALARS, "command": SCALARS}),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["a", "_target_", "_args_", "_recursive_", "_convert_", "lr", "source"]), inner
        )
    ),
    max_leaves=6,
)
KEYS = st.sampled_from(
    [
        "package", "data", "data.source", "data.source._target_", "data.split", "data.workers", "task",
        "task._target_", "model", "model.backbone", "trainer", "trainer.steps", "optimizer", "schedule",
        "augment", "seed", "weights", "init_from", "freeze", "skip", "new", "inference", "experiment",
    ]
)  # fmt: skip


def put(tree, key, value):
    *parents, last = key.split(".")
    for name in parents:
        if not isinstance(tree.get(name), dict):
            tree[name] = {}
        tree = tree[name]
    tree[last] = value


@fuzzed(st.lists(st.tuples(KEYS, NODES), min_size=1, max_size=3), examples=40)
def test_hostile_values_and_targets(folder, changes):
    """Nothing outside of the allowed packages is even looked up; the harness sees that no file is made."""
    tree = yaml.safe_load(GOOD)
    for key, value in changes:
        put(tree, key, value)
    read_run(folder, json.dumps(tree).replace("NaN", ".nan").replace("Infinity", ".inf"))


BASE = yaml.safe_load(GOOD)


def with_extra(text):
    return yaml.safe_dump(BASE) + text


def chain(first, link, count=60):
    return "".join(
        [f"a0: {first}\n", *(f"a{n}: {link.replace('@', f'a{n - 1}')}\n" for n in range(1, count))]
    )


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60)), "alias"),
        ("a: &a {b: *a}\n", "an alias"),
        (chain("lol", "'${@}${@}'"), "its references are circular or expand to too many values"),
        (chain("{x: 1}", "{x: '${@}', y: '${@}'}"), "expand to too many values"),
        (chain("[1, 1]", "['${@}', '${@}']"), "expand to too many values"),
        (chain("lol", "{x: '${..@}${..@}', y: 1}").replace(".a0}", ".a0}"), "expand to too many values"),
        (chain("lol", "'${oc.select:@}${oc.select:@}'"), "only the references"),
        ("a: ${b}\nb: ${a}\n", "are circular"),
        ("a: {b: '${a}'}\n", "are circular"),
        ("a: " + "[" * 3000 + "]" * 3000, "nested more than 40 levels deep"),
        ("a: " + "{b: " * 3000, "nested more than 40 levels deep"),
        ("a: " + "9" * 5000, "a number of 5000 digits"),
        ("a: 1" + ":59" * 400, "a number of"),
        ("a: 0x" + "f" * 100_000, "a number of"),
        ("a: " + "x" * 1_000_001, "more than 1000000 characters"),
        (f"a: !!python/object/apply:os.system ['touch {MARKER}']\n", "constructor"),
        (f"a: !!python/object/new:os.system ['touch {MARKER}']\n", "constructor"),
        ("a: !!python/name:os.system\n", "constructor"),
        ("a: ${oc.create:{_target_: os.system}}\n", "not a readable|only the references"),
        ("seed: 1\n", "duplicate|not a readable"),
        ("---\na: 1\n", "single document"),
        ("? [1, 2]\n: 3\n", "not a readable"),
        ("a: \x07\n", "not a readable"),
        ("a: !!set {b, c}\n", "not a readable"),
    ],
)  # fmt: skip
def test_a_few_lines_that_mean_gigabytes_or_code(tmp_path, monkeypatch, text, why):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.yaml"
    path.write_text(with_extra(text))
    with pytest.raises(UserError, match=why) as caught:
        training.validate(saved.load_config(path, []))
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value).splitlines()) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.yaml"]


def test_references_that_a_run_has_are_followed(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_FOLDER", "/data")
    path = tmp_path / "config.yaml"
    path.write_text(
        with_extra("a: ${oc.env:SOME_FOLDER}/b\nc: {d: '${.e}', e: '${..seed}', f: '${package}.${a}'}\n")
    )
    loaded = saved.load_config(path, [])
    assert loaded.a == "/data/b"
    assert loaded.c == {"d": 0, "e": 0, "f": "seg./data/b"}
    training.validate(loaded)


def test_every_configuration_of_ours_is_taken(tmp_path):
    """The limits are far away from what a training writes."""
    text = GOOD
    (tmp_path / "config.yaml").write_text(text)
    assert untrusted.read(tmp_path / "config.yaml") == text
    expansion = untrusted._Expansion(BASE, Path("x"))
    expansion.count(BASE, (), 0)
    assert expansion._left > 0.9 * untrusted._MAX_EXPANDED


def test_a_missing_or_unreadable_file(tmp_path):
    with pytest.raises(UserError, match=r"none.*not a readable configuration \(No such file"):
        untrusted.read(tmp_path / "none")
    (tmp_path / "latin").write_bytes(b"a: \xe9\n")
    with pytest.raises(UserError, match="latin: not a readable configuration"):
        untrusted.read(tmp_path / "latin")
    with pytest.raises(UserError, match="not a readable configuration"):
        untrusted.read(tmp_path)


OVERRIDE_KEYS = st.sampled_from(
    [
        "seed", "trainer.steps", "data", "data.root", "task", "experiment", "optimizer", "optimizer.lr",
        "run", "resume", "replay", "init_from", "", "+x", "~x", "~seed", "~data", "++a.b", "hydra",
        "hydra.run.dir", "task._target_", "trainer.", "..", "a/b", "data@x", "data@:y", "skip", "freeze",
        "trainer", "weights", "package", "backbone",
    ]
)  # fmt: skip
OVERRIDE_VALUES = st.sampled_from(
    [
        "", "1", "-1", "null", "???", "${seed}", "${nope:1}", "${a", "[1,2", "{a:1}", "{a:{b:[1]}}", "'q",
        '"q"', "1e999", "a,b", "range(1,3)", "glob(*)", "choice(1,2)", "shuffle(1)", "\\", "\0", "\n",
        "é", "==", "../../etc/passwd", "seg", "masks", "cityscapes", "seg/camvid", "[" * 200 + "]" * 200,
        "1" * 5000, "int(x)", "cast(1)", "tag(a,1)", "extend_list(1)", "overfit", "[]", "{}", "a b", " ",
        "${${seed}}", "sgd", "os.system",
    ]
)  # fmt: skip
OVERRIDES = st.lists(
    st.builds(
        "{}{}{}".format, OVERRIDE_KEYS, st.sampled_from(["=", "=", ""]), OVERRIDE_VALUES | st.text(max_size=8)
    )
    | st.text(max_size=12),
    min_size=1,
    max_size=2,
)


@fuzzed(st.tuples(st.sampled_from(["train", "eval", "predict"]), OVERRIDES), examples=20)
def test_command_lines_of_any_kind(folder, example):
    tool, overrides = example
    outcome(lambda: training.validate(compose.compose_config(tool, overrides)), "")


@fuzzed(OVERRIDES, examples=30)
def test_overrides_of_any_kind_for_a_run(folder, overrides):
    path = folder / "config.yaml"
    path.write_text(GOOD)
    loaded = outcome(lambda: saved.load_config(path, overrides), "")
    if loaded is not None:
        outcome(lambda: training.validate(loaded), "")
