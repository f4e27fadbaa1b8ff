"""What a search has done, one JSON line at a time, so that a search that was killed goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.io.files import write_text


class History:
    """The rows of a search, in a file that is only ever appended to.

    The first row is the identity: what must be the same for a search to go on. A last line that was cut off
    by a kill is dropped.

    Args:
        path: of the file; made where it is missing.
        identity: plain values.

    Attributes:
        rows: everything after the identity.

    Raises:
        UserError: the file cannot be read or written, is damaged, or belongs to another search.
    """

    def __init__(self, path: Path, *, identity: Mapping[str, Any]) -> None:
        self.path = path
        wanted = {"kind": "search", **json.loads(json.dumps(identity))}
        kept = _whole_rows(path)
        if kept:
            _check(kept[0], wanted, path)
        self.rows = kept[1:]
        self._write([kept[0] if kept else wanted, *self.rows])

    @property
    def resumed(self) -> bool:
        """Whether there was something before this process."""
        return bool(self.rows)

    def append(self, **row: Any) -> dict[str, Any]:
        """Add a row of plain values, on the disk before this returns; returns it as a reader will find it."""
        text = json.dumps(row)
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}); the search can go on later"
            ) from None
        found: dict[str, Any] = json.loads(text)
        self.rows.append(found)
        return found

    def find(self, **keys: Any) -> dict[str, Any] | None:
        """The last row that has these values."""
        matches = (row for row in reversed(self.rows) if all(row.get(k) == v for k, v in keys.items()))
        return next(matches, None)

    def all(self, kind: str) -> list[dict[str, Any]]:
        """All rows of a kind, in their order."""
        return [row for row in self.rows if row.get("kind") == kind]

    def _write(self, rows: list[dict[str, Any]]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path, "".join(json.dumps(row) + "\n" for row in rows))
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}); choose another out="
            ) from None


def _whole_rows(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_bytes().split(b"\n") if path.exists() else []
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    # A kill may have cut off what follows the last line end, and the line before it where the power went.
    # Trials that stand behind a broken line took hours, and are not thrown away.
    rows = [_row(line) for line in lines[:-1]]
    if rows and rows[-1] is None:
        rows.pop()
    if None in rows:
        raise UserError(
            f"{path}: line {rows.index(None) + 1} is damaged; restore it, or delete it and all after it, or "
            "choose another out="
        )
    return [row for row in rows if row is not None]


def _row(line: bytes) -> dict[str, Any] | None:
    """None for what is no row."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _check(found: dict[str, Any], wanted: dict[str, Any], path: Path) -> None:
    for key, value in wanted.items():
        if found.get(key) != value:
            raise UserError(
                f"{path}: belongs to a search with {key}={found.get(key)!r}, not {value!r}; choose another "
                "out="
            )
