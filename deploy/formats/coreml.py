"""CoreML's `.mlpackage`, for Apple devices: only converted, since its files run only on macOS and iOS."""

import shutil
import tempfile
from pathlib import Path

from torch.export import ExportedProgram

from deploy.libraries import first_line, not_installed, require
from deploy.session import INPUT, Session
from engine.errors import UserError

SUFFIX = ".mlpackage"
LIBRARIES = ("coremltools",)
INSTALL = "pip install -e '.[coreml]'"
WEIGHT_PRECISIONS = ("fp32", "fp16")
COMPUTE_PRECISIONS = ("fp32",)
DYNAMIC = False
NOT_RUN = (
    "CoreML files run only on macOS and iOS; on a Mac, compare this one with the golden.npz of an ONNX export"
)


def missing() -> str:
    return not_installed(LIBRARIES) or NOT_RUN


def write(
    program: ExportedProgram, path: Path, *, names: tuple[str, ...], metadata: dict[str, str], precision: str
) -> None:
    ct = require("coremltools", INSTALL)
    images = program.example_inputs[0][0]
    if not images.is_floating_point():
        raise UserError("format=coreml: CoreML has no uint8 image input; set dtype=float32")
    try:
        model = ct.convert(
            program.run_decompositions({}),
            inputs=[ct.TensorType(name=INPUT, shape=tuple(images.shape))],
            outputs=[ct.TensorType(name=name) for name in names],
            minimum_deployment_target=ct.target.iOS16,
            # float16 is also the precision of the arithmetic
            compute_precision=ct.precision.FLOAT16 if precision == "fp16" else ct.precision.FLOAT32,
            skip_model_load=True,
        )
    except Exception as error:  # the converter has many kinds
        raise UserError(f"format=coreml: this network cannot be converted ({first_line(error)})") from None
    model.user_defined_metadata.update(metadata)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        model.save(str(Path(folder, path.name)))
        shutil.rmtree(path, ignore_errors=True)
        Path(folder, path.name).rename(path)


def metadata_of(path: Path) -> dict[str, str]:
    """The metadata that `write` stored."""
    ct = require("coremltools", INSTALL)
    return dict(ct.models.MLModel(str(path), skip_model_load=True).user_defined_metadata)


def open(path: Path, *, threads: int, precision: str) -> Session:
    raise UserError(f"{path}: {NOT_RUN}")
