"""The options of tools/search.py, which are the keys of conf/search.yaml."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.config.options import Checkpoint
from engine.errors import UserError
from nas.executors import ExecutorOptions
from nas.latency import LatencyOptions
from nas.mnas.search import MnasSearch
from nas.netadapt.search import NetAdaptSearch
from nas.sweep.search import Sweep
from nas.task_trainer import TrialOptions


@dataclass(frozen=True, kw_only=True)
class SearchOptions(LatencyOptions, ExecutorOptions):
    """All options of a search; conf/search.yaml explains each one.

    `overrides` are `key=value` arguments for the training of candidates.

    Raises:
        ValueError: if a value is out of range.
    """

    method: NetAdaptSearch | MnasSearch | Sweep
    run: str | None = None
    checkpoint: Checkpoint = "best"
    held_out: float = 0.1
    lr_factor: float | None = None
    compare: Sequence[str] = ()
    out: str | None = None
    seed: int = 0
    device: str = "auto"
    overrides: Sequence[str] = ()

    def __post_init__(self) -> None:
        LatencyOptions.__post_init__(self)
        ExecutorOptions.__post_init__(self)
        self.trial_options(default_lr_factor=1.0)
        if not isinstance(self.method, NetAdaptSearch | MnasSearch | Sweep):
            name = type(self.method).__name__  # type: ignore[unreachable]
            raise ValueError(f"method must be NetAdaptSearch, MnasSearch or Sweep, got {name}")

    def trial_options(self, *, default_lr_factor: float) -> TrialOptions:
        """How candidates are trained; `default_lr_factor` is used if `lr_factor` is not set."""
        lr_factor = default_lr_factor if self.lr_factor is None else self.lr_factor
        return TrialOptions(held_out=self.held_out, lr_factor=lr_factor, device=self.device)

    def identity(self, trials: TrialOptions, size: Sequence[int]) -> dict[str, Any]:
        """The settings besides the method that trials depend on, and that must match for a search to resume.

        size: (height, width) that latency is computed for.
        """
        return {
            "training": list(self.overrides),
            "held_out": trials.held_out,
            "lr_factor": trials.lr_factor,
            "seed": self.seed,
            "size": list(size),
        }


_FROM_SCRATCH = ("mnas", "random", "evolution")
_ONLY_FOR = {
    **dict.fromkeys(("checkpoint", "budget", "compare"), ("netadapt",)),
    "run": ("netadapt", "sweep"),  # a sweep has a message of its own
    **dict.fromkeys(("target_ms", "samples"), _FROM_SCRATCH),
    **dict.fromkeys(("latency", "measure", "runtime", "threads", "size"), ("netadapt", *_FROM_SCRATCH)),
}
"""Keys of tools/search.py that have an effect only with some methods."""


def check_method_keys(arguments: Sequence[str]) -> None:
    """Raise a UserError if a typed key has no effect with the method that is typed."""
    values = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    method = values.get("method", "netadapt")
    if method not in ("netadapt", "sweep", *_FROM_SCRATCH):
        return  # an extension's, or a mistake that is reported later
    for key in values:
        methods = _ONLY_FOR.get(key, (method,))
        if method not in methods:
            instead = "set budget=<fraction of its latency>" if key == "target_ms" else "leave it out"
            raise UserError(f"{key}= is for method={' or '.join(methods)}, not {method}; {instead}")
