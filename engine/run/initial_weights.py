"""Loads the initial weights of a training, with the precedence resume > init_from > weights > random.

`init_from` loads a whole model (from a run folder, a weight file or the name of published weights), `weights`
only its backbone. Loading is strict: tensors that do not fit must be named in `skip`. A report lists the
loaded, skipped and newly initialized tensors.
"""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from engine.data.class_map import ClassMap
from engine.errors import UserError
from engine.io.download import fetch
from engine.run import checkpoint, frozen_graph, run_folder
from engine.run.checkpoint import Tensors

LABELS = "labels.txt"
"""File with class names next to a weight file: line n names class n."""


_SUFFIXES = {".pth", ".pt", ".bin", ".ckpt", ".npz", ".safetensors", *frozen_graph.SUFFIXES}


class Remote(Protocol):
    """A published weight file."""

    @property
    def url(self) -> str: ...

    @property
    def sha256(self) -> str:
        """64 hex digits, or the first 8 of them; empty: the first download's is recorded."""
        ...

    @property
    def file_name(self) -> str:
        """The name under which the file is saved."""
        ...

    @property
    def categories(self) -> tuple[str, ...]:
        """The names of its classes."""
        ...

    @property
    def pixels(self) -> str:
        """The normalization it was trained with."""
        ...

    @property
    def task(self) -> str:
        """The value of `task=`."""
        ...

    @property
    def spec(self) -> Any:
        """The `NetSpec` of its backbone; None if it is not one of this project's."""
        ...

    @property
    def network(self) -> tuple[str, ...]:
        """Overrides that choose its network, for messages."""
        ...


class Adaptable(Protocol):
    """A model that can load weights with the tensor names of other libraries."""

    backbone: nn.Module
    class_layers: tuple[str, ...]

    def adapt(self, state: Tensors) -> Tensors:
        """Convert a state dict of the whole model from any known naming scheme to this project's."""
        ...

    def adapt_backbone(self, state: Tensors) -> Tensors:
        """Extract the backbone's part of any state dict, for `backbone.load_state_dict`."""
        ...

    def carry(self, state: Tensors, theirs: tuple[str, ...], ours: tuple[str, ...]) -> Tensors:
        """Convert `state` from classes `theirs` to `ours`: rows of classes with the same name are kept, other
        rows are taken from this model."""
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
    task: str | None = None,
) -> str:
    """Load initial weights into `model`: the whole network (`init_from`), only its backbone (`weights`), or
    nothing. Returns a description for the console.

    Args:
        classes: the model's classes.
        published: name -> published weight file.
        normalization: the task's pixel normalization, to warn about weights that expect a different one.
        task: the value of `task=`, for messages.

    Raises:
        UserError: if there is no such file or name, or the weights do not fit.
    """
    if init_from is None and weights is None:
        return "random weights"
    key, text = ("weights", str(weights)) if init_from is None else ("init_from", init_from)
    remote = find_published(text, key=key, published=published)
    path = Path(os.path.expanduser(text)) if remote is None else download(remote, key=f"{key}={text}")
    if checkpoint_name != "best" and not path.is_dir():
        raise UserError(
            f"checkpoint={checkpoint_name}: {key}={text} is not a run folder; leave out checkpoint="
        )
    names = class_names(path) if remote is None else remote.categories
    try:
        if init_from is not None:
            report = load_whole(path, model, classes, names=names, name=checkpoint_name, skip=list(skip))
        else:
            report = backbone_weights(path, model, name=checkpoint_name, skip=list(skip))
    except UserError as error:
        if remote is None and key == "init_from" and _task_of(path) not in (None, task):
            other = _task_of(path)
            raise UserError(
                f"init_from={text}: a run for task={other}, not for task={task}; weights={text} starts from "
                "its backbone"
            ) from None
        if remote is None and "these weights do not fit" in str(error):
            raise UserError(f"{error}; choose the backbone of these weights with backbone=") from None
        if remote is None:
            raise
        if key == "init_from":
            needs = f"is for task={remote.task} {' '.join(remote.network)}"
        else:
            needs = f"needs {' '.join(o for o in remote.network if o.startswith('backbone'))}"
        raise UserError(f"{error}; {text} {needs}") from None
    return report + _mismatches(path, remote, model.backbone, normalization)


def _task_of(path: Path) -> str | None:
    """The task of a run folder; None if it is unknown."""
    return _in_config(path, r"^package: *(\w+)$")


def _in_config(path: Path, pattern: str) -> str | None:
    """What a pattern's group matches in the config.yaml of a run folder; None if nothing or no run."""
    try:
        found = re.search(pattern, (path / "config.yaml").read_text(encoding="utf-8"), re.MULTILINE)
    except (OSError, UnicodeDecodeError):
        return None
    return found and found[1]


def _mismatches(path: Path, remote: Remote | None, backbone: Any, normalization: str | None) -> str:
    """A warning about options that change the outputs, but not the shapes of weights: weights that were
    trained with other ones load without an error."""
    if remote is not None:
        theirs, ours = remote.spec, getattr(backbone, "spec", None)
        needs = [
            f"backbone.{option}={getattr(theirs, option)}"
            for option in ("padding", "bn_eps")
            if None not in (theirs, ours) and getattr(theirs, option) != getattr(ours, option)
        ]
        needs += [f"task.pixels={remote.pixels}"] if normalization not in (None, remote.pixels) else []
        return f"; these weights need {' '.join(needs)}" if needs else ""
    folder = path if path.is_dir() else path.parent.parent  # <run>/checkpoints/best.safetensors
    of_run = _in_config(folder, r"^task:\n(?: .*\n)*?  pixels: *(\w+)$")
    if of_run is not None and normalization not in (None, of_run):
        return f"; these weights were trained with task.pixels={of_run}, and this run uses {normalization}"
    if path.suffix in frozen_graph.SUFFIXES and normalization not in (None, "inception"):
        return "; the authors' weights need task.pixels=inception"
    if path.suffix == ".pth" and normalization not in (None, "imagenet"):
        return "; torchvision weights need task.pixels=imagenet, except the minimalistic ones"
    return ""


