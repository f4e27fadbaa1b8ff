"""Frozen TensorFlow graphs: every way to store a constant, and files that are damaged or hostile."""

import gzip
import io
import struct
import tarfile

import numpy as np
import pytest
import torch
from tensorboard.compat.proto.graph_pb2 import GraphDef

from engine.errors import UserError
from engine.run import frozen_graph
from engine.run.checkpoint import read_weights
from tests.backbones.weights.tensorflow_graphs import constant, frozen, write_archive, write_released

ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)


def write(path, graph):
    path.write_bytes(graph if isinstance(graph, bytes) else graph.SerializeToString())
    return path


def refuses(path, *parts):
    with pytest.raises(UserError) as caught:
        read_weights(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for part in parts:
        assert part in message


def one(**fields):
    """A graph whose constant x has the shape [2, 3] and no values, except the given ones."""
    graph = GraphDef()
    tensor = constant(graph, "x", ARRAY)
    tensor.tensor_content = b""
    for name, value in fields.items():
        if name == "shape":
            del tensor.tensor_shape.dim[:]
            for size in value:
                tensor.tensor_shape.dim.add().size = size
        elif isinstance(value, list):
            getattr(tensor, name).extend(value)
        else:
            setattr(tensor, name, value)
    return graph


def test_a_graph_alone_and_in_archives(tmp_path):
    graph = frozen({"a/weights": ARRAY, "a/biases": ARRAY[0]})
    write(tmp_path / "net.pb", graph)
    write_released(tmp_path / "net.tar.gz", {"a/weights": ARRAY, "a/biases": ARRAY[0]})
    others = {"v3_float.tflite": b"x", "./._v3_float.pb": b"attributes of a file from macOS"}
    write_archive(tmp_path / "net.tgz", {"./v3_float.pb": graph.SerializeToString(), **others})
    (tmp_path / "net.tar").write_bytes(gzip.decompress((tmp_path / "net.tgz").read_bytes()))
    for name in ("net.pb", "net.tar.gz", "net.tgz", "net.tar"):
        state = read_weights(tmp_path / name)
        assert set(state) == {"a/weights", "a/biases", "hard_swish/add/y", "Reshape/shape"}
        assert torch.equal(state["a/weights"], torch.from_numpy(ARRAY))
        assert state["hard_swish/add/y"].shape == ()
        assert state["Reshape/shape"].tolist() == [-1, 4]
        state["a/biases"] += 1  # the tensor owns its memory


@pytest.mark.parametrize("array", [ARRAY, ARRAY.astype(np.float64), ARRAY.astype(np.float16)])
def test_float_types_keep_their_values(tmp_path, array):
    tensor = read_weights(write(tmp_path / "x.pb", frozen({"x": array})))["x"]
    assert np.array_equal(tensor.numpy(), array)
    assert tensor.numpy().dtype == array.dtype


HALF = [struct.unpack("<H", struct.pack("<e", value))[0] for value in range(6)]
BFLOAT = [struct.unpack("<I", struct.pack("<f", value))[0] >> 16 for value in range(6)]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"float_val": list(range(6))}, [0, 1, 2, 3, 4, 5]),
        ({"float_val": [7.0]}, [7] * 6),  # the last value is repeated, as in TensorFlow
        ({"float_val": [1.0, 2.0]}, [1, 2, 2, 2, 2, 2]),
        ({}, [0] * 6),
        ({"dtype": 2, "double_val": [0.1]}, [0.1] * 6),
        ({"dtype": 3, "int_val": [-1]}, [-1] * 6),
        ({"dtype": 4, "int_val": [200]}, [200] * 6),
        ({"dtype": 9, "int64_val": [1 << 40]}, [1 << 40] * 6),
        ({"dtype": 10, "bool_val": [True]}, [True] * 6),
        ({"dtype": 19, "half_val": HALF}, [0, 1, 2, 3, 4, 5]),
        ({"dtype": 14, "half_val": BFLOAT}, [0, 1, 2, 3, 4, 5]),
        ({"dtype": 14, "tensor_content": struct.pack("<6H", *BFLOAT)}, [0, 1, 2, 3, 4, 5]),
        ({"dtype": 19, "tensor_content": struct.pack("<6H", *HALF)}, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_all_forms_of_values(tmp_path, fields, expected):
    tensor = read_weights(write(tmp_path / "x.pb", one(**fields)))["x"]
    assert tensor.flatten().tolist() == expected
    assert tensor.shape == (2, 3)


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"float_val": [1.0] * 7}, "constant 'x': 7 values for 6 elements"),
        ({"tensor_content": b"123"}, "3 bytes for the shape [2, 3] of 4-byte values"),
        ({"shape": [1 << 40]}, "too large for the weights of a network"),
        ({"shape": [1 << 62, 1 << 62, 1 << 62]}, "too large"),
        ({"shape": [-1, 3]}, "cannot have the shape [-1, 3]"),
        ({"shape": [1] * 200}, "cannot have the shape"),
        ({"dtype": 4, "int_val": [300]}, "a value does not fit its type, uint8"),
        ({"dtype": 19, "half_val": [70000]}, "a value does not fit its type"),
    ],
)
def test_values_that_do_not_match_their_shape_or_type(tmp_path, fields, part):
    refuses(write(tmp_path / "x.pb", one(**fields)), part)


