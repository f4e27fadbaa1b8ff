"""Configuration errors are reported in one line that names the key and suggests the nearest known one."""

import errno
import os
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml

from backbones.weights import catalog
from engine.config import compose, help, instantiate, overrides, saved, training
from engine.config.launch import run_job
from engine.config.runs import TrainedRun
from engine.data.images import write_png
from engine.errors import UserError
from engine.io.files import write_json
from engine.run import run_folder
from tests.refusals import refuses
from tools.train import find_teacher_by_name


def error_message(*typed, tool="train"):
    """The error message for overrides that are rejected when the configuration is composed or validated."""

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
        ("lr=0.1", ["unknown key 'lr'; did you mean 'optimizer.lr'?"]),
        ("img=640", ["unknown key 'img'; did you mean 'data.crop' or 'data.eval_size'?"]),
        ("trainer.lr=0.1", ["unknown key 'trainer.lr'; did you mean 'optimizer.lr'?"]),
        ("task.loss=dice", ["task.loss must be a group of keys with _target_ or null, got 'dice'"]),
        ("augment.extra=[Blur]", ["augment.extra must be a list, such as [{_target_: ...}], got"]),
        ("max_iters=9", ["unknown key 'max_iters'; did you mean 'trainer.steps'?"]),
        ("aux_loss=true", ["unknown key 'aux_loss'; did you mean 'task.auxiliary'?"]),
        ("momentum=0.9", ["'momentum'; optimizer.momentum is for optimizer=rmsprop_tf or optimizer=sgd"]),
        ("resume=true", ["resume must be the path of a run folder, got True"]),
        ("replay=false", ["replay must be the path of a replay.safetensors, got False"]),
        ("distill.teacher=true", ["distill.teacher must be a run folder or a name, got True"]),
        ("model=mobilenet_v3_small", ["no such option", "did you mean backbone=mobilenet_v3_small?"]),
        ("backbone=lraspp", ["backbone=lraspp: no such option; did you mean model=lraspp?"]),
        ("optimizer=default", ["optimizer=default: no such option; choose one of adamw"]),  # not augment=
        ("data=camvid", ["cityscapes, coco, masks, streets; did you mean experiment=seg/camvid?"]),
        ("data=/", ["masks, streets); write data=<format> data.root=/ (python tools/check.py / finds"]),
        ("data=coco8.yaml", ["data=coco8.yaml: not a format of task=seg", "data.root=coco8.yaml"]),
        ("qqqq=0.1", ["unknown key 'qqqq'; --help lists the keys"]),
        ("backbone=mobilenetv3", ["did you mean 'mobilenet_v3_large' or", "'mobilenet_v3_small'?"]),
        ("backbone=mobilenet_v3", ["did you mean 'mobilenet_v3_large' or", "'mobilenet_v3_small'?"]),
        ("data=city", ["data=city", "did you mean 'cityscapes'?"]),
        ("experiment=seg/lraspp_v3_lage", ["seg/lraspp_v3_lage", "did you mean 'seg/lraspp_v3_large'?"]),
        ("optimizer=adam", ["optimizer=adam", "did you mean 'adamw'?"]),
        ("trainer.steps=many", ["trainer.steps must be a whole number or null", "'many'"]),
        ("trainer.batch=1.5", ["trainer.batch must be a whole number", "1.5"]),
        ("trainer.precision=fp8", ["trainer.precision must be one of fp32, bf16, fp16, got 'fp8'"]),
        ("trainer.tensorboard=3", ["trainer.tensorboard must be true or false", "3"]),
        ("seed=-1", ["seed", "at least 0", "-1"]),
        ("data.workers=two", ["data.workers", "whole number", "'two'"]),
        ("+optimizer.lrr=1", ["optimizer.lrr", "unknown option", "did you mean 'lr'?"]),
        ("task._target_=os.system", ["task._target_=os.system", "can only build", "seg.*"]),
        ("task._target_=builtins.eval", ["builtins.eval", "can only build"]),
        ("task._target_=cls.data.imagenet.os.system", ["imagenet.os.system", "defined in its package"]),
        ("task._target_=seg.data.masks.os.system", ["seg.data.masks.os.system", "defined in its package"]),
        ("task._target_=seg.task.Segmentatoin", ["seg.task.Segmentatoin", "no such class or function"]),
        ("data=masks", ["data.root is not set; pass data.root=<value>"]),
        ("data=voc", ["data=voc is for task=det; task=seg takes cityscapes, coco, masks, streets"]),
        ("data=labelme", ["coco, masks, streets; outlines become masks with python tools/convert.py input="]),
        ("loss=focal", ["loss=focal is for task=det; task=seg has no loss= options"]),
        ("task=segmentation", ["task=segmentation: no such task; choose one of cls, det, seg"]),
        ("data.crop=abc", ["data.crop must be", "'abc'"]),
        ("data.on_error=ignore", ["data.on_error must be one of fail, skip, got 'ignore'"]),
        ("data.error_budget=2", ["data.error_budget must be a number in 0..1, got 2"]),
        ("optimizer.lr=inf", ["optimizer.lr must be a number, got inf"]),
        ("data.pixel_range=[0,nan]", ["data.pixel_range must be a list, such as [0.5, 2.0] or null"]),
        ("checkpoint=first", ["checkpoint must be one of best, last, got 'first'"]),
        ("package=os", ["package=os"]),
        ("package=${.x}", ["package: Interpolation key 'x' not found"]),
        ("data.workers={}", ["data.workers must be a whole number of at least 0, got {}"]),
        ("package=cls", ["package=cls: does not match the task seg.task.Segmentation"]),
        ("extend=no_such_folder", ["no_such_folder: not a folder with a Python module"]),
    ],
)  # fmt: skip
def test_invalid_overrides_are_reported_with_a_hint(override, parts):
    message = error_message(override)
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("task", "override", "hint"),
    [
        ("seg", "task.draw_threshold=1", "it is for task=det"),
        ("cls", "task.dice=1", "it is for task=seg"),
        ("det", "inference.window=[64,64]", "it is for task=seg"),
        ("seg", "data.resize=64", "it is for task=cls"),
        ("seg", "backbone.name=resnet18", "it is for backbone=timm or backbone=torchvision"),
        ("seg", "data.source.mask_suffix=_gt", "it is for data=masks"),
        ("det", "task.draw_treshold=1", "did you mean 'task.draw_threshold'?"),
        ("det", "data.min_scal=1", "did you mean 'data.min_scale'?"),
        ("cls", "learning_rate=1", "did you mean 'optimizer.lr'?"),
        ("seg", "batch_size=1", "did you mean 'trainer.batch' or 'data.eval_batch'?"),
        ("seg", "amp=true", "did you mean 'trainer.precision'?"),
        ("cls", "num_epochs=3", "did you mean 'trainer.epochs'?"),
        ("det", "save_dir=x", "did you mean 'run'?"),
        ("det", "max_det=300", "did you mean 'task.postprocess.max_detections'?"),
        ("det", "task.shown=0.3", "did you mean 'task.draw_threshold'?"),
        ("seg", "task.shown=0.3", "--help lists the keys"),  # not task.loss, which only has the same group
        ("seg", "batch=4", "did you mean 'trainer.batch' or 'data.eval_batch'?"),
        ("seg", "size=512", "did you mean 'data.crop' or 'data.eval_size'?"),
        ("det", "imgsz=640", "did you mean 'data.size'?"),
        ("seg", "num_classes=2", "--help lists the keys"),  # nothing that only looks alike
        ("cls", "task.mixup=1", "did you mean 'task.mix.mixup'?"),
        ("seg", "loader.workers=0", "did you mean 'data.workers'?"),
        ("det", "model.name=x", "write model=<name>, with one of panlite, ssdlite, ssdlite_torchvision"),
        ("seg", "data.name=x", "write data=<name>, with one of cityscapes, coco, masks, streets"),
        ("cls", "optimizer.name=sgd", "write optimizer=<name>, with one of adamw, rmsprop_tf, sgd"),
        ("seg", "task.name=x", "write task=<name>, with one of cls, det, seg"),
        ("seg", "loss.name=x", "--help lists the keys"),
        ("cls", "experiment.name=x", "--help lists the keys"),
        ("seg", "trainer.name=x", "--help lists the keys"),
    ],
)
def test_a_key_of_another_task_or_option_is_assigned_to_it(task, override, hint):
    message = error_message(f"task={task}", override)
    assert message == f"unknown key {override.partition('=')[0]!r}; {hint}"


