"""Archives of strangers: unpacked completely or not at all, and nothing outside of the folder."""

import bz2
import contextlib
import gzip
import lzma
import os
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from engine.errors import UserError
from engine.run_folder import sync_folder

MAX_MEMBERS = 2_000_000
MAX_BYTES = 400 * 10**9
_HEADER_READ = 1 << 20
_OPENERS = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ", lzma.open))
_BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    ValueError,
    IndexError,
    KeyError,
    OverflowError,
    RuntimeError,  # also NotImplementedError and RecursionError
)


class _Refused(Exception):
    """What is wrong with a member."""


def extract(
    archive: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    max_members: int = MAX_MEMBERS,
    max_bytes: int = MAX_BYTES,
) -> Path:
    """Unpack a tar (plain, gz, bz2, xz) or zip file into `folder`, which must not exist yet, or be empty.

    The members go into a folder beside it, which is renamed at the end.

    Args:
        max_members, max_bytes: more members, or more bytes when unpacked, are refused.

    Raises:
        UserError: the archive is missing, broken, encrypted, too large when unpacked, or has a member that is
            absolute, contains "..", is a device, or links to anything but a file unpacked before it; `folder`
            holds files or cannot be written. Nothing is left behind then.
    """
    archive, folder = Path(archive), Path(folder)
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder}: is there already; remove it or choose another folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror}); choose another folder") from None
    try:
        _unpack(archive, partial, _Limits(max_members, max_bytes))
        partial.chmod(0o755)
        os.replace(partial, folder)
        sync_folder(folder.parent)
    except _Refused as refused:
        raise UserError(f"{archive}: not unpacked: {refused}") from None
    except _BROKEN as error:
        raise UserError(f"{archive}: broken archive ({_line(error)}); fetch it anew") from None
    except OSError as error:
        if error.strerror is None:  # of gzip and bz2: what is wrong with the data
            raise UserError(f"{archive}: broken archive ({_line(error)}); fetch it anew") from None
        raise UserError(f"{archive}: cannot be unpacked into {folder} ({error.strerror})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


class _Limits:
    """Counts members and bytes, before they are written."""

    def __init__(self, members: int, size: int) -> None:
        self.members, self.size = members, size
        self._members = self._size = 0

    def count(self, size: int) -> None:
        self._members += 1
        self._size += max(size, 0)
        if self._members > self.members:
            raise _Refused(f"more than {self.members} members")
        if self._size > self.size:
            raise _Refused(f"more than {self.size} bytes when unpacked")


def _unpack(archive: Path, folder: Path, limits: _Limits) -> None:
    try:
        if not stat.S_ISREG(archive.stat().st_mode):
            raise UserError(f"{archive}: is no regular file")
        with open(archive, "rb") as file:
            start = file.read(6)
    except OSError as error:
        raise UserError(f"{archive}: cannot be read ({error.strerror}); check the path") from None
    if start.startswith(b"PK"):
        _unpack_zip(archive, folder, limits)
    else:
        _unpack_tar(archive, folder, limits, start)


def _unpack_zip(archive: Path, folder: Path, limits: _Limits) -> None:
    with zipfile.ZipFile(archive) as members:
        for member in members.infolist():
            limits.count(member.file_size)
            name, mode = _inside(member.filename), member.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _Refused(f"{member.filename!r} is a link or a device")
            if member.flag_bits & 1:
                raise _Refused(f"{member.filename!r} is encrypted")
            target = folder / name
            if member.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with members.open(member) as source, open(target, "wb") as file:
                shutil.copyfileobj(source, file, 1 << 18)


def _unpack_tar(archive: Path, folder: Path, limits: _Limits, start: bytes) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise _Refused("this Python is too old to do so safely; use 3.11.4 or newer")
    files: set[PurePosixPath] = set()
    with _tar_stream(archive, start) as stream, tarfile.open(fileobj=stream, mode="r:", errorlevel=1) as tar:
        while (member := tar.next()) is not None:
            limits.count(member.size)
            name = _inside(member.name)
            if member.isfile():
                files.add(name)
            elif member.islnk() or member.issym():
                base = name.parent if member.issym() else PurePosixPath()
                # Links to files alone: through a link to a folder later members could get anywhere.
                if PurePosixPath(os.path.normpath(base / member.linkname)) not in files:
                    raise _Refused(f"{member.name!r} links to {member.linkname!r}, no file of this archive")
            elif not member.isdir():
                raise _Refused(f"{member.name!r} is a device or of an unknown kind")
            tar.extract(member, folder, filter="data")
            tar.members = []  # type: ignore[attr-defined]  # else it keeps millions of them
        # tarfile takes a damaged header for the end; an end is a block of zeros.
        if len(stream.last) != tarfile.BLOCKSIZE or stream.last.strip(b"\0"):
            raise tarfile.ReadError("its end is missing")
        stream.read(_HEADER_READ)  # up to the checksum of a compressed file


@contextlib.contextmanager
def _tar_stream(archive: Path, start: bytes) -> Iterator[Any]:
    opener: Any = next((opener for mark, opener in _OPENERS if start.startswith(mark)), open)
    with opener(archive, "rb") as file:
        yield _Bounded(file)


class _Bounded:
    """A file that is read in small pieces: tarfile reads the headers of long names whole, of any length.

    last: what was read last.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.last = b""
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _HEADER_READ:
            raise tarfile.ReadError(f"a header of {size} bytes")
        self.last = self._file.read(size)
        return self.last


def _inside(name: str) -> PurePosixPath:
    """The name of a member, where it stays inside of the folder."""
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or name[1:2] == ":" or ".." in parts:
        raise _Refused(f"{name!r} leads out of the folder")
    if "\0" in name:
        raise _Refused(f"{name!r} is no file name")
    return PurePosixPath(name)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
