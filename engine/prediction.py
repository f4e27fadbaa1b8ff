"""Predicts for image and video files; saves an overlay and a summary entry for each."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.contracts import Image, Reporter
from engine.data import media
from engine.data.images import read_image, write_png
from engine.errors import UserError, out_of_memory
from engine.io.png import write_rows
from engine.io.progress import PartProgress, Progress

_ENCODED_AT_ONCE = 1 << 24  # pixels; larger drawings are encoded row by row

Read = Callable[[Path], Image]


def predict_files(
    task: Any,
    reporter: Reporter,
    files: Sequence[Path],
    out: Path,
    *,
    legend: bool = True,
    read: Read = read_image,
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Predict for files, with a progress bar; a file that fails is reported and skipped.

    Returns:
        The entries of the files in summary.json, and those of the files that failed.
    """
    records, failures = [], []
    progress = Progress(len(files), unit="file")
    for done, (file, name) in enumerate(zip(files, media.output_names(files), strict=True), start=1):
        try:
            records.append(predict_file(task, reporter, file, out, name, legend=legend, read=read))
        except Exception as error:
            if not isinstance(error, UserError) and not out_of_memory(error):
                raise
            reason = str(error) if isinstance(error, UserError) else f"{file}: {no_memory(task)}"
            failures.append({"file": str(file), "error": reason})
            progress.print(f"skipped: {reason}")
        progress.update(done, file.name)
    progress.close()
    return records, failures


def no_memory(task: Any) -> str:
    """What to say about an image that does not fit into memory."""
    return f"not enough memory to predict it; {getattr(task, 'memory_remedy', 'scale it down')}"


def predict_file(
    task: Any,
    reporter: Reporter,
    file: Path,
    out: Path,
    name: str,
    *,
    legend: bool = True,
    read: Read = read_image,
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
    progress = PartProgress(unit="window")
    task.on_part = progress
    prediction = task.predict_image(image)
    progress.close()
    record = reporter.save_prediction(prediction, out, name)
    if hasattr(reporter, "draw_onto"):  # needs no second image
        parts = reporter.draw_onto(image, prediction, legend=legend)
    else:
        parts = [reporter.draw(image, prediction, legend=legend)]
    _write_stacked(out / "overlays" / f"{name}.png", parts)
    return {"overlay": f"overlays/{name}.png", **record}


def _write_stacked(path: Path, parts: Sequence[Image]) -> None:
    """Write images of equal width below each other as one PNG file."""
    if sum(part.shape[0] * part.shape[1] for part in parts) > _ENCODED_AT_ONCE:
        write_rows(path, parts)
    else:
        write_png(path, parts[0] if len(parts) == 1 else np.concatenate(parts))


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
