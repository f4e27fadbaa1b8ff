"""Values on their way from the device, copied while both sides go on working."""

from typing import Any

import torch
from torch import Tensor

from engine.runtime import map_tensors


class DeviceCopy:
    """A value on its way from the device: tensors, also within lists and dicts, sent early and read late.

    The copies go to pinned memory, so neither this process nor the device waits for them before `value`.
    """

    def __init__(self, value: Any) -> None:
        self._arrived: torch.cuda.Event | None = None
        self._value = map_tensors(value, self._send)

    def _send(self, tensor: Tensor) -> Tensor:
        if not tensor.is_cuda:
            return tensor
        here = torch.empty_like(tensor, device="cpu", pin_memory=True)
        here.copy_(tensor, non_blocking=True)
        self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._arrived.record()
        return here

    def value(self) -> Any:
        """The value, with its tensors on the CPU."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._value
