"""Exports a trained run to a file, and compares the file with PyTorch on real images."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from deploy import formats
from deploy.export.comparison import Comparison, compare_outputs, rejected
from deploy.export.golden import DESCRIPTION, write_description, write_golden
from deploy.export.int8 import write_int8
from deploy.export.job import ExportJob
from deploy.export.kit import check_single_pass, check_task, write_kit
from deploy.export.samples import Sample
from deploy.options import ExportOptions
from deploy.quantize.quantizer import check_installed
from engine.config.runs import TrainedRun
from engine.errors import UserError, some
from engine.io.progress import announced
from engine.run import run_folder

_WRITTEN = ("model.*", "tuned.*", "report_card.*")


DEFAULT_BUDGETS = {"fp32": (0.01, 0.995), "fp16": (1.0, 0.98)}
"""Largest difference in an output and lowest agreement, by precision; a task can have its own agreement
for fp16 (`half_agreement`)."""


def export_run(run: TrainedRun, options: ExportOptions, *, log: Callable[[str], None] = print) -> Path:
    """Export a run; returns the file.

    The file is compared with PyTorch on real images and, if a budget is set for the task's metric, scored.
    `preprocess.json`, `golden.npz`, the task's `decode.py` and, with precision=int8, the report card are
    written next to it, and with format=kit all that runs it on a device (`deploy.export.kit`).

    Raises:
        UserError: if an option does not fit the run, if the export fails, or if the file exceeds its budget:
            it is then renamed to `<file>.rejected`.
    """
    if options.dynamic_size and run.info.fixed_size:
        raise UserError(f"dynamic={options.dynamic}: {run.info.fixed_size}")
    formats.check_installed(options.file_format)
    if options.precision == "int8":
        check_installed(options.file_format)
    if options.format == "kit":
        check_task(run.info.name)
    job, started = ExportJob(run, options, log), time.time_ns()
    format = formats.find(options.file_format)
    package = format.packager(options) if isinstance(format, formats.Packaged) else None
    if package is not None or options.format == "kit":
        check_single_pass(run.task())
    with run_folder.claim(job.folder, key="out"):
        path = _export(job)
        if package is not None:
            log(package(path))
        if options.format == "kit":
            write_kit(job, path)
        if earlier := files_before(job.folder, started):
            names = some(earlier)
            log(f"{job.folder}: {names} of an earlier export: preprocess.json describes {path.name} alone")
        return path


def files_before(folder: Path, time_ns: int) -> list[str]:
    """Names of the files in `folder` that an export writes, and wrote before this time."""
    found = [path for pattern in _WRITTEN for path in folder.glob(pattern)]
    return sorted(path.name for path in found if path.stat().st_mtime_ns < time_ns)


def _export(job: ExportJob) -> Path:
    options, log = job.options, job.log
    samples = job.comparison_samples()
    if options.precision == "int8":
        job.split_files(options.calibration.split, 1)  # a wrong name is an error before the long work
    path = _write(job, samples[0])
    if reason := formats.not_run(options.file_format):
        log(f"not run, so not compared with PyTorch: {reason}")
        metadata_of = formats.find(options.file_format).metadata_of  # type: ignore[attr-defined]
        write_description(path, metadata_of(path), decoder=job.decoder)
        return path
    try:
        with announced("comparing the file with PyTorch"):
            session = formats.open_session(path, threads=options.threads)
            comparison = compare_outputs(job.module, session, [sample.input for sample in samples])
        _check(job, comparison)
        scores = {} if options.precision == "int8" else _scores_within_budget(job, path)
    except UserError as error:
        raise rejected(path, error) from None
    write_golden(path, session, samples, comparison, scores, decoder=job.decoder)
    lines = [f"runtime: {session.runtime}", comparison.text()]
    lines = ["float32 file and PyTorch:", *lines] if options.precision == "int8" else lines
    log("\n".join([*lines, *(f"{name}: {points}" for name, points in scores.items())]))
    return write_int8(job, path, samples) if options.precision == "int8" else path


def _write(job: ExportJob, sample: Sample) -> Path:
    """Write the float file."""
    options = job.options
    folder = run_folder.make(job.folder / "float32" if options.precision == "int8" else job.folder)
    path = folder / f"model{formats.find(options.file_format).SUFFIX}"
    job.log(f"writing {path}")
    with announced(f"writing {path.name}"):
        job.export(job.module, sample.input, path)
    (folder / DESCRIPTION).unlink(missing_ok=True)  # it describes an earlier file
    return path


def _check(job: ExportJob, comparison: Comparison) -> None:
    precision, budget = job.options.float_precision, job.options.budget
    max_difference, agreement = DEFAULT_BUDGETS[precision]
    if precision == "fp16":
        agreement = getattr(job.module, "half_agreement", agreement)
    comparison.check(
        max_difference=max_difference if budget.max_difference is None else budget.max_difference,
        agreement=agreement if budget.agreement is None else budget.agreement,
        metric=job.run.info.metric,
    )


def _scores_within_budget(job: ExportJob, path: Path) -> dict[str, float]:
    """The metric of PyTorch and of the file, if a budget is set for it.

    Raises: UserError if the file exceeds the budget.
    """
    if job.budget_points is None:
        return {}
    metric = job.run.info.metric
    before, after = job.score(None), job.score(path)
    if not before - after <= job.budget_points:
        raise UserError(f"loses {before - after:.2f} points of {metric}; the budget is {job.budget_points:g}")
    return {f"{metric}_pytorch": before, f"{metric}_file": after}
