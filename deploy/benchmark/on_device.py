"""Times candidates together on another device, and returns their results."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deploy import formats
from deploy.benchmark.candidate import Candidate, input_for
from deploy.benchmark.measure import setup_of
from deploy.benchmark.results import result, timing
from deploy.benchmark.rows import BenchmarkRow
from deploy.eager import array_function
from deploy.formats import open_session
from deploy.remote.connect import RUNTIMES, DeviceTimer
from deploy.remote.kit import Kit
from deploy.timing.latency import Rounds
from engine.errors import UserError
from engine.io.progress import announced

LEAST_AGREEMENT, LEAST_OF_FILES = 0.999, 0.9
"""Least share of the numbers in an output that must match those of PyTorch on this machine or, for a user's
own file, which can have 8 bits and suppressed boxes, those of the file on this machine."""


def measure_on_device(
    candidates: Sequence[Candidate],
    rounds: Rounds,
    *,
    timer: DeviceTimer,
    baseline: BenchmarkRow,
    memory: bool = True,
    progress: Callable[[int, str], None],
) -> list[dict[str, Any]]:
    """Time candidates with the same number of threads in turns; returns one result for each, in order.

    Raises:
        UserError: if the device cannot be reached or cannot run a file, or if its outputs are wrong.
    """
    reference = next(candidate for candidate in candidates if candidate.row is baseline)
    with tempfile.TemporaryDirectory(prefix="kit-") as folder:
        kit = Kit(Path(folder), threads=reference.threads)
        with announced("running the networks here, to check the device"):
            for candidate in candidates:
                _add(kit, candidate)
        kit.time_in_turns([candidate.name for candidate in candidates], rounds, memory=memory)
        with announced(f"copying {kit.megabytes:.0f} MB to {timer.device.address}") as copied:

            def show(content: Any) -> None:
                copied()
                progress(content.get("round", 0), content.get("text", ""))

            times = timer.time(kit, show=show)
    results = []
    for candidate in candidates:
        name = candidate.name
        figures = timing(times.seconds[name], times.seconds[reference.name], rounds)
        figures["peak_memory_mb"] = times.peak_memory_mb.get(name)
        figures["agreement"] = times.agreement.get(name)
        results.append(
            result(
                candidate.row,
                baseline=baseline,
                machine=times.machine,
                **setup_of(candidate, reference),
                **figures,
            )
        )
    return results


def _add(kit: Kit, candidate: Candidate) -> None:
    """Add the candidate's file and the outputs that it must return."""
    assert candidate.file is not None
    session = open_session(candidate.file, threads=candidate.threads)
    array = input_for(session, candidate.row.size)
    own = candidate.runtime not in RUNTIMES
    kit.add(
        candidate.name,
        candidate.file,
        runtime=runtime_of(candidate.file),
        inputs=[(array.shape, str(array.dtype))],
        agreement=LEAST_OF_FILES if own else LEAST_AGREEMENT,
    )
    (array,) = kit.inputs(candidate.name)
    predictor: Any = candidate.row.predictor
    run = session if own else array_function(predictor.model.eval(), candidate.threads)
    kit.expect(candidate.name, run(array))


def runtime_of(file: Path) -> str:
    """The runtime of a user's own file. Raises: UserError if devices cannot measure it."""
    format = formats.of_file(file)
    for name in RUNTIMES:
        if formats.find(name) is format:
            return name
    raise UserError(f"{file}: only {' and '.join(RUNTIMES)} files can be measured on a device")
