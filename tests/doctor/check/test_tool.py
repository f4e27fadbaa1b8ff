"""tools/check.py: its exit status, the files of the report, and the command that trains."""

import json
import re
import shlex

import pytest

import cls
import det
import seg
from doctor.check.results import data_name, write_results
from doctor.layouts.arguments import as_arguments, with_layout
from engine.contracts import Layout
from engine.errors import UserError
from engine.run import run_folder
from tests.doctor.check.datasets import MAKERS, arguments, checked, masks_data, photo
from tests.doctor.check.test_masks import copy_in_val, damaged_image, single_class
from tests.refusals import refuses
from tests.tools.commands import run

SHORT = [
    "trainer.batch=2",
    "trainer.steps=1",
    "trainer.eval_every=1",
    "trainer.tensorboard=false",
    "samples=0",
]


@pytest.fixture
def root(tmp_path):
    return masks_data(tmp_path / "data")


@pytest.mark.slow
def test_errors_and_with_strict_warnings_set_the_exit_status(root, tmp_path):
    notes = arguments("seg", root)
    single_class(root)
    run("check", *notes, "strict=true", cwd=tmp_path)  # a note
    photo(root / "images/train/x.heic.jpg", 1).rename(root / "images/train/x.heic")
    run("check", *notes, cwd=tmp_path)  # a warning
    run("check", *notes, "--strict", cwd=tmp_path, status=1)
    damaged_image(root)
    run("check", *notes, cwd=tmp_path, status=1)


@pytest.mark.slow
def test_the_report_has_the_findings_and_the_printed_command_trains(root, tmp_path):
    damaged_image(root)
    copy_in_val(root)
    printed = run("check", *arguments("seg", root), cwd=tmp_path, status=1)
    out = tmp_path / "runs/check/data"
    assert f"report: {out.relative_to(tmp_path)}/report.html" in printed
    findings = json.loads((out / "findings.json").read_text())["findings"]
    assert {finding["code"] for finding in findings} == {"damaged_image", "same_image_in_splits"}
    assert findings[0]["remedy"].startswith("data.exclude=runs/check/data/exclude.json")
    assert json.loads((out / "exclude.json").read_text()) == {
        "train": {"train1": "damaged image"}, "val": {"val1": "same image in splits"},
    }  # fmt: skip
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "1 image is damaged" in page
    assert page.count('class="chart"') == 3
    assert re.search(r'data-points="0"', page) is None
    command = shlex.split(re.search(r"next: python tools/train.py (.*)", printed)[1])
    trained = run("train", *command, *SHORT, "run=r", cwd=tmp_path)
    assert "data.exclude: 1 of 4 train samples left out (train1)" in trained


def test_what_training_refuses_is_reported_beside_everything_else(root, tmp_path):
    damaged_image(root)
    for mask in (root / "masks/val").iterdir():
        mask.unlink()
    printed = run("check", *arguments("seg", root), "out=report", cwd=tmp_path, status=1)
    assert "next:" not in printed
    entries = json.loads((tmp_path / "report/findings.json").read_text())["findings"]
    findings = {entry["code"]: entry for entry in entries}
    assert findings.keys() == {"refused", "damaged_image"}
    refused = findings["refused"]
    assert (refused["severity"], refused["count"]) == ("error", 3)
    assert refused["examples"] == [str(root / f"images/val/val{number}.jpg") for number in range(3)]
    assert "3 of 3 images of val have none" in refused["title"]
    assert refused["remedy"] == "add the masks or remove the images"
    page = (tmp_path / "report/report.html").read_text(encoding="utf-8")
    assert "3 of 3 images of val have none" in page


