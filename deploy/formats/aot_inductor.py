"""Machine code, compiled ahead of time by TorchInductor. As with any program, open only files you trust."""

import json
import shutil
from importlib.metadata import version
from pathlib import Path

import torch
from torch.export import ExportedProgram

from deploy.eager import array_function
from deploy.libraries import first_line
from deploy.session import Session
from engine.errors import UserError

SUFFIX = ".aoti.pt2"
LIBRARIES: tuple[str, ...] = ()
INSTALL = ""
WEIGHT_PRECISIONS = ("fp32",)
COMPUTE_PRECISIONS = ("fp32",)
DYNAMIC = True


def missing() -> str:
    compilers = ("c++", "g++", "clang++")
    return "" if any(shutil.which(compiler) for compiler in compilers) else "it needs a C++ compiler"


def write(
    program: ExportedProgram, path: Path, *, names: tuple[str, ...], metadata: dict[str, str], precision: str
) -> None:
    options = {"aot_inductor.metadata": {"export": json.dumps(metadata)}, "freezing": True}
    try:
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)
    except Exception as error:
        raise UserError(
            f"format=aot_inductor: compilation failed ({first_line(error)}); install a C++ compiler, or use "
            "format=torch_export"
        ) from None


def open(path: Path, *, threads: int, precision: str) -> Session:
    package = torch._inductor.aoti_load_package(str(path), run_single_threaded=threads == 1)
    return Session.described_by(
        json.loads(package.get_metadata().get("export", "{}")),
        run=array_function(package, threads),
        runtime=f"AOTInductor, PyTorch {version('torch')}",
    )
