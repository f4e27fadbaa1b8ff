"""Predicts for image and video files; saves an overlay and a summary entry for each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.contracts import Image, Reporter
from engine.data import media
from engine.data.images import read_image, write_png
from engine.io.progress import Progress


def predict_file(
    task: Any,
    reporter: Reporter,
    file: Path,
    out: Path,
    name: str,
    *,
    legend: bool = True,
    read: Callable[[Path], Image] = read_image,
) -> dict[str, Any]:
    """Predict for an image or a video; write `out/overlays/<name>.png` or `.mp4` and the reporter's files.

    read: reads an image file, such as `TrainedRun.read_image`.

    Returns:
        The file's entry in summary.json.

    Raises:
        UserError: if the file cannot be read or the output cannot be written.
    """
    if media.is_video(file):
        return {"file": str(file), **_predict_video(task, reporter, file, out, name, legend)}
    return {"file": str(file), **_predict_image(task, reporter, read(file), out, name, legend)}


def _predict_image(
    task: Any, reporter: Reporter, image: Image, out: Path, name: str, legend: bool
) -> dict[str, Any]:
    prediction = task.predict_image(image)
    write_png(out / "overlays" / f"{name}.png", reporter.draw(image, prediction, legend=legend))
    return {"overlay": f"overlays/{name}.png", **reporter.save_prediction(prediction, out, name)}


def _predict_video(
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
