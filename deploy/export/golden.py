"""Golden examples: images, network inputs and outputs for testing a port of the preprocessing."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.export.comparison import Comparison
from deploy.export.samples import Sample
from deploy.session import Arrays, Session, run_in_batches
from engine.contracts import Image
from engine.errors import UserError
from engine.io.files import write_json
from engine.io.progress import announced

DECODER = "decode.py"
"""Name of the copy of the task's decoder next to the exported file."""
DESCRIPTION = "preprocess.json"
"""Name of the description of the exported file, which is written after the file was checked."""
NUM_EXAMPLES = 3
MAX_STORED_NUMBERS = 50_000
"""Per output and example."""


@announced("writing golden.npz")
def write_golden(
    path: Path,
    session: Session,
    samples: Sequence[Sample],
    comparison: Comparison,
    scores: Mapping[str, float],
    *,
    decoder: Path | None = None,
) -> None:
    """Write `preprocess.json`, `golden.npz` and a copy of `decoder` next to the file at `path`.

    For each example i, `golden.npz` contains `image_i`, `input_i` and every output as `<name>_i`: flattened,
    with every `step`-th of its numbers.

    Raises:
        UserError: if they cannot be written.
    """
    arrays: dict[str, Any] = {}
    examples = []
    for number, sample in enumerate(samples[:NUM_EXAMPLES]):
        arrays[f"image_{number}"], arrays[f"input_{number}"] = sample.image, sample.input
        results = run_in_batches(session, sample.input[None])
        outputs = dict(zip(session.output_names, results, strict=True))
        steps = {key: subsampling_step(value) for key, value in outputs.items()}
        arrays |= {f"{key}_{number}": subsample(value, steps[key]) for key, value in outputs.items()}
        shapes = {key: list(value.shape) for key, value in outputs.items()}
        examples.append({"image": sample.name, "shapes": shapes, "steps": steps})
    try:
        np.savez_compressed(path.parent / "golden.npz", **arrays)
    except OSError as error:
        raise UserError(f"{path.parent}: cannot be written ({error.strerror}); choose another out=") from None
    write_description(
        path,
        session.metadata,
        decoder=decoder,
        runtime=session.runtime,
        scores=scores,
        comparison=comparison,
        examples=examples,
    )


def write_description(
    path: Path,
    metadata: Mapping[str, str],
    *,
    decoder: Path | None = None,
    runtime: str = "",
    scores: Mapping[str, float] | None = None,
    comparison: Comparison | None = None,
    examples: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write `preprocess.json` and a copy of `decoder` next to the file at `path`.

    runtime, scores, comparison and examples: of a file that was run; see `write_golden`.

    Raises:
        UserError: if they cannot be written.
    """
    try:
        if decoder is not None:
            shutil.copyfile(decoder, path.parent / DECODER)
        digest = _sha256(path)
    except OSError as error:
        raise UserError(f"{path.parent}: cannot be written ({error.strerror}); choose another out=") from None
    write_json(
        path.parent / DESCRIPTION,
        {
            "file": path.name,
            "sha256": digest,
            "runtime": runtime or None,
            "decoder": None if decoder is None else DECODER,
            **{key: _plain(text) for key, text in metadata.items()},
            **(scores or {}),
            "compared_with_pytorch": None if comparison is None else asdict(comparison),
            "golden": list(examples),
        },
    )


def read_golden(folder: Path) -> list[tuple[Image, NDArray[Any], Arrays]]:
    """(image, input, outputs) of each example; the outputs as `golden.npz` stores them."""
    with np.load(folder / "golden.npz", allow_pickle=False) as stored:
        numbers = sorted(int(name.rpartition("_")[2]) for name in stored if name.startswith("image_"))
        return [
            (
                stored[f"image_{number}"],
                stored[f"input_{number}"],
                [
                    stored[name]
                    for name in stored
                    if name.endswith(f"_{number}") and not name.startswith(("image_", "input_"))
                ],
            )
            for number in numbers
        ]


def subsampling_step(values: NDArray[Any]) -> int:
    """The step between the stored numbers of an output in `golden.npz`."""
    return -(-values.size // MAX_STORED_NUMBERS)


def subsample(values: NDArray[Any], step: int) -> NDArray[Any]:
    """Every `step`-th number of an output."""
    return values.ravel()[::step]


def _sha256(path: Path) -> str:
    """Of a file, or of all files in a folder, in the order of their names."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _plain(text: str) -> Any:
    return json.loads(text) if text[:1] in ("{", "[") else text
