"""The comment at the top of every experiment gives the source of its numbers and the results of its run."""

import re

import pytest
import yaml

from tests.docs.documented import EXPERIMENTS, HEADER_FIELDS, ROOT, header, split_line


def name_of(path):
    """The experiment as it is typed: its task and its name, without the folder between them."""
    return f"{path.relative_to(ROOT / 'conf' / 'experiment').parts[0]}/{path.stem}"


CONTENTS = {path: yaml.safe_load(path.read_text(encoding="utf-8")) for path in EXPERIMENTS}
ROWS = [path for path in EXPERIMENTS if CONTENTS[path].get("paper")]
METRICS = ("miou", "map", "top1")


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name_of)
def test_the_header_has_all_six_fields_in_order(path):
    fields = header(path)
    assert tuple(fields) == HEADER_FIELDS
    assert all(fields.values()), [name for name, text in fields.items() if not text]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name_of)
def test_the_command_is_that_of_this_experiment(path):
    """Whether it composes is tested with all other commands, in test_commands.py."""
    (command,) = split_line(header(path)["Command"], str(path))
    assert command.words[:2] in (("python", "tools/train.py"), ("python", "tools/prepare.py"))
    assert f"experiment={name_of(path)}" in command.words


@pytest.mark.parametrize("path", ROWS, ids=name_of)
def test_the_paper_field_repeats_the_paper_block(path):
    paper, text = CONTENTS[path]["paper"], header(path)["Paper"]
    row = f"row {paper['row']}" if isinstance(paper["row"], int) else paper["row"]
    assert text.startswith(f"Table {paper['table']}, {row}: ")
    (metric,) = (name for name in METRICS if name in paper)
    if paper[metric] is None:
        assert f"no {'mIoU' if metric == 'miou' else metric} printed" in text
    else:
        assert float(paper[metric]) in numbers(text)
        assert float(paper[metric]) in numbers(header(path)["Expected"])
    assert "params_m" not in paper or f"{paper['params_m']}M parameters" in text


@pytest.mark.parametrize("path", [path for path in EXPERIMENTS if path not in ROWS], ids=name_of)
def test_an_experiment_without_a_paper_block_claims_no_row_of_its_own(path):
    inherits = any(
        isinstance(entry, str) and entry.startswith("/experiment/") for entry in CONTENTS[path]["defaults"]
    )
    assert header(path)["Paper"].startswith("none") or inherits


def test_there_are_rows_of_every_table():
    assert {CONTENTS[path]["paper"]["table"] for path in ROWS} == {3, 5, 6, 7, 8, 9}


def numbers(text):
    return {float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)}
