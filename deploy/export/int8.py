"""precision=int8: quantizes the exported float file to 8 bits, with a report card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from deploy.export.comparison import compare_outputs
from deploy.export.golden import write_golden
from deploy.export.job import ExportJob
from deploy.export.samples import Sample
from deploy.formats import open_session
from deploy.quantize.calibration import open_quantizer
from deploy.quantize.qat import fine_tune, write_openvino
from deploy.quantize.report_card import ReportCard
from deploy.quantize.within_budget import AccuracyBudget, quantize_within_budget
from deploy.timing.latency import Rounds
from engine.errors import UserError
from engine.io.progress import Progress

DEFAULT_POINTS = 1.0
"""Points (of 100) that an 8-bit file may lose."""


def write_int8(job: ExportJob, source: Path, samples: Sequence[Sample]) -> Path:
    """Quantize the float file `source` to 8 bits in the job's folder; returns the new file."""
    options, metric = job.options, job.run.info.metric
    calibration = options.calibration
    images = [sample.input for sample in job.split_samples(calibration.split, calibration.images)]
    weights = {name: value.numpy() for name, value in job.module.state_dict().items() if value.ndim > 1}
    quantizer = open_quantizer(
        source, images, format=options.format, per_channel=calibration.per_channel, weights=weights
    )
    path = job.folder / source.name
    card = quantize_within_budget(
        quantizer,
        source,
        path,
        budget=AccuracyBudget(
            score=job.score,
            metric=metric,
            split=job.run.split,
            points=DEFAULT_POINTS if job.budget_points is None else job.budget_points,
        ),
        images=images[: calibration.probes],
        calibration={
            "split": calibration.split,
            "per_channel": calibration.per_channel,
            "images": len(images),
        },
        threads=options.threads,
        rounds=Rounds(budget_s=calibration.timing_s) if calibration.timing_s else None,
        log=job.log,
    )
    if options.qat.steps:
        card = with_fine_tuned(job, card, images)
    card.write(job.folder)
    session = open_session(path, threads=options.threads)
    comparison = compare_outputs(job.module, session, [sample.input for sample in samples])
    scores = {f"{metric}_float32": card.before, f"{metric}_file": card.fallback.score}
    write_golden(path, session, samples, comparison, scores, decoder=job.decoder)
    job.log(f"{card.text()}\n{comparison.text()}")
    return path


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
