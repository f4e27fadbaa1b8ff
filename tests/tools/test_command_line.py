"""The command line: paths with special characters, overrides of existing runs, sweeps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import compose, launch, overrides, saved
from engine.config.launch import run_job
from engine.errors import UserError
from tests.refusals import refuses
from tests.tools.commands import run


@pytest.mark.parametrize(
    "path",
    [
        "a b/c,d.png",
        "it's [1] {x} (2)=3.png",
        "straße/街.jpg",
        "*/x?.png",
        "C:\\data\\",
        "~/x",
        "a'",
        "$x",
        "1",
    ],
)
def test_paths_are_used_exactly_as_typed(path):
    composed = compose.compose_config("predict", ["run=r", f"input={path}"])
    assert composed.input == path


def test_tilde_is_expanded_in_paths_and_is_never_a_folder_of_that_name(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    for typed, expected in (
        ("out=~/x", "out=/home/me/x"),
        ("run=~", "run=/home/me"),
        ("data.root=~/a b", "data.root=/home/me/a b"),
        ("input=x~/y", "input=x~/y"),
        ("input=~x.png", "input=~x.png"),
        ("remote.python=~/env/python", "remote.python=~/env/python"),  # of another machine
        ("~data.crop", "~data.crop"),
    ):
        assert overrides.with_home(typed) == expected
    assert overrides.quote_path("run=[~/x,b]") == "run=['/home/me/x','b']"
    monkeypatch.setattr("os.path.expanduser", str)  # no home, unknown user
    refuses(lambda: overrides.with_home("out=~/x"), "^out=~/x: the home folder is unknown; write the path")


def test_several_runs_are_a_list_of_paths(tmp_path, monkeypatch):
    composed = compose.compose_config("compare", ["run=[runs/a b, runs/c=d,e]"])
    assert list(composed.run) == ["runs/a b", "runs/c=d", "e"]
    assert list(compose.compose_config("compare", ["run=[runs/a]"]).run) == ["runs/a"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "[a,b]").mkdir()
    assert compose.compose_config("eval", ["run=[a,b]"]).run == "[a,b]"


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1).map(str.strip))
def test_any_path_can_be_typed(path):
    if path.lower() in ("", "null", "???", "true", "false") or path[0] in "'\"$" or "${" in path:
        return  # quoted by the user, nothing at all, or a reference
    key, value = overrides.parse_override(overrides.quote_path(f"input={path}"))
    assert (key, value) == ("input", path)
    assert overrides.unquote_path(overrides.quote_path(f"input={path}")) == f"input={path}"


@pytest.mark.parametrize("key", ["latency", "site", "certificate", "key", "out", "artifact"])
def test_every_key_of_a_file_takes_any_path(key):
    path = "/tmp/my röd, (files)/a=b [1].json"
    assert overrides.parse_override(overrides.quote_path(f"{key}={path}")) == (key, path)


def test_latency_of_a_benchmark_is_no_path():
    for typed in ("latency=false", "latency=False"):
        assert overrides.parse_override(overrides.quote_path(typed)) == ("latency", False)


@pytest.mark.parametrize(("typed", "expected"), [("'a b'", "a b"), ('"a,b"', "a,b"), ("null", None)])
def test_quoted_values_and_null_are_parsed_as_in_hydra(typed, expected):
    assert compose.compose_config("train", [f"weights={typed}"]).weights == expected


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.steps", "'trainer.steps': not an option; write key=value"),
        ('optimizer.lr_factors={"x":1}', "lr_factors.*cannot be parsed"),
        ("inference.scales=[1,", "scales.*cannot be parsed"),
        ("trainer.steps=1,2", "several values are a sweep"),
    ],
)
def test_parse_errors_name_only_the_invalid_override(tmp_path, override, message):
    with pytest.raises(UserError, match=message) as caught:
        compose.compose_config("train", ["seed=3", override])
    assert "seed" not in str(caught.value)
    with pytest.raises(UserError, match=message):
        saved.load_config(saved_run(tmp_path), [override])


def saved_run(folder):
    text = compose.to_yaml(compose.compose_config("train", ["trainer.epochs=3"]))
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    return folder / "config.yaml"


def test_overrides_of_a_run_have_the_same_syntax_as_for_training(tmp_path):
    typed = [
        "optimizer.lr=1e-3",
        "inference.scales=[0.5,1]",
        "data.root='a b'",
        "trainer.clip=null",
        "seed=7",
    ]
    for loaded in (saved.load_config(saved_run(tmp_path), typed), compose.compose_config("train", typed)):
        assert loaded.optimizer.lr == 0.001
        assert loaded.inference.scales == [0.5, 1]
        assert (loaded.data.root, loaded.trainer.clip, loaded.seed) == ("a b", None, 7)


@pytest.mark.parametrize("override", ["experiment=seg/camvid", "debug=overfit", "task=seg"])
def test_task_experiment_and_debug_of_a_run_cannot_be_changed(tmp_path, override):
    with pytest.raises(UserError, match="of a run cannot be changed"):
        saved.load_config(saved_run(tmp_path), [override])


@pytest.mark.parametrize("content", ["a: 1", "a: ${b", ""])
def test_a_folder_with_an_unrelated_config_is_not_a_run(tmp_path, content):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(
        UserError,
        match=r"config\.yaml: (not a training configuration|not a readable configuration|unreadable)",
    ):
        saved.load_config(tmp_path / "config.yaml", [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "seed=0,1", "foo=1"], "unknown key 'foo'; --help lists the keys"),
        (["-m", "task=seg,foo"], "task=foo: no such option; choose one of cls, det, seg"),
        (["--cfg", "job", "lr=1"], "unknown key 'lr'; did you mean 'optimizer.lr'?"),
    ],
)
def test_a_mistake_beside_a_flag_is_one_line_too(tmp_path, arguments, message):
    assert run("train", *arguments, cwd=tmp_path, status=1) == f"error: {message}\n"


@pytest.mark.parametrize(
    ("typed", "passed"),
    [
        (
            ["-m", "trainer.steps=1,2", "seed=1"],
            ["trainer.steps=1,2", "seed=1", "trainer.epochs=null", "trainer.minutes=null", "-m"],
        ),
        (["seed=1,2", "-m", "model=lraspp"], ["seed=1,2", "model=seg/lraspp", "-m"]),
        (["--cfg=job", "seed=1", "--package", "trainer"], ["seed=1", "--cfg", "job", "--package", "trainer"]),
        (
            ["trainer.epochs=3", "--cfg", "job"],
            ["trainer.epochs=3", "trainer.steps=null", "trainer.minutes=null", "--cfg", "job"],
        ),
        (["--cfg", "job"], ["--cfg", "job"]),
        (
            ["-m", "data=masks,streets", "model=lraspp"],
            ["data=seg/masks,seg/streets", "model=seg/lraspp", "-m"],
        ),
    ],
)
def test_arguments_that_are_passed_to_hydra(typed, passed):
    """Setting steps clears other lengths, options get their task's folder, and Hydra creates no folders."""
    arguments, network = launch.hydra_arguments("train", typed)
    assert network is None
    assert [argument for argument in arguments if not argument.startswith("hydra")] == passed
    assert set(arguments) - set(passed) == set(launch._HYDRA_SETTINGS)


