"""Reads the constants of frozen TensorFlow graphs: `.pb` files, alone or in a tar archive. Nothing is run.

A frozen graph is a serialized GraphDef whose Const nodes hold the trained variables under their names. The
tensorboard package contains the message's definition, so TensorFlow is not needed.
"""

import gzip
import math
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import UserError

SUFFIXES = (".pb", ".tgz", ".gz", ".tar")
"""Of frozen graphs and the archives that contain them."""

GRAPH = "frozen_inference_graph.pb"
"""The graph's name in the authors' archives, if there are several `.pb` files."""

MOST_BYTES = 256 << 20
"""Of a graph, and of its constants; the authors' graphs have at most 30 MB."""

_MOST_UNPACKED = 4 * MOST_BYTES
_MOST_MEMBERS = 10_000
_MOST_DIMENSIONS = 8

# By TensorFlow's number of the type: how the bytes of `tensor_content` are stored, and the field of single
# values. Constants of other types, such as text, are not weights.
_TYPES: dict[int, tuple[str, str]] = {
    1: ("<f4", "float_val"),
    2: ("<f8", "double_val"),
    3: ("<i4", "int_val"),
    4: ("<u1", "int_val"),
    5: ("<i2", "int_val"),
    6: ("<i1", "int_val"),
    9: ("<i8", "int64_val"),
    10: ("|b1", "bool_val"),
    14: ("<u2", "half_val"),  # bfloat16: the upper half of a float32
    19: ("<f2", "half_val"),
}
_BFLOAT16, _HALF = 14, 19


def read(path: Path) -> dict[str, Tensor]:
    """Read the numeric constants of a frozen graph by name; bfloat16 becomes float32.

    Raises:
        UserError: if the file is damaged, too large or not a frozen graph, or the archive contains no graph,
            several, a link in place of one, or paths that lead out of it.
    """
    try:
        content = _from_archive(path) if path.suffix != ".pb" else _from_file(path)
    except UserError:
        raise
    except Exception as error:  # gzip, zlib and tarfile raise many different classes
        raise UserError(f"{path}: damaged, or not a tar archive ({_reason(error)})") from None
    return dict(_constants(content, path))


