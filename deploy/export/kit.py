"""Writes a kit: a folder with a model, all that runs it without this project, and examples to check it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from deploy import libraries
from deploy.artifact import with_exported_file
from deploy.device import runtimes
from deploy.export.golden import NUM_EXAMPLES
from deploy.export.job import ExportJob
from engine.data.images import write_png
from engine.errors import UserError
from engine.io.files import write_json
from engine.io.progress import announced

TASKS = ("cls", "det", "seg")
"""Tasks whose answers `run.py` prints."""
LIBRARIES = {
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "litert": "ai-edge-litert",
    "ncnn": "ncnn",
    "mnn": "MNN",
}
"""The package that runs each format, by the name that pip knows."""
CPP = ("onnx",)
"""Formats with a C++ program."""

_DEVICE = Path(runtimes.__path__[0]).parent
_COPIED = ("run.py", "image.py")


def check_task(task: str) -> None:
    """Raises: UserError if `run.py` does not know the task."""
    if task not in TASKS:
        raise UserError(f"format=kit: supports tasks {', '.join(TASKS)}, not {task}; set another format=")


def check_single_pass(task: Any) -> None:
    """Raises: UserError if predictions are averaged over views or merged from tiles: a device's programs do
    neither."""
    inference = getattr(task, "inference", None)
    if inference is not None and not inference.is_single_pass:
        raise UserError(
            f"the run predicts with {inference}, and a device predicts each image once: add inference=whole"
        )


@announced("writing the kit")
def write_kit(job: ExportJob, path: Path) -> None:
    """Add what runs the exported file at `path`: programs, golden images with predict's answers, a README.

    `preprocess.json` and `decode.py` are already beside it.

    Raises:
        UserError: if a file cannot be written.
    """
    folder, format = path.parent, job.options.file_format
    about = json.loads((folder / "preprocess.json").read_text(encoding="utf-8"))
    try:
        for name in _COPIED:
            shutil.copyfile(_DEVICE / name, folder / name)
        shutil.copyfile(_DEVICE / "runtimes" / f"{format}.py", folder / "runtime.py")
        if format in CPP:
            shutil.copytree(_DEVICE / "cpp", folder / "cpp", dirs_exist_ok=True)
        names = [entry["name"] for entry in about["classes"]["classes"]]
        (folder / "labels.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        needed = ("numpy", "pillow", LIBRARIES[format])
        requirements = dict.fromkeys(needed, "") | libraries.versions(
            needed
        )  # some have another name, as for GPUs
        lines = [
            f"{name}  # checked with {found}\n" if found else f"{name}\n"
            for name, found in requirements.items()
        ]
        (folder / "requirements.txt").write_text("".join(lines), encoding="utf-8")
        _write_golden_images(job, path)
        if job.options.precision == "int8":
            shutil.rmtree(folder / "float32", ignore_errors=True)  # what the 8-bit file was made from
        (folder / "README.md").write_text(_readme(about, format, requirements), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another out=") from None


def _write_golden_images(job: ExportJob, path: Path) -> None:
    """`golden/<i>.png`, and `golden/expected.json` with what predict answers for them, using the file."""
    folder = path.parent / "golden"
    task = with_exported_file(
        job.run.task(), job.run.info, path, threads=job.options.threads, precision="fp32"
    )
    reporter = job.run.info.reporter(task)
    entries = []
    for number, sample in enumerate(job.comparison_samples()[:NUM_EXAMPLES]):
        write_png(folder / f"{number}.png", sample.image)
        answer = reporter.save_prediction(task.predict_image(sample.image), folder, str(number))
        entries.append({"file": f"{number}.png", **answer})
    write_json(folder / "expected.json", {"files": entries})


def _readme(about: Mapping[str, Any], format: str, requirements: Mapping[str, str]) -> str:
    loader = jinja2.FileSystemLoader(_DEVICE)
    environment = jinja2.Environment(
        loader=loader, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = environment.get_template("README.md.jinja")
    return template.render(
        about=about, requirements=requirements, cpp=format in CPP, license=about["license"]
    )
