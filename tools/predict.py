"""Predict on images or videos: pictures with a legend, id masks, a JSON summary.

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

from omegaconf import DictConfig

from deploy.artifact import in_place_of_model
from engine import runtime
from engine.config.compose import launch, load_trained, open_trained
from engine.data import media
from engine.data.class_map import ClassMap
from engine.data.images import read_image, write_png
from engine.errors import UserError
from engine.io.files import write_json
from engine.io.progress import Progress
from engine.run import run_folder


def predict(config: DictConfig) -> int:
    run, trained = open_trained(config)
    files = media.find_media(config.input)
    where = runtime.start(device=config.device, precision=config.precision)
    task = load_trained(run, trained, ClassMap.read(run.classes), config.checkpoint)
    if config.artifact is not None:
        task = in_place_of_model(
            task, trained.room, Path(config.artifact), threads=config.threads, precision=config.precision
        )
    task = where.place(task)
    out = run_folder.make(Path(config.out or run.path / "predict"))
    records, failures = [], []
    progress = Progress(len(files), unit="file")
    for done, (file, name) in enumerate(zip(files, media.output_names(files), strict=True), start=1):
        try:
            work = predict_video if media.is_video(file) else predict_image
            records.append({"file": str(file), **work(task, file, out, name, config.legend)})
        except UserError as error:
            failures.append({"file": str(file), "error": str(error)})
            progress.print(f"skipped: {error}")
        progress.update(done, file.name)
    progress.close()
    write_json(out / "summary.json", {"run": str(run.path), "files": records, "failed": failures})
    print(f"{len(records)} of {len(files)} files predicted\nout: {out}")
    return 1 if failures else 0


def predict_image(task: Any, file: Path, out: Path, name: str, legend: bool) -> dict[str, Any]:
    image = read_image(file)
    output = task.predict_image(image)
    write_png(out / "overlays" / f"{name}.png", task.picture(image, output, legend=legend))
    return {"overlay": f"overlays/{name}.png", **task.save_prediction(output, out, name)}


def predict_video(task: Any, file: Path, out: Path, name: str, legend: bool) -> dict[str, Any]:
    progress = Progress(media.num_frames(file), unit="frame")
    records: list[dict[str, Any]] = []

    def draw(frame: media.Image) -> media.Image:
        output = task.predict_image(frame)
        records.append(task.save_prediction(output, out, f"{name}/{len(records):06d}"))
        return task.picture(frame, output, legend=legend, all_classes=True)

    count = media.map_video(file, out / "overlays" / f"{name}.mp4", draw, progress.update)
    progress.close()
    return {"overlay": f"overlays/{name}.mp4", "frames": count, "predictions": records}


if __name__ == "__main__":
    launch(predict, "predict", __doc__)
