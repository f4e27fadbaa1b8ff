"""What a user can get wrong in a configuration: one line that names the key and the nearest known one."""

import os
import subprocess
import sys

import pytest
import yaml

from engine.config import compose, help, instantiate, overrides, saved, training
from engine.config.launch import guarded
from engine.errors import UserError


def refused(*typed, tool="train"):
    """The message for overrides that composing or validating refuses."""

    def check():
        config = compose.compose_config(tool, list(typed))
        return training.validate(config) if tool == "train" else instantiate.tool_options(config)

    with pytest.raises(UserError) as caught:
        check()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("trainer.stesp=3", ["'trainer.stesp'", "did you mean 'trainer.steps'?"]),
        ("optimzer.lr=3", ["optimzer.lr", "did you mean 'optimizer.lr'?"]),
        ("sead=3", ["'sead'", "did you mean 'seed'?"]),
        ("data.crpo=64", ["data.crpo", "'data.crop'"]),
        ("data=city", ["data=city", "did you mean 'cityscapes'?"]),
        ("experiment=seg/lraspp_v3_lage", ["seg/lraspp_v3_lage", "did you mean 'seg/lraspp_v3_large'?"]),
        ("optimizer=adam", ["optimizer=adam", "did you mean 'adamw'?"]),
        ("trainer.steps=many", ["trainer.steps must be a whole number or null", "'many'"]),
        ("trainer.batch=1.5", ["trainer.batch must be a whole number", "1.5"]),
        ("trainer.tensorboard=3", ["trainer.tensorboard must be true or false", "3"]),
        ("seed=-1", ["seed", "at least 0", "-1"]),
        ("data.workers=two", ["data.workers", "whole number", "'two'"]),
        ("+optimizer.lrr=1", ["optimizer.lrr", "unknown option", "did you mean 'lr'?"]),
        ("task._target_=os.system", ["task._target_=os.system", "may only build", "seg.*"]),
        ("task._target_=builtins.eval", ["builtins.eval", "may only build"]),
        ("task._target_=cls.data.imagenet.os.system", ["imagenet.os.system", "defined in its package"]),
        ("task._target_=seg.data.masks.os.system", ["seg.data.masks.os.system", "defined in its package"]),
        ("task._target_=seg.task.Segmentatoin", ["seg.task.Segmentatoin", "no such class or function"]),
        ("data=masks", ["data.root is not set; give data.root=<value>"]),
        ("data=voc", ["data=voc is for task=det; task=seg takes cityscapes, masks, streets"]),
        ("loss=focal", ["loss=focal is for task=det; task=seg has no loss= to choose"]),
        ("task=segmentation", ["task=segmentation: no such task; choose one of cls, det, seg"]),
        ("data.crop=abc", ["data.crop must be", "'abc'"]),
        ("data.on_error=ignore", ["data.on_error must be one of fail, skip, got 'ignore'"]),
        ("data.error_budget=2", ["data.error_budget must be a number in 0..1, got 2"]),
        ("checkpoint=first", ["checkpoint must be one of best, last, got 'first'"]),
        ("package=os", ["package=os"]),
        ("extend=no_such_folder", ["no_such_folder: no such folder"]),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_remedy(override, parts):
    message = refused(override)
    for part in parts:
        assert part in message


def test_a_missing_run_is_asked_for():
    assert refused(tool="eval") == "run is not set; give run=<value>"


@pytest.mark.parametrize(
    ("typed", "steps", "epochs"),
    [([], None, 16), (["trainer.steps=7"], 7, None), (["trainer.epochs=3"], None, 3)],
)
def test_naming_steps_empties_epochs(typed, steps, epochs):
    trainer = compose.compose_config("train", typed).trainer
    assert (trainer.steps, trainer.epochs) == (steps, epochs)


def test_steps_and_epochs_together_are_refused():
    composed = compose.compose_config("train", ["trainer.steps=7", "trainer.epochs=3"])
    with pytest.raises(UserError, match="trainer: set one of steps and epochs, got steps=7, epochs=3"):
        instantiate.build(composed.trainer, key="trainer")


def test_negative_steps_are_refused():
    composed = compose.compose_config("train", ["trainer.steps=-7"])
    with pytest.raises(UserError, match=r"trainer\.steps must be positive, got -7"):
        instantiate.build(composed.trainer, key="trainer")


def saved_config(folder):
    composed = compose.compose_config("train", ["trainer.epochs=3"])
    (folder / "config.yaml").write_text(compose.to_yaml(composed))
    return folder / "config.yaml"


