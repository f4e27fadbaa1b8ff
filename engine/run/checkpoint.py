"""Checkpoints: safetensors files with metadata and a hash in the header.

No pickles are written or executed. Writes are atomic (a temporary file is synced and renamed), and the
previous checkpoint is kept. Loading verifies the hash; if a file is damaged, the previous one is used.
"""

import contextlib
import hashlib
import json
import os
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from engine.errors import UserError
from engine.io.files import sync_folder
from engine.run import frozen_graph

Tensors = dict[str, Tensor]


_ENTRY = "checkpoint"


_MAX_UNPACK_RATIO = 20


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically; a file already at `path` becomes `<stem>.previous<suffix>`.

    Raises:
        UserError: if the file cannot be written (disk full, no permission); the previous one is intact.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(dict(metadata))
    # A single entry, because safetensors writes entries in random order. Equal runs give equal files.
    header = {_ENTRY: json.dumps({"sha256": digest(plain, text), "metadata": text})}
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            file.write(save(plain, metadata=header))
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            os.replace(path, previous(path))
        os.replace(partial, path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise UserError(
            f"{path}: cannot write the checkpoint ({error.strerror}); free some space and resume"
        ) from None


def read(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Read and verify a checkpoint: (tensors, metadata).

    Raises:
        UserError: if the file is missing, damaged, or not a checkpoint.
    """
    try:
        with open(path, "rb"):
            pass  # the library says that a file without permission does not exist
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not iterable itself
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except PermissionError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged, or not a safetensors file ({_reason(error)})") from None
    try:
        entry = json.loads(header[_ENTRY])
        text, expected = str(entry["metadata"]), entry["sha256"]
        metadata = dict(json.loads(text))
    except (KeyError, TypeError, ValueError, RecursionError):
        raise UserError(f"{path}: not a checkpoint of this project") from None
    if expected != digest(tensors, text):
        raise UserError(f"{path}: the contents do not match their hash; the file is damaged")
    return tensors, metadata


def read_latest(path: Path) -> tuple[Tensors, dict[str, Any], str | None]:
    """Read `path` or, if it is damaged, the previous checkpoint: (tensors, metadata, message or None)."""
    try:
        return *read(path), None
    except UserError as error:
        if not previous(path).exists():
            raise
        tensors, metadata = read(previous(path))
        return tensors, metadata, f"{error}; continuing from {previous(path).name}"


def exists(path: Path) -> bool:
    """Whether `read_latest` has a file to read."""
    return path.exists() or previous(path).exists()


def step_of(path: Path) -> int | None:
    """The step of a checkpoint; None if it cannot be read."""
    try:
        return int(read(path)[1]["state"]["step"])
    except (KeyError, TypeError, ValueError, OverflowError):  # a UserError is a ValueError
        return None


def mark_damaged(path: Path) -> None:
    """Rename a damaged checkpoint, so the next `write` does not replace the intact previous one with it."""
    if path.exists():
        os.replace(path, path.with_name(f"{path.stem}.damaged{path.suffix}"))


def previous(path: Path) -> Path:
    """The path of the previous checkpoint."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def digest(tensors: Mapping[str, Tensor], metadata: str = "") -> str:
    """SHA-256 of the metadata and of all tensors' names, types, shapes and bytes, sorted by name."""
    sha = hashlib.sha256(metadata.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def read_weights(path: Path) -> Tensors:
    """Read the tensors of a `.safetensors`, `.npz` or `.pth` file (with `weights_only=True`), or of a frozen
    TensorFlow graph (`.pb`, or a `.tar.gz` or `.tgz` that contains one).

    A state dict nested under `state_dict` or `model` is unwrapped.

    Raises:
        UserError: if the file is missing, contains anything but tensors, or loading it would execute code.
    """
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such weight file")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not iterable itself
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: damaged, or not a safetensors file ({_reason(error)})") from None
    if path.suffix in frozen_graph.SUFFIXES:
        return frozen_graph.read(path)
    _check_unpacked_size(path)
    if path.suffix == ".npz":
        return _read_arrays(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many different classes for invalid files
        raise UserError(
            f"{path}: not a file of plain tensors, the only kind that is loaded ({_reason(error)})"
        ) from None
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(_is_weight(*item, path) for item in loaded.items()):
        raise UserError(f"{path}: not a state dict of tensors")
    return dict(loaded)


def _is_weight(name: Any, value: Any, path: Path) -> bool:
    # A view of 4 bytes can have any shape, and copying it would allocate the memory.
    plain = isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided
    return plain and value.numel() * value.element_size() <= path.stat().st_size


def _check_unpacked_size(path: Path) -> None:
    """Reject zip bombs: a zip of zeros grows a thousandfold when it is unpacked in memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return  # not a zip file, or damaged
    if unpacked > _MAX_UNPACK_RATIO * path.stat().st_size + (1 << 20):
        raise UserError(
            f"{path}: expands to {unpacked} bytes, too much for a weight file of this size; download it again"
        )


def _read_arrays(path: Path) -> Tensors:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except Exception as error:  # numpy, zipfile and zlib raise many different classes
        raise UserError(f"{path}: not an .npz of plain arrays ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    """The first line of a library's message."""
    return next(iter(str(error).splitlines()), "")[:120] or type(error).__name__


def inference_weights(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """A checkpoint's weights for inference (the averaged weights, if there are any), and its metadata."""
    tensors, metadata, _ = read_latest(path)
    return under("ema", tensors) or under("model", tensors), metadata


def prefixed(prefix: str, tensors: Tensors) -> Tensors:
    """Add a prefix to tensor names, as in a checkpoint: `<prefix>/<name>`."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def under(prefix: str, tensors: Tensors) -> Tensors:
    """Select the tensors with a prefix and remove it; the inverse of `prefixed`."""
    return {
        name[len(prefix) + 1 :]: value for name, value in tensors.items() if name.startswith(prefix + "/")
    }


@dataclass
class LoadReport:
    """The names of the loaded, skipped and newly initialized tensors."""

    loaded: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = f"{len(self.loaded)} tensors loaded, {len(self.skipped)} skipped, {len(self.new)} new"
        groups = [f"skipped: {_shorten(self.skipped)}"] if self.skipped else []
        groups += [f"new: {_shorten(self.new)}"] if self.new else []
        return "; ".join([text, *groups])


def load_strict(
    module: nn.Module, state: Mapping[str, Tensor], *, skip: Iterable[str] = (), resized: Iterable[str] = ()
) -> LoadReport:
    """Load a state dict; only tensors named by `skip` or `resized` can differ from the module.

    Args:
        skip: name patterns of tensors that are not loaded and can be missing.
        resized: name patterns of tensors that are not loaded if their shape differs (such as a classifier for
            other classes).

    Raises:
        UserError: if any other name or shape differs; the message lists the differences.
    """
    own = module.state_dict()
    skip_patterns, resized_patterns = list(skip), list(resized)
    exempt = {name for name in {*own, *state} if any(fnmatch(name, pattern) for pattern in skip_patterns)}
    exempt |= {
        name
        for name in own.keys() & state.keys()
        if own[name].shape != state[name].shape
        and any(fnmatch(name, pattern) for pattern in resized_patterns)
    }
    chosen = {name: tensor for name, tensor in state.items() if name not in exempt}
    missing = sorted(name for name in own if name not in chosen and name not in exempt)
    unknown = sorted(name for name in chosen if name not in own)
    shapes = [
        f"{name} {tuple(tensor.shape)} instead of {tuple(own[name].shape)}"
        for name, tensor in chosen.items()
        if name in own and tensor.shape != own[name].shape
    ]
    if missing or unknown or shapes:
        differences = [f"not in the file: {_shorten(missing)}"] if missing else []
        differences += [f"not in the model: {_shorten(unknown)}"] if unknown else []
        differences += [f"different shapes: {_shorten(shapes)}"] if shapes else []
        raise UserError("weights do not fit the model; " + "; ".join(differences))
    module.load_state_dict({**own, **chosen})
    new = sorted(name for name in own if name not in chosen)
    return LoadReport(sorted(chosen), sorted(set(state) - set(chosen)), new)


def _shorten(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
