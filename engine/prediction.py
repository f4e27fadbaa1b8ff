"""Saves predictions: for image and video files, each with an overlay, and for an evaluation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine.contracts import Batch, Dataset, Image, Reporter
from engine.data import media
from engine.data.images import IMAGE_SUFFIXES, read_image, write_png
from engine.errors import UserError, counted, out_of_memory, some
from engine.io.files import flat_names, write_json
from engine.io.png import write_rows
from engine.io.progress import PartProgress, Progress, announced
from engine.pseudo_labels.writers import LabeledImages
from engine.run import run_folder
from engine.run.run_folder import Claim
from engine.runtime import Runtime
from engine.video.frames import VideoFile
from engine.video.prediction import predict_stream, predict_video
from engine.video.stream import Stream, output_name, source_name

_ENCODED_AT_ONCE = 1 << 24  # pixels; larger drawings are encoded row by row

_RESULTS = ("summary.json", "overlays", "masks", "frames", "labels")

Read = Callable[[Path], Image]


@dataclass
class Predictions:
    """The entries of files in summary.json, and those of files that failed or are damaged.

    interrupted: whether Ctrl-C ended the job before its last file.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    interrupted: bool = False

    @property
    def status(self) -> int:
        """The exit status of the tool."""
        return 130 if self.interrupted else 1 if self.failures else 0

    def summary(self) -> dict[str, Any]:
        """The content of summary.json."""
        return {"files": self.records, "failed": self.failures, "interrupted": self.interrupted}

    def lines(self, num_files: int) -> list[str]:
        """What to print at the end. num_files: 0 for a stream."""
        if not num_files:
            (record,) = self.records
            dropped = record.get("dropped_frames", 0)
            more = f", {dropped} dropped" if dropped else ""
            more += ", until the source ended" if record.get("ended_by") == "source" else ""
            return [f"{record['file']}: {counted(record['frames'], 'frame')} predicted{more}"]
        complete = len(self.records) - sum("damage" in record for record in self.records)
        ended = "interrupted: " if self.interrupted else ""
        return [f"{ended}{complete} of {num_files} files predicted"]


def claim_results(place: Path, *, renames: bool) -> Claim:
    """Claim a folder without earlier predictions.

    Args:
        renames: the name is a default; if it is taken, `_2`, `_3` ... is appended.

    Raises:
        UserError: if the folder contains earlier predictions, which would be mixed with the new ones.
    """
    claimed = run_folder.claim(place, renames=renames, key="out")
    earlier = [name for name in _RESULTS if (claimed.path / name).exists()]
    if earlier:
        claimed.release()
        raise UserError(
            f"out={place}: contains earlier predictions ({', '.join(earlier)}); choose another out=, or "
            "remove them"
        )
    return claimed


class Labeling:
    """Writes confident predictions as a data set.

    Args:
        kind: format, one of `engine.pseudo_labels.writers.WRITERS`.
        min_score: least score or probability of what is labeled.

    Raises:
        UserError: if the task's predictions cannot be written in this format or do not tell their certainty,
            or a file is not an image that training reads.
    """

    def __init__(
        self, reporter: Any, folder: Path, kind: str, files: Sequence[Path], *, min_score: float
    ) -> None:
        available = getattr(reporter, "label_kinds", ())
        if kind not in available:
            raise UserError(
                f"save_labels={kind} is not for this task; use save_labels={' or '.join(available) or 'null'}"
            )
        video = next((file for file in files if media.is_video(file)), None)
        if video is not None or not files:
            raise UserError(f"save_labels= labels images, not {video or 'a stream'}; save frames first")
        unread = [file.name for file in files if not file.name.lower().endswith(IMAGE_SUFFIXES)]
        if unread:
            kinds = " ".join(suffix.lstrip(".") for suffix in IMAGE_SUFFIXES)
            raise UserError(
                f"save_labels= labels images that training reads, not {some(unread)}; leave them out, or "
                f"convert them ({kinds})"
            )
        if hasattr(reporter, "check_confident"):
            reporter.check_confident(min_score)
        self.images = LabeledImages(folder, kind, reporter.classes)
        self.reporter, self.min_score = reporter, min_score

    def add(self, file: Path, name: str, image: Image, prediction: Any) -> None:
        label = self.reporter.confident(image, prediction, self.min_score)
        self.images.add(file, name, image.shape[:2], label)

    def finish(self, *, task: str, run: str, settings: Sequence[str] = ()) -> list[str]:
        """Complete the data set; returns what to print. settings: see `LabeledImages.finish`."""
        return self.images.finish(task=task, run=run, min_score=self.min_score, settings=settings)


def predict_live(
    task: Any, reporter: Reporter, source: str, out: Path, *, legend: bool, frames: int | None
) -> Predictions:
    """Predict on a camera or an address (`engine.video.stream.is_stream`).

    Raises:
        UserError: if it cannot be opened.
    """
    print(f"opening {source_name(source)}", flush=True)
    stream, result = Stream(source), Predictions()
    name = output_name(source)
    options: dict[str, Any] = {"legend": legend, "frames": frames}
    limit = f", at most {counted(frames, 'frame')}" if frames else ""
    print(f"predicting {stream.name} until it ends or Ctrl-C{limit}", flush=True)
    if stream.perhaps_file:
        print(
            f"{stream.name}: the server gives no length, so this is read as a live stream, and frames that "
            "arrive during a prediction are dropped; if it is a file, download it to predict all frames"
        )
    if stream.file is None:
        record = predict_stream(task, reporter, stream, out, name, **options)
    else:
        record = {"file": stream.name, **predict_video(task, reporter, stream.file, out, name, **options)}
        if not (record.pop("interrupted", False) or stream.file.expected or record["frames"] == frames):
            record["ended_by"] = "source"  # perhaps cut off: its container does not count its frames
    result.records.append(record)
    if "damage" in record:
        result.failures.append({"file": stream.name, "error": f"{stream.name}: {record['damage']}"})
        print(f"incomplete: {result.failures[0]['error']}")
    return result


