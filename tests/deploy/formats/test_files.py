"""Exported files: precision, metadata, dynamic sizes, and errors."""

import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from deploy.binary_files import METADATA_FILE, append_metadata, read_appended_metadata
from deploy.eager import eager_session
from deploy.export.module import export_module
from deploy.formats import BUILT_IN, find, open_session
from tests.deploy.formats.test_runtimes import Toy, pixels
from tests.refusals import refuses


class Scaled(nn.Module):
    """A wide layer, so that its weights make up the file."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 256, 1), nn.ReLU(), nn.Conv2d(256, 256, 1))

    def forward(self, images):
        return self.layers(images)


class WindowOfTheSize(nn.Module):
    """An average over a window that grows with the image, as LR-ASPP's with pool=large_kernel."""

    def forward(self, images):
        return nn.functional.avg_pool2d(images, (images.shape[-2] // 2, images.shape[-1] // 2))


def write(module, path, *, example=None, names=("y",), metadata=None, **options):
    matches = [name for name in BUILT_IN if path.name.endswith(find(name).SUFFIX)]
    kind = max(matches, key=lambda name: len(find(name).SUFFIX))
    example = torch.rand(1, 3, 16, 24) if example is None else example
    return export_module(module, example, path, format=kind, names=names, metadata=metadata or {}, **options)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "library"), [("m.onnx", "onnx"), ("m.xml", "openvino"), ("m.pt2", "torch")])
def test_a_dynamic_file_takes_any_number_and_size_of_images(tmp_path, name, library):
    pytest.importorskip(library)
    options = {"dynamic_batch": True, "dynamic_size": True}
    session = open_session(
        write(Toy(), tmp_path / name, example=torch.from_numpy(pixels()), names=["s", "l"], **options)
    )
    assert session.shape == (None, None, None)
    for count, height, width in ((1, 12, 20), (3, 12, 20), (2, 33, 7)):
        images = pixels(count, height, width, seed=height)
        for output, expected in zip(session(images), eager_session(Toy())(images), strict=True):
            np.testing.assert_allclose(output, expected, atol=1e-5)


def test_what_is_not_dynamic_stays_fixed(tmp_path):
    pytest.importorskip("onnx")
    session = open_session(write(Scaled(), tmp_path / "m.onnx", dynamic_batch=True))
    assert session.shape == (None, 16, 24)


def test_a_window_of_the_images_size_cannot_be_dynamic(tmp_path):
    pytest.importorskip("onnx")
    path = tmp_path / "m.onnx"
    refuses(lambda: write(WindowOfTheSize(), path, dynamic_size=True), "dynamic=size", "export with dynamic=")
    assert not path.exists()


class WindowOfNine(nn.Module):
    """A window of 9 pixels, or of the whole image if it is smaller: takes any size of at least 9."""

    def forward(self, images):
        height, width = images.shape[-2:]
        return nn.functional.avg_pool2d(images, (min(9, height), min(9, width)), 4)


@pytest.mark.parametrize(
    ("name", "library"), [("m.onnx", "onnxruntime"), ("m.xml", "openvino"), ("m.pt2", "torch")]
)
def test_a_size_for_which_the_graph_does_not_hold_is_rejected(tmp_path, name, library):
    pytest.importorskip(library)
    example = torch.rand(1, 3, 16, 24)
    session = open_session(write(WindowOfNine(), tmp_path / name, example=example, dynamic_size=True))
    assert session.min_size == (9, 9)
    for size in ((9, 9), (9, 30), (13, 9), (40, 50)):
        image = torch.rand(1, 3, *size)
        np.testing.assert_allclose(session(image.numpy())[0], WindowOfNine()(image).numpy(), atol=1e-6)
    refuses(lambda: session(image.numpy()[:, :, :8]), "at least 9x9, got 8x50", "dynamic=none")


def test_the_example_can_have_one_window_in_one_direction(tmp_path):
    example = torch.rand(
        1, 3, 10, 60
    )  # as 1024x2048 has for the window of 769; 32 rows more give more windows
    session = open_session(write(WindowOfNine(), tmp_path / "m.pt2", example=example, dynamic_size=True))
    assert session.min_size == (9, 9)