def is_name(text: str) -> bool:
    """Whether a value of `weights` or `init_from` must be the name of published weights: no such file
    exists, and it has neither a folder nor the suffix of a weight file."""
    path = Path(text)
    return not _exists(text) and path.name == text and path.suffix not in _SUFFIXES


def locate(text: str, *, key: str, published: Callable[[str], Remote], folder: Path | None = None) -> Path:
    """Resolve a value of `weights` or `init_from` to a run folder or weight file.

    Existing paths are returned; published weights are downloaded once and their hash is verified.

    Args:
        key: `weights` or `init_from`, for messages.
        published: name -> file; for an unknown name, raises a ValueError that suggests the nearest name.
        folder: download folder; by default torchvision's, to reuse its downloads: `$TORCH_HOME`, or
            `$XDG_CACHE_HOME/torch`, or `~/.cache/torch`.

    Raises:
        UserError: if there is no such file or name, the download fails (the message contains its URL and
            where to save the file), or its hash is wrong.
    """
    remote = find_published(text, key=key, published=published)
    if remote is None:
        return Path(os.path.expanduser(text))
    return download(remote, key=f"{key}={text}", folder=folder)


def find_published(text: str, *, key: str, published: Callable[[str], Remote]) -> Remote | None:
    """The published weights that a value names; None if it is an existing path. Raises: UserError."""
    if _exists(text):
        return None
    missing = f"{key}={text}: no such weight file or run folder"
    if not is_name(text):
        raise UserError(missing)
    try:
        return published(text)
    except ValueError as error:
        raise UserError(f"{missing}, and {error}") from None


def download(remote: Remote, *, key: str, folder: Path | None = None) -> Path:
    """The file of published weights, downloaded once; `key` begins the messages. Raises: UserError."""
    try:
        return fetch(
            remote.url,
            sha256=remote.sha256,
            name=remote.file_name,
            record=True,
            check=checkpoint.read_weights,
            folder=folder or weights_folder(),
        )
    except UserError as error:
        raise UserError(f"{key}: {error}") from None


def _exists(text: str) -> bool:
    return os.path.exists(
        os.path.expanduser(text)
    )  # unlike Path.exists, False for text that cannot be a path


def weights_folder() -> Path:
    """The folder of downloaded weights: torch.hub's checkpoint folder."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def read_state(path: Path, name: str = "best") -> Tensors:
    """Read the tensors of a weight file, a checkpoint, or the checkpoint `name` of a run folder.

    Raises:
        UserError: if there is no such file, or it does not contain weights.
    """
    if path.is_dir():
        return checkpoint.inference_weights(run_folder.find(path).checkpoint(name))[0]
    state = checkpoint.read_weights(path)
    return checkpoint.under("ema", state) or checkpoint.under("model", state) or state


def class_names(path: Path, labels: Path | None = None) -> tuple[str, ...] | None:
    """The names of the classes that weights were trained on, from their run folder or `labels` (by default
    labels.txt next to the weight file); None if unknown.

    Raises:
        UserError: if the file cannot be read.
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


def load_whole(
    path: Path,
    model: Any,
    classes: ClassMap,
    *,
    names: tuple[str, ...] | None = None,
    name: str = "best",
    skip: list[str],
) -> str:
    """Load a whole model's weights into `model`, which has these classes; returns a report.

    If the classes of the weights are known (`names`; by default, those next to the file), rows of classes
    with the same name are copied. Otherwise, class layers of another shape keep their initial values.

    Raises:
        UserError: if the weights are unreadable or do not fit.
    """
    weights = read_state(path, name)
    theirs = class_names(path) if names is None else names
    try:
        state, matched = model.adapt(weights), ""
        if theirs is not None and theirs != classes.names:
            shared = sum(name in theirs for name in classes.names)
            state = model.carry(state, theirs, classes.names)
            matched = f"; class rows: {shared} of {len(classes)} matched by name, the others are new"
        report = checkpoint.load_strict(model, state, skip=skip, resized=model.class_layers)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    return f"{path}: {report}{matched}"


def backbone_weights(path: Path, model: Any, *, name: str = "best", skip: list[str]) -> str:
    """Load a backbone's weights into `model.backbone`; returns a report.

    Raises:
        UserError: if the weights are unreadable or do not fit.
    """
    weights = read_state(path, name)
    try:
        report = checkpoint.load_strict(model.backbone, model.adapt_backbone(weights), skip=skip)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    return f"{path} (backbone): {report}"


def carry_rows(own: Tensor, loaded: Tensor, theirs: tuple[str, ...], ours: tuple[str, ...]) -> Tensor:
    """Rows [K, ...] for the classes `ours`: from `loaded` for classes in `theirs`, otherwise from `own`."""
    if loaded.shape[1:] != own.shape[1:]:
        return loaded  # of another network: loading it names all that differs
    rows = own.clone()
    for index, name in enumerate(ours):
        if name in theirs:
            rows[index] = loaded[theirs.index(name)]
    return rows