def test_an_unknown_option_lists_those_that_there_are():
    assert error_message("schedule=step") == (
        "schedule=step: no such option; choose one of constant, cosine, exponential, poly"
    )
    assert error_message("backbone=resnet50").endswith(
        "timm, torchvision; for a network of torchvision, backbone=torchvision backbone.name=resnet50"
    )


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("limit=2", "data.limit"),
        ("split=test", "data.split"),
        ("conf=0.5", "task.draw_threshold"),
        ("iou=0.7", "task.postprocess.iou_threshold"),
        ("source=x", "input"),
        ("image=x", "input"),
        ("half=true", "precision"),
        ("batch_size=4", "data.eval_batch"),
    ],
)
def test_a_tool_suggests_keys_of_its_runs(typed, meant):
    with pytest.raises(UserError, match=f"unknown key '{typed.partition('=')[0]}'; did you mean '{meant}'"):
        compose.compose_config("predict", [typed])


def test_a_word_without_a_key_is_reported():
    for tool, example in (("eval", "run=<run folder>"), ("train", "task=seg")):
        with pytest.raises(UserError, match=f"'r1': not an option; write key=value, such as {example}"):
            compose.compose_config(tool, ["r1"])


def test_an_experiment_of_another_task_is_reported():
    message = error_message("task=det", "data=coco8.yaml")
    assert message.endswith("(coco, cvat, labelme, streets, voc, yolo); write data=yolo data.root=coco8.yaml")
    message = error_message("task=seg", "experiment=det/finetune")
    assert message.startswith("experiment=det/finetune is for task=det; leave out task=seg")


