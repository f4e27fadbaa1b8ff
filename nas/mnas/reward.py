"""The reward, which combines accuracy and latency: ACC x (LAT / TAR)^w."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Reward:
    """The objective of MnasNet (section 3) and of MobileNetV3 (section 4.1).

    Attributes:
        target_ms: TAR, the target latency.
        w: -0.07 for networks as large as MobileNetV3-Large: doubling the latency must gain 5% in accuracy
            (relative). Small networks gain more accuracy from latency; they use -0.15, which requires 11%.
        form: "soft" applies w on both sides of the target. "hard" (alpha = 0, beta = -1) ignores w and makes
            latency a constraint: free below the target; above it, the reward falls as 1 / latency.

    Raises:
        ValueError: if the target is not positive, or w rewards latency.
    """

    target_ms: float
    w: float = -0.07
    form: Literal["soft", "hard"] = "soft"

    def __post_init__(self) -> None:
        if not 0 < self.target_ms < math.inf:
            raise ValueError(f"target_ms must be a positive number of milliseconds, got {self.target_ms}")
        if not -math.inf < self.w <= 0:
            raise ValueError(f"w must be negative (-0.07 and -0.15 in the paper) or 0, got {self.w}")
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
        """The reward.

        Raises:
            ValueError: if the accuracy is negative or not a number, or the latency is not positive.
        """
        if not 0 <= accuracy < math.inf:
            raise ValueError(f"accuracy must be at least 0, got {accuracy}")
        if not 0 < latency_ms < math.inf:
            raise ValueError(f"latency_ms must be positive, got {latency_ms}")
        exponent = self.alpha if latency_ms <= self.target_ms else self.beta
        factor: float = (latency_ms / self.target_ms) ** exponent
        return accuracy * factor
