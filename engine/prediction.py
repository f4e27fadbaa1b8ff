"""Saves predictions: of image and video files, with an overlay for each, and of an evaluation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.contracts import Batch, Dataset, Image, Reporter
from engine.data import media
from engine.data.images import read_image, write_png
from engine.io.files import flat_name, write_json
from engine.io.progress import Progress
from engine.runtime import Runtime


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


class SavedPredictions:
    """Saves the predictions of an evaluation in `folder`; each process saves those of its own batches."""

    def __init__(self, reporter: Reporter, folder: Path) -> None:
        self._reporter, self._folder = reporter, folder
        self._entries: dict[str, dict[str, Any]] = {}

    def add(self, dataset: Dataset, batch: Batch, outputs: Any) -> None:
        """Save a batch's predictions under the names of its images, with `/` replaced."""
        for index, prediction in zip(batch["index"].tolist(), self._reporter.per_image(outputs), strict=True):
            name = dataset.name(index)
            entry = self._reporter.save_prediction(prediction, self._folder, flat_name(name))
            self._entries[name] = {"image": name, **entry}

    def write_summary(self, runtime: Runtime) -> None:
        """Write summary.json with the entries of all processes, sorted by name."""
        entries = {name: entry for part in runtime.gather(self._entries) for name, entry in part.items()}
        if runtime.is_main:
            self._folder.mkdir(exist_ok=True)
            write_json(self._folder / "summary.json", {"images": [entries[name] for name in sorted(entries)]})