def test_a_missing_run_is_reported():
    assert error_message(tool="eval") == "run is not set; pass run=<value>"


@pytest.mark.parametrize(
    ("typed", "steps", "epochs"),
    [([], None, 16), (["trainer.steps=7"], 7, None), (["trainer.epochs=3"], None, 3)],
)
def test_setting_steps_clears_epochs_and_vice_versa(typed, steps, epochs):
    trainer = compose.compose_config("train", typed).trainer
    assert (trainer.steps, trainer.epochs) == (steps, epochs)


def test_setting_both_steps_and_epochs_is_rejected():
    composed = compose.compose_config("train", ["trainer.steps=7", "trainer.epochs=3"])
    with pytest.raises(
        UserError, match="trainer: set exactly one of steps, epochs and minutes, got steps=7, epochs=3"
    ):
        instantiate.build(composed.trainer, key="trainer")


def test_negative_steps_are_rejected():
    composed = compose.compose_config("train", ["trainer.steps=-7"])
    with pytest.raises(UserError, match=r"trainer\.steps must be positive, got -7"):
        instantiate.build(composed.trainer, key="trainer")


def saved_config(folder):
    composed = compose.compose_config("train", ["trainer.epochs=3"])
    (folder / "config.yaml").write_text(compose.to_yaml(composed))
    return folder / "config.yaml"


def test_existing_keys_of_a_saved_configuration_can_be_overridden(tmp_path):
    path = saved_config(tmp_path)
    loaded = saved.load_config(path, ["trainer.steps=9", "optimizer=adamw"])
    assert (loaded.trainer.steps, loaded.trainer.epochs) == (9, None)
    assert loaded.optimizer._target_ == "engine.train.optimization.adamw"
    with pytest.raises(
        UserError, match=r"the run's config\.yaml has no key 'trainer\.stesp'; did you mean 'trainer\.steps'"
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
def test_the_error_for_a_damaged_configuration_names_the_file(tmp_path, content, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=r"config\.yaml"):
        training.validate(saved.load_config(tmp_path / "config.yaml", []))
    assert not (tmp_path / "executed").exists()


def test_nothing_is_built_from_a_malicious_configuration(tmp_path, monkeypatch):
    path = saved_config(tmp_path)
    hostile = yaml.safe_load(path.read_text())
    hostile["task"]["loss"] = {"_target_": "os.system", "command": f"touch {tmp_path}/executed"}
    path.write_text(yaml.safe_dump(hostile))
    loaded = saved.load_config(path, [])
    with pytest.raises(UserError, match=r"task\.loss\._target_=os\.system: configs can only build"):
        training.validate(loaded)
    with pytest.raises(UserError, match=r"task\.loss\._target_"):
        instantiate.build(loaded.task, key="task", model=None, classes=None)
    assert not (tmp_path / "executed").exists()


def test_everything_is_checked_before_anything_is_built(tmp_path):
    node = {"_target_": "cls.data.streets.street_crops", "root": str(tmp_path / "made")}
    with pytest.raises(UserError, match=r"x\[1\]\._target_"):
        instantiate.build_plain([node, {"_target_": "shutil.rmtree"}], "x")
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
def test_configurations_cannot_call_functions_with_side_effects(target):
    with pytest.raises(
        UserError,
        match=r"x\._target_=.*(can only build|no such class or function|not a public class)",
    ):
        instantiate.check({"_target_": target}, "x", complete=False)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"rate": 0.5}, "schedule.every_steps is not set; pass schedule.every_steps=<value>"),
        ({"every_steps": 0}, "schedule.every_steps must be >= 1"),
        ({"every_steps": True}, "schedule.every_steps must be a whole number, got True"),
        ({"every_steps": 3, "rat": 1}, "schedule.rat: unknown option; did you mean 'rate'?"),
    ],
)
def test_options_are_checked_against_the_constructor(node, message):
    with pytest.raises(UserError) as caught:
        instantiate.build_plain(
            {"_target_": "engine.train.optimization.exponential", **node}, "schedule", steps=3
        )
    assert message in str(caught.value)


