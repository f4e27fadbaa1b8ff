"""A search's history survives kills and cannot be used by another search."""

import json

import pytest

from engine.errors import UserError
from nas.history import SearchHistory

IDENTITY = {"run": "runs/a", "seed": 0}


def test_rows_are_read_back(tmp_path):
    path = tmp_path / "new" / "history.jsonl"
    first = SearchHistory(path, identity=IDENTITY)
    assert not first.resumes
    first.append(kind="trial", step=1, number=0, metric=0.5)
    first.append(kind="trial", step=1, number=1, metric=0.6)
    first.append(kind="step", step=1, metric=0.6)
    again = SearchHistory(path, identity=IDENTITY)
    assert again.resumes
    assert again.rows == first.rows
    assert again.last(kind="trial", number=1)["metric"] == 0.6
    assert again.last(kind="trial", number=2) is None
    assert [row["number"] for row in again.of_kind("trial")] == [0, 1]


def test_the_last_of_several_matching_rows_is_returned(tmp_path):
    history = SearchHistory(tmp_path / "h.jsonl", identity=IDENTITY)
    history.append(kind="seed", metric=0.1)
    history.append(kind="seed", metric=0.2)
    assert history.last(kind="seed")["metric"] == 0.2


@pytest.mark.parametrize("rest", ['{"kind": "trial", "st', "not JSON\n", "[1, 2]\n", '{"kind": "trial"}'])
def test_a_line_that_a_kill_cut_off_is_dropped(tmp_path, rest):
    path = tmp_path / "h.jsonl"
    SearchHistory(path, identity=IDENTITY).append(kind="trial", step=1)
    whole = path.read_text()
    path.write_text(whole + rest)
    assert SearchHistory(path, identity=IDENTITY).rows == [{"kind": "trial", "step": 1}]
    assert path.read_text() == whole


@pytest.mark.parametrize("line", [0, 1])
def test_trials_after_a_damaged_line_are_not_discarded(tmp_path, line):
    path = tmp_path / "h.jsonl"
    history = SearchHistory(path, identity=IDENTITY)
    for step in range(3):
        history.append(kind="trial", step=step)
    lines = path.read_text().splitlines()
    lines[line] = '{"kind": "tri@@'
    path.write_text(damaged := "\n".join(lines) + "\n")
    with pytest.raises(UserError, match=f"line {line + 1} is damaged"):
        SearchHistory(path, identity=IDENTITY)
    assert path.read_text() == damaged


def test_another_search_cannot_resume_from_it(tmp_path):
    path = tmp_path / "h.jsonl"
    SearchHistory(path, identity=IDENTITY)
    with pytest.raises(UserError, match="belongs to a search with seed=0, not 1; choose another out="):
        SearchHistory(path, identity={**IDENTITY, "seed": 1})


def test_a_file_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another out="):
        SearchHistory(tmp_path / "file" / "h.jsonl", identity=IDENTITY)


def test_a_row_is_on_the_disk_when_append_returns(tmp_path):
    path = tmp_path / "h.jsonl"
    history = SearchHistory(path, identity=IDENTITY)
    assert history.append(kind="trial", unit=("a", 1)) == {"kind": "trial", "unit": ["a", 1]}
    assert json.loads(path.read_text().splitlines()[-1]) == history.rows[-1]
