"""The options of measuring on another device; conf/benchmark.yaml explains each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Remote:
    """How a device measures.

    Raises:
        ValueError: if options contradict each other.
    """

    python: str = "python3"
    install: bool = False
    runner: str | None = None
    statistic: Literal["median", "min"] = "median"

    def __post_init__(self) -> None:
        if not self.python.strip():
            raise ValueError("python must be the name or path of an interpreter, such as python3")
        if self.runner is not None and self.install:
            raise ValueError("install is for Python on the device; leave it out if runner is set")
