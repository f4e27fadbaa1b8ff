"""precision=int8: quantizes the exported float file to 8 bits, with a report card."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from deploy.binary_files import write_bytes
from deploy.export.comparison import Comparison, compare_outputs, rejected
from deploy.export.golden import DESCRIPTION, write_golden
from deploy.export.job import ExportJob, raw_outputs
from deploy.export.samples import Sample
from deploy.formats import find, open_session
from deploy.options import Budget
from deploy.quantize.calibration import open_quantizer
from deploy.quantize.onnx import can_overflow
from deploy.quantize.qat import fine_tune, write_openvino
from deploy.quantize.quantizer import SOURCES
from deploy.quantize.report_card import ReportCard
from deploy.quantize.within_budget import AccuracyBudget, quantize_within_budget
from deploy.timing.latency import Rounds
from engine.errors import UserError, counted
from engine.io.progress import Progress, announced
from engine.run import run_folder

DEFAULT_POINTS = 1.0
"""Points (of 100) that an 8-bit file may lose."""


def write_int8(job: ExportJob, source: Path, samples: Sequence[Sample]) -> Path:
    """Quantize the float file `source` to 8 bits in the job's folder; returns the new file."""
    options, calibration = job.options, job.options.calibration
    job.log(f"reading {counted(calibration.images, 'image')} of {calibration.split} for calibration")
    images = [sample.input for sample in job.split_samples(calibration.split, calibration.images)]
    path = job.folder / source.name
    with tempfile.TemporaryDirectory(prefix="int8-") as folder:
        tried = run_folder.make(Path(folder, "tried")) / source.name  # most are not within the budget
        try:
            card = _quantize(job, source, _to_quantize(job, source, Path(folder), images[0]), tried, images)
        except UserError:
            if any(tried.parent.glob("*.rejected")):
                _keep(tried.parent, job.folder)
            raise
        _keep(tried.parent, job.folder)
    if options.qat.steps:
        card = with_fine_tuned(job, card, images)
    card.write(job.folder)
    session = open_session(path, threads=options.threads)
    with announced("comparing the file with PyTorch"):
        comparison = compare_outputs(job.module, session, [sample.input for sample in samples])
    scores = {f"{card.metric}_float32": card.before, f"{card.metric}_file": card.fallback.score}
    write_golden(path, session, samples, comparison, scores, decoder=job.decoder)
    job.log(f"{card.text()}\n{summary(card, comparison, options.budget)}")
    try:
        check_limits(comparison, options.budget, metric=card.metric)
    except UserError as error:
        raise rejected(path, error) from None
    return path


def _keep(folder: Path, where: Path) -> None:
    """Copy a finished file, or one that was rejected, to where the export belongs.

    A file that was accepted there earlier is replaced, with its description, only by another accepted one.

    Raises:
        UserError: if it cannot be written.
    """
    files = sorted(folder.iterdir())  # OpenVINO's .bin before its .xml
    rejected = any(file.suffix == ".rejected" for file in files)
    try:
        for file in files:
            name = f"{file.name}.rejected" if rejected and file.suffix != ".rejected" else file.name
            write_bytes(where / name, file.read_bytes())
        if not rejected:
            (where / DESCRIPTION).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{where}: cannot be written ({error.strerror}); choose another out=") from None