def test_the_folder_of_an_experiment_is_not_typed():
    typed = compose.compose_config("train", ["experiment=seg/lraspp_v3_small", "data.root=x"])
    whole = compose.compose_config("train", ["experiment=seg/table7/lraspp_v3_small", "data.root=x"])
    assert typed == whole
    assert typed.experiment == "seg/lraspp_v3_small"
    assert "seg/lraspp_v3_small" in overrides.groups()["experiment"]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["task", "seg"], "'task': not an option; write key=value, such as task=seg"),
        (["backbone=null"], "backbone=null: needs an option; choose one of .*mobilenet_v3_small"),
        (["optimizer=null"], "optimizer=null: needs an option; choose one of .*sgd"),
        (["data.crop.x=1"], "data.crop.x=1: does not fit the configuration"),
    ],
)
def test_what_cannot_be_composed_is_explained_in_our_words(typed, message):
    refuses(lambda: compose.compose_config("train", typed), message)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.device=cuda", "trainer.device=cuda: only training reads this key; write device="),
        ("optimizer.lr=1", "optimizer.lr=1: only training reads this key; leave it out"),
        ("seed=3", "seed=3: only training reads this key; leave it out"),
        ("augment.flip=0", "augment.flip=0: only training reads this key; leave it out"),
        ("task.dice=1", "task.dice=1: only training reads this key; leave it out"),
        ("task.loss.ohem=null", "task.loss.ohem=null: only training reads this key; leave it out"),
        ("task.matcher.topk=3", "task.matcher.topk=3: only training reads this key; leave it out"),
        ("data.scale=[1,1]", "data.scale=.*: only training reads this key; leave it out"),
    ],
)
def test_keys_that_only_training_reads_are_refused_for_a_trained_run(override, message):
    for tool, needed in (("eval", ()), ("predict", ["input=x"]), ("publish", ["out=x"]), ("serve", ())):
        config = compose.compose_config(tool, ["run=x", *needed, override])
        refuses(partial(instantiate.tool_options, config), message)


def test_keys_that_only_evaluation_reads_are_refused_where_nothing_is_scored():
    message = "task.scored_per_class=200: only evaluation reads this key; leave it out"
    for tool, needed in (("predict", ["input=x"]), ("benchmark", []), ("serve", ["table=latency", "out=x"])):
        config = compose.compose_config(tool, ["run=x", *needed, "task.scored_per_class=200"])
        refuses(partial(instantiate.tool_options, config), message)
    assert instantiate.tool_options(compose.compose_config("eval", ["run=x", "task.scored_per_class=200"]))


@pytest.mark.parametrize("other", ["{run}/", "{run}/../run", "link"])
def test_one_run_under_two_names_is_refused(tmp_path, monkeypatch, other):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    config = compose.compose_config("compare", [f"run=[run,{other.format(run='run')},third]"])
    refuses(lambda: instantiate.tool_options(config), "run names the same folder twice, as run and ")


def test_options_of_a_search_method_are_suggested():
    refuses(
        lambda: compose.compose_config("search", ["run=x", "trials=2"]), "did you mean 'method.trials' or"
    )


OF_A_DATASET = {
    "seg": [
        "limit=1",
        "split=test",
        "exclude=a.json",
        "root=x",
        "source.write_classes=false",
        "eval_batch=2",
    ],
    "det": ["root=x", "workers=1", "cache=x", "on_error=skip"],
    "cls": ["root=x", "error_budget=0.5"],
}
OF_THE_INPUT = {
    "seg": ["eval_size=64", "image_scale=2", "pixel_range=[0,99]"],
    "det": ["size=64", "max_megapixels=200"],
    "cls": ["size=64", "resize=80", "square=true", "orientation=stored"],
}


@pytest.mark.parametrize("task", ["seg", "det", "cls"])
def test_keys_of_a_dataset_are_refused_if_none_is_read(task):
    config = compose.compose_config("train", [f"task={task}"])
    for override in ["data=x", *(f"data.{key}" for key in OF_A_DATASET[task])]:
        saved.refuse_unused_data(config, [override], reads="dataset")
        message = f"^{override.partition('=')[0]}: has no effect, because no dataset is read; leave it out"
        for reads in ("images", "network"):
            refuses(partial(saved.refuse_unused_data, config, [override], reads=reads), message)
    for reads in ("dataset", "images", "network"):
        saved.refuse_unused_data(config, [f"data.{key}" for key in OF_THE_INPUT[task]], reads=reads)


