"""Predict on images or videos; saves overlays with a legend, the predictions and a JSON summary.

Usage: python tools/predict.py run=<run folder> input=<image | folder | glob | video> [key=value ...]

Examples:
  python tools/predict.py run=<run folder> input=street.jpg
  python tools/predict.py run=<run folder> input=photos out=results
  python tools/predict.py run=<run folder> 'input="photos/*.png"' legend=false
  python tools/predict.py run=<run folder> input=drive.mp4
  python tools/predict.py run=<run folder> input=photos inference.flip=true
  python tools/predict.py run=<run folder> input=photos artifact=<exported file>
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

from pathlib import Path
from typing import Any

from deploy.artifact import with_exported_file
from engine import runtime
from engine.config.launch import launch
from engine.config.options import PredictOptions
from engine.config.runs import TrainedRun
from engine.data import media
from engine.io.files import write_json
from engine.prediction import predict_files
from engine.run import run_folder


def predict(options: PredictOptions) -> int:
    """Predict on all input files; returns the exit status: 1 if a file was skipped."""
    run = TrainedRun.open(options.run, overrides=options.overrides, checkpoint=options.checkpoint)
    place = Path(options.out or run.folder.path / "predict")
    files = media.find_media(options.input, skip=place)
    for note in run.range_notes([file for file in files if not media.is_video(file)]):
        print(note)
    here = runtime.start(device=options.device, precision=options.precision)
    task: Any = run.task()
    if options.artifact is not None:
        file = Path(options.artifact)
        task = with_exported_file(task, run.info, file, threads=options.threads, precision=options.precision)
    here.place(task)
    reporter = run.info.reporter(task)
    with run_folder.claim(place, key="out") as out:
        records, failures = predict_files(
            task, reporter, files, out, legend=options.legend, read=run.read_image
        )
        write_json(out / "summary.json", {"run": str(run.folder.path), "files": records, "failed": failures})
        print(f"{len(records)} of {len(files)} files predicted\nout: {out}")
    return 1 if failures else 0


if __name__ == "__main__":
    launch(predict, "predict", __doc__)
