"""The formats that a network can be exported to: one module per format, with its name.

`format=onnx` is `deploy.formats.onnx`. `format=my_package.ncnn` is your own module with the same members
(allowed by `extend=<its folder>`, see docs/extend/export-format.md). No other code changes for a new format.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from torch.export import ExportedProgram

from deploy import libraries
from deploy.session import Session
from engine.config import extensions
from engine.errors import UserError, nearest


@runtime_checkable
class Format(Protocol):
    """The members of a format's module. Its libraries are optional, and imported when they are needed."""

    SUFFIX: str
    """Suffix of its files, such as `.onnx`."""
    LIBRARIES: tuple[str, ...]
    """The libraries it needs besides PyTorch, by their pip names; reports list their versions."""
    INSTALL: str
    """The command that installs them."""
    WEIGHT_PRECISIONS: tuple[str, ...]
    """Types that weights can be stored in: `fp32`, `fp16`."""
    COMPUTE_PRECISIONS: tuple[str, ...]
    """Types that the runtime can compute in: `fp32`, `bf16`, `fp16`."""
    DYNAMIC: bool
    """Whether the number of images and their size can vary."""

    def missing(self) -> str:
        """Why the format cannot be used on this machine; an empty string if it can."""
        ...

    def write(
        self,
        program: ExportedProgram,
        path: Path,
        *,
        names: tuple[str, ...],
        metadata: dict[str, str],
        precision: str,
    ) -> None:
        """Write a file with an input called `images`, outputs called `names`, and `metadata`.

        Raises:
            UserError: if a library is missing or cannot write the graph.
            OSError: if the file cannot be written.
        """
        ...

    def open(self, path: Path, *, threads: int, precision: str) -> Session:
        """Load a file. The caller turns any exception of the library into a UserError with the path."""
        ...


@runtime_checkable
class Packaged(Protocol):
    """The additional member of a format that makes a folder around another format's file."""

    def packager(self, options: Any) -> Callable[[Path], str]:
        """Called before an export with its `deploy.options.ExportOptions`, to get what the folder needs; the
        result is called with the accepted file and returns a line for the user.

        Raises:
            UserError: if something cannot be had, or the folder cannot be written.
        """
        ...


BUILT_IN = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


TENSORRT = ("tensorrt", "trt", "engine")


def find(name: str, *, key: str = "format") -> Format:
    """The format with this name.

    Args:
        key: the option that the user set, for messages.

    Raises:
        UserError: if there is no such format, or if the user's own module lacks a member.
    """
    if name in BUILT_IN:
        return cast(Format, importlib.import_module(f"{__name__}.{name}"))
    if extensions.owner(name) is None:
        known = (*BUILT_IN, "kit") if key == "format" else BUILT_IN
        hint = "; TensorRT reads format=onnx opset=17" if name in TENSORRT else nearest(name, known)
        raise UserError(
            f"{key} must be one of {', '.join(known)} (or your own module, with extend=<its folder>), "
            f"got {name!r}{hint}"
        )
    module = extensions.load_module(name, key=key)
    if not isinstance(module, Format):
        members = (*Format.__annotations__, "missing", "write", "open")
        lacking = next(member for member in members if not hasattr(module, member))
        raise UserError(f"{key}={name}: the module has no {lacking}; see docs/extend/export-format.md")
    return module


def check(name: str, *, precision: str, dynamic: bool) -> None:
    """Raises: UserError if there is no such format, or it does not support `precision` or dynamic sizes."""
    format = find(name)
    if precision not in format.WEIGHT_PRECISIONS:
        supporting = [other for other in BUILT_IN if precision in find(other).WEIGHT_PRECISIONS]
        if not supporting:
            raise UserError(f"precision must be fp32 or fp16, got {precision!r}")
        raise UserError(f"precision={precision} is for format={' and format='.join(supporting)}, not {name}")
    if dynamic and not format.DYNAMIC:
        raise UserError(f"format={name}: its files have a fixed number and size of images; set dynamic=none")


