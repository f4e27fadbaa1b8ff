"""What every test runs under: no network call on import, one thread, real data only where there is some."""

import gc
import os
import signal
from pathlib import Path

import pytest

# Both are read when a library is first imported, here and in the processes that tests start.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")


def _data_folder() -> Path | None:
    named = os.environ.get("MOBILENET_DATA")
    if not named:
        return None
    folder = Path(named).resolve()
    if not folder.is_dir():  # a mistyped path must not pass as skipped tests
        raise pytest.UsageError(f"MOBILENET_DATA={named}: no such folder")
    return folder


def pytest_configure() -> None:
    _data_folder()
    # Shells start background jobs with Ctrl-C ignored, and so would be the processes that tests interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionstart() -> None:
    # The first backward pass of a process starts a thread for each accelerator. FakeTensorMode (torch.export)
    # feigns one where there is none, and a process with such threads cannot be forked: be first.
    import torch

    torch.ones(1, requires_grad=True).backward()


def pytest_collection_finish() -> None:
    # Imported libraries never become garbage; looking through them again and again takes a tenth of the time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("data") and _data_folder() is None:
        pytest.skip("needs real data: set MOBILENET_DATA to its folder")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data and weights that MOBILENET_DATA names; for tests marked `data`."""
    folder = _data_folder()
    if folder is None:
        pytest.skip("needs real data: set MOBILENET_DATA to its folder")
    return folder
