"""Checks on real images that a file returns the same as PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from deploy.eager import eager_session
from deploy.session import Session, run_in_batches
from engine.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A file's outputs compared with PyTorch's.

    Attributes:
        num_images: number of compared images.
        max_difference: largest absolute difference of the outputs whose values are compared; 0 if
            there are none.
        largest: largest absolute value in PyTorch's outputs.
        agreement: share of pixels, detections or images with the same result.
        exact: share of images whose detections are those of the full post-processing; None if the file does
            no suppression.
        batches: batch sizes that were tried.
    """

    num_images: int
    max_difference: float
    largest: float
    agreement: float
    exact: float | None
    batches: tuple[int, ...]

    def check(self, *, max_difference: float, agreement: float, metric: str) -> None:
        """`metric` is the task's, for the remedy.

        Raises: UserError if the file exceeds this budget; NaN exceeds every budget.
        """
        if not self.max_difference <= max_difference:
            raise UserError(
                f"outputs differ by {self.max_difference:.4g} from PyTorch's (whose largest is "
                f"{self.largest:.4g}); the budget is budget.max_difference={max_difference:g}"
            )
        if not self.agreement >= agreement:
            raise UserError(
                f"{self.agreement:.6f} of the results agree with PyTorch's; the budget is "
                f"budget.agreement={agreement:g} (rounding decides between scores that nearly tie, and a "
                "network that has hardly been trained has many: train it longer, set a lower budget, or "
                f"compare the accuracy with budget.agreement=0 budget.{metric}=1)"
            )

    def text(self) -> str:
        """The comparison for people, one line per figure."""
        lines = [f"images: {self.num_images}, in batches of {', '.join(map(str, self.batches))}"]
        if self.largest:
            lines.append(f"max difference: {self.max_difference:.3g} (of {self.largest:.3g})")
        lines.append(f"agreement: {self.agreement:.6f}")
        if self.exact is not None:
            more = "" if self.exact == 1 else "; for more, increase steps= or look="
            lines.append(f"suppression exact for {100 * self.exact:.2f}% of the images{more}")
        return "\n".join(lines)


def rejected(path: Path, error: UserError) -> UserError:
    """Rename a file that exceeds its budget to `<file>.rejected`, and return `error` with that name."""
    return UserError(f"{path.replace(path.with_name(f'{path.name}.rejected'))}: {error}")


def compare_outputs(module: nn.Module, session: Session, images: Sequence[NDArray[Any]]) -> Comparison:
    """Run an `ExportedTask` in PyTorch and its file in a runtime on the same images [3, h, w].

    Each image alone and, if all have the same size, several at once: the fixed batch size, or up to four.

    Raises:
        UserError: if an output's shape differs from PyTorch's.
    """
    reference: Any = module
    pytorch = eager_session(module)
    groups = [image[None] for image in images]
    together = session.shape[0] or 4  # a fixed batch is padded with copies, which would hide mixed-up images
    if together > 1 and len({image.shape for image in images}) == 1 and len(images) > 1:
        groups.append(np.stack(images[:together]))
    differences, largest, agreements, exact = [], [0.0], [], []
    for group in groups:
        ours, theirs = pytorch(group), run_in_batches(session, group)
        for name, expected, output in zip(reference.names, ours, theirs, strict=True):
            if expected.shape != output.shape:
                raise UserError(f"output {name} has shape {output.shape}, PyTorch's has {expected.shape}")
            if name in reference.compared:
                differences.append(float(np.abs(expected - output).max()))
                largest.append(float(np.abs(expected).max()))
        agreements.append(reference.agreement(ours, theirs))
        exact += [theirs[reference.names.index("exact")].mean()] if "exact" in reference.names else []
    return Comparison(
        num_images=len(images),
        max_difference=float(np.max(differences)) if differences else 0.0,
        largest=float(np.max(largest)),
        agreement=float(np.mean(agreements)),
        exact=float(np.mean(exact)) if exact else None,
        batches=tuple(sorted({len(group) for group in groups})),
    )
