"""What an evaluator has counted so far, image by image."""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class ImageRecords(dict[int, T]):
    """Records by image index. Every image counts once.

    Args:
        name_of: image index -> its name, for messages.
    """

    def __init__(self, name_of: Callable[[int], str]) -> None:
        super().__init__()
        self._name_of = name_of

    def check_new(self, index: int) -> None:
        """Raises: ValueError if the image was counted already."""
        if index in self:
            raise ValueError(
                f"image {index} ({self._name_of(index)}) was counted already; call reset() first"
            )

    def add(self, index: int, record: T) -> None:
        """Raises: ValueError if the image was counted already."""
        self.check_new(index)
        self[index] = record

    def add_from_process(self, index: int, record: T) -> None:
        """Add a record of another process. Raises: ValueError if two processes counted the image."""
        if index in self:
            raise ValueError(f"image {index} ({self._name_of(index)}) was counted by two processes")
        self[index] = record