def _quantize(
    job: ExportJob, source: Path, probed: Path, path: Path, images: Sequence[NDArray[Any]]
) -> ReportCard:
    """Calibrate `probed` (see `_to_quantize`) and write the 8-bit file to `path`."""
    options, calibration = job.options, job.options.calibration
    reduce_range = calibration.reduces_range(options.file_format)
    if options.file_format == "onnx" and not reduce_range and can_overflow():
        job.log(
            "this CPU has no VNNI, so sums of 8-bit products can saturate and change the scores, here and on "
            "devices like it; to prevent that, set calibration.reduce_range=true (7-bit weights)"
        )
    job.log(f"calibrating on {counted(len(images), 'image')}")
    weights = {name: value.numpy() for name, value in job.module.state_dict().items() if value.ndim > 1}
    with announced("calibrating"):
        quantizer = open_quantizer(
            probed,
            images,
            format=options.file_format,
            per_channel=calibration.per_channel,
            reduce_range=reduce_range,
            weights=weights,
            raw_outputs=raw_outputs(job.module).raw_names,
        )
    return quantize_within_budget(
        quantizer,
        source,
        path,
        budget=AccuracyBudget(
            score=job.score,
            metric=job.run.info.metric,
            split=job.run.split,
            points=DEFAULT_POINTS if job.budget_points is None else job.budget_points,
        ),
        images=images[: calibration.probes],
        calibration={
            "split": calibration.split,
            "per_channel": calibration.per_channel,
            "reduce_range": reduce_range,
            "images": len(images),
        },
        threads=options.threads,
        rounds=Rounds(budget_s=calibration.timing_s) if calibration.timing_s else None,
        probed=probed,
        log=job.log,
    )


def _to_quantize(job: ExportJob, source: Path, folder: Path, image: NDArray[Any]) -> Path:
    """The float file that the quantizer reads: `source`, or one in `folder`.

    That one has the format that the quantizer reads, and also the outputs before post-processing.
    """
    module, format = raw_outputs(job.module), SOURCES[job.options.file_format]
    if module.raw_names:
        job.log("writing a second float32 file that also has the outputs before post-processing")
    elif format == job.options.file_format:
        return source
    path = folder / f"model{find(format).SUFFIX}"
    with announced("writing the second float32 file" if module.raw_names else f"writing {path.name}"):
        return job.export(module if module.raw_names else job.module, image, path, format=format)


def check_limits(comparison: Comparison, budget: Budget, *, metric: str) -> None:
    """Check the limits that are set; by default, an 8-bit file has only that of the metric.

    Raises: UserError if the file exceeds one.
    """
    comparison.check(
        max_difference=math.inf if budget.max_difference is None else budget.max_difference,
        agreement=0.0 if budget.agreement is None else budget.agreement,
        metric=metric,
    )


def summary(card: ReportCard, comparison: Comparison, budget: Budget) -> str:
    """Lines about the loss of accuracy, and the comparison with PyTorch with a hint on reading it."""
    metric = card.metric
    limits = [
        f"budget.{name}={value:g}"
        for name, value in (("max_difference", budget.max_difference), ("agreement", budget.agreement))
        if value is not None
    ]
    no_limits = (
        "no budget: 8 bits change every score a little, so many answers differ, but this does not "
        f"necessarily cost {metric}"
    )
    return "\n".join(
        [
            f"{metric} on {card.split}: {card.before:.2f} in float32, {card.fallback.score:.2f} in 8 bits "
            f"({0.0 - card.lost:+.2f} points; at most {card.budget:g} may be lost)",
            f"8-bit file and PyTorch ({' '.join(limits) or no_limits}):",
            comparison.text(),
        ]
    )


def with_fine_tuned(job: ExportJob, card: ReportCard, images: Sequence[NDArray[Any]]) -> ReportCard:
    """Write a second, fine-tuned 8-bit file next to the first; returns the card with its score."""
    qat, module = job.options.qat, job.module
    modules = dict(module.named_modules())
    if unknown := [name for name in qat.floating if f"model.{name}" not in modules]:
        raise UserError(f"qat.floating: the network has no module {unknown[0]!r}")
    float_modules = [f"model.{name}" for name in [*card.fallback.float_layers, *qat.floating]]
    progress = Progress(qat.steps, unit="step")
    tuned = fine_tune(
        module,
        images,
        steps=qat.steps,
        float_modules=[name for name in float_modules if name in modules],
        learning_rate=qat.lr,
        on_step=lambda step, error: progress.update(step + 1),
    )
    progress.close()
    file = write_openvino(
        tuned, images[0], job.folder / "tuned.xml", names=module.names, metadata=job.metadata
    )
    points = job.score(file)
    return replace(card, tuned={"file": file.name, "steps": qat.steps, "score": points})
