"""Configs can use a user's own code only if the user names its folder."""

import subprocess
import sys

import pytest

from engine.config import compose, extensions, instantiate, overrides, saved, training
from engine.errors import UserError

SCHEDULE = '''
def sawtooth(*, steps: int, teeth: int = 2) -> object:
    """A sawtooth factor that rises to 1 several times."""
    return lambda step: (step * teeth % steps + 1) / steps
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An extension: a module with a schedule, and its YAML file."""
    (tmp_path / "saw_ext").mkdir()
    (tmp_path / "saw_ext" / "__init__.py").write_text("")
    (tmp_path / "saw_ext" / "schedules.py").write_text(SCHEDULE)
    conf = tmp_path / "conf" / "schedule"
    conf.mkdir(parents=True)
    (conf / "sawtooth.yaml").write_text("_target_: saw_ext.schedules.sawtooth\nteeth: 3\n")
    monkeypatch.setenv(extensions.VARIABLE, "")
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "saw_ext"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def test_yaml_files_and_code_of_an_extension_are_used(folder):
    config = compose.compose_config("train", [f"extend={folder}", "schedule=sawtooth"])
    assert (config.schedule._target_, list(config.extensions)) == ("saw_ext.schedules.sawtooth", ["saw_ext"])
    schedule = instantiate.build(config.schedule, key="schedule", steps=9)
    assert [round(9 * schedule(step)) for step in range(4)] == [1, 4, 7, 1]
    assert "sawtooth" in overrides.groups()["schedule"]
    training.validate(config)


def test_a_folder_with_commas_and_brackets_in_its_name(tmp_path, folder):
    odd = folder.rename(tmp_path.parent / "[mine], 2")
    compose.compose_config("train", [f"extend={odd}", "schedule=sawtooth"])
    with pytest.raises(UserError, match=r"extend=.*nope: not a folder"):
        compose.compose_config("train", [f"extend=[{odd.parent / 'nope'},{odd.parent / 'other'}]"])


def test_without_extend_an_extension_is_not_used(folder):
    with pytest.raises(UserError, match="schedule=sawtooth: no such option"):
        compose.compose_config("train", ["schedule=sawtooth"])
    node = {"_target_": "saw_ext.schedules.sawtooth"}
    with pytest.raises(
        UserError, match=r"configs can only build .*to use your own code, pass extend=<its folder>"
    ):
        instantiate.check(node, "schedule")


def test_opening_a_run_does_not_import_an_extension_without_extend(folder, monkeypatch, tmp_path):
    config = compose.compose_config("train", [f"extend={folder}", "schedule=sawtooth"])
    path = tmp_path / "config.yaml"
    path.write_text(compose.to_yaml(config), encoding="utf-8")
    assert saved.load_config(path, []).schedule.teeth == 3
    monkeypatch.setenv(extensions.VARIABLE, "")
    with pytest.raises(UserError, match=r"config\.yaml: needs code from saw_ext.*pass extend="):
        saved.load_config(path, [])


@pytest.mark.parametrize("name", ["json", "seg"])
def test_a_module_that_shadows_another_is_rejected(folder, name):
    (folder / f"{name}.py").write_text("")
    extensions._modules_in.cache_clear()
    with pytest.raises(UserError, match=f"'{name}' has the same name as"):
        extensions.add([str(folder)])
    assert str(folder) not in sys.path


def test_the_reason_for_a_failed_import_is_reported(folder):
    (folder / "saw_ext" / "schedules.py").write_text("import no_such_library\n" + SCHEDULE)
    extensions.add([str(folder)])
    with pytest.raises(UserError, match=r"no such class or function \(No module named 'no_such_library'\)"):
        instantiate.check({"_target_": "saw_ext.schedules.sawtooth"}, "schedule")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("raise RuntimeError('no license')", r"schedules\.py, line 1: RuntimeError: no license"),
        ("import sys\nsys.exit(3)", r"schedules\.py, line 2: SystemExit: 3"),
        ("def sawtooth(:", r"schedules\.py, line 1: invalid syntax"),
    ],
)
def test_an_extension_that_fails_when_it_is_imported_is_reported_with_its_line(folder, content, reason):
    (folder / "saw_ext" / "schedules.py").write_text(content)
    extensions.add([str(folder)])
    with pytest.raises(UserError, match=rf"_target_=saw_ext\.schedules\.sawtooth: .*\(.*{reason}\)"):
        instantiate.check({"_target_": "saw_ext.schedules.sawtooth"}, "schedule")
    with pytest.raises(UserError, match=rf"format=saw_ext\.schedules: cannot be imported \(.*{reason}\)"):
        extensions.load_module("saw_ext.schedules", key="format")
    with pytest.raises(UserError, match=rf"extension saw_ext\.schedules: cannot be imported \(.*{reason}\)"):
        list(extensions.modules())


@pytest.mark.slow
def test_an_installed_extension_works_without_extend(folder):
    """An entry point in the group mobilenet_dense.extensions names a package; its conf/ is added to ours."""
    (folder / "conf").rename(folder / "saw_ext" / "conf")
    info = folder / "saw_ext-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: saw-ext\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mobilenet_dense.extensions]\nsaw = saw_ext\n")
    script = (
        "from engine.config.compose import compose_config\n"
        "print(compose_config('train', ['schedule=sawtooth']).schedule.teeth)"
    )
    environment = {"PYTHONPATH": f"{overrides.CONF.parent}:{folder}", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env=environment
    )
    assert (done.stdout, done.returncode) == ("3\n", 0), done.stderr


def test_a_folder_of_the_environment_that_does_not_exist_is_named(folder, monkeypatch):
    monkeypatch.setenv(extensions.VARIABLE, str(folder / "nowhere"))
    with pytest.raises(UserError, match=rf"{extensions.VARIABLE}=.*nowhere: no such folder"):
        compose.compose_config("train", [])
