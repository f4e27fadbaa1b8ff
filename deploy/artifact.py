"""A shipped file in the place of a trained network: the same task, data and evaluator around it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deploy.formats.runtimes import open_session
from deploy.formats.session import Arrays, Session
from engine.config.instantiate import make
from engine.data.preprocessing import Normalize
from engine.errors import UserError


def in_place_of_model(task: nn.Module, room: str, path: Path, *, threads: int, precision: str) -> Any:
    """`task` with the file at `path` in the place of its model; see `run_artifact` in the room's `export`.

    Raises:
        UserError: the file cannot be loaded, or is of another task or of other classes.
    """
    artifact = Artifact(open_session(path, threads=threads, precision=precision), path)
    return make({"_target_": f"{room}.export.run_artifact"}, "artifact", task=task, artifact=artifact)


class Artifact(nn.Module):
    """A session as a module: images -> what the file gives, as tensors on the images' device.

    Attributes:
        output: what that is, such as `logits`.
        preprocessing: what has to happen to a picture before, see `describe`.

    Raises:
        UserError: the file was not written by tools/export.py.
    """

    def __init__(self, session: Session, path: Path) -> None:
        super().__init__()
        self.session, self.path = session, path
        try:
            self.room, self.output = session.metadata["task"], session.metadata["output"]
            self.classes = tuple(
                entry["name"] for entry in json.loads(session.metadata["classes"])["classes"]
            )
            self.preprocessing = json.loads(session.metadata["preprocessing"])
            self.normalized = bool(self.preprocessing["in_graph"])
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"{path}: does not say what it is (no metadata); export it with tools/export.py"
            ) from None

    def check(self, room: str, classes: tuple[str, ...]) -> None:
        """Raises: UserError where the file is of another task, or of other classes in another order."""
        if self.room != room:
            raise UserError(f"{self.path}: is of task={self.room}, and the run of task={room}")
        if self.classes != tuple(classes):
            raise UserError(
                f"{self.path}: has other classes than the run ({', '.join(self.classes[:4])}, ...)"
            )

    def normalize(self, own: Normalize) -> Normalize:
        """What the task does to pixels before this file: its own normalization, or nothing."""
        same = Normalize("inception")
        if self.normalized:
            same.mean.zero_()
            same.std.fill_(1)
            return same
        for name, mine in (("mean", own.mean), ("std", own.std)):
            if not np.allclose(mine.flatten().tolist(), self.preprocessing[name]):
                raise UserError(f"{self.path}: takes images normalized otherwise than the run's ({name})")
        return own

    def forward(self, images: Tensor) -> Any:
        """Images [N, 3, H, W] of any N -> a tensor, or a tuple of them."""
        if self.session.dtype == "uint8":
            images = images.round().clamp(0, 255).to(torch.uint8)
        outputs = in_batches(self.session, images.cpu().numpy())
        tensors = tuple(torch.from_numpy(output).to(images.device) for output in outputs)
        return tensors[0] if len(tensors) == 1 else tensors


def in_batches(session: Session, images: NDArray[Any]) -> Arrays:
    """Run any number of images through a network that may take only a fixed one."""
    count = session.shape[0]
    if count is None or count == len(images):
        return session(images)
    parts = []
    for start in range(0, len(images), count):
        batch = images[start : start + count]
        missing = count - len(batch)
        full = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)]) if missing else batch
        parts.append([output[: len(batch)].copy() for output in session(full)])
    return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def describe(module: Any, *, room: str, facts: Mapping[str, str]) -> dict[str, str]:
    """The metadata of an export: everything that the file's user needs to know, texts by name.

    Args:
        module: a room's `Export`.
        room: cls, seg or det.
        facts: further ones: `run` (digest of the checkpoint), `license`.
    """
    mean, std = (part.flatten().tolist() for part in (module.normalizer.mean, module.normalizer.std))
    preprocessing = {
        "picture": "decoded as RGB, upright (EXIF)",
        "transform": str(module.eval_transform),
        "layout": "NCHW",
        "mean": [round(value, 6) for value in mean],
        "std": [round(value, 6) for value in std],
        "in_graph": module.normalized,
    }
    return {
        "task": room,
        "output": module.output,
        "classes": json.dumps(module.classes.to_dict()),
        "preprocessing": json.dumps(preprocessing),
        **facts,
    }


def prepared(pixels: NDArray[np.uint8], metadata: Mapping[str, str]) -> NDArray[Any]:
    """What the transform gives, RGB [h, w, 3] -> the network's input [3, h, w]."""
    how = json.loads(metadata["preprocessing"])
    image = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    if not how["in_graph"]:
        mean, std = (np.array(how[name], np.float32)[:, None, None] for name in ("mean", "std"))
        return (image.astype(np.float32) - mean) / std
    return image.astype(json.loads(metadata["input"])["dtype"])
