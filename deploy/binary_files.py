"""Writes files atomically, and appends metadata to file formats without a place for it."""

import io
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

METADATA_FILE = "metadata.json"
"""Where formats that are zip archives, or end in one, keep their metadata."""


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file in one rename, so it is never left half written."""
    handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except OSError:
        Path(partial).unlink(missing_ok=True)
        raise


def append_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Add metadata to a flatbuffer (`.tflite`, `.pte`), in a zip archive at its end.

    A flatbuffer is read from its start and a zip archive from its end: this is LiteRT's own convention.
    """
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(METADATA_FILE, json.dumps(dict(metadata)))
    write_bytes(path, path.read_bytes() + archive.getvalue())


def read_appended_metadata(path: Path) -> dict[str, str]:
    """The metadata that `append_metadata` wrote; empty if the file has none."""
    if not zipfile.is_zipfile(path):
        return {}
    with zipfile.ZipFile(path) as archive:
        text = archive.read(METADATA_FILE) if METADATA_FILE in archive.namelist() else b"{}"
    return dict(json.loads(text))