def test_an_error_of_a_runtime_is_one_line_for_the_user(tmp_path):
    session = open_session(write(Scaled(), tmp_path / "m.pt2"))
    broken = replace(session, run=lambda images: 1 / 0)
    refuses(lambda: broken(np.zeros((1, 3, 16, 24), np.float32)), "1x16x24", "division", "dynamic=none")
    with pytest.raises(ZeroDivisionError):
        replace(broken, metadata={})(np.zeros((1, 3, 16, 24), np.float32))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "library"),
    [("m.onnx", "onnx"), pytest.param("m.xml", "openvino", marks=pytest.mark.slow)],
)
def test_half_precision_halves_the_file_and_barely_changes_the_result(tmp_path, name, library):
    pytest.importorskip(library)
    sizes, outputs = {}, {}
    images = np.random.default_rng(0).random((1, 3, 16, 24), np.float32)
    for precision in ("fp32", "fp16"):
        path = write(Scaled(), tmp_path / precision / name, precision=precision)
        data = path if library == "onnx" else path.with_suffix(".bin")
        sizes[precision], outputs[precision] = data.stat().st_size, open_session(path)(images)[0]
    assert sizes["fp16"] < 0.55 * sizes["fp32"]
    difference = np.abs(outputs["fp16"] - outputs["fp32"]).max()
    assert 0 < difference < 1e-2


def test_batch_norm_is_folded_and_h_swish_is_one_node(tmp_path):
    onnx = pytest.importorskip("onnx")
    path = write(Toy(), tmp_path / "m.onnx", example=torch.from_numpy(pixels()), names=["s", "l"])
    model = onnx.load(path)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Conv") == 2
    assert kinds.count("HardSwish") == 1
    assert "BatchNormalization" not in kinds
    assert model.graph.input[0].name == "images"


def test_the_formats_own_tools_find_the_metadata(tmp_path):
    texts = {"license": "CC0", "classes": '["a"]'}
    with zipfile.ZipFile(write(Scaled(), tmp_path / "m.pt2", metadata=texts)) as archive:
        assert any(name.endswith(METADATA_FILE) for name in archive.namelist())
    onnx = pytest.importorskip("onnx")
    model = onnx.load(write(Scaled(), tmp_path / "m.onnx", metadata=texts))
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert properties["license"] == "CC0"
    assert '"float32"' in properties["input"]


def test_an_export_does_not_change_the_network(tmp_path):
    module = Scaled().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    write(module, tmp_path / "m.pt2")
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_options_that_a_format_lacks_are_rejected(tmp_path):
    path, example = tmp_path / "m.onnx", torch.rand(1, 3, 4, 4)
    common = {"names": ["y"], "metadata": {}}
    refuses(
        lambda: export_module(Scaled(), example, path, format="onyx", **common),
        "format must be one of aot_inductor",
    )
    refuses(
        lambda: export_module(Scaled(), example, path, format="onnx", precision="int4", **common),
        "fp32 or fp16",
    )
    refuses(
        lambda: export_module(Scaled(), example, path, format="torch_export", precision="fp16", **common),
        "precision=fp16 is for format=.*format=onnx and format=openvino and format=web, not torch_export",
    )
    refuses(
        lambda: export_module(Scaled(), example, path, format="litert", dynamic_batch=True, **common),
        "format=litert", "dynamic=none",
    )  # fmt: skip
    (tmp_path / "taken").write_text("a file")
    inside = tmp_path / "taken" / "m.pt2"
    refuses(
        lambda: export_module(Scaled(), example, inside, format="torch_export", **common), "cannot be written"
    )


@pytest.mark.weekly
def test_a_compiled_package_gives_what_pytorch_gives(tmp_path):
    path = write(Toy(), tmp_path / "m.aoti.pt2", example=torch.from_numpy(pixels()), names=["s", "l"])
    session = open_session(path)
    assert session.runtime.startswith("AOTInductor")
    assert session.output_names == ("s", "l")
    for output, expected in zip(session(pixels(seed=1)), eager_session(Toy())(pixels(seed=1)), strict=True):
        np.testing.assert_allclose(output, expected, atol=1e-5)


