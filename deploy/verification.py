"""Whether a file does what PyTorch does, on real images; and golden examples for those who deploy it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from deploy.artifact import in_batches
from deploy.formats.runtimes import eager
from deploy.formats.session import Arrays, Session
from engine.errors import UserError
from engine.io.files import write_json

BUDGETS = {"fp32": (0.01, 0.995), "fp16": (1.0, 0.98)}
"""Largest difference of an output, and least agreement, by precision, where the user names none."""


NUM_GOLDEN = 3


_MOST_NUMBERS = 50_000


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """What was found on `num_images` images.

    max_difference: largest absolute difference of the outputs that are compared (0 where none are). largest:
    the largest absolute value of PyTorch's. agreement: share of pixels, detections or images with the same
    answer. exact: share of images whose detections are those of the full post-processing; None where
    the file has none. batches: numbers of images in one call that were tried.
    """

    num_images: int
    max_difference: float
    largest: float
    agreement: float
    exact: float | None
    batches: tuple[int, ...]

    def check(self, *, max_difference: float, agreement: float) -> None:
        """Raises: UserError beyond this budget; numbers that are no numbers are beyond every budget."""
        if not self.max_difference <= max_difference:
            raise UserError(
                f"outputs differ by {self.max_difference:.4g} from PyTorch's (whose largest is "
                f"{self.largest:.4g}); the budget is budget.max_difference={max_difference:g}"
            )
        if not self.agreement >= agreement:
            raise UserError(
                f"{self.agreement:.6f} of the answers are PyTorch's; the budget is "
                f"budget.agreement={agreement:g}"
            )


def compare_outputs(module: nn.Module, session: Session, images: Sequence[NDArray[Any]]) -> Agreement:
    """Run a room's `Export` in PyTorch and a file made of it over the same images [3, h, w].

    Each image alone and, where all have one size, several at once: a fixed batch of them, or up to four.
    """
    reference: Any = module
    own = eager(module)
    groups = [image[None] for image in images]
    together = session.shape[0] or 4  # a fixed batch is filled up with copies, which hide a mix-up of images
    if together > 1 and len({image.shape for image in images}) == 1 and len(images) > 1:
        groups.append(np.stack(images[:together]))
    differences, largest, agreements, exact = [], [0.0], [], []
    for group in groups:
        ours, theirs = own(group), in_batches(session, group)
        for name, one, other in zip(reference.names, ours, theirs, strict=True):
            if one.shape != other.shape:
                raise UserError(f"output {name} has shape {other.shape}, PyTorch's has {one.shape}")
            if name in reference.compared:
                differences.append(float(np.abs(one - other).max()))
                largest.append(float(np.abs(one).max()))
        agreements.append(reference.agreement(ours, theirs))
        exact += [theirs[reference.names.index("exact")].mean()] if "exact" in reference.names else []
    return Agreement(
        num_images=len(images),
        max_difference=float(np.max(differences)) if differences else 0.0,
        largest=float(np.max(largest)),
        agreement=float(np.mean(agreements)),
        exact=float(np.mean(exact)) if exact else None,
        batches=tuple(sorted({len(group) for group in groups})),
    )


def write_golden(
    path: Path,
    session: Session,
    samples: Sequence[tuple[str, NDArray[np.uint8], NDArray[Any]]],
    found: Agreement,
    scores: Mapping[str, float],
) -> None:
    """Write `preprocess.json` and `golden.npz` beside the file at `path`.

    samples: name, picture RGB [H, W, 3], input [3, h, w] of each. In `golden.npz` are, for each number i,
    `picture_i`, `input_i` and each output as `<name>_i`: flattened, every `step`-th of its numbers.

    Raises:
        UserError: the files cannot be written.
    """
    arrays: dict[str, Any] = {}
    listed = []
    for number, (name, picture, image) in enumerate(samples[:NUM_GOLDEN]):
        arrays[f"picture_{number}"], arrays[f"input_{number}"] = picture, image
        outputs = dict(zip(session.output_names, in_batches(session, image[None]), strict=True))
        steps = {key: thinning(value) for key, value in outputs.items()}
        arrays |= {f"{key}_{number}": thin(value, steps[key]) for key, value in outputs.items()}
        shapes = {key: list(value.shape) for key, value in outputs.items()}
        listed.append({"picture": name, "shapes": shapes, "steps": steps})
    try:
        np.savez_compressed(path.parent / "golden.npz", **arrays)
    except OSError as error:
        raise UserError(f"{path.parent}: cannot be written ({error.strerror}); choose another out=") from None
    write_json(
        path.parent / "preprocess.json",
        {
            "file": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "runtime": session.runtime,
            **{key: _plain(text) for key, text in session.metadata.items()},
            **scores,
            "compared_with_pytorch": asdict(found),
            "golden": listed,
        },
    )


def _plain(text: str) -> Any:
    return json.loads(text) if text[:1] in ("{", "[") else text


def thinning(values: NDArray[Any]) -> int:
    """The step at which an output is kept in `golden.npz`."""
    return -(-values.size // _MOST_NUMBERS)


def thin(values: NDArray[Any], step: int) -> NDArray[Any]:
    """Every `step`-th number of an output."""
    return values.ravel()[::step]


def read_golden(folder: Path) -> list[tuple[NDArray[np.uint8], NDArray[Any], Arrays]]:
    """(picture, input, outputs) of each golden example; the outputs as `golden.npz` has them."""
    with np.load(folder / "golden.npz", allow_pickle=False) as stored:
        numbers = sorted(int(name.rpartition("_")[2]) for name in stored if name.startswith("picture_"))
        return [
            (
                stored[f"picture_{number}"],
                stored[f"input_{number}"],
                [
                    stored[name]
                    for name in stored
                    if name.endswith(f"_{number}") and not name.startswith(("picture_", "input_"))
                ],
            )
            for number in numbers
        ]
