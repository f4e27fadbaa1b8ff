"""The formats that a network can be exported to: one module each, named like the format.

`format=onnx` is `deploy.formats.onnx`. `format=my_package.ncnn` is a module of your own with the same members
(`extend=<its folder>` allows it, docs/extend/export-format.md). Nothing else has to know about a new format.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from torch.export import ExportedProgram

from deploy import libraries
from deploy.session import Session
from engine.config import extensions
from engine.errors import UserError, nearest


@runtime_checkable
class Format(Protocol):
    """The members of a format's module. Its libraries are optional: it imports them when it needs them."""

    SUFFIX: str
    """Of its files, such as `.onnx`."""
    LIBRARIES: tuple[str, ...]
    """What it needs besides PyTorch, by the names that pip knows; their versions are written into reports."""
    INSTALL: str
    """The command that installs them."""
    WEIGHT_PRECISIONS: tuple[str, ...]
    """How its weights can be stored, of `fp32` and `fp16`."""
    COMPUTE_PRECISIONS: tuple[str, ...]
    """What its runtime can compute in, of `fp32`, `bf16` and `fp16`."""
    DYNAMIC: bool
    """Whether the number of images and their size can stay open."""

    def missing(self) -> str:
        """Why the format cannot be used on this machine; an empty text if it can."""
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
        """Write a file whose input is called `images`, whose outputs are called `names`, with `metadata`.

        Raises:
            UserError: if a library is missing or cannot write the graph.
            OSError: if the file cannot be written.
        """
        ...

    def open(self, path: Path, *, threads: int, precision: str) -> Session:
        """Load a file. Whatever the library raises becomes a user error with the path."""
        ...


BUILT_IN = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def find(name: str, *, key: str = "format") -> Format:
    """The format of a name.

    Args:
        key: what the user typed the name for, for messages.

    Raises:
        UserError: if there is no such format, or if a module of the user's own lacks a member.
    """
    if name in BUILT_IN:
        return cast(Format, importlib.import_module(f"{__name__}.{name}"))
    if extensions.owner(name) is None:
        raise UserError(
            f"{key} must be one of {', '.join(BUILT_IN)} (or a module of yours, with extend=<its folder>), "
            f"got {name!r}{nearest(name, BUILT_IN)}"
        )
    module = extensions.load_module(name, key=key)
    if not isinstance(module, Format):
        members = (*Format.__annotations__, "missing", "write", "open")
        lacks = next(member for member in members if not hasattr(module, member))
        raise UserError(f"{key}={name}: the module has no {lacks}; see docs/extend/export-format.md")
    return module


def check(name: str, *, precision: str, dynamic: bool) -> None:
    """Raises: UserError if there is no such format, or it cannot store `precision` or leave a size open."""
    format = find(name)
    if precision not in format.WEIGHT_PRECISIONS:
        able = [other for other in BUILT_IN if precision in find(other).WEIGHT_PRECISIONS]
        if not able:
            raise UserError(f"precision must be fp32 or fp16, got {precision!r}")
        raise UserError(f"precision={precision} is for format={' and format='.join(able)}, not {name}")
    if dynamic and not format.DYNAMIC:
        raise UserError(f"format={name}: its files have a fixed number and size of images; give dynamic=none")


def of_file(path: Path) -> Format:
    """The format of a file, by its suffix.

    Raises:
        UserError: if no format has this suffix.
    """
    built_in = [find(name) for name in BUILT_IN]
    for formats in (built_in, list(_of_extensions())):
        if matches := [format for format in formats if path.name.endswith(format.SUFFIX)]:
            return max(matches, key=lambda format: len(format.SUFFIX))
    suffixes = sorted(format.SUFFIX for format in built_in)
    raise UserError(
        f"{path}: not an exported network; its suffix must be one of {', '.join(suffixes)} (for a format of "
        "your own, give extend=<its folder>)"
    )


def open_session(path: Path, *, threads: int = 1, precision: str = "fp32") -> Session:
    """Load an exported file in its runtime, on the CPU.

    Args:
        path: its suffix says the format.
        threads: of the runtime's own pool; PyTorch's and AOTInductor's is that of the process.
        precision: of the arithmetic: `fp32` or, if the runtime can, `bf16` or `fp16`.

    Raises:
        UserError: if there is no such file, if its suffix is unknown, if the runtime is not installed or
            refuses the file, or if it does not compute in `precision`.
    """
    if threads < 1:
        raise UserError(f"threads must be at least 1, got {threads}")
    if not path.is_file():
        raise UserError(f"{path}: no such file; export one with tools/export.py")
    format = of_file(path)
    if precision not in format.COMPUTE_PRECISIONS:
        able = [name for name in BUILT_IN if precision in find(name).COMPUTE_PRECISIONS]
        remedy = f"; export with format={' or format='.join(able)} for that" if able else ""
        computes = " or ".join(format.COMPUTE_PRECISIONS)
        raise UserError(f"precision={precision}: the runtime of {path} computes in {computes}{remedy}")
    try:
        return format.open(path, threads=threads, precision=precision)
    except UserError:
        raise
    except Exception as error:  # each library has exceptions of its own
        reason = libraries.first_line(error)
        raise UserError(f"{path}: cannot be loaded ({reason}); export it again") from None


def versions() -> dict[str, str]:
    """The versions of the built-in formats' libraries that are installed here."""
    return libraries.versions(library for name in BUILT_IN for library in find(name).LIBRARIES)


def _of_extensions() -> Iterator[Format]:
    for module in extensions.modules():
        if isinstance(module, Format):
            yield module
