"""The folder that is copied to a device: models, their expected outputs, and the program that times them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deploy import device
from deploy.device import models
from deploy.session import Arrays
from deploy.timing.latency import Rounds
from engine.io.files import write_json
from engine.run.run_folder import git_revision

PROGRAMS = ("measure.py", "models.py", "rounds.py", "hardware.py")
MAX_STORED_NUMBERS = 4096
"""How many numbers of each output are stored for the comparison, at most."""
_SOURCE = Path(device.__file__).parent

Input = tuple[tuple[int, ...], str]
"""Shape and type of a model's input."""
Show = Callable[[Mapping[str, Any]], None]
"""Called with the progress of a device: `group` of `groups` are finished; within a group, also `round` and
possibly `text`."""


@dataclass(frozen=True, kw_only=True)
class Times:
    """What a device measured; by model.

    Attributes:
        machine: the device, as `deploy.timing.machine.describe` describes this one.
        seconds: of each round.
        agreement: share of matching numbers, in the output where it is smallest; empty if not compared.
        peak_memory_mb: None where it is unknown.
    """

    machine: dict[str, Any]
    seconds: Mapping[str, Sequence[float]]
    agreement: Mapping[str, float]
    peak_memory_mb: Mapping[str, float | None]


def describe_device(address: str, machine: Mapping[str, Any]) -> dict[str, Any]:
    """What a device says about itself, with the keys of `deploy.timing.machine.describe`."""
    return {"device": address, **machine, "openmp_wait_policy": None, "git": git_revision()}


class Kit:
    """A folder with models to time on a device, and the program that does it.

    Args:
        folder: an empty folder to write to.
        threads: of the runtime.
    """

    def __init__(self, folder: Path, *, threads: int) -> None:
        self.folder, self.threads = folder, threads
        self.models: dict[str, dict[str, Any]] = {}
        self.groups: list[dict[str, Any]] = []
        self.memory: list[str] = []
        for name in ("models", "expected"):
            (folder / name).mkdir()

    def add(
        self, name: str, content: Path | bytes, *, runtime: str, inputs: Sequence[Input], agreement: float
    ) -> None:
        """Add a model: an exported file, or the content of an ONNX file.

        Args:
            agreement: least share of the numbers in each output that must match (see `expect`).
        """
        number = len(self.models)
        if isinstance(content, bytes):
            file = f"models/{number}.onnx"
            (self.folder / file).write_bytes(content)
        else:
            file = f"models/{number}{content.suffix}"
            shutil.copyfile(content, self.folder / file)
            if runtime == "openvino":
                shutil.copyfile(content.with_suffix(".bin"), self.folder / f"models/{number}.bin")
        self.models[name] = {
            "file": file,
            "runtime": runtime,
            "inputs": [[list(shape), dtype] for shape, dtype in inputs],
            "agreement": agreement,
        }

    def inputs(self, name: str) -> Arrays:
        """The inputs that the device runs the model on."""
        arrays: Arrays = models.inputs(self.models[name])
        return arrays

    def expect(self, name: str, outputs: Arrays) -> None:
        """Store what the model must return for `inputs`."""
        steps = [max(1, -(-output.size // MAX_STORED_NUMBERS)) for output in outputs]
        file = f"expected/{len(list((self.folder / 'expected').iterdir()))}.npz"
        stored = {
            str(n): output.ravel()[::step]
            for n, (output, step) in enumerate(zip(outputs, steps, strict=True))
        }
        np.savez(self.folder / file, allow_pickle=False, **stored)
        self.models[name]["expected"] = file
        self.models[name]["outputs"] = [
            {"shape": list(output.shape), "step": step} for output, step in zip(outputs, steps, strict=True)
        ]

    def time_in_turns(self, names: Sequence[str], rounds: Rounds, *, memory: bool = False) -> None:
        """Add a group of models for the device to time in turns. memory: also measure the memory of each."""
        self.groups.append({"models": list(names), "rounds": asdict(rounds)})
        self.memory += names if memory else []

    def write(self) -> None:
        """Write the programs and their manifest."""
        for name in PROGRAMS:
            shutil.copyfile(_SOURCE / name, self.folder / name)
        write_json(
            self.folder / "manifest.json",
            {"threads": self.threads, "models": self.models, "groups": self.groups, "memory": self.memory},
        )

    @property
    def megabytes(self) -> float:
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file()) / 1e6
