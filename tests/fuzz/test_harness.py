"""The harness notices what it is there to notice."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st

from engine.errors import UserError
from tests.fuzz.harness import damaged, fuzzed, outcome


def run(body, folder, monkeypatch, strategy=None):
    fuzzed(strategy or st.just(0), examples=2)(body)(2, folder, monkeypatch)


def refuse(text):
    raise UserError(text)


def test_only_one_line_that_names_the_file_passes():
    assert outcome(lambda: 3, "a.png") == 3
    assert outcome(lambda: refuse("a.png: broken"), "a.png") is None
    for text in ("broken", "b.png: broken"):
        with pytest.raises(AssertionError):
            outcome(lambda text=text: refuse(text), "a.png")
    with pytest.raises(ZeroDivisionError):
        outcome(lambda: 1 / 0, "")


def test_files_that_are_made_elsewhere_are_noticed(tmp_path, monkeypatch):
    run(lambda folder, _: (folder / "a").touch(), tmp_path / "inside", monkeypatch)
    for name, place in {"working": "b", "beside": "../b"}.items():
        with pytest.raises(AssertionError):
            run(lambda folder, _, place=place: Path(place).touch(), tmp_path / name, monkeypatch)


def test_too_much_memory_is_noticed(tmp_path, monkeypatch):
    with pytest.raises(MemoryError):
        run(lambda folder, _: np.zeros(4 << 30, np.uint8), tmp_path, monkeypatch)


def test_damage_is_done_and_is_the_same_each_time(tmp_path, monkeypatch):
    seen = []
    for number in range(2):
        found = []
        body = lambda folder, data, found=found: found.append(data)  # noqa: E731
        (tmp_path / str(number)).mkdir()
        fuzzed(damaged([b"picture" * 20]), examples=50)(body)(50, tmp_path / str(number), monkeypatch)
        seen.append(found)
    assert seen[0] == seen[1]
    assert len({bytes(data) for data in seen[0]} - {b"picture" * 20}) > 30
