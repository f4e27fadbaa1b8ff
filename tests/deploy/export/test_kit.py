"""The options of format=kit; its programs are tested in tests/docs/test_use_exported_files.py."""

import pkgutil

import pytest

from deploy import formats
from deploy.device import runtimes
from deploy.export.kit import LIBRARIES, check_task
from deploy.options import Budget, ExportOptions, Kit
from engine.config.compose import compose_config
from engine.config.instantiate import tool_options
from tests.refusals import refuses


def options(kit="onnx", **others):
    return ExportOptions(run="r", format="kit", kit=Kit(format=kit), budget=Budget(), **others)


def test_a_kit_has_a_file_of_a_format_whose_runtime_needs_no_pytorch():
    assert options().file_format == "onnx"
    assert options("openvino", precision="fp16").file_format == "openvino"
    assert ExportOptions(run="r", format="openvino", budget=Budget()).file_format == "openvino"
    refuses(lambda: options("executorch"), "kit.format must be one of", "need no PyTorch", "'executorch'")
    assert options("litert", precision="fp16").file_format == "litert"
    with pytest.raises(ValueError, match="opset is for format=onnx and format=web, not openvino"):
        options("openvino", opset=17)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["calibration.images=3"], "calibration.images needs precision=int8; set that too, or leave it out"),
        (["precision=fp16", "calibration.split=val"], "calibration.split needs precision=int8"),
        (["qat.lr=0.1", "precision=int8", "format=openvino"], "qat.lr needs qat.steps above 0"),
        (["qat.floating=[backbone.stem]"], "qat.floating needs qat.steps above 0"),
        (["seed=1"], "seed=1: only training reads this key; leave it out"),
        (["web.vendored=false"], "web.vendored needs format=web"),
        (["format=openvino", "kit.format=openvino"], "kit.format needs format=kit"),
        (["data.limit=5"], "data.limit=5: has no effect, because nothing is scored; set budget.<metric>= or"),
        (
            ["task.scored_per_class=9", "budget.agreement=1"],
            "task.scored_per_class=9: has no effect, because",
        ),
    ],
)
def test_keys_without_effect_are_refused_by_their_name(typed, message):
    config = compose_config("export", ["run=r", *typed])
    assert refuses(lambda: tool_options(config)).startswith(message)


def test_the_default_of_no_key_counts_as_typed():
    scored = (["data.limit=5", "budget.miou=1"], ["data.limit=5", "precision=int8"])
    for typed in ([], ["format=web"], ["precision=int8"], ["format=kit"], *scored):
        assert tool_options(compose_config("export", ["run=r", *typed])).run == "r"


def test_every_runtime_is_a_format_with_a_package():
    assert set(runtimes.RUNTIMES) == set(LIBRARIES) <= set(formats.BUILT_IN)
    assert {module.name for module in pkgutil.iter_modules(runtimes.__path__)} == set(LIBRARIES)


def test_a_task_whose_answers_the_program_does_not_know_is_refused():
    check_task("seg")
    refuses(lambda: check_task("depth"), "format=kit: supports tasks cls, det, seg, not depth")