def _from_file(path: Path) -> bytes:
    with open(path, "rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise _too_large(path)
    return content


class _Unpacked:
    """A file that ends in an error after too many bytes: a gzip of zeros grows a thousandfold."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self.file, self.path, self.left = file, path, _MOST_UNPACKED

    def read(self, size: int) -> bytes:
        content = self.file.read(size)
        self.left -= len(content)
        if self.left < 0:
            raise UserError(f"{self.path}: expands to more than {_MOST_UNPACKED} bytes; download it again")
        return content


def _from_archive(path: Path) -> bytes:
    """The bytes of the only graph in a tar archive, or of the one with the authors' name."""
    graphs: dict[str, bytes] = {}
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        stream: Any = gzip.GzipFile(fileobj=file) if packed else file
        unpacked: Any = _Unpacked(stream, path)
        with tarfile.open(fileobj=unpacked, mode="r|") as archive:
            for number, member in enumerate(archive):
                if number >= _MOST_MEMBERS:
                    raise UserError(f"{path}: more than {_MOST_MEMBERS} files; not an archive of weights")
                if not _is_graph(member, path):
                    continue
                if member.size + sum(map(len, graphs.values())) > MOST_BYTES:
                    raise _too_large(path)
                content = archive.extractfile(member)
                assert content is not None
                graphs[member.name] = content.read()
        while unpacked.read(1 << 20):
            pass  # to its end, where gzip checks a sum of the content
    named = [name for name in graphs if PurePosixPath(name).name == GRAPH]
    chosen = named if len(named) == 1 else list(graphs)
    if len(chosen) == 1:
        return graphs[chosen[0]]
    found = f"several: {', '.join(chosen[:4])}" if chosen else "none"
    raise UserError(f"{path}: must contain one frozen graph (.pb), but contains {found}")


def _is_graph(member: tarfile.TarInfo, path: Path) -> bool:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise UserError(f"{path}: contains the path {member.name!r}, which leads out of it")
    other = name.name == "saved_model.pb" or name.name.startswith("._")  # ._: attributes from macOS
    if name.suffix != ".pb" or other or member.isdir():
        return False
    if not member.isreg() or member.issparse():
        raise UserError(f"{path}: {member.name} is not a regular file in the archive")
    return True


def _constants(content: bytes, path: Path) -> Iterator[tuple[str, Tensor]]:
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.graph_pb2 import GraphDef  # takes a moment; only for these files

    graph = GraphDef()
    try:
        graph.ParseFromString(content)
    except (DecodeError, RecursionError) as error:
        raise UserError(f"{path}: damaged, or not a frozen TensorFlow graph ({_reason(error)})") from None
    names: set[str] = set()
    left = MOST_BYTES
    for node in graph.node:
        if node.name in names:
            raise UserError(f"{path}: not a valid graph: two nodes are named {node.name[:80]!r}")
        names.add(node.name)
        if node.op != "Const":
            continue
        tensor = node.attr["value"].tensor
        if tensor.dtype not in _TYPES:
            continue
        try:
            array = _array(tensor, most_bytes=left)
        except ValueError as error:
            raise UserError(f"{path}: constant {node.name[:80]!r}: {error}") from None
        left -= array.nbytes
        yield node.name, torch.from_numpy(array)
    if left == MOST_BYTES:
        raise UserError(f"{path}: contains no constants: not a frozen TensorFlow graph")


def _array(tensor: Any, *, most_bytes: int) -> NDArray[Any]:
    """A TensorProto's values. Raises: ValueError if they do not match the shape, or are too many."""
    stored, field = _TYPES[tensor.dtype]
    shape = [dimension.size for dimension in tensor.tensor_shape.dim]
    if tensor.tensor_shape.unknown_rank or len(shape) > _MOST_DIMENSIONS or min(shape, default=0) < 0:
        raise ValueError(f"a constant cannot have the shape {shape[: _MOST_DIMENSIONS + 1]}")
    count, size = math.prod(shape), np.dtype(stored).itemsize
    if count * (4 if tensor.dtype == _BFLOAT16 else size) > most_bytes:
        raise ValueError(f"shape {shape} is too large for the weights of a network")
    if tensor.tensor_content:
        if len(tensor.tensor_content) != count * size:
            raise ValueError(
                f"{len(tensor.tensor_content)} bytes for the shape {shape} of {size}-byte values"
            )
        values = np.frombuffer(tensor.tensor_content, stored)
    else:
        values = _single_values(getattr(tensor, field), count, tensor.dtype)
    values = values.reshape(shape)
    if tensor.dtype == _BFLOAT16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.dtype(stored).newbyteorder("="))  # a copy, which torch can write to


def _single_values(field: Any, count: int, dtype: int) -> NDArray[Any]:
    """`count` values from a list that can be shorter: the last one is repeated, and no value means zeros."""
    if len(field) > count:
        raise ValueError(f"{len(field)} values for {count} elements")
    stored = np.dtype("<u2" if dtype == _HALF else _TYPES[dtype][0])
    try:
        given = np.fromiter(field, dtype=stored, count=len(field))
    except OverflowError:
        raise ValueError(f"a value does not fit its type, {stored.name}") from None
    values = np.full(count, given[-1] if len(given) else 0, dtype=stored)
    values[: len(given)] = given
    return values.view("<f2") if dtype == _HALF else values


def _too_large(path: Path) -> UserError:
    return UserError(f"{path}: the graph has more than {MOST_BYTES} bytes; not the weights of a MobileNet")


def _reason(error: Exception) -> str:
    """The first line of a library's message."""
    return next(iter(str(error).splitlines()), "")[:120] or type(error).__name__
