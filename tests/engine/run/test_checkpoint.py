"""Checkpoints are written atomically, verified, and never execute code."""

import errno
import io
import os
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from engine.errors import UserError
from engine.run import checkpoint

TENSORS = {
    "model/weight": torch.arange(24, dtype=torch.float32).reshape(1, 2, 3, 4),
    "model/scalar": torch.tensor(3),
    "model/empty": torch.zeros(0, 2),
    "ema/half": torch.ones(3, dtype=torch.bfloat16),
    "ema/flags": torch.tensor([True, False]),
}
METADATA = {"format": 1, "state": {"step": 7, "best": float("nan")}, "text": "ü"}


def test_round_trip(tmp_path):
    path = tmp_path / "deep" / "last.safetensors"
    channels_last = {**TENSORS, "model/weight": TENSORS["model/weight"].to(memory_format=torch.channels_last)}
    checkpoint.write(path, channels_last, METADATA)
    tensors, metadata = checkpoint.read(path)
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor)
        assert tensors[name].dtype == tensor.dtype
    assert metadata["state"]["step"] == 7
    assert metadata["state"]["best"] != metadata["state"]["best"]
    assert [file.name for file in path.parent.iterdir()] == ["last.safetensors"]


def test_equal_contents_give_identical_files(tmp_path):
    files = [tmp_path / f"{number}.safetensors" for number in range(6)]
    for file in files:
        checkpoint.write(file, TENSORS, METADATA)
    assert len({file.read_bytes() for file in files}) == 1


def written_twice(folder):
    path = folder / "last.safetensors"
    for step in (1, 2):
        checkpoint.write(path, {"model/weight": torch.full((50,), float(step))}, {"step": step})
    return path


def test_the_previous_checkpoint_is_kept(tmp_path):
    path = written_twice(tmp_path)
    assert checkpoint.read(path)[1] == {"step": 2}
    assert checkpoint.read(checkpoint.previous(path))[1] == {"step": 1}


def flip_a_bit(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


OTHER_STEP = rb'"step\\\": 2', rb'"step\\\": 9'  # In JSON in JSON.


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: flip_a_bit(path, -3), "do not match their hash"),
        (lambda path: path.write_bytes(path.read_bytes().replace(*OTHER_STEP)), "hash"),
        (lambda path: path.write_bytes(path.read_bytes()[:-20]), "damaged"),
        (lambda path: path.write_bytes(b""), "damaged"),
        (lambda path: path.write_bytes(b"\xff" * 400), "damaged"),
        (lambda path: path.unlink(), "no such checkpoint"),
        (lambda path: save_file({"a": torch.ones(1)}, path), "not a checkpoint of this project"),
    ],
)  # fmt: skip
def test_damage_is_detected_and_the_previous_checkpoint_is_read(tmp_path, damage, reason):
    path = written_twice(tmp_path)
    before = path.read_bytes()
    damage(path)
    assert not path.exists() or path.read_bytes() != before
    with pytest.raises(UserError, match=reason):
        checkpoint.read(path)
    _, metadata, message = checkpoint.read_latest(path)
    assert metadata == {"step": 1}
    assert reason in message
    assert message.endswith("continuing from last.previous.safetensors")


def test_a_checkpoint_without_permission_is_not_called_missing(tmp_path, monkeypatch):
    def denied(path, mode):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    path = written_twice(tmp_path)
    monkeypatch.setattr(checkpoint, "open", denied, raising=False)  # root may read every file
    with pytest.raises(UserError, match=r"last\.safetensors: cannot be read \(Permission denied\)"):
        checkpoint.read(path)


def test_without_a_previous_checkpoint_damage_is_an_error(tmp_path):
    path = written_twice(tmp_path)
    checkpoint.previous(path).unlink()
    flip_a_bit(path, -1)
    with pytest.raises(UserError, match=f"{path}: .*hash"):
        checkpoint.read_latest(path)


