"""Overrides with several values, in Hydra's syntax: the dimensions of a sweep."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from hydra.errors import HydraException

from engine.config.overrides import quote_path, shortened
from engine.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """The values that a key can have in a sweep: `choices`, or an interval.

    Attributes:
        key: of the configuration.
        choices: values as they are typed; empty for an interval.
        low, high: bounds of an interval, of whole numbers or not.
        log: whether values are sampled on a logarithmic scale.
    """

    key: str
    choices: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether an interval has whole numbers only, both bounds included."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def first(self) -> str:
        """A value, as typed."""
        return self.choices[0] if self.choices else str(self.low)


def split_dimensions(overrides: Sequence[str]) -> tuple[list[str], list[Dimension]]:
    """Separate overrides with one value from those with several: `a,b`, `choice(a,b)`, `range(1,9,2)`,
    `interval(0.1,1)`, `int(interval(1,9))`, `tag(log,interval(0.001,1))`.

    Raises:
        UserError: if an override cannot be parsed, or an interval is empty.
    """
    parser = OverridesParser.create()
    fixed: list[str] = []
    dimensions: list[Dimension] = []
    for override in overrides:
        try:
            parsed = parser.parse_override(quote_path(override))
            if not parsed.is_sweep_override():
                fixed.append(override)
                continue
            dimensions.append(_dimension(override, parsed))
        except (HydraException, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"{shortened(override)}: cannot be parsed; write several values as key=a,b or "
                "'key=interval(0.1,1)'"
            ) from None
    return fixed, dimensions


def _dimension(override: str, parsed: Any) -> Dimension:
    value, key = parsed.value(), parsed.key_or_group
    if not isinstance(value, IntervalSweep):
        return Dimension(key=key, choices=tuple(parsed.sweep_string_iterator()))
    low, high, log = value.start, value.end, "log" in value.tags
    if low is None or high is None or not low < high or (log and low <= 0):
        raise UserError(f"{shortened(override)}: an interval needs {'0 < low' if log else 'low'} < high")
    return Dimension(key=key, low=low, high=high, log=log)
