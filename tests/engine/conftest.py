"""One thread: results are compared bit for bit, and the tests share their machine."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)
