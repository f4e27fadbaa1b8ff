"""Run all engine tests in one thread, because results are compared bit for bit."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)
