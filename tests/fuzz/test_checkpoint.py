"""Checkpoints and weight files with damaged headers, forged tables, hidden pickles: read, or one line."""

import gzip
import io
import json
import pickle
import struct
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st
from safetensors.torch import save

from engine.run import checkpoint, initial_weights
from tests.backbones.weights.tensorflow_graphs import frozen, write_released
from tests.fuzz.harness import damaged, fuzzed, outcome

TENSORS = {"model/a": torch.arange(6.0).reshape(2, 3), "ema/b": torch.ones(2, dtype=torch.bfloat16)}


def _written(metadata):
    text = json.dumps(metadata)
    entry = json.dumps({"sha256": checkpoint.digest(TENSORS, text), "metadata": text})
    return save(TENSORS, metadata={"checkpoint": entry})


OURS = _written({"state": {"step": 7}})
FOREIGN = save({"weight": torch.ones(3)})


def _saved(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


STATE = {"weight": torch.arange(4.0), "bias": torch.ones(1)}
TORCH = [_saved(STATE), _saved({"model": STATE}), _saved(STATE, _use_new_zipfile_serialization=False)]
EVERYTHING = [OURS, FOREIGN, *TORCH]


def read_all(folder, data, suffix="safetensors"):
    """Every reader of tensors on the same file."""
    path = folder / f"a.{suffix}"
    path.write_bytes(data)
    found = outcome(lambda: checkpoint.read(path), path)
    if found is not None:
        assert found[0].keys() == TENSORS.keys()  # the hash does not let anything else through
        assert all(torch.equal(found[0][name], tensor) for name, tensor in TENSORS.items())
    outcome(lambda: checkpoint.read_latest(path), path)
    outcome(lambda: checkpoint.inference_weights(path), path)
    step = checkpoint.step_of(path)
    assert step is None or type(step) is int
    weights = outcome(lambda: checkpoint.read_weights(path), path)
    for name, tensor in (weights or {}).items():
        assert isinstance(name, str)
        assert isinstance(tensor, torch.Tensor)
    outcome(lambda: initial_weights.read_state(path), path)
    assert [entry.name for entry in folder.iterdir()] == [path.name]
    path.unlink()


@fuzzed(st.tuples(damaged(EVERYTHING), st.sampled_from(["safetensors", "pth", "bin"])), examples=60)
def test_damaged_files(folder, example):
    read_all(folder, *example)


ARRAYS = {f"layer{number}/weights": np.full((3, 2), 1.5 + number, np.float32) for number in range(3)}
GRAPH = frozen(ARRAYS).SerializeToString()


def _archive():
    with tempfile.TemporaryDirectory() as folder:
        return write_released(Path(folder) / "net.tar.gz", ARRAYS).read_bytes()


ARCHIVE = _archive()
FORMS = {"pb": [GRAPH], "tgz": [ARCHIVE], "tar": [gzip.decompress(ARCHIVE)]}


GRAPHS = st.sampled_from(sorted(FORMS)).flatmap(lambda form: st.tuples(damaged(FORMS[form]), st.just(form)))


@fuzzed(GRAPHS, examples=60)
def test_damaged_frozen_graphs(folder, example):
    read_all(folder, *example)


NUMBERS = st.sampled_from([0, 1, 2, 3, 8, 24, 28, 32, 2**31, 2**40, 2**63, 2**64, -1, 1.5, None, "4", True])
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(
            ["F32", "BF16", "F64", "I64", "U8", "BOOL", "F8_E4M3", "F4", "C64", "X9", 3, None]
        ),
        "shape": st.lists(NUMBERS, max_size=3) | NUMBERS,
        "data_offsets": st.lists(NUMBERS, max_size=3) | NUMBERS,
    },
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def forged(draw):
    """A safetensors file whose header, or the length of it, is made up."""
    names = st.sampled_from(["a", "b", "model/a", "", "__metadata__", "é", "\x00", "a" * 300])
    table = draw(st.dictionaries(names, ENTRIES | JSON, max_size=4))
    if draw(st.booleans()):
        table["__metadata__"] = draw(
            st.dictionaries(st.just("checkpoint"), JSON.map(json.dumps), max_size=1) | JSON
        )
    header = json.dumps(table).encode()
    header = draw(st.sampled_from([header, header, header, b"[" * 5000, b'{"a":' * 5000, header + b" " * 9]))
    length = draw(st.sampled_from([len(header)] * 5 + [0, len(header) - 1, 2**30, 2**63, 2**64 - 1]))
    return struct.pack("<Q", length) + header + bytes(draw(st.sampled_from([0, 4, 24, 28, 32])))


