"""The one error that a user can cause, and words for its messages.

Whatever a user can get wrong (a file, a key, a value) ends as a `UserError`: one line that names the file
or the key, and the remedy. The tools print it and exit with status 1; any other exception is a bug and keeps
its traceback.
"""

import difflib
from collections.abc import Iterable, Sequence


class UserError(ValueError):
    """What is wrong, where, and what to do about it, in one line."""


def no_split(split: str, known: Iterable[str], *, source: str, reasons: Sequence[str] = ()) -> UserError:
    """The error for a split that `source` does not have."""
    remedy = "add images to train" if split == "train" else f"give data.split={' or '.join(sorted(known))}"
    return UserError(f"no split {split!r} in {source}; {'; '.join([*reasons, remedy])}")


def no_labels(what: str, *, first_image: str) -> UserError:
    """The error for a split that has no `what` (masks, boxes, labels) to evaluate against."""
    return UserError(
        f"{first_image}: this split has no {what} to score against; add them, choose another data.split, or "
        "use tools/predict.py with input=<its folder>"
    )


def some(names: Sequence[str], most: int = 4) -> str:
    """The first few names, and how many more there are, for a message of one line."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean '...'?`, or nothing if no known name is near."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""
