"""Frozen graphs with made-up weights, by the rule of the reference outputs of the authors' own graphs."""

import io
import tarfile
import zlib

import numpy as np
import pytest
from tensorboard.compat.proto.graph_pb2 import GraphDef

TYPES = {"float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int64": 9, "bool": 10, "float16": 19}


def outputs_of(graph, data_folder):
    """What one of the authors' graphs computes, with the names and shapes of its variables."""
    file = data_folder.parent / "reference" / "graphs" / f"{graph}.npz"
    if not file.is_file():
        pytest.skip(f"needs the outputs of the authors' graphs in {file.parent}")
    return np.load(file)


def made_up(name, shape):
    """The weights of the variable with this name: normal or uniform, float32."""
    random, last = np.random.RandomState(zlib.crc32(name.encode("ascii"))), name.rpartition("/")[2]
    if last in ("moving_mean", "beta", "biases"):
        values = random.normal(0, 0.1, shape)
    elif last == "moving_variance":
        values = random.uniform(0.5, 1.5, shape)
    elif last == "gamma":
        values = random.uniform(0.5, 1.0, shape)
    else:
        fan = np.prod(shape[: 2 if last == "depthwise_weights" else 3])
        values = random.normal(0, np.sqrt(1.5 / fan), shape)
    return values.astype(np.float32)


def made_up_image(height, width):
    """uint8 [H, W, 3]: waves and noise."""
    yy, xx = np.mgrid[:height, :width]
    random = np.random.RandomState(3)
    channels = [
        127 + 90 * np.sin(6 * yy / height + 2 * k * xx / width) + 25 * random.normal(size=(height, width))
        for k in (1, 3, 7)
    ]
    return np.round(np.clip(np.stack(channels, 2), 0, 255)).astype(np.uint8)


def constant(graph, name, array):
    """Add a Const node with the array's bytes; returns its TensorProto."""
    node = graph.node.add()
    node.name, node.op = name, "Const"
    node.attr["dtype"].type = TYPES[array.dtype.name]
    tensor = node.attr["value"].tensor
    tensor.dtype = TYPES[array.dtype.name]
    for size in array.shape:
        tensor.tensor_shape.dim.add().size = size
    tensor.tensor_content = array.tobytes()
    return tensor


def frozen(arrays):
    """The GraphDef of constants by name, each read by an Identity as in a frozen graph."""
    graph = GraphDef()
    placeholder = graph.node.add()
    placeholder.name, placeholder.op = "ImageTensor", "Placeholder"
    for name, array in arrays.items():
        constant(graph, name, np.asarray(array))
        read = graph.node.add()
        read.name, read.op = f"{name}/read", "Identity"
        read.input.append(name)
    constant(graph, "hard_swish/add/y", np.float32(3))
    constant(graph, "Reshape/shape", np.array([-1, 4], np.int32))
    text = constant(graph, "Assert/data_0", np.array([0], np.int32))
    text.dtype, text.tensor_content = 7, b""
    text.string_val.append(b"input is not an image")
    return graph


def write_archive(path, members):
    """A tar.gz of {name: bytes}."""
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_released(path, arrays, *, graph="model/frozen_inference_graph.pb"):
    """An archive as the authors released it: the graph, and files that are not read."""
    content = frozen(arrays).SerializeToString()
    others = {"model/saved_model/saved_model.pb": b"\x08\x01", "model/pipeline.config": b"model {}"}
    return write_archive(path, {**others, graph: content, "model/model.ckpt.data-00000-of-00001": b"0" * 99})


def arrays_of(layers, state):
    """Made-up arrays by TensorFlow's names, for the layers of a network with this state dict.

    layers: `backbones.weights.tensorflow.Layers`. Linear layers become 1x1 convolutions.
    """
    arrays = {}
    for ours, theirs in layers.pairs.items():
        shape = tuple(state[ours].shape)
        if len(shape) == 2:
            shape = (1, 1, shape[1], shape[0])
        elif len(shape) == 4:
            out, channels, height, width = shape
            depthwise = theirs.endswith("depthwise_weights")
            shape = (height, width, out, 1) if depthwise else (height, width, channels, out)
        arrays[theirs] = made_up(theirs, shape)
    return arrays