def test_the_training_crop_is_refused_unless_it_is_the_size_of_the_timed_input():
    config = compose.compose_config("train", ["task=seg"])
    saved.refuse_unused_data(config, ["data.crop=64"], reads="network")
    for reads, why in (
        ("dataset", "only training reads this key"),
        ("images", "has no effect, because no data"),
    ):
        refuses(
            partial(saved.refuse_unused_data, config, ["data.crop=64"], reads=reads), f"^data.crop: {why}"
        )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("checkpoint=last", "checkpoint needs init_from= or weights=; set that too, or leave it out"),
        ("skip=[head.*]", "skip needs init_from= or weights=; set that too, or leave it out"),
        ("distill.weight=2", "distill.weight needs distill.teacher=; set that too, or leave it out"),
        ("distill.method=channels", "distill.method needs distill.teacher=; set that too, or leave it out"),
        ("distill.images=photos", "distill.images needs distill.teacher=; set that too, or leave it out"),
    ],
)
def test_keys_without_effect_on_a_new_run_are_refused(override, message):
    config = compose.compose_config("train", ["task=cls", override])
    refuses(lambda: training.open_run(config), f"^{message}")


def test_no_two_experiments_are_typed_alike():
    files = list((overrides.CONF / "experiment").rglob("*.yaml"))
    assert len(files) == len(overrides.experiment_options()) > 70


def test_an_unknown_experiment_suggests_what_to_type():
    refuses(
        lambda: compose.compose_config("train", ["experiment=seg/table7/lraspp_v3_smal"]),
        "no such option", "'seg/lraspp_v3_small'",
    )  # fmt: skip


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


def test_help_does_not_import_heavy_packages(tmp_path):
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
def test_user_errors_are_printed_as_one_line(capsys, error, status, line):
    def job():
        raise error

    assert run_job(job) == status
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.EACCES, "permissions"), (errno.ENAMETOOLONG, "path"), (errno.ENOSPC, "space")],
)
def test_errors_of_paths_are_one_line(number, remedy, capsys):
    """`Path.is_dir` raises for a folder inside one that may not be entered: no tool checked for that."""

    def job():
        raise OSError(number, os.strerror(number), "data/line\nbreak")

    assert run_job(job) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: data/line\\nbreak: {os.strerror(number)}; ")
    assert remedy in line

    def bug():
        raise OSError(number, "no path")

    with pytest.raises(OSError, match="no path"):
        run_job(bug)


def test_a_user_error_in_a_worker_is_printed_as_one_line(capsys):
    class Broken:
        def __len__(self):
            return 2

        def __getitem__(self, draw):
            raise UserError("a.png: truncated")

    from engine.data.loader import BatchLoader, EvaluationSampler

    assert run_job(lambda: list(BatchLoader(Broken(), EvaluationSampler(num_samples=2), workers=1))) == 1
    assert capsys.readouterr().err == "error: a.png: truncated\n"


def test_other_exceptions_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run_job(lambda: 1 / 0)


def test_value_errors_that_are_not_user_errors_keep_their_traceback():
    with pytest.raises(ValueError, match="invalid literal"):
        run_job(lambda: int("x"))


def saved_run(folder, *typed):
    text = compose.to_yaml(compose.compose_config("train", list(typed)))
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    return folder / "config.yaml"


def test_a_run_keeps_its_input_size_and_anchors_when_evaluated_on_other_data(tmp_path):
    """With anchors for another size, every box would silently be decoded incorrectly."""
    path = saved_run(tmp_path, "task=det", "data.size=[96,192]", "data.min_scale=0.1")
    loaded = saved.load_config(path, ["data=coco", "data.root=/coco"])
    assert loaded.data.source._target_ == "det.data.coco.coco"
    assert (list(loaded.data.size), loaded.data.min_scale) == ([96, 192], 0.1)
    assert saved.load_config(path, ["data=coco", "data.size=[320,320]"]).data.size == [320, 320]


def test_groups_are_applied_before_keys_whatever_the_order(tmp_path):
    path = saved_run(tmp_path, "task=det")
    loaded = saved.load_config(path, ["data.root=/voc", "data=voc"])
    assert (loaded.data.root, loaded.data.source._target_) == ("/voc", "det.data.voc.voc")


