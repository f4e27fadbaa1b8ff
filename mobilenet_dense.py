"""MobileNetV3 for dense vision, from Python: load, train, evaluate, export.

    import mobilenet_dense

    predictor = mobilenet_dense.load("lraspp_v3_large_cityscapes")
    predictor("street.jpg").save("street_labels.png")

    run = mobilenet_dense.train("task=seg", "data=masks", "data.root=my_data")
    mobilenet_dense.evaluate(run, "data.split=test")["miou"]
    mobilenet_dense.export(run, "format=openvino")

The functions take the same overrides as the tools (`python tools/train.py --help`), as strings, and raise
`UserError` for invalid input.
"""

from __future__ import annotations

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import UserError

__all__ = ["Prediction", "Predictor", "UserError", "evaluate", "export", "load", "train"]

AnyImage = str | os.PathLike[str] | NDArray[np.uint8]
_OTHER_ORIENTATIONS = ("xmp", "XML:com.adobe.xmp", "Raw profile type exif")
"""Where Pillow also looks for an orientation; in files, only that in EXIF counts."""


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image.

    Attributes:
        image: uint8 [H, W, 3], RGB.
        output: segmentation: class indices uint8 [H, W]. Detection: `Detections` of boxes [N, 4] (xyxy in
            pixels), scores [N] and labels [N]. Classification: probabilities float32 [K].
        classes: class names; class indices in `output` refer to this list.
    """

    image: NDArray[np.uint8]
    output: Any
    classes: tuple[str, ...]
    _reporter: Any

    def draw(self, *, legend: bool = True) -> NDArray[np.uint8]:
        """The image with the prediction drawn on it, uint8 [H', W, 3]; H' > H with a legend."""
        drawing: NDArray[np.uint8] = self._reporter.draw(self.image, self.output, legend=legend)
        return drawing

    def save(self, path: str | os.PathLike[str], *, legend: bool = True) -> Path:
        """Write the drawing as a PNG file.

        Raises:
            UserError: if the path does not end in .png, or the file cannot be written.
        """
        from engine.data.images import write_png

        file = Path(path)
        if file.suffix.lower() != ".png":
            raise UserError(f"{file}: drawings are saved as PNG; choose a name that ends in .png")
        write_png(file, self.draw(legend=legend))
        return file


class Predictor:
    """A trained network that predicts for one image at a time.

    Attributes:
        classes: class names.
        task: the module that predicts, an `engine.contracts.Task`.
    """

    def __init__(
        self,
        task: Any,
        reporter: Any,
        read: Callable[[str | os.PathLike[str]], Any],
        *,
        upright: bool = True,
    ) -> None:
        self.task, self._reporter, self._read, self._upright = task, reporter, read, upright
        self.classes: tuple[str, ...] = tuple(task.classes.names)

    def __call__(self, image: AnyImage) -> Prediction:
        """Predict for an image file, or for RGB pixels uint8 [H, W, 3] (an array or a Pillow image).

        Raises:
            UserError: if the file cannot be read, or the array is not an image.
        """
        if self._upright and hasattr(image, "getexif"):  # Pillow keeps pixels as stored
            from PIL import ImageOps

            pillow_image: Any = image
            own = pillow_image.copy()
            for name in _OTHER_ORIENTATIONS:
                own.info.pop(name, None)
            image = np.asarray(ImageOps.exif_transpose(own))
        pixels = self._read(image) if isinstance(image, str | os.PathLike) else np.asarray(image)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise UserError(f"an image must be RGB uint8 [H, W, 3], got {pixels.dtype} {list(pixels.shape)}")
        return Prediction(pixels, self.task.predict_image(pixels), self.classes, self._reporter)


def load(
    source: str | os.PathLike[str],
    *overrides: str,
    run: str | os.PathLike[str] | None = None,
    checkpoint: str = "best",
    device: str = "cpu",
    threads: int = 1,
) -> Predictor:
    """Load a predictor from the name of a published network, a run folder, a published folder, a Hugging Face
    repository or an exported file.

    Args:
        source: a name from `python tools/models.py`, a run folder, `user/name` on the Hub (requires the extra
            `hub`), or a file written by tools/export.py.
        overrides: for the run's configuration, such as `inference.flip=true` or `task.draw_threshold=0.5`.
        run: the run folder (or name) of an exported file that is stored somewhere else.
        checkpoint: `best` or `last`.
        device: `cpu`, `cuda`, `cuda:1` ...; an exported file runs on the CPU.
        threads: number of threads for an exported file.

    Raises:
        UserError: if there is no such run or file, or it cannot be loaded.
    """
    from engine import runtime
    from engine.config.instantiate import task_info
    from engine.config.overrides import apply_extend
    from engine.config.runs import TrainedRun
    from engine.config.training import reads_as_stored

    arguments = apply_extend(overrides)
    path = Path(source).expanduser()
    if path.is_file():
        from deploy.artifact import with_exported_file

        folder = _published_run(run) if run else _enclosing_run(path)
        trained = TrainedRun.open(folder, overrides=arguments, checkpoint=checkpoint, reads="images")
        task = with_exported_file(trained.task(), trained.info, path, threads=threads, precision="fp32")
        return Predictor(task, trained.info.reporter(task), trained.read_image, upright=trained.upright)
    if run is not None:
        raise UserError(f"{path}: no such file; run= is only for exported files")
    from engine.hub import Pretrained

    source = _published_run(source)
    pretrained = Pretrained.from_pretrained(source, checkpoint_name=checkpoint, overrides=arguments)
    task = runtime.start(device=device, channels_last=False).place(pretrained.task)
    reporter, upright = task_info(pretrained.config).reporter(task), not reads_as_stored(pretrained.config)
    return Predictor(task, reporter, pretrained.read_image, upright=upright)


def train(*overrides: str) -> Path:
    """Train a model, like `python tools/train.py <overrides>`; returns the run folder.

    Raises:
        UserError: if an override, the data or the weights are invalid.
    """
    from engine.config.compose import compose_config
    from tools import train as tool

    return tool.train(compose_config("train", tool.complete(overrides)))


def evaluate(run: str | os.PathLike[str], *overrides: str) -> dict[str, Any]:
    """Evaluate a run, like `python tools/eval.py run=<run> <overrides>`; returns the metrics, in 0..1.

    Raises:
        UserError: if an override or the data are invalid.
    """
    from tools import eval as tool

    metrics: dict[str, Any] = tool.evaluate(_options("eval", run, overrides))
    return metrics


def export(run: str | os.PathLike[str], *overrides: str) -> Path:
    """Export a run, like `python tools/export.py run=<run> <overrides>`; returns the file.

    Raises:
        UserError: if an override is invalid, a library is missing, or the outputs of the file differ from the
            network's.
    """
    from tools import export as tool

    file: Path = tool.export(_options("export", run, overrides))
    return file


def _options(tool: str, run: str | os.PathLike[str], overrides: Sequence[str]) -> Any:
    from backbones.weights import catalog
    from engine.config.compose import compose_config
    from engine.config.instantiate import tool_options
    from engine.published import run_by_name

    arguments = run_by_name([f"run={os.fspath(run)}", *overrides], published=catalog.find)
    return tool_options(compose_config(tool, arguments))


def _published_run(source: str | os.PathLike[str]) -> str | Path:
    """The run folder of a published network, in the cache; `source` itself if it is not the name of one."""
    from backbones.weights import catalog
    from engine.published import find_run

    return find_run(os.fspath(source), published=catalog.find, parent=None, key="")


def _enclosing_run(file: Path) -> Path:
    """The run folder that contains an exported file."""
    for folder in file.resolve().parents:
        if (folder / "config.yaml").is_file() and (folder / "classes.json").is_file():
            return folder
    raise UserError(f"{file}: not inside a run folder; pass run=<the run it was exported from>")
