"""Loads a page in headless Chromium and tells what a user of it would see."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@dataclass(frozen=True)
class Loaded:
    """console: its messages; requests: addresses on the network that the page asked for; charts: the
    `data-points` of its charts; text: the document after loading."""

    console: list[str]
    requests: list[str]
    charts: list[int]
    text: str


def load(page: Path, folder: Path) -> Loaded:
    """Load a page; the test is skipped if no browser is installed. `folder`: for temporary files."""
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser is None:
        pytest.skip("no Chromium or Chrome is installed")
    net_log = folder / "net.json"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    options += [f"--log-net-log={net_log}", f"--user-data-dir={folder / 'profile'}"]
    options += ["--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1200,1000"]
    done = subprocess.run(
        [browser, *options, page.resolve().as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return Loaded(
        console=[line for line in done.stderr.splitlines() if ":CONSOLE" in line],
        requests=_requests(net_log),
        charts=[int(points) for points in re.findall(r'class="chart" data-points="(\d+)"', done.stdout)],
        text=done.stdout,
    )


def check_report(page: Path, folder: Path, *, sections: tuple[str, ...], charts: int) -> Loaded:
    """Load a report, and check that it is complete: sections, at least `charts` charts, all with data."""
    loaded = load(page, folder)
    assert loaded.console == []
    assert loaded.requests == []
    assert len(loaded.charts) >= charts
    assert min(loaded.charts) > 0
    for section in sections:
        assert f">{section}</h2>" in loaded.text
    return loaded


def _requests(net_log: Path) -> list[str]:
    """The addresses that the page asked for; the browser's own requests have no origin."""
    text = net_log.read_text(encoding="utf-8")
    try:
        events = json.loads(text)["events"]
    except ValueError:  # the browser ended before it closed the list
        events = json.loads(text.rstrip().rstrip(",") + "]}")["events"]
    calls = [event["params"] for event in events if isinstance(event.get("params"), dict)]
    return [
        call["url"]
        for call in calls
        if call.get("initiator", "not an origin") != "not an origin" and call["url"].startswith("http")
    ]
