"""Export a run as a file for a runtime, and hold the file to PyTorch on real images.

Usage: python tools/export.py run=<run folder> [format=<format>] [key=value ...]

Examples:
  python tools/export.py run=<run folder>                                        ONNX
  python tools/export.py run=<run folder> format=openvino precision=fp16
  python tools/export.py run=<run folder> format=openvino precision=int8 budget.miou=1
  python tools/export.py run=<run folder> output=argmax full_size=true           label maps (segmentation)
  python tools/export.py run=<run folder> output=detections dynamic=batch        with suppression (detection)
  python tools/export.py run=<run folder> dynamic=both budget.miou=0.5           scored on the labeled split
  python tools/export.py run=<run folder> data.eval_size=[512,1024] input=photos
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from deploy.artifact import describe, in_place_of_model, prepared
from deploy.formats.export import export
from deploy.formats.runtimes import FORMATS, SUFFIXES, open_session
from deploy.quantize.qat import fine_tune, write_openvino
from deploy.quantize.report_card import ReportCard, grade
from deploy.quantize.sensitivity import FORMATS as QUANTIZED
from deploy.quantize.sensitivity import open_quantizer
from deploy.timing.latency import Rounds
from deploy.verification import BUDGETS, Agreement, compare_outputs, write_golden
from engine import runtime
from engine.config.compose import build, launch, load_trained, open_trained
from engine.config.instantiate import make
from engine.data import media
from engine.data.class_map import ClassMap
from engine.data.dataset_builder import DatasetBuilder
from engine.data.images import read_image
from engine.data.loader import loader
from engine.data.sample_stream import Shard
from engine.errors import UserError
from engine.io.files import spread
from engine.io.progress import Progress
from engine.run import run_folder
from engine.run.run_folder import RunFolder
from engine.train.evaluation import evaluate

OF_THE_GRAPH = ("output", "full_size", "upsample", "look", "steps", "normalize", "dtype")
METRICS = {"seg": "miou", "det": "map", "cls": "top1"}
DYNAMIC = ("none", "batch", "size", "both")
PRECISIONS = ("fp32", "fp16", "int8")
QAT = ("int8", "openvino", "none", 1)
Sample = tuple[str, NDArray[np.uint8], NDArray[Any]]


def export_run(config: DictConfig) -> None:
    run, trained = open_trained(config)
    check_options(config)
    check_budget(config, METRICS[trained.room])
    torch.set_num_threads(config.threads)
    task = load_trained(run, trained, ClassMap.read(run.classes), config.checkpoint)
    options = {name: config[name] for name in OF_THE_GRAPH if config[name] is not None}
    module = make({"_target_": f"{trained.room}.export.Export", **options}, "export", task=task)
    int8 = config.precision == "int8"
    precision = "fp32" if int8 else config.precision  # of the file that is made first
    metadata = describe(module, room=trained.room, facts={**facts(config, run), "precision": precision})
    samples = read_samples(config, trained, module, metadata)
    example = torch.from_numpy(np.stack([samples[0][2]] * config.batch))
    out = Path(config.out or run.path / "export" / f"{config.format}-{config.precision}")
    path = export(
        module,
        example,
        run_folder.make(out / "float32" if int8 else out) / f"model{SUFFIXES[config.format]}",
        format=config.format,
        names=module.names,
        dynamic_batch=config.dynamic in ("batch", "both"),
        dynamic_size=config.dynamic in ("size", "both"),
        metadata=metadata,
        precision=precision,
    )
    try:
        session = open_session(path, threads=config.threads)
        found = compare_outputs(module, session, [image for _, _, image in samples])
        max_difference, agreement = BUDGETS[precision]
        found.check(
            max_difference=given(config.budget.max_difference, max_difference),
            agreement=given(config.budget.agreement, agreement),
        )
        scores = {} if int8 else check_metric(config, run, trained, path)
    except UserError as error:
        rejected = path.replace(path.with_name(f"{path.name}.rejected"))
        raise UserError(f"{rejected}: {error}") from None
    write_golden(path, session, samples, found, scores)
    print(
        "\n".join([f"runtime: {session.runtime}", *lines(found), *(f"{k}: {v}" for k, v in scores.items())])
    )
    if int8:
        path = quantize(config, run, trained, module, path, samples, out)
    print(f"out: {path}")


def quantize(
    config: DictConfig,
    run: RunFolder,
    trained: DictConfig,
    module: Any,
    source: Path,
    samples: Any,
    out: Path,
) -> Path:
    """The float file in 8 bits, with its report card."""
    options, metric, metadata = config.calibration, METRICS[trained.room], open_session(source).metadata
    files = pictures_of(trained, options.split, module, options.images)
    images = [image for _, _, image in as_samples(config, files, module, metadata)]
    weights = {name: value.numpy() for name, value in module.state_dict().items() if value.ndim > 1}
    quantizer = open_quantizer(
        source, images, format=config.format, per_channel=options.per_channel, weights=weights
    )
    path = out / source.name
    card = grade(
        quantizer,
        source,
        path,
        images=images[: options.probes],
        calibration={key: options[key] for key in ("split", "per_channel")} | {"images": len(images)},
        score=lambda file: scored(config, run, trained, metric, file),
        metric=metric,
        split=trained.data.split,
        budget=given(config.budget[metric], 1.0),
        threads=config.threads,
        rounds=Rounds(budget_s=options.timing_s) if options.timing_s else None,
        say=print,
    )
    if config.qat.steps:
        tuned = tune(config, module, images, metadata, card, out)
        points = scored(config, run, trained, metric, tuned)
        card = replace(card, tuned={"file": tuned.name, "steps": config.qat.steps, "score": points})
    card.write(out)
    session = open_session(path, threads=config.threads)
    scores = {f"{metric}_float32": card.before, f"{metric}_file": card.fallback.score}
    found = compare_outputs(module, session, [image for _, _, image in samples])
    write_golden(path, session, samples, found, scores)
    print("\n".join([card.text(), *lines(found)]))
    return path


def tune(
    config: DictConfig,
    module: Any,
    images: list[Any],
    metadata: Mapping[str, str],
    card: ReportCard,
    out: Path,
) -> Path:
    """A second file in 8 bits, fine-tuned, beside the first."""
    modules = dict(module.named_modules())
    floating = [f"model.{name}" for name in [*card.fallback.floating, *config.qat.floating]]
    if unknown := [name for name in config.qat.floating if f"model.{name}" not in modules]:
        raise UserError(f"qat.floating: the network has no module {unknown[0]!r}")
    progress = Progress(config.qat.steps, unit="step")
    tuned = fine_tune(
        module,
        images,
        steps=config.qat.steps,
        floating=[name for name in floating if name in modules],
        learning_rate=config.qat.lr,
        say=lambda step, error: progress.update(step + 1),
    )
    progress.close()
    return write_openvino(tuned, images[0], out / "tuned.xml", names=module.names, metadata=metadata)


def check_options(config: DictConfig) -> None:
    if config.format not in FORMATS:
        raise UserError(f"format must be one of {', '.join(FORMATS)}, got {config.format!r}")
    if config.dynamic not in DYNAMIC:
        raise UserError(f"dynamic must be one of {', '.join(DYNAMIC)}, got {config.dynamic!r}")
    if config.precision not in PRECISIONS:
        raise UserError(f"precision must be one of {', '.join(PRECISIONS)}, got {config.precision!r}")
    if config.precision == "int8" and config.format not in QUANTIZED:
        raise UserError(f"precision=int8 is for format={' and format='.join(QUANTIZED)}, not {config.format}")
    if type(config.calibration.per_channel) is not bool:
        raise UserError(
            f"calibration.per_channel must be true or false, got {config.calibration.per_channel!r}"
        )
    if type(config.calibration.timing_s) not in (int, float) or config.calibration.timing_s < 0:
        raise UserError(
            f"calibration.timing_s must be 0 or more seconds, got {config.calibration.timing_s!r}"
        )
    if config.qat.steps and (config.precision, config.format, config.dynamic, config.batch) != QAT:
        raise UserError("qat.steps needs precision=int8 format=openvino dynamic=none batch=1")
    for key in ("batch", "images", "threads", "calibration.images", "calibration.probes"):
        value = OmegaConf.select(config, key)
        if type(value) is not int or value < 1:
            raise UserError(f"{key} must be a whole number of at least 1, got {value!r}")


def check_budget(config: DictConfig, metric: str) -> None:
    """Raises: UserError for what is no number, or a metric of another task."""
    for name, value in config.budget.items():
        if value is not None and type(value) not in (int, float):
            raise UserError(f"budget.{name} must be a number, got {value!r}")
        if value is not None and name in METRICS.values() and name != metric:
            raise UserError(f"budget.{name}: this task is scored by {metric}; give budget.{metric}")


def given(value: float | None, default: float) -> float:
    return default if value is None else value


def facts(config: DictConfig, run: RunFolder) -> dict[str, str]:
    weights = run.checkpoint(config.checkpoint)
    return {
        "run": str(run.path.name),
        "checkpoint_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "license": config.license or "not stated; see those of the training data and of the starting weights",
        "precision": config.precision,
        "made_by": f"mobilenet-dense, PyTorch {torch.__version__}",
    }


def read_samples(
    config: DictConfig, trained: DictConfig, module: Any, metadata: dict[str, str]
) -> list[Sample]:
    """Real pictures, and what the network is given of each."""
    if config.input is not None:
        files = [file for file in media.find_media(config.input) if not media.is_video(file)][: config.images]
    else:
        files = pictures_of(trained, trained.data.split, module, config.images)
    return as_samples(config, files, module, metadata)


def pictures_of(trained: DictConfig, split: str, module: Any, count: int) -> list[Path]:
    """At most `count` files, spread over a split of the run's data."""
    data = build(trained.data.source, key="data.source")
    dataset = data.dataset(split, module.eval_transform, seed=0)
    return [Path(dataset.image_path(index)) for index in spread(len(dataset), count)]