def test_a_saved_configuration_takes_overrides_of_its_own_keys(tmp_path):
    path = saved_config(tmp_path)
    loaded = saved.load_config(path, ["trainer.steps=9", "optimizer=adamw"])
    assert (loaded.trainer.steps, loaded.trainer.epochs) == (9, None)
    assert loaded.optimizer._target_ == "engine.train.optimization.adamw"
    with pytest.raises(
        UserError, match=r"the run has no key 'trainer\.stesp'; did you mean 'trainer\.steps'"
    ):
        saved.load_config(path, ["trainer.stesp=9"])


@pytest.mark.parametrize(
    "content",
    [
        "[1, 2]",
        "a: [",
        "a: ${b",
        "\x00",
        "!!python/object/apply:os.system ['touch executed']",
    ],
)
def test_a_damaged_saved_configuration_names_its_file(tmp_path, content, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=r"config\.yaml"):
        training.validate(saved.load_config(tmp_path / "config.yaml", []))
    assert not (tmp_path / "executed").exists()


def test_a_hostile_saved_configuration_builds_nothing(tmp_path, monkeypatch):
    path = saved_config(tmp_path)
    hostile = yaml.safe_load(path.read_text())
    hostile["task"]["loss"] = {"_target_": "os.system", "command": f"touch {tmp_path}/executed"}
    path.write_text(yaml.safe_dump(hostile))
    loaded = saved.load_config(path, [])
    with pytest.raises(UserError, match=r"task\.loss\._target_=os\.system: configs may only build"):
        training.validate(loaded)
    with pytest.raises(UserError, match=r"task\.loss\._target_"):
        instantiate.build(loaded.task, key="task", model=None, classes=None)
    assert not (tmp_path / "executed").exists()


def test_nothing_is_built_before_all_is_checked(tmp_path):
    node = {"_target_": "cls.data.streets.street_crops", "root": str(tmp_path / "made")}
    with pytest.raises(UserError, match=r"x\[1\]\._target_"):
        instantiate.make([node, {"_target_": "shutil.rmtree"}], "x")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "target",
    [
        "engine.io.write_text",  # of a path that engine.run.initial_weights.locate returns: any file
        "engine.run.initial_weights.locate",
        "engine.io.download.fetch",
        "engine.run.checkpoint.write",
        "deploy.artifact.with_exported_file",
        "albumentations.save",
        "albumentations.Compose.from_pretrained",
        "torch.optim.Adam.load_state_dict",
        "cls.task.Classification.predict_image",
        "cls.data.folders._images",
        "det.eval.charts.save_charts",  # writes to a path, returns nothing
    ],
)
def test_a_configuration_makes_objects_and_does_nothing_else(target):
    with pytest.raises(
        UserError, match=r"x\._target_=.*(may only build|no such class or function|not a class or a function)"
    ):
        instantiate.check({"_target_": target}, "x", complete=False)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"rate": 0.5}, "schedule.every_steps is not set; give schedule.every_steps=<value>"),
        ({"every_steps": 0}, "schedule.every_steps must be >= 1"),
        ({"every_steps": True}, "schedule.every_steps must be a whole number, got True"),
        ({"every_steps": 3, "rat": 1}, "schedule.rat: unknown option; did you mean 'rate'?"),
    ],
)
def test_a_constructor_is_the_schema(node, message):
    with pytest.raises(UserError) as caught:
        instantiate.make({"_target_": "engine.train.optimization.exponential", **node}, "schedule", steps=3)
    assert message in str(caught.value)


@pytest.mark.parametrize("tool", ["train", "eval", "predict"])
def test_help_is_readable(tool):
    text = help.readable_help(tool, "Do it.\n\nExamples:\n  python tools/x.py")
    lines = text.splitlines()
    assert lines[0] == "Do it."
    shown = {
        group: names
        for group, names in overrides.groups().items()
        if tool == "train" or group in ("data", "inference")
    }
    for group, names in shown.items():
        line = next(line for line in lines if line.split()[:1] == [group])
        assert names[0].rpartition("/")[2] in line or names[0] in line
    assert f"Keys of {tool} (key=value): " in text
    assert max(map(len, lines)) <= 120