def test_samples_that_were_left_out_before_stay_left_out(root, tmp_path):
    damaged_image(root)  # train1
    copy_in_val(root)  # val1
    own = tmp_path / "own.json"
    own.write_text('{"train": ["train2"], "test": ["x"]}')
    result, out = checked("seg", root), tmp_path / "report"
    out.mkdir()
    typed = ["task=seg", f"data.exclude={own}"]
    *_, command = write_results(result, out, name="data", arguments=typed)
    words = shlex.split(command)
    assert [word for word in words if word.startswith("data.exclude=")] == [
        f"data.exclude={out}/exclude.json"
    ]
    expected = {
        "train": {"train2": "", "train1": "damaged image"},
        "test": {"x": ""},
        "val": {"val1": "same image in splits"},
    }
    assert json.loads((out / "exclude.json").read_text()) == expected
    typed = ["task=seg", f"data.exclude={out}/exclude.json"]
    write_results(result, out, name="data", arguments=typed)
    assert json.loads((out / "exclude.json").read_text()) == expected
    clean = checked("seg", masks_data(tmp_path / "clean"))
    *_, command = write_results(clean, out, name="data", arguments=typed)
    assert command == f"next: python tools/train.py {' '.join(typed)}"
    assert json.loads((out / "exclude.json").read_text()) == expected  # the user's file is not deleted
    write_results(clean, out, name="data", arguments=["task=seg"])
    assert not (out / "exclude.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("task", MAKERS)
def test_the_page_of_each_task_shows_charts_and_samples(task, tmp_path):
    root = MAKERS[task][0](tmp_path / "data")
    run("check", *arguments(task, root), "out=report", cwd=tmp_path)
    page = (tmp_path / "report/report.html").read_text(encoding="utf-8")
    assert page.count('class="chart"') == (5 if task == "det" else 3)
    assert page.count("data:image/jpeg") == 2  # a sample of each class
    assert not (tmp_path / "report/exclude.json").exists()


@pytest.mark.slow
def test_a_later_check_removes_the_list_of_an_earlier_one(root, tmp_path):
    damaged_image(root)
    run("check", *arguments("seg", root), "out=report", cwd=tmp_path, status=1)
    photo(root / "images/train/train1.jpg", 77)
    run("check", *arguments("seg", root), "out=report", cwd=tmp_path)
    assert not (tmp_path / "report/exclude.json").exists()


def test_a_list_of_samples_that_cannot_be_read_is_refused_as_in_training(root, tmp_path):
    printed = run("check", *arguments("seg", root), "data.exclude=no.json", cwd=tmp_path, status=1)
    assert "error: data.exclude=no.json: cannot be read (No such file or directory)" in printed
    assert not (tmp_path / "runs").exists()


def test_a_folder_without_a_known_layout_is_refused_by_name(tmp_path):
    assert f"{tmp_path}/x: no such folder" in run("check", f"{tmp_path}/x", cwd=tmp_path, status=1)
    (tmp_path / "empty").mkdir()
    assert run("check", "empty", cwd=tmp_path, status=1).startswith("error: empty: ")


def test_the_first_layout_gives_the_arguments(tmp_path):
    first = Layout(task="det", data="voc", title="Pascal VOC", overrides=("data.root=my data",))
    other = Layout(task="cls", data="folders", title="class folders", overrides=("data.root=my data",))
    found = as_arguments(tmp_path, [first, other])
    assert found.arguments == ["task=det", "data=voc", "data.root=my data"]
    assert found.lines == [
        f"{tmp_path}: Pascal VOC (task=det)",
        "also possible: class folders, task=cls data=folders",
        "reading it with: task=det data=voc 'data.root=my data'",
    ]


def test_a_layout_that_must_be_converted_ends_with_both_commands(tmp_path):
    layout = Layout(
        task="seg", data="masks", title="CVAT", overrides=("data.root=masks",), conversion=("a", "out=masks")
    )
    found = as_arguments(tmp_path, [layout])
    assert found.arguments == []
    assert found.lines[1:] == [
        "convert it first: python tools/convert.py a out=masks",
        "then train: python tools/train.py task=seg data=masks data.root=masks",
    ]
    with pytest.raises(UserError, match="unknown layout"):
        as_arguments(tmp_path, [])


def test_the_report_is_named_after_the_folder_of_the_data():
    source = {"_target_": "det.data.coco.coco"}
    assert data_name({"source": source, "root": "/data/bccd"}) == "bccd"
    for file in ("/data/my_coco/train.json", "/data/my_coco/annotations/train.json"):
        assert data_name({"source": source, "root": None, "train": {"annotations": file}}) == "my_coco"
    assert data_name({"source": source}) == "coco"


@pytest.mark.slow
def test_the_folder_may_have_any_name_and_place_among_the_arguments(tmp_path):
    name = "it's, a=b"
    masks_data(tmp_path / name)
    for typed in (["--strict", name], ["task=seg", name]):
        printed = run("check", *typed, cwd=tmp_path)
        assert "no problems found" in printed
        assert "are few for random weights; weights=mobilenet_v3_small usually gives" in printed
    command = shlex.split(re.search(r"next: python tools/train.py (.*)", printed)[1])
    assert command == ["task=seg", "data=masks", f"data.root={name}"]


@pytest.mark.slow
def test_no_command_is_printed_if_leaving_out_what_is_damaged_leaves_too_little(root, tmp_path):
    for number in range(3):
        (root / f"images/train/train{number}.jpg").write_bytes(b"no image")
    printed = run("check", *arguments("seg", root), cwd=tmp_path, status=1)
    assert "3 images are damaged" in printed
    assert "next:" not in printed


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_read(root, tmp_path):
    (tmp_path / "file").touch()
    printed = run("check", *arguments("seg", root), "out=file/report", cwd=tmp_path, status=1)
    message = "file/report: cannot be created or written (Not a directory); choose another out="
    assert printed == f"error: {message}\n"


def test_two_checks_at_once_do_not_write_into_one_folder(root, tmp_path):
    with run_folder.claim(tmp_path / "report"):
        printed = run("check", *arguments("seg", root), "out=report", cwd=tmp_path, status=1)
    assert printed.startswith("error: report: another process is writing into this folder; wait")
    assert not list((tmp_path / "report").glob("*.*"))


def test_the_printed_command_keeps_what_training_chooses_itself(tmp_path):
    root = MAKERS["det"][0](tmp_path / "data")
    printed = run("check", *arguments("det", root), "data.size=auto", cwd=tmp_path)
    assert re.search("next: .* data.size=auto", printed)


def test_data_chooses_among_the_layouts_and_a_file_stands_for_its_folder(tmp_path, capsys):
    masks_data(tmp_path / "data")
    tasks = [cls.TASK, det.TASK, seg.TASK]
    folder = str(tmp_path / "data")
    expected = ["task=seg", "data=masks", f"data.root={folder}", "seed=1"]
    assert with_layout(f"{folder}/classes.json", ["data=masks", "seed=1"], tasks) == expected
    refuses(
        lambda: with_layout(folder, ["data=yolo"], tasks), "not in the layout of data=yolo, but of data=masks"
    )
    refuses(lambda: with_layout(folder, ["task=sag"], tasks), "task=sag: no such task; one of cls, det, seg")
    refuses(
        lambda: with_layout(folder, ["task=det"], tasks),
        r"no layout of task=det \(data=coco, cvat, labelme, streets, voc, yolo\), but images with masks",
        "set task=seg, or leave out task=det",
    )