def test_a_group_that_the_run_does_not_have_is_rejected(tmp_path):
    with pytest.raises(
        UserError, match="inference=multi_scale is for task=seg; task=cls has no inference= options"
    ):
        saved.load_config(saved_run(tmp_path, "task=cls"), ["inference=multi_scale"])


@pytest.mark.parametrize("override", ["freeze=backbone.*", "freeze=[5]", "skip=head.*"])
def test_patterns_must_be_lists_of_strings(override):
    with pytest.raises(UserError, match=r"must be a list, such as \[name, name\]"):
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
def test_items_of_sequences_and_mappings_are_checked(override):
    with pytest.raises(UserError, match="must be"):
        training.validate(compose.compose_config("train", ["task=det", override]))


def test_options_of_another_task_are_rejected_for_an_existing_run(tmp_path):
    with pytest.raises(UserError, match="data=voc is for task=det; task=seg takes"):
        saved.load_config(saved_run(tmp_path, "task=seg"), ["data=voc", "data.root=/voc"])


@pytest.mark.parametrize(("format_number", "text"), [(None, "format 1"), (3, "format 3")])
def test_runs_of_another_format_are_rejected(tmp_path, format_number, text):
    path = saved_run(tmp_path, "task=seg")
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config.pop("format")
    if format_number is None:
        config["room"] = config.pop("package")
    else:
        config["format"] = format_number
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    with pytest.raises(
        UserError, match=rf"config\.yaml: has {text}, this version reads format 2; use the version"
    ):
        saved.load_config(path, [])


def test_tool_options_are_type_checked():
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
def test_constructor_errors_name_the_key_that_the_user_set(override, message):
    config = compose.compose_config("train", ["task=seg", override])
    with pytest.raises(UserError) as caught:
        instantiate.build(config.augment, key="augment")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("backbone.width_mult=-1", "backbone.width_mult must be positive and at most 100, got -1"),
        ("backbone.output_stride=7", "backbone.output_stride must be one of 8, 16, 32, got 7"),
    ],
)
def test_an_error_in_a_group_that_another_refers_to_names_that_group(override, message):
    """model.backbone is ${backbone}: nobody types model.backbone.width_mult."""
    config = compose.compose_config("train", ["task=seg", override])
    with pytest.raises(UserError) as caught:
        instantiate.build(config.model, key="model", num_classes=2)
    assert str(caught.value) == message


def test_a_key_of_an_experiment_that_another_choice_lacks_names_the_experiment():
    message = error_message("experiment=det/finetune", "model=panlite", "data.root=own")
    assert message == (
        "task.matcher.matched: unknown option: experiment=det/finetune sets it, but the options that you "
        "chose do not have it; leave out the experiment or those options"
    )
    message = error_message("experiment=det/finetune", "+optimizer.lrr=1", "data.root=own")
    assert message == "optimizer.lrr: unknown option; did you mean 'lr'?"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.head.filters=0"], "model.head.filters must be at least 1, got 0"),
        (["model.head=fcn"], "model.head must be a group of keys with _target_, got 'fcn'"),
        (["model=raspp", "model.head.filters=-2"], "model.head.filters must be at least 1, got -2"),
        (["model.head.pool=max"], "model.head.pool must be one of paper, global, large_kernel, got 'max'"),
        (["backbone.se_ratio=2"], "backbone.se_ratio must be in (0, 1], got 2"),
        (["backbone=torchvision", "backbone.name=resnet81"], "backbone.name=resnet81: torchvision has no"),
        (["backbone=torchvision", "backbone.features=[top]"], "backbone.features: resnet18 has no feature"),
    ],
)
def test_an_error_in_a_part_that_the_model_builds_names_its_own_key(overrides, message):
    """A head is built by the model's constructor, because its channels follow from the backbone."""
    config = compose.compose_config("train", ["task=seg", *overrides])
    with pytest.raises(UserError) as caught:
        instantiate.build(config.model, key="model", num_classes=2)
    assert str(caught.value).startswith(message)


