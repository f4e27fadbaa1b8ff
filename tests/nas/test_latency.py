"""The options of a search's latency."""

import pytest

from engine.config.compose import compose_config
from engine.config.instantiate import tool_options
from engine.errors import UserError


def options(*overrides):
    return tool_options(compose_config("search", ["run=run", *overrides]))


def test_runtimes_have_the_names_that_are_shown_elsewhere():
    with pytest.raises(
        UserError, match=r"runtime must be one of eager, onnx, openvino, executorch, ncnn, got 'tensorrt'"
    ):
        options("runtime=tensorrt")
    with pytest.raises(UserError, match="did you mean 'openvino'"):
        options("runtime=openvinno")


def test_a_search_can_still_be_resumed_with_the_former_name_of_eager():
    assert options("runtime=torch").runtime == "torch"
