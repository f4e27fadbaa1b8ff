"""Caches of a user without a home folder, as in a container with a foreign user id."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SHOW = """
import os, sys, tempfile
from engine.io import files
from streets.files import cache
if len(sys.argv) > 1:
    os.setuid(int(sys.argv[1]))  # later, the modules may be out of reach
import engine.environment
print(files.user_cache(), cache.cache_folder((1, 1, 0), (32, 32), 0), os.environ.get("MPLCONFIGDIR"))
"""
FOREIGN = 54321  # a user id without an entry in /etc/passwd


def show(tmp_path, *arguments, **environment):
    """The lines on stderr, and the folders of all caches (torch's follow $XDG_CACHE_HOME)."""
    base = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-B", "-c", SHOW, *arguments]
    done = subprocess.run(command, env={**base, **environment}, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines(), done.stdout.split()


def check(tmp_path, lines, folders, user):
    cache = tmp_path / f"mobilenet-dense-{user}"
    assert lines == [f"no home folder: caches are in {cache}; set XDG_CACHE_HOME to keep them"]
    assert len(folders) == 3
    assert all(folder.startswith(str(cache)) for folder in folders), folders
    assert not (tmp_path / "~").exists()


def test_a_home_that_cannot_be_written_is_replaced_and_said_in_one_line(tmp_path):
    check(tmp_path, *show(tmp_path, HOME="/nonexistent"), os.getuid())


def test_a_folder_called_tilde_is_not_the_home_folder(tmp_path):
    (tmp_path / "sub/~").mkdir(parents=True)
    command = (
        "import os; os.path.expanduser = str; import engine.environment; print(os.environ['XDG_CACHE_HOME'])"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", command], env=environment, cwd=tmp_path / "sub", capture_output=True, text=True
    )
    assert done.stdout.strip() == str(tmp_path / f"mobilenet-dense-{os.getuid()}"), done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="only root can start a process of another user")
@pytest.mark.parametrize("home", [{}, {"HOME": "/"}])
def test_an_unknown_user_has_caches(home):
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to other users
        os.chmod(folder, 0o777)
        check(Path(folder), *show(Path(folder), str(FOREIGN), **home), FOREIGN)


def test_a_home_folder_is_used_silently(tmp_path):
    lines, folders = show(tmp_path, HOME=str(tmp_path))
    assert lines == []
    assert folders[0] == str(tmp_path / ".cache/mobilenet-dense")
    assert show(tmp_path, HOME="/", XDG_CACHE_HOME=str(tmp_path / "c"))[1][0] == str(
        tmp_path / "c/mobilenet-dense"
    )