def test_a_device_that_is_not_there_is_reported_under_the_trainers_key(tmp_path):
    config = compose.compose_config("train", ["task=seg", "trainer.device=gpu", f"run={tmp_path / 'a'}"])
    with pytest.raises(UserError, match=r"^trainer\.device=gpu: no such device"):
        training.open_training(config, published=None, find_teacher=None)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (
            "weights=mobilenet_v3_smal",
            "no such weight file or run folder, and .*did you mean 'mobilenet_v3_small",
        ),
        ("weights=gone/best.safetensors", "no such weight file or run folder"),
        ("init_from=gone/run", "no such weight file or run folder"),
        ("distill.teacher=resnet5", "not a run folder .*resnet50 can be a teacher"),
    ],
)
def test_a_typo_in_weights_or_the_teacher_is_reported_before_data_are_read(
    tmp_path, monkeypatch, typed, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "build_source", lambda config: pytest.fail("data were read"))
    config = compose.compose_config("train", ["task=seg", typed])
    refuses(
        lambda: training.open_training(config, published=catalog.find, find_teacher=find_teacher_by_name),
        f"^{typed.split('=')[0]}=\\S+: {message}",
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("unset", ["resume=null", "replay=null", "resume="])
def test_an_unset_resume_keeps_the_other_overrides(unset):
    """For scripts that pass resume=${RESUME:-null}."""
    config = compose.compose_config("train", [unset, "task=det", "trainer.steps=7"])
    assert (config.package, config.trainer.steps, list(config.overrides)) == ("det", 7, [])


@pytest.mark.parametrize(
    ("tool", "typed", "meant"),
    [
        ("eval", "devise=cpu", "'device'"),
        ("export", "precison=fp16", "'precision'"),
        ("search", "bugdet=1", "'budget'"),
    ],
)
def test_a_typo_in_an_option_of_a_tool_suggests_that_tools_own(tool, typed, meant):
    with pytest.raises(UserError, match=f"unknown key .*did you mean {meant}"):
        compose.compose_config(tool, ["run=x", typed])


@pytest.mark.parametrize(
    ("tool", "typed", "hint"),
    [
        ("eval", "legend=false", "it is for tools/predict.py"),
        ("train", "legend=false", "it is for tools/predict.py"),
        ("predict", "worst=3", "it is for tools/eval.py"),
        ("eval", "lagend=false", "--help lists the keys"),  # not seed, which has three of its letters
    ],
)
def test_a_key_of_another_tool_is_assigned_to_it(tool, typed, hint):
    with pytest.raises(UserError, match=f"^unknown key '{typed.partition('=')[0]}'; {hint}$"):
        compose.compose_config(tool, [typed] if tool == "train" else ["run=x", typed])


def test_config_errors_can_be_sent_between_processes():
    error = pickle.loads(pickle.dumps(instantiate.ConfigError("a.b", " must be 1")))
    assert (str(error), error.key) == ("a.b must be 1", "a.b")


def test_a_training_claims_its_folder_before_it_reads_data(tmp_path):
    overrides = ["task=seg", "data=masks", f"data.root={tmp_path / 'nowhere'}", f"run={tmp_path / 'run'}"]
    config = compose.compose_config("train", overrides)
    with pytest.raises(UserError, match="nowhere"):
        training.open_training(config, published=None, find_teacher=None)
    assert list(tmp_path.iterdir()) == []  # a training that cannot start leaves no folder
    busy = pytest.raises(UserError, match="run: another process is writing into this folder")
    with run_folder.claim(tmp_path / "run"), busy:
        training.open_training(config, published=None, find_teacher=None)


def open_it(*typed):
    config = compose.compose_config("train", list(typed))
    return training.open_training(config, published=None, find_teacher=None)


SMALL = [
    "data.workers=0",
    "data.size=32",
    "trainer.device=cpu",
    "trainer.steps=1",
    "trainer.tensorboard=false",
]


def test_a_resumed_run_never_changes_its_classes(tmp_path, monkeypatch):
    """The folders a, b of another dataset would become rows 0 and 1 of the head, which mean cat and dog."""
    monkeypatch.chdir(tmp_path)
    for root, names in (("pets", ("cat", "dog")), ("letters", ("a", "b"))):
        for split, pixel in (("train", 0), ("val", 9)):
            for number, name in enumerate(names):
                write_png(Path(root, split, name, "x.png"), np.full((40, 40, 3), pixel + number, np.uint8))
    first = open_it("task=cls", "data=folders", "data.root=pets", "run=run", *SMALL)
    run_folder.create(first.run, config=compose.to_yaml(first.config), environment={})
    write_json(first.run.classes, first.classes.to_dict())
    first.claim.release()
    assert yaml.safe_load(first.run.config.read_text())["data"]["root"] == str(tmp_path / "pets")
    with pytest.raises(
        UserError, match=r"^run: .*class 0 was 'cat' with id 0, now 'a' with id 0; .*init_from"
    ):
        open_it("resume=run", "data.root=letters")
    for typed in (
        "run=other",
        "init_from=other",
        "weights=mobilenet_v3_small",
        "checkpoint=last",
        "skip=[x]",
    ):
        with pytest.raises(UserError, match=rf"^{typed.partition('=')[0]}= has no effect on an existing run"):
            open_it("resume=run", typed)
    (tmp_path / "pets").rename(tmp_path / "moved")
    resumed = open_it("resume=run", "data.root=moved", "weights=null")
    assert resumed.config.data.root == str(tmp_path / "moved")  # not relative to this folder
    resumed.claim.release()


@pytest.mark.parametrize(
    ("overrides", "number", "expected"),
    [
        (
            ["task=seg"],
            15,
            ["15 training images are few for random weights; weights=mobilenet_v3_small task"],
        ),
        (
            ["task=seg", "data=masks"],
            15,
            ["15 training images are few for random weights; weights=mobilenet_v3_small usually"],
        ),
        (
            ["task=det"],
            15,
            ["15 training images are few for random weights; starting from published weights"],
        ),
        (
            ["task=det", "data=voc"],
            999,
            ["999 training images are few for random weights; weights=mobilenet_v3_small usually"],
        ),
        (["task=det", "data=voc"], 1000, []),
        (["task=seg"], 200, []),  # the built-in scenes
        (["task=seg", "backbone=torchvision"], 15, []),
    ],
)
def test_few_images_and_random_weights_lead_to_a_hint(overrides, number, expected):
    """The names of published weights are given where these fit the network: not for the dagger variant."""
    config = compose.compose_config("train", overrides)
    lines = training.few_images(config, number)
    assert [line.startswith(text) for line, text in zip(lines, expected, strict=True)] == [True] * len(
        expected
    )
    config.weights = "mobilenet_v3_small"
    assert training.few_images(config, number) == []


def test_a_run_whose_data_have_moved_names_the_key(monkeypatch):
    def missing(config):
        raise UserError("data.root=/old: no such folder; check the path")

    monkeypatch.setattr("engine.config.runs.build_source", missing)
    run = TrainedRun.__new__(TrainedRun)
    run.config = None
    refuses(lambda: run.source, r"check the path, or pass data\.root=<folder> if the data have moved")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "augment.extra={_target_: albumentations.Blur}",
            "augment.extra must be a list, such as [..., ...], got {_target_: albumentations.Blur}; "
            "write augment.extra=[{_target_: albumentations.Blur}]",
        ),
        ("freeze={a: 1}", "freeze must be a list, such as [..., ...], got {a: 1}"),
        (
            "model.head=[3]",
            "model.head must be a group of keys, got [3]; set its keys one by one: model.head.<key>=<value>",
        ),
        ("~data.crop", "data.crop is missing, and other keys refer to it; set data.crop=<value>"),
        ("augment.extra.p=1", "augment.extra.p=1: does not fit the configuration; --help lists the keys"),
    ],
)
def test_a_mapping_for_a_list_and_a_list_for_a_group_are_named_by_their_key(override, message):
    assert error_message("task=seg", "data.root=x", override) == message


