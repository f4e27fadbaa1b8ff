"""Atomic writes, locks, and lists of files."""

import errno
import json
import multiprocessing
import os
import signal
import sys
import time

import pytest

from engine.errors import UserError
from engine.io.files import (
    evenly_spaced,
    groups_of_same_content,
    locked,
    pack_paths,
    same_content,
    write_json,
)


def test_json_is_written_atomically(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    write_json(path, {"a": float("nan"), "b": [1, float("inf")], 3: "ü"})
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {"a": None, "b": [1, None], "3": "ü"}

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match=r"metrics\.json: cannot be written \(No space left"):
        write_json(path, {})
    assert "ü" in path.read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_a_lock_is_released_if_its_process_is_killed(tmp_path, capfd):
    fork = multiprocessing.get_context("fork")

    def hold(ready):
        with locked(tmp_path / "lock", waiting_for="nothing"):
            ready.set()
            time.sleep(60)

    ready = fork.Event()
    child = fork.Process(target=hold, args=(ready,))
    child.start()
    assert ready.wait(30)
    os.kill(child.pid, signal.SIGKILL)
    with locked(tmp_path / "lock", waiting_for="the other"):
        child.join(10)
    with locked(tmp_path / "lock", waiting_for="a free lock"):
        assert "a free lock" not in capfd.readouterr().out


def test_groups_of_files_with_the_same_content(tmp_path):
    contents = {"a": b"123", "b": b"456", "c": b"123", "d": b"4567", "e": b"456", "f": b"123"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    paths = [str(tmp_path / name) for name in [*contents, "none"]]
    groups = [[path[-1] for path in group] for group in groups_of_same_content(paths)]
    assert groups == [["a", "c", "f"], ["b", "e"]]


def test_files_with_the_same_content_are_found(tmp_path):
    for name, content in {"a": b"one", "b": b"two", "c": b"two", "d": b"longer"}.items():
        (tmp_path / name).write_bytes(content)
    a, b, c, d = ([str(tmp_path / name)] for name in "abcd")
    assert list(same_content(pack_paths(a + b), pack_paths(d + c))) == [(c[0], b[0])]
    assert list(same_content(pack_paths(a + d), pack_paths([*c, str(tmp_path / "none")]))) == []


def test_long_files_that_end_alike_are_different(tmp_path):
    for name, start in {"a": b"1", "b": b"2", "c": b"1"}.items():
        (tmp_path / name).write_bytes(start + bytes(5000))
    a, b, c = (str(tmp_path / name) for name in "abc")
    assert list(same_content(pack_paths([a, b]), pack_paths([c]))) == [(c, a)]
    assert groups_of_same_content([a, b, c]) == [[a, c]]


def test_indices_are_evenly_spaced():
    assert evenly_spaced(5, 10) == [0, 1, 2, 3, 4]
    assert evenly_spaced(2975, 3) == [0, 1487, 2974]
    assert evenly_spaced(1, 3) == [0]
