"""One number for accuracy and latency: ACC x (LAT / TAR)^w."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Reward:
    """The objective of MnasNet (section 3) and of MobileNetV3 (section 4.1).

    Attributes:
        target_ms: TAR, milliseconds.
        w: -0.07 for networks of MobileNetV3-Large's size: 5 % more accuracy (relative) pays for twice the
            latency. Small networks gain more accuracy from latency, and take -0.15: 11 %.
        form: "soft" applies w on both sides of the target; "hard" (alpha = 0, beta = -1) makes latency
            a constraint: free below the target, and accuracy falls as its inverse above. It ignores w.

    Raises:
        ValueError: a target that is not positive, or a w that rewards latency.
    """

    target_ms: float
    w: float = -0.07
    form: Literal["soft", "hard"] = "soft"

    def __post_init__(self) -> None:
        if not 0 < self.target_ms < math.inf:
            raise ValueError(f"target_ms must be a positive number of milliseconds, got {self.target_ms}")
        if not -math.inf < self.w <= 0:
            raise ValueError(f"w must be negative (the paper: -0.07 and -0.15) or 0, got {self.w}")
        if self.form not in ("soft", "hard"):
            raise ValueError(f"form must be soft or hard, got {self.form!r}")

    @property
    def alpha(self) -> float:
        """The exponent at and below the target."""
        return self.w if self.form == "soft" else 0.0

    @property
    def beta(self) -> float:
        """The exponent above the target."""
        return self.w if self.form == "soft" else -1.0

    def __call__(self, accuracy: float, latency_ms: float) -> float:
        """Raises: ValueError for an accuracy below 0 or no number, or a latency that is not positive."""
        if not 0 <= accuracy < math.inf:
            raise ValueError(f"accuracy must be a number of at least 0, got {accuracy}")
        if not 0 < latency_ms < math.inf:
            raise ValueError(f"latency_ms must be positive, got {latency_ms}")
        exponent = self.alpha if latency_ms <= self.target_ms else self.beta
        factor: float = (latency_ms / self.target_ms) ** exponent
        return accuracy * factor