@pytest.mark.parametrize(
    ("tool", "typed", "message"),
    [
        ("eval", ["run=x", "threads=2"], "threads needs artifact=<exported file>; set that too"),
        (
            "predict",
            ["run=x", "input=y", "threads=2"],
            "threads needs artifact=<exported file>; set that too",
        ),
        ("convert", ["input=x", "out=y", "to=coco", "boxes=fill"], "boxes needs to=masks; set that too"),
        ("publish", ["run=x", "out=y", "private=true"], "private needs repo=<user>/<name>; set that too"),
        ("publish", ["run=x", "out=y", "revision=b"], "revision needs repo=<user>/<name>; set that too"),
        ("serve", ["run=x", "layer_s=1"], "layer_s needs table=latency; set that too"),
        ("serve", ["run=x", "shares=[1]"], "shares needs table=latency; set that too"),
        ("serve", ["run=x", "web.vendored=false"], "web.vendored needs table=latency; set that too"),
    ],
)
def test_keys_without_effect_on_a_tool_are_refused(tool, typed, message):
    assert error_message(*typed, tool=tool) == f"{message}, or leave it out"


@pytest.mark.parametrize(
    ("tool", "typed"),
    [
        ("eval", ["run=x"]),
        ("predict", ["run=x", "input=y", "artifact=z", "threads=2"]),
        ("convert", ["input=x", "out=y", "to=coco"]),
        ("publish", ["run=x", "out=y"]),
        ("serve", ["run=x"]),
        ("benchmark", ["run=x"]),
        ("benchmark", ["table=latency", "run=x", "out=y"]),
    ],
)
def test_defaults_do_not_count_as_typed(tool, typed):
    instantiate.tool_options(compose.compose_config(tool, typed))


def test_one_network_is_not_a_list_of_one_task():
    message = error_message("name=v3_large_imagenet", "only=det", tool="models")
    assert message == "only is for the list of all networks; leave it out, or leave out name="
