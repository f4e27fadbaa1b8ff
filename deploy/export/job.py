"""One export of a run: the state that its steps share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deploy import formats
from deploy.artifact import with_exported_file
from deploy.export.module import export_module
from deploy.export.samples import Sample, image_files, read_samples, split_files
from deploy.metadata import describe
from deploy.options import ExportOptions
from engine import runtime
from engine.config.runs import IF_MOVED, TrainedRun
from engine.errors import UserError


class ExportJob:
    """The export of a run with the given options.

    Attributes:
        module: the module to export, an `ExportedTask`.
        metadata: the entries to store in the file.
        folder: where the file is written.
        log: called with lines for the user.

    Raises:
        UserError: if the run cannot be loaded, if the task rejects an option, or if the budget is for another
            task.
    """

    def __init__(self, run: TrainedRun, options: ExportOptions, log: Callable[[str], None]) -> None:
        self.run, self.options, self.log = run, options, log
        self.budget_points = options.budget.points(run.info.metric)
        torch.set_num_threads(options.threads)
        self.module = exported_task(run, options.for_task)
        if options.qat.steps and raw_outputs(self.module).raw_names:
            raise UserError(
                f"qat.steps: output={self.module.output} has post-processing, which cannot be fine-tuned; "
                "set output=raw (detection) or output=logits (segmentation)"
            )
        if options.dynamic_size and (reason := getattr(self.module, "fixed_size", "")):
            raise UserError(f"dynamic={options.dynamic}: {reason}")
        self.metadata = describe(
            self.module,
            task=run.info.name,
            facts=self._facts(),
            pixel_range=run.pixel_range,
            upright=run.upright,
        )
        kit = "kit-" if options.format == "kit" else ""
        default_folder = run.folder.path / "export" / f"{kit}{options.file_format}-{options.precision}"
        self.folder = Path(options.out or default_folder)

    @property
    def decoder(self) -> Path | None:
        """Path of the task's decoder, to be copied; None if it has none."""
        return getattr(self.module, "decoder", None)

    def export(self, module: Any, image: NDArray[Any], path: Path, *, format: str | None = None) -> Path:
        """Write a module as a float file, by default of the chosen format.

        `image` [3, h, w] fixes the size if it is not dynamic.
        """
        options = self.options
        return export_module(
            module,
            torch.from_numpy(np.stack([image] * options.batch)),
            path,
            format=format or options.file_format,
            names=module.names,
            dynamic_batch=options.dynamic_batch,
            dynamic_size=options.dynamic_size,
            metadata=self.metadata,
            precision=options.float_precision,
        )

    def comparison_samples(self) -> list[Sample]:
        """The images for comparing the file with PyTorch."""
        options = self.options
        if options.input is not None:
            return self._samples(image_files(options.input, options.images))
        try:
            return self.split_samples(self.run.split, options.images)
        except UserError as error:
            if options.precision == "int8" or not str(error).endswith(IF_MOVED):
                raise
            remedy = "or, without the data, input=<images>"
            raise UserError(f"{error}, {remedy}", files=error.files) from None

    def split_samples(self, split: str, count: int) -> list[Sample]:
        """At most `count` images, spread over a split of the run's data."""
        return self._samples(self.split_files(split, count))

    def split_files(self, split: str, count: int) -> list[Path]:
        """The files of these images. Raises: UserError if the data has no such split."""
        return split_files(self.run.source, split, self.module, count)

    def _samples(self, files: Sequence[Path]) -> list[Sample]:
        options = self.options
        return read_samples(
            files,
            self.module,
            dynamic_size=options.dynamic_size,
            can_be_dynamic=formats.find(options.file_format).DYNAMIC,
            read=self.run.read_image,
        )

    def score(self, file: Path | None) -> float:
        """The task's metric on the run's split, in points of 100, of PyTorch (None) or of a file."""
        task = self.run.task()
        if file is not None:
            threads = self.options.threads
            task = with_exported_file(task, self.run.info, file, threads=threads, precision="fp32")
        cpu = runtime.start(device="cpu", precision="fp32")
        metrics = self.run.evaluate(task, runtime=cpu).metrics
        return round(100 * float(metrics[self.run.info.metric]), 4)

    def _facts(self) -> dict[str, str]:
        weights = self.run.folder.checkpoint(self.options.checkpoint)
        unknown = "not stated; see the licenses of the training data and of the initial weights"
        return {
            "run": self.run.folder.path.name,
            "checkpoint_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
            "license": self.options.license or unknown,
            "precision": self.options.float_precision,
            **({} if self.options.opset is None else {"opset": str(self.options.opset)}),
            "made_by": f"mobilenet-dense, PyTorch {torch.__version__}",
        }


def raw_outputs(module: Any) -> Any:
    """The module, also returning the inputs of its post-processing (if it has any) as `raw_names`."""
    if not hasattr(module, "with_raw_outputs"):
        return SimpleNamespace(raw_names=())
    return module.with_raw_outputs()


def exported_task(run: TrainedRun, options: Mapping[str, Any]) -> Any:
    """The run's network as an `ExportedTask`.

    Raises:
        UserError: if the task rejects an option, or does not have it.
    """
    try:
        return run.info.export(task=run.task(), **options)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from None
    except TypeError as error:
        unknown = [name for name in options if f"unexpected keyword argument '{name}'" in str(error)]
        if not unknown:
            raise
        raise UserError(f"{unknown[0]}: not an option of task={run.info.name}") from None