@fuzzed(forged(), examples=80)
def test_forged_headers(folder, data):
    read_all(folder, data)


@fuzzed(JSON, examples=40)
def test_metadata_of_other_kinds_under_a_right_hash(folder, metadata):
    """The hash shows that nobody damaged the file, not that we wrote it."""
    path = folder / "a.safetensors"
    path.write_bytes(_written(metadata))
    outcome(lambda: checkpoint.read(path), path)
    step = checkpoint.step_of(path)
    assert step is None or type(step) is int
    path.write_bytes(_written({"state": metadata}))
    step = checkpoint.step_of(path)
    assert step is None or type(step) is int
    path.write_bytes(_written({"state": {"step": metadata}}))
    step = checkpoint.step_of(path)
    assert step is None or type(step) is int


class _Call:
    """A pickle of it calls `function` when it is loaded."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@st.composite
def hidden_pickle(draw):
    """A pickle that would make a file: alone, in a torch file, in a zip, inside of what is allowed."""
    call = draw(st.sampled_from([_Call(open, "executed", "w"), _Call(eval, "open('executed', 'w')")]))
    inside = {"model": {"a": torch.ones(1), "b": call}}
    nested = draw(st.sampled_from([call, {"weight": call}, [call], inside, {call: 1}]))
    protocol = draw(st.integers(0, 5))
    kind = draw(st.sampled_from(["plain", "torch", "legacy", "zip"]))
    if kind == "torch":
        return _saved(nested, pickle_protocol=max(protocol, 2))
    if kind == "legacy":
        return _saved(nested, pickle_protocol=max(protocol, 2), _use_new_zipfile_serialization=False)
    data = pickle.dumps(nested, protocol=protocol)
    if kind == "zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            prefix = draw(st.sampled_from(["archive/", "", "../"]))
            archive.writestr(prefix + draw(st.sampled_from(["data.pkl", "constants.pkl", "code/a.py"])), data)
            archive.writestr(prefix + "version", draw(st.sampled_from(["3\n", "-1", "x", "9" * 50])))
        return buffer.getvalue()
    return data


@fuzzed(st.tuples(hidden_pickle(), st.sampled_from(["pth", "pt", "safetensors", "npz"])), examples=60)
def test_hidden_pickles_are_never_run(folder, example):
    """The harness sees to it that the working folder stays empty."""
    read_all(folder, *example)


OPCODES = [
    b"\x80\x02", b"}", b"]", b"(", b")", b"K\x01", b"X\x01\0\0\0a", b"ctorch\nTensor\n",
    b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"R", b"\x81", b"b", b"s",
    b"u", b"e", b"q\0", b"h\0", b"h\7", b"\x85", b"\x86", b"0", b"2", b"Q", b"P0\n", b"J\xff\xff\xff\x7f",
    b"\x8a\xff", b"B\xff\xff\xff\x7f", b"T\xff\xff\xff\x7f", b"\x8e" + b"\xff" * 7 + b"\x7f",
    b"r\xff\xff\xff\xff", b".",
]  # fmt: skip


@fuzzed(
    st.tuples(st.lists(st.sampled_from(OPCODES), max_size=14), st.sampled_from(["raw", "zip"])), examples=100
)
def test_pickle_programs_at_random(folder, example):
    """torch's own reader of pickles is given nonsense, also such that claims to be of gigabytes."""
    program = b"".join([b"\x80\x02", *example[0], b"."])
    if example[1] == "zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("archive/data.pkl", program)
            archive.writestr("archive/byteorder", "little")
            archive.writestr("archive/version", "3\n")
        program = buffer.getvalue()
    read_all(folder, program, "pth")
