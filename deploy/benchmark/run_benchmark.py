"""Measures rows of the paper's tables, or a run on the runtimes that it can be exported to."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from deploy.benchmark import report
from deploy.benchmark.candidate import Candidate, noise
from deploy.benchmark.measure import groups, measure_together
from deploy.benchmark.on_device import measure_on_device, runtime_of
from deploy.benchmark.results import Result, result
from deploy.benchmark.rows import Comparison, comparisons
from deploy.benchmark.runtimes import ExportCache, choose_runtimes, files_by_name
from deploy.benchmark.tables import tables
from deploy.eager import EAGER
from deploy.options import BenchmarkOptions
from deploy.remote.connect import DeviceTimer, connect
from engine import runtime
from engine.contracts import Image
from engine.io.progress import Progress, announced
from engine.run import run_folder


def run_benchmark(
    options: BenchmarkOptions, *, command: str, log: Callable[[str], None] = print
) -> tuple[Path, list[Result]]:
    """Benchmark a suite and/or a run; returns the folder with the report, and its results.

    Args:
        command: the command that was typed, for the report.

    Raises:
        UserError: if an option is wrong, if a runtime is not installed, or if nothing can be written.
    """
    device = str(runtime.start(device="cpu" if options.on_device else options.device).device)
    timer = _connect(options, log) if options.on_device and options.latency else None
    runtimes, remarks = choose_runtimes(options.runtimes, device=device)
    default = run_folder.default_path("benchmark", options.suite or "run")
    with run_folder.claim(Path(options.out or default), renames=options.out is None, key="out") as out:
        where = timer or device
        return out, _benchmark_into(out, options, runtimes, remarks, where, command=command, log=log)


def _connect(options: BenchmarkOptions, log: Callable[[str], None]) -> DeviceTimer:
    files = [runtime_of(file) for file in files_by_name(options.artifact or "").values()]
    runtimes = list(dict.fromkeys([*options.runtimes, *files]))
    return connect(options.device, options.remote, runtimes=runtimes, threads=options.thread_counts, log=log)


def _benchmark_into(
    out: Path,
    options: BenchmarkOptions,
    runtimes: Sequence[str],
    remarks: Sequence[str],
    device: str | DeviceTimer,
    *,
    command: str,
    log: Callable[[str], None],
) -> list[Result]:
    with announced("building the networks"):
        parts = comparisons(options)
    results = [result(row, baseline=part.baseline) for part in parts for row in part.rows]
    report.save(results, out, command=command)  # fails now, not after an hour, if `out` cannot be written
    if not options.latency:
        log(tables(results))
        return results
    if remarks:
        log("\n".join(remarks))
    measured: list[Result] = []
    for part in parts:
        for entries in _measure(options, part, runtimes, device):
            log(f"\n{tables(entries)}")
            measured += entries
            report.save(measured, out, command=command)
    return measured


def _measure(
    options: BenchmarkOptions, part: Comparison, runtimes: Sequence[str], device: str | DeviceTimer
) -> Iterator[list[Result]]:
    """Yields the results of each group of candidates that are measured together."""
    rows = part.rows
    common: dict[str, Any] = {"channels_last": options.channels_last}
    measure: Callable[..., list[Result]] = measure_together
    if isinstance(device, str):
        common["device"] = device
    else:
        measure = partial(measure_on_device, timer=device)
    images: dict[str, Image] = {}
    if options.include == "all":
        example = noise(max(row.size for row in rows))
        images = {row.name: row.read(options.input) if options.input else example for row in rows}
    artifacts = files_by_name(options.artifact or "")
    with tempfile.TemporaryDirectory() as folder:
        cache = ExportCache(Path(folder))
        for threads, members in groups(rows, runtimes, options.thread_counts):
            pairs: list[Any] = []
            for row, name in members:
                with announced(f"preparing {row.name} on {name}"):
                    file = None if name == EAGER else cache.file(row, name, threads=threads)
                pairs.append((row, name, file))
            pairs += [(rows[-1], name, file) for name, file in artifacts.items()]
            candidates = [
                Candidate(
                    row=row, runtime=name, file=file, threads=threads, image=images.get(row.name), **common
                )
                for row, name, file in pairs
            ]
            progress = Progress(options.measure.most, unit="round", at_most_s=options.measure.budget_s)
            yield measure(
                candidates,
                options.measure,
                baseline=part.baseline,
                memory=options.memory,
                progress=progress.update,
            )
            progress.close()
