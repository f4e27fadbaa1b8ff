"""The project's own description."""

import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def test_the_dev_extra_and_the_dev_group_are_the_same():
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))
    assert project["project"]["optional-dependencies"]["dev"] == project["dependency-groups"]["dev"]