def test_constants_of_unknown_rank_or_with_the_same_name(tmp_path):
    graph = one(float_val=[1.0])
    graph.node[0].attr["value"].tensor.tensor_shape.unknown_rank = True
    refuses(write(tmp_path / "x.pb", graph), "cannot have the shape")
    twice = frozen({"x": ARRAY})
    constant(twice, "x", ARRAY)
    refuses(write(tmp_path / "x.pb", twice), "two nodes are named 'x'")


def test_many_tensors_that_are_too_large_together(tmp_path, monkeypatch):
    graph = GraphDef()
    for number in range(3):
        constant(graph, f"x{number}", ARRAY).tensor_content = b""
        graph.node[number].attr["value"].tensor.tensor_shape.dim[0].size = 1000
    monkeypatch.setattr(frozen_graph, "MOST_BYTES", 30_000)
    refuses(write(tmp_path / "x.pb", graph), "constant 'x2': shape [1000, 3] is too large")


@pytest.mark.parametrize("content", [b"", b"\x08\x01", b"hello, this is not a graph", b"\xff" * 50])
def test_other_files_than_graphs(tmp_path, content):
    refuses(write(tmp_path / "x.pb", content), "not a frozen TensorFlow graph")


def test_damaged_graphs_and_archives(tmp_path):
    whole = write_released(tmp_path / "whole.tar.gz", {"x": np.random.default_rng(0).random(5000)})
    graph = frozen({"x": np.random.default_rng(0).random(5000)}).SerializeToString()
    refuses(write(tmp_path / "cut.pb", graph[:20_000]), "damaged, or not a frozen TensorFlow graph")
    content = whole.read_bytes()
    for number in (0, 1, 30, 20_000, len(content) - 30):
        refuses(write(tmp_path / "cut.tar.gz", content[:number]), "damaged, or not a tar archive")
    damaged = bytearray(content)
    damaged[10_000] ^= 0xFF
    refuses(write(tmp_path / "cut.tar.gz", bytes(damaged)), "damaged, or not a tar archive")
    refuses(write(tmp_path / "x.tgz", b"hello"), "damaged, or not a tar archive")
    refuses(write(tmp_path / "x.gz", gzip.compress(b"hello" * 1000)), "damaged, or not a tar archive")


@pytest.mark.parametrize(
    ("names", "part"),
    [
        ([], "contains none"),
        (["readme.txt", "saved_model/saved_model.pb"], "contains none"),
        (["a.pb", "b.pb"], "contains several: a.pb, b.pb"),
        (["a/frozen_inference_graph.pb", "b/frozen_inference_graph.pb"], "contains several"),
        (["../a.pb"], "contains the path '../a.pb', which leads out of it"),
        (["/etc/passwd", "a.pb"], "contains the path '/etc/passwd'"),
    ],
)
def test_archives_without_one_graph(tmp_path, names, part):
    content = frozen({"x": ARRAY}).SerializeToString()
    refuses(write_archive(tmp_path / "x.tar.gz", dict.fromkeys(names, content)), part)


def special(path, **fields):
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("frozen_inference_graph.pb")
        for name, value in fields.items():
            setattr(info, name, value)
        archive.addfile(info, io.BytesIO(b"\0" * info.size))
    return path


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_not_followed(tmp_path, kind):
    (tmp_path / "secret.pb").write_bytes(frozen({"x": ARRAY}).SerializeToString())
    path = special(tmp_path / "x.tar.gz", type=kind, linkname=str(tmp_path / "secret.pb"))
    refuses(path, "frozen_inference_graph.pb is not a regular file in the archive")


def test_bombs_are_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(frozen_graph, "MOST_BYTES", 100_000)
    refuses(special(tmp_path / "x.tar.gz", size=200_000), "the graph has more than 100000 bytes")
    refuses(write(tmp_path / "x.pb", b"\0" * 200_000), "the graph has more than 100000 bytes")
    monkeypatch.setattr(frozen_graph, "_MOST_UNPACKED", 300_000)
    write_archive(tmp_path / "y.tar.gz", {"a.ckpt": b"\0" * 500_000, "b.pb": b""})
    refuses(tmp_path / "y.tar.gz", "expands to more than 300000 bytes")
    monkeypatch.setattr(frozen_graph, "_MOST_MEMBERS", 5)
    write_archive(tmp_path / "z.tar.gz", {f"{number}.txt": b"" for number in range(10)})
    refuses(tmp_path / "z.tar.gz", "more than 5 files")


def test_control_characters_of_names_are_escaped(tmp_path):
    graph = frozen({"a\nb": ARRAY})
    constant(graph, "a\nb", ARRAY)
    refuses(write(tmp_path / "x.pb", graph), r"a\nb")
    refuses(write_archive(tmp_path / "x.tgz", {"a\x1b.pb": b"", "b.pb": b""}), r"a\x1b.pb")