def as_samples(
    config: DictConfig, files: list[Path], module: Any, metadata: Mapping[str, str]
) -> list[Sample]:
    """Name, picture, and what the network is given of it."""
    pictures = [read_image(file) for file in files]
    given = {**metadata, "input": f'{{"dtype": "{module.dtype}"}}'}
    images = [prepared(module.transform(picture), given) for picture in pictures]
    sizes = {image.shape[1:] for image in images}
    if config.dynamic not in ("size", "both") and len(sizes) > 1:
        some = " and ".join(f"{height}x{width}" for height, width in itertools.islice(sorted(sizes), 2))
        raise UserError(
            f"the pictures have several sizes ({some}): give dynamic=size or data.eval_size=[h,w]"
        )
    return [(file.name, *pair) for file, pair in zip(files, zip(pictures, images, strict=True), strict=True)]


def check_metric(config: DictConfig, run: RunFolder, trained: DictConfig, path: Path) -> dict[str, float]:
    """The metric of PyTorch and of the file, where a budget is set for it; points of 100."""
    name = METRICS[trained.room]
    if config.budget[name] is None:
        return {}
    before, after = (scored(config, run, trained, name, file) for file in (None, path))
    if not before - after <= config.budget[name]:
        raise UserError(f"loses {before - after:.2f} points of {name}; the budget is {config.budget[name]:g}")
    return {f"{name}_pytorch": before, f"{name}_file": after}


