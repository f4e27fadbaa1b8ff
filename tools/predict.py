"""Predict on images or videos: drawings with a legend, label maps, a JSON summary.

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
from engine.contracts import Image, Reporter
from engine.data import media
from engine.data.images import read_image, write_png
from engine.errors import UserError
from engine.io.files import write_json
from engine.io.progress import Progress
from engine.run import run_folder


def predict(options: PredictOptions) -> int:
    run = TrainedRun.open(options.run, overrides=options.overrides, checkpoint=options.checkpoint)
    files = media.find_media(options.input)
    here = runtime.start(device=options.device, precision=options.precision)
    task: Any = run.task()
    if options.artifact is not None:
        file = Path(options.artifact)
        task = with_exported_file(task, run.info, file, threads=options.threads, precision=options.precision)
    here.place(task)
    reporter = run.info.reporter(task)
    out = run_folder.make(Path(options.out or run.folder.path / "predict"))
    records, failures = [], []
    progress = Progress(len(files), unit="file")
    for done, (file, name) in enumerate(zip(files, media.output_names(files), strict=True), start=1):
        try:
            predict_one = predict_video if media.is_video(file) else predict_image
            records.append(
                {"file": str(file), **predict_one(task, reporter, file, out, name, options.legend)}
            )
        except UserError as error:
            failures.append({"file": str(file), "error": str(error)})
            progress.print(f"skipped: {error}")
        progress.update(done, file.name)
    progress.close()
    write_json(out / "summary.json", {"run": str(run.folder.path), "files": records, "failed": failures})
    print(f"{len(records)} of {len(files)} files predicted\nout: {out}")
    return 1 if failures else 0


def predict_image(
    task: Any, reporter: Reporter, file: Path, out: Path, name: str, legend: bool
) -> dict[str, Any]:
    image = read_image(file)
    prediction = task.predict_image(image)
    write_png(out / "overlays" / f"{name}.png", reporter.draw(image, prediction, legend=legend))
    return {"overlay": f"overlays/{name}.png", **reporter.save_prediction(prediction, out, name)}


def predict_video(
    task: Any, reporter: Reporter, file: Path, out: Path, name: str, legend: bool
) -> dict[str, Any]:
    progress = Progress(media.num_frames(file), unit="frame")
    records: list[dict[str, Any]] = []

    def draw(frame: Image) -> Image:
        prediction = task.predict_image(frame)
        records.append(reporter.save_prediction(prediction, out, f"{name}/{len(records):06d}"))
        return reporter.draw(frame, prediction, legend=legend, all_classes=True)

    count = media.map_video(file, out / "overlays" / f"{name}.mp4", draw, progress.update)
    progress.close()
    return {"overlay": f"overlays/{name}.mp4", "frames": count, "predictions": records}


if __name__ == "__main__":
    launch(predict, "predict", __doc__)
