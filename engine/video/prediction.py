"""Predicts on the frames of videos and live streams."""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from engine.contracts import Image, Reporter
from engine.io.progress import Progress
from engine.runtime import StopRequest
from engine.video import writing
from engine.video.frames import VideoFile
from engine.video.stream import RealTime, Stream, patience_s


def predict_video(
    task: Any,
    reporter: Reporter,
    video: VideoFile,
    out: Path,
    name: str,
    *,
    legend: bool = True,
    frames: int | None = None,
) -> dict[str, Any]:
    """Predict on the frames of a video, at most `frames`; Ctrl-C ends it and keeps the frames written so far.

    Returns:
        The video's entry in summary.json; if frames are missing, `damage` says how many.
    """
    expected = video.expected if frames is None else min(frames, video.expected or frames)
    records: list[dict[str, Any]] = []
    with _Frames(task, reporter, out, name, legend, expected, records.append) as run:
        limited = itertools.islice(run.until_stopped(video), frames)
        count = writing.write_video(limited, run.overlay, run.draw, run.progress.update, rate=video.rate)
    entry: dict[str, Any] = {"overlay": f"overlays/{name}.mp4", "frames": count, "predictions": records}
    if run.stopped:
        entry["interrupted"] = True
    elif count != frames and (damage := video.damage()) is not None:
        entry |= {"expected_frames": video.expected or None, "damage": damage}
    return entry


def predict_stream(
    task: Any,
    reporter: Reporter,
    stream: Stream,
    out: Path,
    name: str,
    *,
    legend: bool = True,
    frames: int | None = None,
) -> dict[str, Any]:
    """Predict on the newest frames of a stream until it ends, for at most `frames` frames, or until Ctrl-C.

    The entries of the frames are written to `out/frames/<name>.jsonl`, one per line.

    Returns:
        The stream's entry in summary.json; if the source fell silent, `damage` says so.
    """
    path = out / "frames" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as lines:

        def write(record: dict[str, Any]) -> None:
            lines.write(json.dumps(record, ensure_ascii=False) + "\n")

        with _Frames(task, reporter, out, name, legend, frames or 0, write) as run:
            count = writing.write_video(
                itertools.islice(stream.frames(lambda: run.stopped), frames),
                run.overlay,
                run.draw,
                run.progress.update,
                rate=stream.rate,
                copies=RealTime(stream.rate),
            )
    ended_by = "silence" if stream.silent else "signal" if run.stopped else "source"
    entry = {
        "file": stream.name,
        "overlay": f"overlays/{name}.mp4",
        "frames": count,
        "dropped_frames": stream.dropped,
        "ended_by": "limit" if count == frames else ended_by,
        "predictions": f"frames/{name}.jsonl",
    }
    if entry["ended_by"] == "silence":
        entry["damage"] = (
            f"sent nothing for {patience_s():g} s; its {count} frames are kept; check the source and the "
            "network, and start again"
        )
    return entry


class _Frames:
    """Predicts and draws frame after frame; while it is open, Ctrl-C and SIGTERM only set `stopped`."""

    def __init__(
        self,
        task: Any,
        reporter: Reporter,
        out: Path,
        name: str,
        legend: bool,
        expected: int,
        record: Callable[[dict[str, Any]], None],
    ) -> None:
        self.task, self.reporter, self.out, self.name, self.legend = task, reporter, out, name, legend
        self.overlay = out / "overlays" / f"{name}.mp4"
        self.progress = Progress(expected, unit="frame")
        self._record, self._count, self._request = record, 0, StopRequest()

    def draw(self, frame: Image) -> Image:
        prediction = self.task.predict_image(frame)
        name = f"{self.name}/{self._count:06d}"
        self._record(self.reporter.save_prediction(prediction, self.out, name))
        self._count += 1
        return self.reporter.draw(frame, prediction, legend=self.legend, all_classes=True)

    @property
    def stopped(self) -> bool:
        return self._request.signal is not None

    def until_stopped(self, frames: Iterable[Image]) -> Iterator[Image]:
        return itertools.takewhile(lambda _: not self.stopped, frames)

    def __enter__(self) -> "_Frames":
        self._request.install()
        return self

    def __exit__(self, *_: object) -> None:
        self._request.remove()
        self.progress.close()
