"""What was read of a file is remembered by its content, so a check that was interrupted continues."""

import os
from pathlib import Path

import pytest

from doctor.check import cache as module
from doctor.check.cache import FactCache
from engine.errors import UserError


class Reader:
    """Returns a file's bytes in upper case, and records which files it read."""

    def __init__(self, stop_at=None):
        self.read, self.stop_at = [], stop_at

    def __call__(self, path):
        if os.path.basename(path) == self.stop_at:
            raise KeyboardInterrupt
        self.read.append(os.path.basename(path))
        text = bytes_of(path)
        if text == b"bad":
            raise UserError(f"{path}: bad; remove it")
        return text.upper()


def facts(folder, file, reader, key="k", workers=0):
    cache = FactCache(file, workers=workers)
    paths = [os.fsencode(path) for path in sorted(folder.iterdir())]
    try:
        return {
            os.fsdecode(paths[index]): fact for index, fact in cache.read(paths, reader, key=key, unit="file")
        }
    finally:
        cache.close()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    for name in "abcd":
        (folder / name).write_text(f"text of {name}")
    return folder


def test_an_interrupted_reading_continues_where_it_stopped(folder, tmp_path):
    first = Reader(stop_at="c")
    with pytest.raises(KeyboardInterrupt):
        facts(folder, tmp_path / "db", first)
    second = Reader()
    values = facts(folder, tmp_path / "db", second)
    assert (first.read, second.read) == (["a", "b"], ["c", "d"])
    assert [fact.value for fact in values.values()].count(b"TEXT OF A") == 1
    assert len(values) == 4


def test_only_changed_files_are_read_again_and_moved_ones_are_not(folder, tmp_path):
    facts(folder, tmp_path / "db", Reader())
    (folder / "b").write_text("new text of b")
    (folder / "c").rename(folder / "e")  # a file that is known by its content
    reader = Reader()
    values = facts(folder, tmp_path / "db", reader)
    assert reader.read == ["b"]
    assert values[str(folder / "b")].value == b"NEW TEXT OF B"
    assert values[str(folder / "e")].value == b"TEXT OF C"


def test_other_settings_read_again(folder, tmp_path):
    facts(folder, tmp_path / "db", Reader())
    reader = Reader()
    facts(folder, tmp_path / "db", reader, key="other")
    assert reader.read == ["a", "b", "c", "d"]


def test_another_limit_of_the_size_reads_again(folder, tmp_path, monkeypatch):
    """data.max_megapixels was set as the check had advised, and the check found the same error again."""
    facts(folder, tmp_path / "db", Reader())
    monkeypatch.setattr("engine.data.images.reading.MAX_PIXELS", 7)
    reader = Reader()
    facts(folder, tmp_path / "db", reader)
    assert reader.read == ["a", "b", "c", "d"]


def test_errors_are_remembered_and_name_the_file_that_is_read_now(folder, tmp_path):
    (folder / "b").write_text("bad")
    facts(folder, tmp_path / "db", Reader())
    (folder / "b").rename(folder / "z")
    reader = Reader()
    fact = facts(folder, tmp_path / "db", reader)[str(folder / "z")]
    assert (fact.error, fact.kind, reader.read) == (f"{folder / 'z'}: bad; remove it", "UserError", [])


def test_a_missing_file_is_an_error_and_not_remembered(folder, tmp_path):
    (folder / "b").unlink()
    (folder / "b").symlink_to("nowhere")
    fact = facts(folder, tmp_path / "db", Reader())[str(folder / "b")]
    assert (fact.kind, fact.content) == ("MissingFile", b"")


def test_processes_read_and_share_what_is_known(folder, tmp_path):
    values = facts(folder, tmp_path / "db", bytes_of, workers=2)
    assert [values[str(folder / name)].value for name in "abcd"] == [f"text of {n}".encode() for n in "abcd"]
    reader = Reader()
    facts(folder, tmp_path / "db", reader)
    assert reader.read == []


def bytes_of(path):
    return Path(path).read_bytes()


def test_a_damaged_cache_is_an_error_that_names_it(tmp_path):
    (tmp_path / "db").write_bytes(b"not a database" * 100)
    with pytest.raises(UserError, match=r"db: not a readable cache .*; delete it"):
        FactCache(tmp_path / "db")


def test_without_a_cache_folder_a_temporary_one_is_used(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    file = module.facts_file()
    assert file.parent.is_dir()
    assert not str(file).startswith(str(tmp_path))
