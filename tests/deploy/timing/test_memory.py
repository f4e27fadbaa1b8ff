"""Peak memory, measured in another process."""

import sys
from functools import partial

import pytest
import torch

from deploy.timing.memory import peak_mb
from tests.refusals import refuses


def allocating(megabytes):
    kept = torch.ones(megabytes, 2**18)  # float32: 4 bytes
    return lambda: kept + 1


def broken():
    raise RuntimeError("no such\nthing")


def killed():
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux", reason="other systems do not say how much memory a process holds"
)
def test_weights_and_activations_are_counted():
    assert peak_mb(partial(allocating, 100)) == pytest.approx(200, abs=30)


@pytest.mark.slow
def test_an_error_in_the_process_is_reported_in_one_line():
    refuses(lambda: peak_mb(broken), "RuntimeError: no such", "memory=false")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no signals")
def test_a_killed_process_is_reported():
    refuses(lambda: peak_mb(killed), "ended with status -9", "ran out of memory")