def test_a_damaged_file_does_not_replace_the_previous_checkpoint(tmp_path):
    path = written_twice(tmp_path)
    flip_a_bit(path, -1)
    checkpoint.mark_damaged(path)
    checkpoint.write(path, {}, {"step": 3})
    assert checkpoint.read(checkpoint.previous(path))[1] == {"step": 1}
    assert (tmp_path / "last.damaged.safetensors").exists()


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_a_full_disk_leaves_existing_files_unchanged(tmp_path, monkeypatch, call):
    path = written_twice(tmp_path)

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(*(("builtins.open", full) if call == "open" else (os, call, full)))
        with pytest.raises(UserError) as caught:
            checkpoint.write(path, TENSORS, {"step": 3})
    assert str(caught.value) == (
        f"{path}: cannot write the checkpoint (No space left on device); free some space and resume"
    )
    assert checkpoint.read(path)[1] == {"step": 2}
    assert checkpoint.read(checkpoint.previous(path))[1] == {"step": 1}
    assert len(list(tmp_path.iterdir())) == 2


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def legacy_torch(bomb):
    buffer = io.BytesIO()
    torch.save({"weight": bomb}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def zipped_torch(bomb):
    buffer = io.BytesIO()
    torch.save({"weight": bomb}, buffer)
    return buffer.getvalue()


def zipped_pickle(bomb):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(bomb))
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


@pytest.mark.parametrize("pack", [pickle.dumps, legacy_torch, zipped_torch, zipped_pickle])
@pytest.mark.parametrize(
    "name", ["weights.pth", "weights.pt", "weights.safetensors", "weights.bin", "weights"]
)
def test_a_malicious_pickle_is_never_executed(tmp_path, pack, name):
    marker, path = tmp_path / "executed", tmp_path / name
    content = pack(Bomb(marker))
    path.write_bytes(content)
    with pytest.raises(UserError, match=str(path)) as caught:
        checkpoint.read_weights(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=str(path)):
        checkpoint.read(path)
    assert not marker.exists()


def test_the_malicious_pickle_would_work(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "executed"))).close()
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("key", [None, "state_dict", "model"])
def test_weights_of_other_libraries_are_read(tmp_path, key):
    state = {"weight": torch.ones(2)}
    torch.save({key: state, "epoch": 3} if key else state, tmp_path / "a.pth")
    assert checkpoint.read_weights(tmp_path / "a.pth")["weight"].tolist() == [1, 1]
    save_file(state, tmp_path / "a.safetensors")
    assert checkpoint.read_weights(tmp_path / "a.safetensors")["weight"].tolist() == [1, 1]


def test_files_without_weights_are_rejected(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match=r"list\.pth: not a state dict"):
        checkpoint.read_weights(tmp_path / "list.pth")
    with pytest.raises(UserError, match=r"none\.pth: no such weight file"):
        checkpoint.read_weights(tmp_path / "none.pth")


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def test_load_strict_lists_the_differences():
    state = network().state_dict()
    state["2.extra"] = state.pop("0.bias")
    state["1.weight"] = torch.zeros(5, 4)
    with pytest.raises(UserError) as caught:
        checkpoint.load_strict(network(), state)
    message = str(caught.value)
    assert "not in the file: 0.bias" in message
    assert "not in the model: 2.extra" in message
    assert "different shapes: 1.weight (5, 4) instead of (2, 4)" in message


def test_load_strict_changes_nothing_if_it_fails():
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError):
        checkpoint.load_strict(model, {"0.weight": torch.zeros(4, 3)})
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_load_strict_ignores_skipped_and_resized_tensors():
    model, state = network(), network().state_dict()
    state["1.weight"], state["1.bias"] = torch.zeros(5, 4), torch.zeros(5)
    state["junk"] = torch.zeros(1)
    before = model.state_dict()["1.weight"].clone()
    report = checkpoint.load_strict(model, state, skip=["junk"], resized=["1.*"])
    assert torch.equal(model.state_dict()["0.weight"], state["0.weight"])
    assert torch.equal(model.state_dict()["1.weight"], before)
    assert report.loaded == ["0.bias", "0.weight"]
    assert report.new == ["1.bias", "1.weight"]
    assert str(report).startswith("2 tensors loaded, 3 skipped, 2 new")