def of_file(path: Path) -> Format:
    """The format of a file, by its suffix.

    Raises:
        UserError: if no format has this suffix.
    """
    built_in = [find(name) for name in BUILT_IN]
    for formats in (built_in, _of_extensions()):  # no extension is imported for a built-in format
        if matches := [format for format in formats if path.name.endswith(format.SUFFIX)]:
            return max(matches, key=lambda format: len(format.SUFFIX))
    suffixes = sorted(format.SUFFIX for format in built_in)
    raise UserError(
        f"{path}: not an exported network; its suffix must be one of {', '.join(suffixes)} (for a format of "
        "your own, pass extend=<its folder>)"
    )


def open_session(path: Path, *, threads: int = 1, precision: str = "fp32") -> Session:
    """Load an exported file in its runtime, on the CPU.

    Args:
        path: its suffix determines the format.
        threads: size of the runtime's own pool; PyTorch and AOTInductor use the pool of the process.
        precision: of the arithmetic: `fp32` or, if the runtime can, `bf16` or `fp16`.

    Raises:
        UserError: if there is no such file, if its suffix is unknown, if the runtime is not installed or
            cannot load the file, or if it does not compute in `precision`.
    """
    if threads < 1:
        raise UserError(f"threads must be at least 1, got {threads}")
    suffixes = tuple(find(name).SUFFIX for name in BUILT_IN)
    if path.is_dir() and not path.name.endswith(suffixes):  # CoreML's packages are folders
        files = sorted(file.name for file in path.iterdir() if file.name.endswith(suffixes))
        inside = f"pass a file in it ({', '.join(files)})" if files else "it contains no exported file"
        raise UserError(f"{path}: is a folder; {inside}")
    if not path.exists():
        raise UserError(f"{path}: no such file; export one with tools/export.py")
    format = of_file(path)
    if precision not in format.COMPUTE_PRECISIONS:
        supporting = [name for name in BUILT_IN if precision in find(name).COMPUTE_PRECISIONS]
        remedy = f"; export with format={' or format='.join(supporting)} for that" if supporting else ""
        computes = " or ".join(format.COMPUTE_PRECISIONS)
        raise UserError(f"precision={precision}: the runtime of {path} computes in {computes}{remedy}")
    try:
        return format.open(path, threads=threads, precision=precision)
    except UserError:
        raise
    except Exception as error:  # each library has its own exceptions
        reason = libraries.first_line(error)
        raise UserError(f"{path}: cannot be loaded ({reason}); export it again") from None


def runtimes() -> tuple[str, ...]:
    """The built-in formats with a runtime of their own."""
    return tuple(name for name in BUILT_IN if not isinstance(find(name), Packaged))


def not_run(name: str) -> str:
    """Why files of this format cannot be run and compared where they are written; empty if they can.

    Such a format also has `metadata_of(path)`.
    """
    return str(getattr(find(name), "NOT_RUN", ""))


def check_installed(name: str, *, key: str = "format", to_run: bool = False) -> None:
    """Check that a format can be used on this machine.

    Args:
        key: the option that the user set, for the message.
        to_run: also refuse a format whose files can be written here, but not run.

    Raises:
        UserError: if it cannot, with the command that installs what is missing.
    """
    format = find(name, key=key)
    reason = format.missing()
    if reason and (to_run or reason != not_run(name)):
        raise UserError(f"{key}={name}: {reason}" + (f"; {format.INSTALL}" if format.INSTALL else ""))


def versions() -> dict[str, str]:
    """The versions of the built-in formats' libraries that are installed here."""
    return libraries.versions(library for name in BUILT_IN for library in find(name).LIBRARIES)


def _of_extensions() -> Iterator[Format]:
    for module in extensions.modules():
        if isinstance(module, Format):
            yield module
