"""The options of tools/serve.py; conf/serve.yaml explains each key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deploy.options import WebPage
from engine.config.options import Checkpoint, check_effective, check_unscored, refuse_unused
from engine.data.preprocessing import Size, as_size


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """The options of tools/serve.py.

    Raises:
        ValueError: if an option is missing or out of range, or if options contradict each other.
    """

    run: str | None = None
    site: str | None = None
    table: Literal["latency"] | None = None
    spec: str | None = None
    size: Sequence[int] | None = None
    shares: Sequence[float] = (1, 0.75, 0.5, 0.25)
    layer_s: float = 0.5
    statistic: Literal["median", "min"] = "median"
    out: str | None = None
    checkpoint: Checkpoint = "best"
    host: str = "0.0.0.0"
    port: int = 8000
    https: bool | None = None
    certificate: str | None = None
    key: str | None = None
    web: WebPage
    overrides: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.table is None:
            if (self.run is None) == (self.site is None):
                raise ValueError(
                    "set run=<run folder> (or site=<folder>), or table=latency with run= or spec="
                )
            if self.spec is not None or self.out is not None:
                raise ValueError("spec and out are for table=latency; set table=latency, or leave them out")
            refuse_unused(self, "size", "shares", "layer_s", "statistic", needs="table=latency")
            refuse_unused(self.web, needs="table=latency", key="web")
        else:
            self._check_table()
        check_effective(self.overrides)
        check_unscored(self.overrides)
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be 0 to 65535, got {self.port}")
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key are two PEM files; set both")
        if self.https is False and self.certificate is not None:
            raise ValueError("certificate is for https; leave out https=false")

    def _check_table(self) -> None:
        if self.site is not None or (self.run is None) == (self.spec is None):
            raise ValueError("table=latency needs run=<run folder> or spec=<experiment or YAML file>")
        if self.out is None:
            raise ValueError("table=latency needs out=<file>.json")
        if self.spec is not None and self.size is None:
            raise ValueError("spec needs size=[height,width]")
        if not self.shares or not all(0 < share <= 1 for share in self.shares):
            raise ValueError(f"shares must be above 0 and at most 1, got {list(self.shares)}")
        if not self.layer_s > 0:
            raise ValueError(f"layer_s must be a positive number of seconds, got {self.layer_s}")
        if self.size is not None:
            as_size("size", list(self.size))

    @property
    def image_size(self) -> Size | None:
        return None if self.size is None else as_size("size", list(self.size))

    @property
    def table_file(self) -> Path:
        """`out` of table=latency, which was checked to be set."""
        assert self.out is not None
        return Path(self.out)
