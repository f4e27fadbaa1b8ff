"""The file of `data.exclude`."""

import pytest

from engine.data.exclude import read_excluded, write_excluded
from engine.errors import UserError


def test_what_is_written_is_read_and_plain_lists_as_well(tmp_path):
    path = tmp_path / "exclude.json"
    write_excluded(path, {"train": {"b/1": "wrong mask"}, "val": {}})
    assert read_excluded(path) == {"train": {"b/1": "wrong mask"}}
    path.write_text('{"val": ["x", "y"]}')
    assert read_excluded(path) == {"val": {"x": "", "y": ""}}


@pytest.mark.parametrize(
    ("text", "message"),
    [("[1]", "must look like"), ('{"train": "x"}', "must look like"), ("{", "not valid JSON")],
)
def test_other_files_are_refused_by_name(tmp_path, text, message):
    path = tmp_path / "exclude.json"
    path.write_text(text)
    with pytest.raises(UserError, match=f"data.exclude={path}: {message}"):
        read_excluded(path)
    with pytest.raises(UserError, match=r"missing\.json: cannot be read"):
        read_excluded(tmp_path / "missing.json")
