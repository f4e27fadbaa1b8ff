"""Asynchronous copies from the device to the CPU."""

from typing import Any

import torch
from torch import Tensor

from engine.runtime import map_tensors


class DeviceCopy:
    """An asynchronous copy of tensors, including those in nested lists and dicts, to the CPU.

    The copies go to pinned memory, so neither this process nor the device waits for them until `value`.
    """

    def __init__(self, value: Any) -> None:
        self._copied: torch.cuda.Event | None = None
        self._value = map_tensors(value, self._copy)

    def _copy(self, tensor: Tensor) -> Tensor:
        if not tensor.is_cuda:
            return tensor
        copy = torch.empty_like(tensor, device="cpu", pin_memory=True)
        copy.copy_(tensor, non_blocking=True)
        self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._copied.record()
        return copy

    def value(self) -> Any:
        """The value with its tensors on the CPU; waits until the copies are complete."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._value