@pytest.mark.parametrize(
    ("flag", "remedy"),
    [("--task", "task=<value>"), ("--max-detections=3", "max_detections=<value>"), ("--run", "run=<value>")],
)
def test_a_flag_that_hydra_does_not_know(flag, remedy):
    """Users of argparse tools type dashes; argparse would answer with twenty lines of usage."""
    with pytest.raises(UserError, match="no such flag") as caught:
        launch.hydra_arguments("train", [flag, "seg"])
    assert str(caught.value).startswith(f"{flag}: ")
    assert str(caught.value).endswith(remedy)


@pytest.mark.parametrize(
    "typed",
    [["-m", "task=seg,det", "data=streets"], ["-m", "model=lraspp", "experiment=seg/camvid,det/finetune"]],
)
def test_a_sweep_over_tasks_cannot_set_what_belongs_to_one_task(typed):
    with pytest.raises(UserError, match=r"belongs to one task, but .* sweeps over several"):
        launch.hydra_arguments("train", typed)
    launch.hydra_arguments("train", [typed[0], "task=seg,det", "backbone=mobilenet_v3_small"])


def test_value_errors_that_are_not_user_errors_are_raised():
    with pytest.raises(ValueError, match="invalid literal"):
        run_job(lambda: int("x"))
    assert run_job(lambda: compose.compose_config("train", ["nope=1"])) == 1
