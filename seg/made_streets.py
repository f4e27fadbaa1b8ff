"""Streets that are drawn, not photographed: a Cityscapes tree without a download, made on first use."""

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import streets as street_maker
from engine.errors import UserError
from seg.cityscapes import cityscapes
from seg.dataset import SegmentationData

_RECORD = "streets.json"


def streets(
    *,
    root: str | None = None,
    num_train: int = 200,
    num_val: int = 50,
    num_test: int = 0,
    size: Sequence[int] = (128, 256),
    seed: int = 0,
) -> SegmentationData:
    """Drawn street scenes with the 19 classes of Cityscapes; `size` is (height, width).

    root: where the tree is kept (default: a folder named after the arguments in the user's cache). A tree that was
    made with the same arguments is used again.

    Raises: ValueError for bad numbers, UserError when `root` holds something else.
    """
    if num_train < 1 or num_val < 1 or num_test < 0:
        raise ValueError(f"num_train and num_val must be >= 1, num_test >= 0, got {num_train}, {num_val}, {num_test}")
    if len(size) != 2 or min(size) < 32:
        raise ValueError(f"size must be (height, width), each at least 32, got {tuple(size)}")
    wanted = {
        "num_train": num_train,
        "num_val": num_val,
        "num_test": num_test,
        "size": [int(size[0]), int(size[1])],
        "seed": seed,
    }
    folder = Path(root).expanduser() if root is not None else _cache_folder(wanted)
    if folder.exists() and any(folder.iterdir()):
        _check_record(folder, wanted)
    else:
        _make(folder, wanted)
    return cityscapes(root=str(folder))


def _cache_folder(wanted: dict[str, object]) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    counts = "-".join(str(wanted[key]) for key in ("num_train", "num_val", "num_test"))
    height, width = wanted["size"]  # type: ignore[misc]
    return cache / "mobilenet-dense" / f"streets-{counts}-{height}x{width}-seed{wanted['seed']}"


def _check_record(folder: Path, wanted: dict[str, object]) -> None:
    try:
        made = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        made = None
    if made != wanted:
        raise UserError(f"{folder}: holds something else than these streets ({made}); choose another root or remove it")


def _make(folder: Path, wanted: dict[str, object]) -> None:
    """Draw beside `folder` and rename: several processes may do so at once, and none sees half a tree."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        options = {**wanted, "size": tuple(wanted["size"])}  # type: ignore[arg-type]
        street_maker.write_streets(draft, **options)
        (draft / _RECORD).write_text(json.dumps(wanted) + "\n", encoding="utf-8")
        draft.chmod(0o755)  # mkdtemp makes it private
        try:
            os.replace(draft, folder)
        except OSError:  # another process was first
            _check_record(folder, wanted)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
