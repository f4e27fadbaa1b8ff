"""An exported file used as a task's network, with the same task, data and evaluator around it."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deploy.formats import open_session
from deploy.session import Session, run_in_batches
from engine.config.options import ONLY_SCORED, overrides_of
from engine.config.overrides import unquote_path
from engine.config.saved import Reads, effective
from engine.contracts import TaskInfo
from engine.data.preprocessing import Normalize
from engine.errors import UserError
from engine.run.run_folder import RunFolder


def with_exported_file(task: Any, info: TaskInfo, path: Path, *, threads: int, precision: str) -> Any:
    """`task`, predicting with the file at `path` instead of its model.

    Raises:
        UserError: if the file cannot be loaded, or is for another task or other classes.
    """
    artifact = Artifact(open_session(path, threads=threads, precision=precision), path)
    return info.with_file(task=task, artifact=artifact)


def next_command(
    run: Path,
    artifact: str | None,
    *,
    config: Any,
    overrides: Sequence[str] = (),
    checkpoint: str = "best",
) -> str:
    """What to do after an evaluation: export the run, or predict with the file that was evaluated.

    With the overrides of the evaluation that the next tool reads (such as data.root= if the data were moved),
    but not those that only affect scoring.

    Args:
        config: of the run, with the overrides.
    """
    name = shlex.quote(str(run))
    reads: Reads = "dataset" if artifact is None else "images"
    scoring = overrides_of([*ONLY_SCORED, "data.split"], overrides)
    kept = effective(config, [o for o in overrides if o not in scoring], reads=reads)
    kept = [unquote_path(override) for override in kept]
    if artifact is None:
        weights = [] if checkpoint == "best" else [f"checkpoint={checkpoint}"]
        return " ".join([f"python tools/export.py run={name} format=onnx", *map(shlex.quote, weights + kept)])
    command = f"python tools/predict.py run={name} artifact={shlex.quote(artifact)}"
    return " ".join([command, *map(shlex.quote, kept), "input=<image or folder>"])


def origin_notes(path: Path, metadata: Mapping[str, str], run: RunFolder) -> list[str]:
    """A line if a file's weights are neither the best nor the last weights of `run`, with which it is used.

    Not for published folders, which have only the best weights, stored in another file.
    """
    if exported_checkpoint(metadata, run, "best") is not None:
        return []
    name = metadata.get("run")
    whose = "earlier weights of this run" if name == run.path.name else f"another run ({name})"
    return [f"{path}: was exported from {whose}, so its results are not those of {run.path}"]


def exported_checkpoint(metadata: Mapping[str, str], run: RunFolder, otherwise: str) -> str | None:
    """Whose weights of `run` a file has: best or last; None: neither; `otherwise`: the file does not say."""
    stated = metadata.get("checkpoint_sha256")
    if stated is None or not run.last.exists():
        return otherwise
    weights = {"best": run.best, "last": run.last}
    return next((name for name, file in weights.items() if file.exists() and _sha256(file) == stated), None)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


class Artifact(nn.Module):
    """An exported file as a module: images -> its outputs, as tensors on the images' device.

    `TaskInfo.with_file` builds a task around it.

    Attributes:
        task: name of the task that the file was exported from.
        output: what the file returns, such as `logits`.
        classes: names of the classes.
        preprocessing: how an image becomes the network's input, see `deploy.metadata.describe`.
        decoding: how outputs become predictions, or became them in the file; empty if it is not stated.
        normalized: whether the file normalizes the images itself.

    Raises:
        UserError: if the file was not written by tools/export.py.
    """

    def __init__(self, session: Session, path: Path) -> None:
        super().__init__()
        self.session, self.path = session, path
        try:
            self.task, self.output = session.metadata["task"], session.metadata["output"]
            self.classes = tuple(
                entry["name"] for entry in json.loads(session.metadata["classes"])["classes"]
            )
            self.preprocessing = json.loads(session.metadata["preprocessing"])
            self.decoding = dict(json.loads(session.metadata.get("decoding", "{}")))
            self.normalized = bool(self.preprocessing["in_graph"])
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"{path}: has no metadata about its task and classes; export it with tools/export.py"
            ) from None

    def check(self, task: str, classes: Sequence[str]) -> None:
        """Raises: UserError if the file is for another task, other classes or another order of classes."""
        if self.task != task:
            raise UserError(
                f"{self.path}: was exported from a run with task={self.task}, but this run has task={task}"
            )
        if self.classes != tuple(classes):
            raise UserError(
                f"{self.path}: its classes ({', '.join(self.classes[:4])}, ...) differ from the run's"
            )

    def normalize(self, own: Normalize) -> Normalize:
        """The normalization to apply before this file: the task's own, or none."""
        identity = Normalize("inception")
        if self.normalized:
            identity.mean.zero_()
            identity.std.fill_(1)
            return identity
        for name, values in (("mean", own.mean), ("std", own.std)):
            if not np.allclose(values.flatten().tolist(), self.preprocessing[name]):
                raise UserError(
                    f"{self.path}: expects images with another normalization than the run's ({name} differs)"
                )
        return own

    def forward(self, images: Tensor) -> Any:
        """Images [N, 3, H, W] of any N -> a tensor, or a tuple of them."""
        if self.session.dtype == "uint8":
            images = images.round().clamp(0, 255).to(torch.uint8)
        outputs = run_in_batches(self.session, images.cpu().numpy())
        tensors = tuple(torch.from_numpy(output).to(images.device) for output in outputs)
        return tensors[0] if len(tensors) == 1 else tensors
