"""Decodes text files that other programs wrote: UTF-8, or UTF-16 with a byte order mark."""

import codecs
from pathlib import Path

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def encoding(start: bytes) -> str:
    """The encoding of a file that begins with these bytes; `>` in Windows PowerShell writes UTF-16."""
    return "utf-16" if start.startswith(_UTF_16) else "utf-8-sig"


def read_text(path: str | Path) -> str:
    """The text of a file, without its byte order mark. Raises: OSError, UnicodeDecodeError."""
    return decode_text(Path(path).read_bytes())


def decode_text(data: bytes) -> str:
    """The text of a file's bytes, without its byte order mark. Raises: UnicodeDecodeError."""
    return data.decode(encoding(data))
