"""Configurations as flat dicts of dotted keys, and what differs between them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Settings = dict[str, Any]

NOT_SETTINGS = ("run", "resume", "replay", "overrides", "format", "experiment", "extensions", "_target_")
"""Keys that say where a run is and how it was composed, not how it was trained."""


class Difference(NamedTuple):
    """A key whose value differs; a value is None where the key is absent."""

    key: str
    default: Any
    value: Any


def flatten(config: Mapping[str, Any], prefix: str = "") -> Settings:
    """Nested dicts -> dotted keys; lists stay values."""
    flat: Settings = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def differences(settings: Settings, defaults: Settings) -> list[Difference]:
    """The keys whose values differ from the defaults, in their order; keys in `NOT_SETTINGS` are left out.

    So are keys without a default that refer to another key: that key is listed itself.
    """
    keys = [*settings, *(key for key in defaults if key not in settings)]
    return [
        Difference(key, defaults.get(key), settings.get(key))
        for key in keys
        if key not in NOT_SETTINGS and settings.get(key) != defaults.get(key)
        if defaults.get(key) is not None or not str(settings.get(key)).startswith("${")
    ]


def varying(runs: Sequence[Settings]) -> list[str]:
    """The keys whose values are not the same in all runs, in the order of their first appearance."""
    keys = dict.fromkeys(key for settings in runs for key in settings if key not in NOT_SETTINGS)
    return [key for key in keys if any(run.get(key) != runs[0].get(key) for run in runs)]