def predict_files(
    task: Any,
    reporter: Reporter,
    files: Sequence[Path],
    out: Path,
    *,
    legend: bool = True,
    frames: int | None = None,
    read: Read = read_image,
    labels: Labeling | None = None,
) -> Predictions:
    """Predict on files, with a progress bar; a file that fails is reported and skipped.

    Args:
        frames: maximum number of frames of a video (None: all).
        labels: also writes the predictions as labels; for images only.

    Raises:
        UserError: if `frames` is set, but no file is a video.
    """
    if frames is not None and not any(map(media.is_video, files)):
        raise UserError("frames: there is no video in input=; leave it out")
    options: dict[str, Any] = {"legend": legend, "frames": frames, "read": read, "labels": labels}
    result = Predictions()
    progress = Progress(len(files), unit="file")

    def failed(file: Path, reason: str, what: str) -> None:
        result.failures.append({"file": str(file), "error": reason})
        progress.print(f"{what}: {reason}")

    for done, (file, name) in enumerate(zip(files, media.output_names(files), strict=True), start=1):
        try:
            record = predict_file(task, reporter, file, out, name, **options)
        except KeyboardInterrupt:
            result.interrupted = True
            break
        except Exception as error:
            if not isinstance(error, UserError) and not out_of_memory(error):
                raise
            reason = str(error) if isinstance(error, UserError) else no_memory(task)
            failed(file, reason if str(file) in reason else f"{file}: {reason}", "skipped")
        else:
            result.records.append(record)
            if "damage" in record:
                failed(file, f"{file}: {record['damage']}", "incomplete")
            if record.get("interrupted"):
                result.interrupted = True
                break
        progress.update(done, file.name)
    progress.close()
    return result


def no_memory(task: Any) -> str:
    """The message about an image that does not fit in memory."""
    return f"not enough memory to predict it; {getattr(task, 'memory_remedy', 'scale it down')}"


def predict_file(
    task: Any,
    reporter: Reporter,
    file: Path,
    out: Path,
    name: str,
    *,
    legend: bool = True,
    frames: int | None = None,
    read: Read = read_image,
    labels: Labeling | None = None,
) -> dict[str, Any]:
    """Predict for an image or a video; write `out/overlays/<name>.png` or `.mp4` and the reporter's files.

    Args:
        read: reads an image file, such as `TrainedRun.read_image`.
        labels: also writes the prediction for an image as its label.

    Returns:
        The file's entry in summary.json.

    Raises:
        UserError: if the file cannot be read or the output cannot be written.
    """
    if media.is_video(file):
        video = VideoFile(file)
        return {
            "file": str(file),
            **predict_video(task, reporter, video, out, name, legend=legend, frames=frames),
        }
    with announced(f"reading {file.name}"):
        image = read(file)
    progress = PartProgress(unit="window")
    task.on_part = progress
    with announced(f"predicting {file.name}"):
        prediction = task.predict_image(image)
    progress.close()
    if labels is not None:  # before the image is drawn on
        labels.add(file, name, image, prediction)
    with announced(f"saving {name}"):
        return {"file": str(file), **_save_image(reporter, image, prediction, out, name, legend)}


def _save_image(
    reporter: Reporter, image: Image, prediction: Any, out: Path, name: str, legend: bool
) -> dict[str, Any]:
    record = reporter.save_prediction(prediction, out, name)
    if hasattr(reporter, "draw_onto"):  # needs no copy of the image
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


class SavedPredictions:
    """Saves the predictions of an evaluation in `folder`; each process saves those of its own batches."""

    def __init__(self, reporter: Reporter, folder: Path) -> None:
        if any((folder / name).exists() for name in _RESULTS):
            raise UserError(
                f"{folder}: contains earlier predictions; set out= to another folder, or remove it"
            )
        self._reporter, self._folder = reporter, folder
        self._entries: dict[str, dict[str, Any]] = {}
        self._files: list[str] = []

    def add(self, dataset: Dataset, batch: Batch, outputs: Any) -> None:
        """Save a batch's predictions under the names of its images, with `/` replaced."""
        self._files = self._files or flat_names(map(dataset.name, range(len(dataset))))
        for index, prediction in zip(batch["index"].tolist(), self._reporter.per_image(outputs), strict=True):
            name = dataset.name(index)
            entry = self._reporter.save_prediction(prediction, self._folder, self._files[index])
            self._entries[name] = {"image": name, **entry}

    def write_summary(self, runtime: Runtime) -> None:
        """Write summary.json with the entries of all processes, sorted by name."""
        entries = {name: entry for part in runtime.gather(self._entries) for name, entry in part.items()}
        if runtime.is_main:
            self._folder.mkdir(exist_ok=True)
            write_json(self._folder / "summary.json", {"images": [entries[name] for name in sorted(entries)]})
