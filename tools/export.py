"""Export a run as a file for a runtime, and hold the file to PyTorch on real images.

Usage: python tools/export.py run=<run folder> [format=<format>] [key=value ...]

Examples:
  python tools/export.py run=<run folder>                                        ONNX
  python tools/export.py run=<run folder> format=openvino precision=fp16
  python tools/export.py run=<run folder> output=argmax full_size=true           label maps (segmentation)
  python tools/export.py run=<run folder> output=detections dynamic=batch        with suppression (detection)
  python tools/export.py run=<run folder> dynamic=both budget.miou=0.5           scored on the labelled split
  python tools/export.py run=<run folder> data.eval_size=[512,1024] input=photos
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

import hashlib
import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig

from deploy.agreement import BUDGETS, Agreement, compare, write_golden
from deploy.artifact import describe, in_place_of_model, prepared
from deploy.export import export
from deploy.runtimes import FORMATS, SUFFIXES, open_session
from engine import inputs, run_folder, runtime
from engine.build import make
from engine.classes import ClassMap
from engine.config import build, launch, load_trained, open_trained
from engine.data import Shard, loader
from engine.errors import UserError
from engine.evaluate import evaluate
from engine.files import spread
from engine.images import read_image
from engine.intake import Intake
from engine.run_folder import RunFolder

OF_THE_GRAPH = ("output", "full_size", "upsample", "look", "steps", "normalise", "dtype")
DYNAMIC = ("none", "batch", "size", "both")
Sample = tuple[str, NDArray[np.uint8], NDArray[Any]]


def export_run(config: DictConfig) -> None:
    run, trained = open_trained(config)
    check_options(config)
    torch.set_num_threads(config.threads)
    task = load_trained(run, trained, ClassMap.read(run.classes), config.checkpoint)
    options = {name: config[name] for name in OF_THE_GRAPH if config[name] is not None}
    module = make({"_target_": f"{trained.room}.export.Export", **options}, "export", task=task)
    metadata = describe(module, room=trained.room, facts=facts(config, run))
    samples = read_samples(config, trained, module, metadata)
    example = torch.from_numpy(np.stack([samples[0][2]] * config.batch))
    out = Path(config.out or run.path / "export" / f"{config.format}-{config.precision}")
    path = export(
        module,
        example,
        run_folder.make(out) / f"model{SUFFIXES[config.format]}",
        format=config.format,
        names=module.names,
        dynamic_batch=config.dynamic in ("batch", "both"),
        dynamic_size=config.dynamic in ("size", "both"),
        metadata=metadata,
        precision=config.precision,
    )
    try:
        session = open_session(path, threads=config.threads)
        found = compare(module, session, [image for _, _, image in samples])
        max_difference, agreement = BUDGETS[config.precision]
        found.check(
            max_difference=given(config.budget.max_difference, max_difference),
            agreement=given(config.budget.agreement, agreement),
        )
        scores = check_metric(config, run, trained, path)
    except UserError as error:
        rejected = path.with_name(f"{path.name}.rejected")
        os.replace(path, rejected)
        raise UserError(f"{rejected}: {error}") from None
    write_golden(path, session, samples, found, scores)
    print(
        "\n".join([f"runtime: {session.runtime}", *lines(found), *(f"{k}: {v}" for k, v in scores.items())])
    )
    print(f"out: {path}")


def check_options(config: DictConfig) -> None:
    if config.precision == "int8":
        raise UserError("precision=int8 is made of an exported file: tools/quantize.py")
    if config.format not in FORMATS:
        raise UserError(f"format must be one of {', '.join(FORMATS)}, got {config.format!r}")
    if config.dynamic not in DYNAMIC:
        raise UserError(f"dynamic must be one of {', '.join(DYNAMIC)}, got {config.dynamic!r}")
    for key in ("batch", "images", "threads"):
        if type(config[key]) is not int or config[key] < 1:
            raise UserError(f"{key} must be a whole number of at least 1, got {config[key]!r}")


def given(value: float | None, default: float) -> float:
    return default if value is None else value


def facts(config: DictConfig, run: RunFolder) -> dict[str, str]:
    weights = run.checkpoint(config.checkpoint)
    return {
        "run": str(run.path.name),
        "checkpoint_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "licence": config.licence or "not stated; see those of the training data and of the starting weights",
        "precision": config.precision,
        "made_by": f"mobilenet-dense, PyTorch {torch.__version__}",
    }


def read_samples(
    config: DictConfig, trained: DictConfig, module: Any, metadata: dict[str, str]
) -> list[Sample]:
    """Real pictures, and what the network is given of each."""
    if config.input is not None:
        files = [file for file in inputs.find(config.input) if not inputs.is_video(file)][: config.images]
    else:
        data = build(trained.data.source, key="data.source")
        dataset = data.dataset(trained.data.split, module.eval_transform, seed=0)
        files = [Path(dataset.image_path(index)) for index in spread(len(dataset), config.images)]
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
    names = [name for name in ("miou", "map", "top1") if config.budget[name] is not None]
    scores: dict[str, float] = {}
    for name in names:
        for label, file in (("pytorch", None), ("file", path)):
            task = load_trained(run, trained, ClassMap.read(run.classes), config.checkpoint)
            if file is not None:
                threads = config.threads
                task = in_place_of_model(task, trained.room, file, threads=threads, precision="fp32")
            metrics = score(task, trained)
            if name not in metrics:
                raise UserError(f"budget.{name}: this task is scored by {', '.join(list(metrics)[:3])}")
            scores[f"{name}_{label}"] = round(100 * metrics[name], 4)
        lost = scores[f"{name}_pytorch"] - scores[f"{name}_file"]
        if not lost <= config.budget[name]:
            raise UserError(f"loses {lost:.2f} points of {name}; the budget is {config.budget[name]:g}")
    return scores


def score(task: Any, trained: DictConfig) -> dict[str, Any]:
    where = runtime.start(device="cpu", precision="fp32")
    data = build(trained.data.source, key="data.source")
    task.check_classes(data.classes)
    dataset = Intake.of(trained.data, runtime=where).dataset(data, trained.data.split, task.eval_transform)
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
