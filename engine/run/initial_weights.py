"""The weights that a training starts from, in this order: resume > init_from > weights > random.

`init_from` takes a whole model (a run folder, a weight file or the name of published weights), `weights` only
its backbone. Loading is strict: tensors that do not fit must be named in `skip`, and the report lists what
was loaded, skipped and newly initialized.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from engine.data.class_map import ClassMap
from engine.errors import UserError
from engine.io.download import fetch
from engine.run import checkpoint, run_folder
from engine.run.checkpoint import Tensors

LABELS = "labels.txt"
"""Class names beside a weight file: line n names class n."""


_SUFFIXES = {".pth", ".pt", ".bin", ".ckpt", ".npz", ".safetensors"}


class Remote(Protocol):
    """A published weight file."""

    @property
    def url(self) -> str: ...

    @property
    def sha256(self) -> str:
        """64 hex digits, or the first 8 of them."""
        ...


class Adaptable(Protocol):
    """A model that can read its weights under the names that other libraries use."""

    backbone: nn.Module
    class_layers: tuple[str, ...]

    def adapt(self, state: Tensors) -> Tensors:
        """A state dict of the whole model under any known names -> under ours."""
        ...

    def adapt_backbone(self, state: Tensors) -> Tensors:
        """The backbone's part of any state dict, as `backbone.load_state_dict` takes it."""
        ...

    def carry(self, state: Tensors, theirs: tuple[str, ...], ours: tuple[str, ...]) -> Tensors:
        """`state` of the same model for classes `theirs` -> for `ours`: rows of classes with the same name
        are kept, the others are this model's own."""
        ...


def load_initial(
    model: Any,
    classes: ClassMap,
    *,
    init_from: str | None,
    weights: str | None,
    checkpoint_name: str = "best",
    skip: Sequence[str] = (),
    published: Callable[[str], Remote],
    normalization: str | None = None,
) -> str:
    """Load what a training starts from into `model`: the whole network (`init_from`), else its backbone
    (`weights`), else nothing; returns what was loaded, for the console.

    Args:
        classes: the model's classes.
        published: name -> published weight file.
        normalization: what the task does to pixels, to point out weights that expect something else.

    Raises:
        UserError: there is no such file or name, or the weights do not fit.
    """
    if init_from is not None:
        path = locate(init_from, published=published)
        return load_whole(path, model, classes, name=checkpoint_name, skip=list(skip))
    if weights is None:
        return "random weights"
    path = locate(weights, published=published)
    report = backbone_weights(path, model, name=checkpoint_name, skip=list(skip))
    if path.suffix == ".pth" and normalization not in (None, "imagenet"):
        report += "; torchvision trains with task.pixels=imagenet, except for its minimalistic weights"
    return report


def is_name(text: str) -> bool:
    """Whether a value of `weights` or `init_from` can only be the name of published weights: no such file
    exists, and it has neither a folder nor the suffix of a weight file."""
    path = Path(text)
    return not _is_there(text) and path.name == text and path.suffix not in _SUFFIXES


def locate(text: str, *, published: Callable[[str], Remote], folder: Path | None = None) -> Path:
    """The run folder or weight file that a value of `weights` or `init_from` means.

    Existing paths are returned; published weights are downloaded once and checked against their hash.

    Args:
        published: name -> file; raises ValueError, with the nearest name, if there is no such name.
        folder: where downloads are kept; by default in torchvision's folder, so that files it has already
            downloaded are used: `$TORCH_HOME`, else `$XDG_CACHE_HOME/torch`, else `~/.cache/torch`.

    Raises:
        UserError: no such file or name; the download failed (with its URL, and where to put the file), or
            its hash is wrong.
    """
    if _is_there(text):
        return Path(os.path.expanduser(text))
    missing = f"{text}: no such weight file or run folder"
    if not is_name(text):
        raise UserError(missing)
    try:
        remote = published(text)
    except ValueError as error:
        raise UserError(f"{missing}, and {error}") from None
    try:
        return fetch(remote.url, sha256=remote.sha256, folder=folder or weights_folder())
    except UserError as error:
        raise UserError(f"{text}: {error}") from None


def _is_there(text: str) -> bool:
    return os.path.exists(
        os.path.expanduser(text)
    )  # unlike Path.exists, False for text that cannot be a path


def weights_folder() -> Path:
    """Where downloaded weights are kept: torch.hub's folder of checkpoints."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def read_state(path: Path, name: str = "best") -> Tensors:
    """The tensors of a weight file, of a checkpoint, or of the checkpoint `name` of a run folder.

    Raises:
        UserError: no such file, or it holds no weights.
    """
    if path.is_dir():
        return checkpoint.inference_weights(run_folder.find(path).checkpoint(name))[0]
    state = checkpoint.read_weights(path)
    return checkpoint.under("ema", state) or checkpoint.under("model", state) or state


def class_names(path: Path, labels: Path | None = None) -> tuple[str, ...] | None:
    """The classes that weights were trained on, from their run folder or from `labels` (by default
    labels.txt beside the weight file); None if unknown.

    Raises:
        UserError: the list cannot be read.
    """
    if path.is_dir():
        known = run_folder.RunFolder(path).classes
        return ClassMap.read(known).names if known.exists() else None
    labels = labels or path.with_name(LABELS)
    if labels.name == LABELS and not labels.is_file():
        return None
    try:
        lines = labels.read_text(encoding="utf-8").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{labels}: cannot be read ({error})") from None
    return tuple(line.strip() or f"class {number}" for number, line in enumerate(lines, start=1))


def load_whole(path: Path, model: Any, classes: ClassMap, *, name: str = "best", skip: list[str]) -> str:
    """Load a whole model's weights into `model`, which has these classes; returns a report.

    If the classes of the weights are known, rows of classes with the same name are carried over; other class
    layers keep their initial values.

    Raises:
        UserError: the weights are unreadable or do not fit.
    """
    weights = read_state(path, name)
    theirs = class_names(path)
    try:
        state, carried = model.adapt(weights), ""
        if theirs is not None and theirs != classes.names:
            shared = sum(name in theirs for name in classes.names)
            state = model.carry(state, theirs, classes.names)
            carried = f"; class rows: {shared} of {len(classes)} classes carried over by name, the others new"
        report = checkpoint.load_strict(model, state, skip=skip, resized=model.class_layers)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    return f"{path}: {report}{carried}"


def backbone_weights(path: Path, model: Any, *, name: str = "best", skip: list[str]) -> str:
    """Load a backbone's weights into `model.backbone`; returns a report.

    Raises:
        UserError: the weights are unreadable or do not fit.
    """
    weights = read_state(path, name)
    try:
        report = checkpoint.load_strict(model.backbone, model.adapt_backbone(weights), skip=skip)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    return f"{path} (backbone): {report}"


def carry_rows(own: Tensor, loaded: Tensor, theirs: tuple[str, ...], ours: tuple[str, ...]) -> Tensor:
    """Rows [K, ...] of class scores for `ours`: of `loaded` if `theirs` has the name, else of `own`."""
    rows = own.clone()
    for index, name in enumerate(ours):
        if name in theirs:
            rows[index] = loaded[theirs.index(name)]
    return rows