def test_help_comes_without_heavy_imports(tmp_path):
    script = (
        "import sys\nfrom engine.config.launch import launch\nsys.argv = ['train.py', '--help']\n"
        "try: launch(print, 'train', 'Train.')\n"
        "finally: print([m for m in ('tensorboard', 'matplotlib', 'albumentations') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=overrides.CONF.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "Train."
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("a.png: broken"), 1, "error: a.png: broken\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_errors_of_the_user_are_one_line(capsys, error, status, line):
    def job():
        raise error

    assert guarded(job) == status
    assert capsys.readouterr().err == line


def test_an_error_from_a_worker_is_one_line(capsys):
    class Broken:
        def __len__(self):
            return 2

        def __getitem__(self, draw):
            raise UserError("a.png: truncated")

    from engine.data.loader import BatchLoader, EvaluationSampler

    assert guarded(lambda: list(BatchLoader(Broken(), EvaluationSampler(num_samples=2), workers=1))) == 1
    assert capsys.readouterr().err == "error: a.png: truncated\n"


def test_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        guarded(lambda: 1 / 0)


def test_bugs_that_are_value_errors_keep_their_traceback():
    with pytest.raises(ValueError, match="invalid literal"):
        guarded(lambda: int("x"))


def saved_run(folder, *typed):
    text = compose.to_yaml(compose.compose_config("train", list(typed)))
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    return folder / "config.yaml"


def test_a_run_keeps_its_input_and_anchors_when_it_reads_other_data(tmp_path):
    """Anchors that are made for other sizes would decode every box wrongly, without a word."""
    path = saved_run(tmp_path, "task=det", "data.size=[96,192]", "data.min_scale=0.1")
    loaded = saved.load_config(path, ["data=coco", "data.root=/coco"])
    assert loaded.data.source._target_ == "det.data.coco.coco"
    assert (list(loaded.data.size), loaded.data.min_scale) == ([96, 192], 0.1)
    assert saved.load_config(path, ["data=coco", "data.size=[320,320]"]).data.size == [320, 320]


def test_a_group_comes_first_whatever_the_order(tmp_path):
    path = saved_run(tmp_path, "task=det")
    loaded = saved.load_config(path, ["data.root=/voc", "data=voc"])
    assert (loaded.data.root, loaded.data.source._target_) == ("/voc", "det.data.voc.voc")


def test_a_group_that_the_run_has_not_is_refused(tmp_path):
    with pytest.raises(
        UserError, match="inference=multi_scale is for task=seg; task=det has no inference= to choose"
    ):
        saved.load_config(saved_run(tmp_path, "task=det"), ["inference=multi_scale"])


@pytest.mark.parametrize("override", ["freeze=backbone.*", "freeze=[5]", "skip=head.*"])
def test_patterns_are_a_list_of_texts(override):
    with pytest.raises(UserError, match=r"must be a list, such as \[text, \.\.\.\]"):
        training.validate(compose.compose_config("train", [override]))


@pytest.mark.parametrize(
    "override",
    [
        "augment.scale=3",
        "augment.scale=[a,b]",
        "model.anchors.ratios=[a]",
        "data.size=null",
        "optimizer.lr_factors=3",
    ],
)
def test_sequences_and_mappings_are_checked_inside(override):
    with pytest.raises(UserError, match="must be"):
        training.validate(compose.compose_config("train", ["task=det", override]))


def test_a_wrong_pair_is_refused_for_an_existing_run_too(tmp_path):
    with pytest.raises(UserError, match="data=voc is for task=det; task=seg takes"):
        saved.load_config(saved_run(tmp_path, "task=seg"), ["data=voc", "data.root=/voc"])


@pytest.mark.parametrize(("format_number", "text"), [(None, "format 1"), (3, "format 3")])
def test_runs_of_another_format_are_refused_in_one_line(tmp_path, format_number, text):
    path = saved_run(tmp_path, "task=seg")
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config.pop("format")
    if format_number is None:
        config["room"] = config.pop("package")
    else:
        config["format"] = format_number
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    with pytest.raises(
        UserError, match=rf"config\.yaml: {text}, and this version reads format 2; use the version"
    ):
        saved.load_config(path, [])


def test_the_options_of_a_tool_are_typed():
    config = compose.compose_config("eval", ["run=x", "threads=two"])
    with pytest.raises(UserError, match="threads must be a whole number of at least 1, got 'two'"):
        instantiate.tool_options(config)
    made = instantiate.tool_options(compose.compose_config("eval", ["run=x", "worst=3", "data.split=test"]))
    assert (made.run, made.worst, list(made.overrides)) == ("x", 3, ["data.split=test"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.crop=16", "data.crop must be a side or (height, width) in pixels, each at least 32, got 16"),
        ("data.scale=[2.0,0.5]", "data.scale must be (smallest, largest) with 0 < smallest"),
        ("augment.flip=2", "augment.flip must be a probability in 0..1, got 2"),
    ],
)
def test_what_a_constructor_refuses_is_named_by_the_key_that_was_typed(override, message):
    config = compose.compose_config("train", ["task=seg", override])
    with pytest.raises(UserError) as caught:
        instantiate.build(config.augment, key="augment")
    assert str(caught.value).startswith(message)
