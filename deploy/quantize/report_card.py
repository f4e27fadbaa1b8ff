"""The int8 report card: the loss of accuracy, layer by layer, and the gain in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deploy.quantize.fallback import Fallback
from deploy.quantize.sensitivity import Sensitivity
from deploy.timing import machine
from deploy.timing.latency import Latency, Ratio
from engine.errors import UserError, counted
from engine.io.files import write_json, write_text

NUM_LISTED = 20
"""Number of layers in the text; the JSON file has all."""


@dataclass(frozen=True, kw_only=True)
class ReportCard:
    """Measurements of an 8-bit file and the float file that it was quantized from.

    Attributes:
        runtime, threads: runtime of both files, and its number of threads.
        metric, split: metric and split of the scores `before` (float file) and `fallback.score` (8-bit file),
            in points of 100. The float layers were chosen on the same split.
        budget: points that may be lost.
        calibration: `images`, their `split`, `probes` (images for the sensitivities), `per_channel`,
            `reduce_range`.
        layers: number of layers that can be in 8 bits.
        sensitivity: the sensitivity of each of them, the worst first.
        bytes_before, bytes_after: sizes of the two files.
        input: shape of the images of one call.
        latency: time of one call of `float32` and `int8`; None: not measured.
        ratio: 8-bit time over float time; None: not measured.
        tuned: `file`, `steps` and `score` of a second, fine-tuned file; None: there is none.
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
    fallback: Fallback
    bytes_before: int
    bytes_after: int
    input: Sequence[int]
    latency: Mapping[str, Latency] | None
    ratio: Ratio | None
    tuned: Mapping[str, Any] | None = None

    @property
    def lost(self) -> float:
        """Points that the file loses; negative if it gains some."""
        return self.before - self.fallback.score

    def write(self, folder: Path) -> None:
        """Write `report_card.json` and `report_card.md`. Raises: UserError if they cannot be written."""
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
        """The card as Markdown."""
        return "\n".join([*self._summary(), *self._layers()]) + "\n"

    def _summary(self) -> list[str]:
        scales = "a scale per output channel" if self.calibration["per_channel"] else "one scale per tensor"
        scales += ", 7-bit weights" if self.calibration.get("reduce_range") else ""
        return [
            "# Int8 report card\n",
            f"{self.runtime}, {counted(self.threads, 'thread')}; calibrated on "
            f"{counted(self.calibration['images'], 'image')} of {self.calibration['split']}, {scales}\n",
            f"| | float32 | int8 | |\n|---|---|---|---|\n| {self.metric}, {self.split} | {self.before:.2f} | "
            f"{self.fallback.score:.2f} | {0.0 - self.lost:+.2f} (allowed: -{self.budget:g}) |",
            f"| MB | {self.bytes_before / 1e6:.2f} | {self.bytes_after / 1e6:.2f} | "
            f"{self.bytes_before / self.bytes_after:.2f}x smaller |",
            *self._times(),
            *self._tuned(),
        ]

    def _layers(self) -> list[str]:
        float_layers = self.fallback.float_layers
        listed = max(NUM_LISTED, len(float_layers))
        left_out = len(self.sensitivity) - listed
        chosen_here = "; they were chosen on the same images that are scored here." if float_layers else "."
        return [
            f"\n{self.layers - len(float_layers)} of {self.layers} layers are in 8 bits, "
            f"{len(float_layers)} in float{chosen_here}",
            f"\n| layers in float | {self.metric} |\n|---|---|",
            *(f"| {count} | {score:.2f} |" for count, score in sorted(self.fallback.tried)),
            "\nEach layer alone in 8 bits: signal-to-noise ratio of the outputs "
            f"({counted(self.calibration['probes'], 'image')})\n\n| layer | dB | |\n|---|---|---|",
            *(
                f"| {entry.layer} | {entry.snr_db:.1f} | {'float' if entry.layer in float_layers else ''} |"
                for entry in self.sensitivity[:listed]
            ),
            *([f"\n{left_out} more in report_card.json"] if left_out > 0 else []),
        ]

    def _tuned(self) -> list[str]:
        if self.tuned is None:
            return []
        file, steps, score = (self.tuned[key] for key in ("file", "steps", "score"))
        change = f"{score - self.before:+.2f}"
        return [f"| {file}: fine-tuned for {counted(steps, 'step')} | | {score:.2f} | {change} |"]

    def _times(self) -> list[str]:
        if self.latency is None or self.ratio is None:
            return []
        before, after = (self.latency[name].p50 for name in ("float32", "int8"))
        return [f"| ms, median | {before:.2f} | {after:.2f} | {_speedup(before, after, self.ratio)} |"]


def _speedup(before: float, after: float, ratio: Ratio) -> str:
    """ "2.50x faster" or "1.20x slower", by the ratio within rounds.

    There is no clear difference if the interval of the ratio contains 1 or is unknown, or if the medians
    differ in the other direction, as they can if the load changes between rounds.
    """
    if ratio.interval is not None:
        if ratio.interval[1] < 1 and after < before:
            return f"{1 / ratio.p50:.2f}x faster"
        if ratio.interval[0] > 1 and after > before:
            return f"{ratio.p50:.2f}x slower"
    return "no clear difference"