def scored(config: DictConfig, run: RunFolder, trained: DictConfig, metric: str, file: Path | None) -> float:
    """Points of 100 of PyTorch (None), or of a file."""
    task = load_trained(run, trained, ClassMap.read(run.classes), config.checkpoint)
    if file is not None:
        task = in_place_of_model(task, trained.room, file, threads=config.threads, precision="fp32")
    return round(100 * float(score(task, trained)[metric]), 4)


def score(task: Any, trained: DictConfig) -> dict[str, Any]:
    where = runtime.start(device="cpu", precision="fp32")
    data = build(trained.data.source, key="data.source")
    task.check_classes(data.classes)
    dataset = DatasetBuilder.of(trained.data, runtime=where).dataset(
        data, trained.data.split, task.eval_transform
    )
    split = Shard(num_samples=len(dataset), batch=trained.data.eval_batch)
    batches = loader(dataset, split, workers=trained.data.workers)
    return evaluate(where.place(task), batches, task.evaluator(dataset), where)


def lines(found: Agreement) -> list[str]:
    rows = [f"images: {found.num_images}, in batches of {', '.join(map(str, found.batches))}"]
    if found.largest:
        rows.append(f"max difference: {found.max_difference:.3g} (of {found.largest:.3g})")
    rows.append(f"agreement: {found.agreement:.6f}")
    if found.exact is not None:
        rows.append(f"exact: {found.exact:.4f} of the images (the others: give a larger look)")
    return rows


if __name__ == "__main__":
    launch(export_run, "export", __doc__)
