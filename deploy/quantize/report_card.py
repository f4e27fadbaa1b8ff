"""The int8 report card: what 8 bits cost in accuracy, layer by layer, and what they gain in time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.formats.runtimes import open_session
from deploy.quantize.sensitivity import FallBack, Quantizer, Sensitivity, fall_back, file_bytes, sensitivities
from deploy.timing import machine
from deploy.timing.latency import Latency, Ratio, Rounds, clocked, take_rounds
from engine.errors import UserError
from engine.io.files import write_json, write_text

SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class ReportCard:
    """Attributes:

    runtime: that ran both files, with `threads` threads. metric: its name; `before` and `fallback.score` are
    points of 100 of the float file and of this one, over `split`; the layers in float were chosen on it too.
    budget: points that may be lost. calibration: `images`, their `split`, `probes` (images of the
    sensitivities), `per_channel`. layers: that could be 8 bit. sensitivity: the worst first.
    latency, ratio: milliseconds of one call with `input` numbers, and 8 bit over float; None: not measured.
    tuned: of a second file that was fine-tuned: `file`, `steps`, `score`; None: there is none.
    """

    runtime: str
    threads: int
    metric: str
    split: str
    before: float
    budget: float
    calibration: Mapping[str, Any]
    layers: int
    sensitivity: Sequence[Sensitivity]
    fallback: FallBack
    bytes_before: int
    bytes_after: int
    input: Sequence[int]
    latency: Mapping[str, Latency] | None
    ratio: Ratio | None
    tuned: Mapping[str, Any] | None = None

    @property
    def lost(self) -> float:
        """Points that the file loses; negative: it gains some."""
        return self.before - self.fallback.score

    def write(self, folder: Path) -> None:
        """Write `report_card.json` and `report_card.md`. Raises: UserError when they cannot be written."""
        content = {
            **asdict(self),
            "after": self.fallback.score,
            "lost": round(self.lost, 4),
            "machine": machine.describe(),
        }
        write_json(folder / "report_card.json", content)
        try:
            write_text(folder / "report_card.md", self.text())
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another out=") from None

    def text(self) -> str:
        """The card for people, Markdown."""
        floating = self.fallback.floating
        scales = "a scale per output channel" if self.calibration["per_channel"] else "one scale per tensor"
        rows = [
            "# Int8 report card\n",
            f"{self.runtime}, {self.threads} thread{'s' if self.threads > 1 else ''}; calibrated on "
            f"{self.calibration['images']} images of {self.calibration['split']}, {scales}\n",
            f"| | float32 | int8 | |\n|---|---|---|---|\n| {self.metric}, {self.split} | {self.before:.2f} | "
            f"{self.fallback.score:.2f} | {0.0 - self.lost:+.2f} (budget -{self.budget:g}) |",
            f"| MB | {self.bytes_before / 1e6:.2f} | {self.bytes_after / 1e6:.2f} | "
            f"{self.bytes_before / self.bytes_after:.2f}x smaller |",
            *self._times(),
            *self._tuned(),
            f"\n{self.layers - len(floating)} of {self.layers} layers are in 8 bits, {len(floating)} in float"
            + ("; which, was chosen on the same images that are scored here." if floating else "."),
            f"\n| layers in float | {self.metric} |\n|---|---|",
            *(f"| {count} | {score:.2f} |" for count, score in sorted(self.fallback.tried)),
            "\nEach layer alone in 8 bits: signal over error at the outputs "
            f"({self.calibration['probes']} images)\n\n| layer | dB | |\n|---|---|---|",
            *(
                f"| {entry.layer} | {entry.snr_db:.1f} | {'float' if entry.layer in floating else ''} |"
                for entry in self.sensitivity[: max(SHOWN, len(floating))]
            ),
        ]
        left = len(self.sensitivity) - max(SHOWN, len(floating))
        return "\n".join([*rows, *([f"\n{left} more in report_card.json"] if left > 0 else [])]) + "\n"

    def _tuned(self) -> list[str]:
        if self.tuned is None:
            return []
        file, steps, score = (self.tuned[key] for key in ("file", "steps", "score"))
        return [f"| {file}: fine-tuned for {steps} steps | | {score:.2f} | {score - self.before:+.2f} |"]

    def _times(self) -> list[str]:
        if self.latency is None or self.ratio is None:
            return []
        before, after = (self.latency[name].p50 for name in ("float32", "int8"))
        return [f"| ms, median | {before:.2f} | {after:.2f} | {1 / self.ratio.p50:.2f}x faster |"]


def grade(
    quantizer: Quantizer,
    source: Path,
    path: Path,
    *,
    images: Sequence[NDArray[Any]],
    calibration: Mapping[str, Any],
    score: Callable[[Path], float],
    metric: str,
    split: str,
    budget: float,
    threads: int = 1,
    rounds: Rounds | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> ReportCard:
    """Choose the layers that stay float, write the file to `path`, and say what came of it.

    Args:
        source: the float file that `quantizer` was opened with.
        images: [3, h, w] each: those of the sensitivities; the first is timed.
        calibration: notes for the card.
        score: points of 100 of a file on labeled data.
        budget: points that may be lost.
        rounds: of the timing; None: no timing.

    Raises:
        UserError: no file with layers in 8 bits is within the budget.
    """
    before = score(source)
    say(f"float32: {metric} {before:.2f}")
    found = sensitivities(quantizer, source, images, threads=threads)
    order = [entry.layer for entry in found]
    chosen = fall_back(quantizer, path, order=order, score=score, least=before - budget, say=say)
    image = images[0][None]
    latency, ratio = (None, None) if rounds is None else timed(source, path, image, threads, rounds)
    return ReportCard(
        runtime=open_session(path, threads=threads).runtime,
        threads=threads,
        metric=metric,
        split=split,
        before=before,
        budget=budget,
        calibration={**calibration, "probes": len(images)},
        layers=len(order),
        sensitivity=found,
        fallback=chosen,
        bytes_before=file_bytes(source),
        bytes_after=file_bytes(path),
        input=list(image.shape),
        latency=latency,
        ratio=ratio,
    )


def timed(
    source: Path, path: Path, image: NDArray[Any], threads: int, rounds: Rounds
) -> tuple[dict[str, Latency], Ratio]:
    """The float file and the other in turns, on one image [1, 3, h, w]."""
    sessions = {"float32": open_session(source, threads=threads), "int8": open_session(path, threads=threads)}
    batches = {name: np.repeat(image, session.shape[0] or 1, axis=0) for name, session in sessions.items()}
    calls = {name: clocked(partial(session, batches[name])) for name, session in sessions.items()}
    seconds = take_rounds(calls, rounds)
    return (
        {name: Latency.of(values) for name, values in seconds.items()},
        Ratio.of(seconds["int8"], seconds["float32"]),
    )
