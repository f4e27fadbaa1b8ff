import json

import pytest

from engine.errors import UserError
from nas.history import History

WHO = {"run": "runs/a", "seed": 0}


def test_rows_come_back(tmp_path):
    path = tmp_path / "new" / "history.jsonl"
    first = History(path, identity=WHO)
    assert not first.resumed
    first.append(kind="trial", step=1, number=0, metric=0.5)
    first.append(kind="trial", step=1, number=1, metric=0.6)
    first.append(kind="step", step=1, metric=0.6)
    again = History(path, identity=WHO)
    assert again.resumed
    assert again.rows == first.rows
    assert again.find(kind="trial", number=1)["metric"] == 0.6
    assert again.find(kind="trial", number=2) is None
    assert [row["number"] for row in again.all("trial")] == [0, 1]


def test_the_last_of_several_rows_counts(tmp_path):
    history = History(tmp_path / "h.jsonl", identity=WHO)
    history.append(kind="seed", metric=0.1)
    history.append(kind="seed", metric=0.2)
    assert history.find(kind="seed")["metric"] == 0.2


@pytest.mark.parametrize("rest", ['{"kind": "trial", "st', "no json\n", "[1, 2]\n", '{"kind": "trial"}'])
def test_what_a_kill_cut_off_is_dropped(tmp_path, rest):
    path = tmp_path / "h.jsonl"
    History(path, identity=WHO).append(kind="trial", step=1)
    whole = path.read_text()
    path.write_text(whole + rest)
    assert History(path, identity=WHO).rows == [{"kind": "trial", "step": 1}]
    assert path.read_text() == whole


@pytest.mark.parametrize("line", [0, 1])
def test_trials_behind_a_damaged_line_are_not_thrown_away(tmp_path, line):
    path = tmp_path / "h.jsonl"
    history = History(path, identity=WHO)
    for step in range(3):
        history.append(kind="trial", step=step)
    lines = path.read_text().splitlines()
    lines[line] = '{"kind": "tri@@'
    path.write_text(damaged := "\n".join(lines) + "\n")
    with pytest.raises(UserError, match=f"line {line + 1} is damaged"):
        History(path, identity=WHO)
    assert path.read_text() == damaged


def test_another_search_does_not_go_on_here(tmp_path):
    path = tmp_path / "h.jsonl"
    History(path, identity=WHO)
    with pytest.raises(UserError, match="belongs to a search with seed=0, not 1; choose another out="):
        History(path, identity={**WHO, "seed": 1})


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another out="):
        History(tmp_path / "file" / "h.jsonl", identity=WHO)


def test_a_row_is_on_the_disk_when_append_returns(tmp_path):
    path = tmp_path / "h.jsonl"
    history = History(path, identity=WHO)
    assert history.append(kind="trial", unit=("a", 1)) == {"kind": "trial", "unit": ["a", 1]}
    assert json.loads(path.read_text().splitlines()[-1]) == history.rows[-1]
