"""The documentation site builds strictly; its pages, images and generated pages are complete."""

import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from tests.docs import reference_pages
from tests.docs.documented import PAGES, ROOT

DOCS = ROOT / "docs"
MAX_FILES = 12


def in_navigation(node):
    """The pages that the navigation of mkdocs.yml lists."""
    if isinstance(node, str):
        return [node]
    return [
        page for item in (node if isinstance(node, list) else node.values()) for page in in_navigation(item)
    ]


def test_the_site_builds_strictly(tmp_path):
    """A broken link or anchor, or a name in the API reference that does not exist, fails the build."""
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert config["strict"] is True
    (handler,) = (plugin["mkdocstrings"] for plugin in config["plugins"] if "mkdocstrings" in plugin)
    handler["handlers"]["python"]["paths"] = [str(ROOT)]
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    shutil.copytree(DOCS, tmp_path / "docs")
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict", "--clean"],
        cwd=tmp_path,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    index = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    external = re.findall(r'(?:src|<link[^>]*href)="(https?://[^"]+)"', index)
    assert not external, "pages load nothing from elsewhere"


def test_every_page_is_in_the_navigation():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    assert set(in_navigation(config["nav"])) == pages


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_and_images_exist(page):
    """Also those of README.md, CONTRIBUTING.md and CHANGELOG.md, which are not part of the site."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_says_a_line_twice(page):
    """A paragraph pasted over another one: use-exported-files.md once lost what run.py prints that way."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = [line for line in text.splitlines() if len(line) > 60 and not line.startswith("|")]
    assert not [line for line in set(lines) if lines.count(line) > 1]


def test_pages_named_in_code_and_configuration_exist():
    named = set()
    packages = ("engine", "backbones", "seg", "det", "cls", "deploy", "nas", "doctor", "streets")
    for folder in (*packages, "tools", "conf"):
        for path in [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.yaml")]:
            named |= set(re.findall(r"docs/[\w/-]+\.md", path.read_text(encoding="utf-8")))
    assert named
    assert not [page for page in named if not (ROOT / page).is_file()]


def test_every_image_is_used():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    unused = [path.name for path in (DOCS / "images").iterdir() if f"images/{path.name}" not in text]
    assert not unused


def test_no_folder_has_too_many_files():
    folders = [DOCS, *(path for path in DOCS.rglob("*") if path.is_dir())]
    crowded = [str(folder) for folder in folders if len(list(folder.iterdir())) > MAX_FILES]
    assert not crowded


def test_the_reference_is_up_to_date():
    """Run `python -m tests.docs.reference_pages` if this fails."""
    assert reference_pages.COMMAND_LINE.read_text(encoding="utf-8") == reference_pages.command_line()
    assert reference_pages.MODELS.read_text(encoding="utf-8") == reference_pages.models()
    assert (
        reference_pages.CONFIGURATION_KEYS.read_text(encoding="utf-8") == reference_pages.configuration_keys()
    )


def test_keys_in_a_list_are_told_apart(tmp_path):
    """Once, the keys of both entries had the same name, and no name that could be typed."""
    file = tmp_path / "x.yaml"
    file.write_text(
        "defaults:\n  - _self_\n  - task: seg\n"
        "own:  # two\n  - _target_: X\n    task: seg\n    networks:\n      a: [1]\n"
        "  - task: det\n    networks:\n      b: [2]\n    size: 3  # last\nend: 4\n"
    )
    assert reference_pages.keys_of(file) == [
        ("own", "", "two"),
        ("own.0._target_", "X", ""),
        ("own.0.task", "seg", ""),
        ("own.0.networks.a", "[1]", ""),
        ("own.1.task", "det", ""),
        ("own.1.networks.b", "[2]", ""),
        ("own.1.size", "3", "last"),
        ("end", "4", ""),
    ]


def test_no_table_of_the_reference_lists_a_key_twice():
    for path in (reference_pages.COMMAND_LINE, reference_pages.CONFIGURATION_KEYS):
        for section in re.split(r"^##.*$", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
            keys = re.findall(r"^\| `([\w.]+)` \|", section, re.MULTILINE)
            assert len(keys) == len(set(keys)), section