def test_metadata_are_appended_to_a_flatbuffer(tmp_path):
    path = tmp_path / "m.tflite"
    content = bytes(range(256)) * 8
    path.write_bytes(content)
    assert read_appended_metadata(path) == {}
    append_metadata(path, {"a": "ß"})
    assert path.read_bytes().startswith(content)
    assert read_appended_metadata(path) == {"a": "ß"}
    assert zipfile.ZipFile(io.BytesIO(path.read_bytes())).testzip() is None


def test_dynamic_dimensions_of_an_onnx_file_have_short_names(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")

    class Halves(nn.Module):
        def forward(self, images):
            values = images.float()
            return nn.functional.avg_pool2d(values, 2), values.mean((2, 3)), values.argmax(1)

    example, names = torch.zeros(1, 3, 32, 48, dtype=torch.uint8), ["halves", "means", "labels"]
    path = export_module(
        Halves(), example, tmp_path / "m.onnx", format="onnx", names=names, metadata={},
        dynamic_batch=True, dynamic_size=True,
    )  # fmt: skip
    graph = onnx.load(path).graph

    def dimensions(value):
        return [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]

    assert dimensions(graph.input[0]) == ["batch", 3, "height", "width"]
    assert {output.name: dimensions(output) for output in graph.output} == {
        "halves": ["batch", 3, "halves_2", "halves_3"],
        "means": ["batch", 3],
        "labels": ["batch", "height", "width"],
    }
    assert all(len(str(side)) < 20 for value in graph.value_info for side in dimensions(value))
    outputs = open_session(path)(np.zeros((2, 3, 10, 6), np.uint8))
    assert [output.shape for output in outputs] == [(2, 3, 5, 3), (2, 3), (2, 10, 6)]


@pytest.mark.parametrize(
    ("opset", "ir_version"),
    [
        (None, 9),
        (17, 8),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in ((13, 7), (14, 7), (19, 9), (23, 11))),
    ],
)
def test_an_onnx_file_has_the_opset_that_was_asked_for(tmp_path, opset, ir_version):
    """The IR version is the first that has this opset (ONNX's own table): runtimes of that time take it."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    layers = [nn.Conv2d(3, 8, 3), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)]
    net, images = nn.Sequential(*layers).eval(), torch.rand(1, 3, 16, 16)
    texts = {} if opset is None else {"opset": str(opset)}
    path = tmp_path / "m.onnx"
    export_module(net, images, path, format="onnx", names=["logits"], metadata=texts)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset or 20)]
    assert model.ir_version == ir_version
    operators = {node.op_type for node in model.graph.node}
    assert ("HardSwish" in operators) == (opset != 13)  # opset 13 does not have it
    session = open_session(path)
    np.testing.assert_allclose(session(images.numpy())[0], net(images).detach(), atol=1e-5)
    assert session.metadata.get("opset") == (None if opset is None else str(opset))


def test_an_opset_that_a_graph_cannot_have_names_the_oldest_that_it_can():
    onnx = pytest.importorskip("onnx")
    from deploy.formats.onnx import _converted

    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    node = helper.make_node("Shape", ["x"], ["y"], start=0, end=1)  # `start` is new in 15
    graph = helper.make_graph(
        [node],
        "part_of_a_shape",
        [helper.make_tensor_value_info("x", floats, ["batch", 3])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.INT64, [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    refuses(lambda: _converted(onnx, model, 14), "opset=14: this network cannot .*; set opset=15 or newer")
    refuses(lambda: _converted(onnx, model, 13), "opset=13: this network cannot .*; set opset=15 or newer")
    assert _converted(onnx, model, 15).opset_import[0].version == 15


def test_an_operator_that_is_new_in_opset_14_is_refused_in_13():
    onnx = pytest.importorskip("onnx")
    from deploy.formats.onnx import _converted

    helper = onnx.helper
    value = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [3, 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Trilu", ["x"], ["y"])], "triangle", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    refuses(lambda: _converted(onnx, model, 13), "opset=13: this network cannot .*; set opset=14 or newer")


def test_an_openvino_file_without_its_weights_is_named(tmp_path):
    pytest.importorskip("openvino")
    (tmp_path / "model.xml").write_text("<net/>")
    refuses(
        lambda: open_session(tmp_path / "model.xml"), r"model\.xml: its weights are missing \(model\.bin\)"
    )
