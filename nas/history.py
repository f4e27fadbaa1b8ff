"""The history of a search, one JSON line per trial, from which a stopped search resumes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.io.files import write_text


class SearchHistory:
    """The rows of a search, in a file that is only appended to.

    The first row is the identity: the settings that must match for a search to resume. A last line that was
    cut off when the search was killed is dropped.

    Args:
        path: of the file; created if it does not exist.
        identity: JSON values.

    Attributes:
        rows: everything after the identity.

    Raises:
        UserError: if the file cannot be read or written, is damaged, or belongs to another search.
    """

    def __init__(self, path: Path, *, identity: Mapping[str, Any]) -> None:
        self.path = path
        own = {"kind": "search", **json.loads(json.dumps(identity))}
        stored = _read_rows(path)
        if stored:
            _check_identity(stored[0], own, path)
        self.rows = stored[1:]
        self._write([stored[0] if stored else own, *self.rows])

    @property
    def resumes(self) -> bool:
        """Whether there were rows before this process."""
        return bool(self.rows)

    def append(self, **row: Any) -> dict[str, Any]:
        """Add a row of JSON values and flush it to disk; returns the row as it will be read back."""
        text = json.dumps(row)
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}); repeat the command to resume the search"
            ) from None
        stored: dict[str, Any] = json.loads(text)
        self.rows.append(stored)
        return stored

    def last(self, **values: Any) -> dict[str, Any] | None:
        """The last row with these values."""
        matches = (row for row in reversed(self.rows) if all(row.get(k) == v for k, v in values.items()))
        return next(matches, None)

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """All rows of a kind, in order."""
        return [row for row in self.rows if row.get("kind") == kind]

    def _write(self, rows: list[dict[str, Any]]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path, "".join(json.dumps(row) + "\n" for row in rows))
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}); choose another out="
            ) from None


def _read_rows(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_bytes().split(b"\n") if path.exists() else []
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    # A kill can leave an incomplete last line, and a power failure can damage the line before it. Trials
    # after a damaged line may have taken hours, so they are not discarded.
    rows = [_parse(line) for line in lines[:-1]]
    if rows and rows[-1] is None:
        rows.pop()
    if None in rows:
        raise UserError(
            f"{path}: line {rows.index(None) + 1} is damaged; restore it, delete it and all lines after "
            "it, or choose another out="
        )
    return [row for row in rows if row is not None]


def _parse(line: bytes) -> dict[str, Any] | None:
    """None if the line is not a JSON object."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _check_identity(stored: Mapping[str, Any], own: Mapping[str, Any], path: Path) -> None:
    for key, value in own.items():
        if stored.get(key) != value:
            raise UserError(
                f"{path}: belongs to a search with {key}={stored.get(key)!r}, not {value!r}; choose another "
                "out="
            )
