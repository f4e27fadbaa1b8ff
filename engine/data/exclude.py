"""The file that `data.exclude` names: samples to leave out. `tools/check.py` and `tools/eval.py` write it.

    {"train": {"image_7": "the mask contradicts the prediction"}, "val": {"image_9": "copy of image_3"}}

Splits map names of samples to reasons; a plain list of names is read too, so the file is easy to edit.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from engine.contracts import Dataset
from engine.errors import UserError, some
from engine.io.files import write_json
from engine.io.text import read_text


def read_excluded(path: Path) -> dict[str, dict[str, str]]:
    """Split -> name of a sample -> reason (empty for a plain list).

    Raises: UserError if the file cannot be read or has another form.
    """
    try:
        content = json.loads(read_text(path))
    except OSError as error:
        raise UserError(f"data.exclude={path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"data.exclude={path}: not valid JSON ({error})") from None
    if not isinstance(content, dict) or not all(isinstance(names, dict | list) for names in content.values()):
        raise UserError(f'data.exclude={path}: must look like {{"train": ["name", ...], "val": [...]}}')
    return {
        split: {str(name): str(names[name]) if isinstance(names, dict) else "" for name in names}
        for split, names in content.items()
    }


def write_excluded(path: Path, samples: Mapping[str, Mapping[str, str]]) -> None:
    """Write split -> name of a sample -> reason, without empty splits. Raises: UserError on failure."""
    write_json(path, {split: dict(names) for split, names in samples.items() if names})


def excluded_indices(dataset: Dataset, names: Mapping[str, str], split: str) -> tuple[list[int], list[str]]:
    """The indices of the samples called `names`, and lines that count them and the names without a sample.

    Raises: UserError if no sample would be left.
    """
    present = [dataset.name(index) for index in range(len(dataset))]
    indices = [index for index, name in enumerate(present) if name in names]
    if len(indices) == len(present):
        raise UserError(
            f"data.exclude: lists all {len(present)} samples of {split}; remove some from the file"
        )
    found = [present[index] for index in indices]
    lines = [f"data.exclude: {len(found)} of {len(present)} {split} samples left out ({some(found)})"]
    if unknown := sorted(set(names) - set(found)):
        noun = "1 name matches no" if len(unknown) == 1 else f"{len(unknown)} names match no"
        lines.append(f"data.exclude: {noun} {split} sample ({some(unknown)})")
    return indices, lines if found else lines[1:]
