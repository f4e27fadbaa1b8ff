"""The options of tools/export.py and tools/benchmark.py as typed dataclasses; conf/ explains each key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from deploy import formats
from deploy.device import runtimes
from deploy.device.hardware import cores
from deploy.eager import EAGER, current_name
from deploy.formats import onnx
from deploy.quantize.quantizer import check_quantizable
from deploy.remote.options import Remote
from deploy.remote.transports import is_remote
from deploy.timing.latency import Rounds
from deploy.web import assets
from engine.config.options import (
    ONLY_SCORED,
    Checkpoint,
    RunOptions,
    at_least,
    check_effective,
    check_unscored,
    not_default,
    overrides_of,
    refuse_unused,
)
from engine.data.preprocessing import Size
from engine.errors import UserError, nearest


class Budget:
    """How much a file may differ from PyTorch; None: the default, see `deploy.export.export_run`.

    Args:
        max_difference: largest absolute difference in an output.
        agreement: lowest share of equal results.
        metrics: name of the task's metric -> points (of 100) that it may lose on the labeled split.

    Raises:
        ValueError: if an argument is not a number.
    """

    def __init__(
        self, *, max_difference: float | None = None, agreement: float | None = None, **metrics: float | None
    ) -> None:
        # The configuration cannot check the types of `**metrics`.
        for name, value in {"max_difference": max_difference, "agreement": agreement, **metrics}.items():
            if value is not None and type(value) not in (int, float):
                raise ValueError(f"{name} must be a number, got {value!r}")
        self.max_difference, self.agreement = max_difference, agreement
        self.metrics = {name: points for name, points in metrics.items() if points is not None}

    def points(self, metric: str) -> float | None:
        """The points of `metric` that may be lost.

        Raises:
            UserError: if the budget is for the metric of another task.
        """
        for name in self.metrics:
            if name != metric:
                raise UserError(f"budget.{name}: this task is scored by {metric}; set budget.{metric}")
        return self.metrics.get(metric)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How an 8-bit file is calibrated and evaluated.

    Args:
        reduce_range: whether ONNX files (format=onnx and web) get 7-bit weights; None: only for web.

    Raises:
        ValueError: if a number is too small.
    """

    split: str = "train"
    images: int = 128
    probes: int = 16
    per_channel: bool = True
    reduce_range: bool | None = None
    timing_s: float = 20

    def __post_init__(self) -> None:
        at_least(self, 1, "images", "probes")
        at_least(self, 0, "timing_s")

    def reduces_range(self, format: str) -> bool:
        """Whether a file of this format gets 7-bit weights."""
        return format == "web" if self.reduce_range is None else self.reduce_range


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """Quantization-aware fine-tuning; 0 steps: none.

    Raises:
        ValueError: if a number is too small.
    """

    steps: int = 0
    lr: float = 1e-5
    floating: Sequence[str] = ()

    def __post_init__(self) -> None:
        at_least(self, 0, "steps")
        if not self.lr > 0:
            raise ValueError(f"lr must be above 0, got {self.lr}")


@dataclass(frozen=True, kw_only=True)
class WebPage:
    """Where the pages of format=web and of tools/serve.py get onnxruntime-web.

    vendored: whether it is copied into the page's folder. npm: the registry that it is downloaded from. cdn:
    the address that browsers load it from if it is not vendored.

    Raises:
        ValueError: if `cdn` is not an https address.
    """

    vendored: bool = True
    npm: str = assets.NPM
    cdn: str = assets.CDN

    def __post_init__(self) -> None:
        address = urlsplit(self.cdn)
        local = address.hostname in ("localhost", "127.0.0.1")
        if not (address.netloc and address.scheme in (("http", "https") if local else ("https",))):
            raise ValueError(f"cdn must be an https address such as {assets.CDN}, got {self.cdn!r}")


@dataclass(frozen=True, kw_only=True)
class Kit:
    """What is in the folder of `format=kit`. format: of the model in it."""

    format: str = "onnx"


