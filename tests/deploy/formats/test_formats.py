"""Every format has the same members, and formats are found by name and by suffix."""

import tomllib
from pathlib import Path

import pytest

from deploy import formats
from deploy.formats import BUILT_IN, Format, find, of_file
from engine.config import extensions
from tests.refusals import refuses

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_format_has_all_members(name):
    module = find(name)
    assert isinstance(module, Format)
    assert module.__doc__
    assert module.SUFFIX.startswith(".")
    assert set(module.WEIGHT_PRECISIONS) <= {"fp32", "fp16"}
    assert set(module.COMPUTE_PRECISIONS) <= {"fp32", "bf16", "fp16"}
    assert "fp32" in module.WEIGHT_PRECISIONS
    assert "fp32" in module.COMPUTE_PRECISIONS
    assert isinstance(module.DYNAMIC, bool)
    assert isinstance(module.missing(), str)


@pytest.mark.parametrize("name", [name for name in BUILT_IN if find(name).LIBRARIES])
def test_an_install_command_names_an_extra_with_all_libraries(name):
    module = find(name)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    extra = module.INSTALL.partition("[")[2].partition("]")[0]
    required = {requirement.partition(">")[0] for requirement in extras[extra]}
    assert set(module.LIBRARIES) <= required


def test_suffixes_are_unique():
    suffixes = [find(name).SUFFIX for name in BUILT_IN]
    assert len(set(suffixes)) == len(suffixes)


def test_a_format_that_is_not_run_says_why_and_has_its_metadata():
    assert [name for name in BUILT_IN if formats.not_run(name)] == ["coreml"]
    assert formats.not_run("coreml").startswith("CoreML files run only on macOS and iOS")
    assert callable(find("coreml").metadata_of)
    assert find("coreml").missing()  # so benchmarks leave it out


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_file_belongs_to_the_format_of_its_longest_suffix(name):
    assert of_file(Path(f"some.model{find(name).SUFFIX}")) is find(name)


def test_an_unknown_format_is_rejected_with_the_nearest():
    refuses(lambda: find("onyx"), "format must be one of aot_inductor", "did you mean 'onnx'", "extend=")
    refuses(lambda: find("onyx", key="runtime"), "runtime must be one of")
    refuses(lambda: of_file(Path("m.txt")), "m.txt", r"\.aoti\.pt2, .*\.onnx, \.pt2", "extend=")


OF_YOUR_OWN = '''
"""Arrays of NumPy."""

SUFFIX = ".npz"
LIBRARIES = ("numpy",)
INSTALL = "pip install numpy"
WEIGHT_PRECISIONS = COMPUTE_PRECISIONS = ("fp32",)
DYNAMIC = False


def missing():
    return ""


def write(program, path, *, names, metadata, precision):
    path.write_text("")


def open(path, *, threads, precision):
    raise ValueError("cannot be opened")
'''


@pytest.fixture
def extend(tmp_path, monkeypatch):
    """Write modules into a folder, and allow it as an extension."""
    monkeypatch.setenv(extensions.VARIABLE, "")
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(**modules):
        for name, text in modules.items():
            (tmp_path / f"{name}.py").write_text(text)
        extensions.add([str(tmp_path)])

    return write


def test_a_format_of_your_own_is_found_by_name_and_suffix(tmp_path, extend):
    extend(arrays_for_test=OF_YOUR_OWN)
    module = find("arrays_for_test")
    assert module.SUFFIX == ".npz"
    assert of_file(Path("m.npz")) is module
    (tmp_path / "m.npz").write_text("")
    refuses(lambda: formats.open_session(tmp_path / "m.npz"), "m.npz", "cannot be loaded", "cannot be opened")


def test_a_module_that_lacks_a_member_is_rejected(extend):
    extend(half_a_format=OF_YOUR_OWN.replace("def open", "def opened"))
    refuses(lambda: find("half_a_format"), "format=half_a_format", "no open", "docs/extend")


def test_a_module_that_nobody_allowed_is_not_imported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "stranger_format.py").write_text("raise SystemExit('imported')")
    refuses(lambda: find("stranger_format"), "format must be one of", "extend=")


def test_a_built_in_format_imports_no_extension(extend):
    extend(script_for_test="raise SystemExit('imported')")
    assert of_file(Path("m.onnx")) is find("onnx")
    refuses(lambda: of_file(Path("m.npz")), "extension script_for_test: cannot be imported", "SystemExit")