@dataclass(frozen=True, kw_only=True)
class ExportOptions(RunOptions):
    """The options of tools/export.py.

    Raises:
        ValueError: if a number is too small, or options contradict each other.
        UserError: if the format is unknown, or does not support the precision or dynamic sizes.
    """

    format: str = "onnx"
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    output: str | None = None
    full_size: bool | None = None
    upsample: str | None = None
    look: int | None = None
    steps: int | None = None
    normalize: bool | None = None
    dtype: str | None = None
    opset: int | None = None
    batch: int = 1
    dynamic: Literal["none", "batch", "size", "both"] = "none"
    input: str | None = None
    images: int = 8
    license: str | None = None
    threads: int = 1
    budget: Budget
    calibration: Calibration = Calibration()
    qat: FineTuning = FineTuning()
    web: WebPage = WebPage()
    kit: Kit = Kit()

    def __post_init__(self) -> None:
        at_least(self, 1, "batch", "images", "threads")
        if self.format == "kit":
            runtimes.check(self.kit.format, key="kit.format")
        formats.check(self.file_format, precision=self.float_precision, dynamic=self.dynamic != "none")
        if self.precision == "int8":
            check_quantizable(self.file_format)
        if self.calibration.reduce_range and self.file_format not in ("onnx", "web"):
            raise UserError(
                f"calibration.reduce_range=true is only for format=onnx and web; leave it out for "
                f"format={self.file_format}"
            )
        if self.opset is not None:
            self._check_opset(self.opset)
        tunable = (self.precision, self.file_format, self.dynamic, self.batch) == (
            "int8",
            "openvino",
            "none",
            1,
        )
        if self.qat.steps and not tunable:
            raise ValueError("qat.steps needs precision=int8 format=openvino dynamic=none batch=1")
        self._check_effective()

    def _check_effective(self) -> None:
        check_effective(self.overrides)
        if self.precision != "int8":
            refuse_unused(self.calibration, needs="precision=int8", key="calibration")
            for override in [] if self.budget.metrics else overrides_of(ONLY_SCORED, self.overrides):
                raise UserError(
                    f"{override}: has no effect, because nothing is scored; set budget.<metric>= or "
                    "precision=int8, or leave it out"
                )
        if not self.qat.steps:
            refuse_unused(self.qat, needs="qat.steps above 0", key="qat")
        if self.format != "web":
            refuse_unused(self.web, needs="format=web", key="web")
        if self.format != "kit":
            refuse_unused(self.kit, needs="format=kit", key="kit")

    def _check_opset(self, opset: int) -> None:
        if self.file_format not in ("onnx", "web"):
            raise ValueError(f"opset is for format=onnx and format=web, not {self.file_format}; leave it out")
        if opset not in onnx.OPSETS:
            first, last = onnx.OPSETS[0], onnx.OPSETS[-1]
            raise ValueError(f"opset must be {first} to {last}, got {opset}")

    @property
    def file_format(self) -> str:
        """Format of the exported file."""
        return self.kit.format if self.format == "kit" else self.format

    @property
    def float_precision(self) -> str:
        """Precision of the exported file; an 8-bit file is quantized from a float32 one."""
        return "fp32" if self.precision == "int8" else self.precision

    @property
    def dynamic_batch(self) -> bool:
        return self.dynamic in ("batch", "both")

    @property
    def dynamic_size(self) -> bool:
        return self.dynamic in ("size", "both")

    @property
    def for_task(self) -> dict[str, Any]:
        """The arguments for `TaskInfo.export`; options that are not set keep the task's default."""
        names = ("output", "full_size", "upsample", "look", "steps", "normalize", "dtype")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Networks of one task that are measured together: tables of the paper, or networks by name.

    Attributes:
        tables: of the paper, by number.
        networks: name -> the overrides that describe it, as for tools/train.py; instead of tables.
        size: [height, width] of the images that `networks` take.
        accuracy: name of a network -> its score in percent, by the task's main metric; see `accuracy_on`.
        accuracy_on: the data that `accuracy` was measured on.
        baseline: the row that ratios refer to; None: the first MobileNetV2, else the first row.

    Raises:
        ValueError: if `networks` are given without `size`, or `accuracy` names another network.
    """

    task: str
    tables: Sequence[int] = ()
    networks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    size: Sequence[int] = ()
    accuracy: Mapping[str, float] = field(default_factory=dict)
    accuracy_on: str | None = None
    baseline: str | None = None

    def __post_init__(self) -> None:
        if bool(self.tables) == bool(self.networks):
            raise ValueError("a suite has either tables or networks")
        if self.networks and len(self.size) != 2:
            raise ValueError(f"size must be [height, width], got {list(self.size)}")
        for name in self.accuracy:
            if name not in self.networks:
                raise ValueError(
                    f"accuracy: unknown network {name!r}; must be one of {', '.join(self.networks)}"
                )


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions:
    """The options of tools/benchmark.py.

    Raises:
        ValueError: if a number is out of range, if an option is missing, or if options contradict each other.
    """

    suite: str | None = None
    run: str | Sequence[str] | None = None
    artifact: str | None = None
    table: Literal["latency"] | None = None
    spec: str | None = None
    shares: Sequence[float] = (1,)
    space: bool = False
    runtime: str | Sequence[str] | None = None
    threads: int | Sequence[int] = 1
    size: Sequence[int] | None = None
    include: Literal["network", "all"] = "network"
    input: str | None = None
    latency: bool = True
    memory: bool = True
    baseline: str | None = None
    channels_last: bool = True
    checkpoint: Checkpoint = "best"
    out: str | None = None
    device: str = "auto"
    remote: Remote = field(default_factory=Remote)
    measure: Rounds
    suites: Mapping[str, Sequence[Suite]]
    overrides: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.run is None and self.overrides:
            key = self.overrides[0].partition("=")[0]
            known = [field.name for field in fields(self) if field.name != "overrides"]
            raise ValueError(f"unknown key {key!r}{nearest(key, known)}")
        if self.table is None and self.suite is None and self.run is None:
            suites = ", ".join(self.suites)
            raise ValueError(f"set suite=<{suites}> and/or run=<run folder>, or table=latency")
        if self.suite is not None and self.suite not in self.suites:
            known_suites = ", ".join(self.suites)
            raise ValueError(
                f"suite must be one of {known_suites}, got {self.suite!r}{nearest(self.suite, self.suites)}"
            )
        if self.run is not None and not self.runs:
            raise ValueError("run= has no run folder; name at least one")
        if self.artifact is not None and len(self.runs) > 1:
            raise ValueError(
                f"artifact is measured together with the run that it was exported from; set one run=, not "
                f"{len(self.runs)}"
            )
        if self.artifact is not None and (self.run is None or self.suite is not None):
            raise ValueError(
                "artifact is measured together with the run that it was exported from; set run=, not suite="
            )
        for count in self.thread_counts:
            if count < 1 or (count > cores() and not self.on_device):
                raise ValueError(f"threads must be 1 to {cores()} (the cores of this machine), got {count}")
        if self.include == "all" and self.on_device:
            raise ValueError(f"include=all runs PyTorch; for device={self.device} set include=network")
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 32):
            raise ValueError(f"size must be [height, width], each at least 32, got {list(self.size)}")
        if self.table is not None:
            self._check_table()
        else:
            refuse_unused(self, "spec", "shares", "space", needs="table=latency")
        if not {EAGER, "all"}.intersection(self.runtimes):
            refuse_unused(self, "channels_last", needs="runtime=eager")
        if self.run is None:
            refuse_unused(self, "checkpoint", needs="run=<run folder>")
        if not self.on_device:
            refuse_unused(self.remote, needs="device=ssh://... or device=adb", key="remote")
        if self.include != "all":
            refuse_unused(self, "input", needs="include=all")
        if not self.latency:
            refuse_unused(self, "runtime", "threads", "include", "channels_last", needs="latency=true")
        check_effective(self.overrides)
        check_unscored(self.overrides)

    def _check_table(self) -> None:
        if (self.run is None) == (self.spec is None) or self.suite is not None:
            raise ValueError("table=latency needs spec=<experiment or YAML file> or run=<run folder>")
        if len(self.runs) > 1:
            raise ValueError(f"table=latency needs one run=, got {len(self.runs)}")
        if self.out is None or (self.spec is not None and self.size is None):
            raise ValueError("table=latency needs out=<file> and, with spec=, size=[height,width]")
        if len(self.runtimes) != 1 or len(self.thread_counts) != 1:
            raise ValueError("table=latency needs exactly one runtime and one number of threads")
        if not self.shares or not all(0 < share <= 1 for share in self.shares):
            raise ValueError(f"shares must be above 0 and at most 1, got {list(self.shares)}")
        names = ("artifact", "include", "latency", "memory", "baseline", "channels_last")
        for name in not_default(self, *names):
            raise ValueError(f"{name} has no effect on table=latency; leave it out")

    @property
    def runs(self) -> list[str]:
        """Run folders."""
        return [self.run] if isinstance(self.run, str) else list(self.run or ())

    @property
    def on_device(self) -> bool:
        """Whether another device measures."""
        return is_remote(self.device)

    @property
    def runtimes(self) -> list[str]:
        if self.runtime is None:
            return ["onnx" if self.on_device else EAGER]
        names = [self.runtime] if isinstance(self.runtime, str) else self.runtime
        return [current_name(name) for name in names]

    @property
    def thread_counts(self) -> list[int]:
        return [self.threads] if isinstance(self.threads, int) else list(self.threads)

    @property
    def image_size(self) -> Size | None:
        """(height, width) of the largest rows; None if not set."""
        return None if self.size is None else (self.size[0], self.size[1])

    @property
    def table_file(self) -> Path:
        """`out` of table=latency, which was checked to be set."""
        assert self.out is not None
        return Path(self.out)

    @property
    def chosen_suites(self) -> Sequence[Suite]:
        """The parts of the suite, one for each task."""
        return [] if self.suite is None else self.suites[self.suite]
