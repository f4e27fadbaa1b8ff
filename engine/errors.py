"""`UserError`, the exception for invalid input, and helpers for its messages.

Invalid input (a file, a key, a value) raises a `UserError` with a one-line message that names the file or key
and a remedy. The tools print it and exit with status 1. Any other exception is a bug and keeps its traceback.
"""

import difflib
import os
import re
import shlex
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar


class UserError(ValueError):
    """Invalid user input. The message says in one line what is wrong, where, and how to fix it.

    Line breaks, control characters and broken Unicode, which a file name or a typed value can contain, are
    shown escaped.

    files: all files with this kind of fault, if they were counted.
    """

    def __init__(self, message: str, *, files: Sequence[str] = ()) -> None:
        super().__init__(printable(message))
        self.files = tuple(files)


def check_command(folder: str | os.PathLike[str]) -> str:
    """The command that says which labels a folder has, for messages."""
    return f"python tools/check.py {shlex.quote(os.fspath(folder))}"


_collected: ContextVar[list[UserError] | None] = ContextVar("collected", default=None)


@contextmanager
def collected_errors() -> Iterator[list[UserError]]:
    """Within this context, `raise_or_collect` appends its errors to the list that is yielded.

    So a check reports a fault that training refuses together with everything else that it finds.
    """
    errors: list[UserError] = []
    token = _collected.set(errors)
    try:
        yield errors
    finally:
        _collected.reset(token)


def raise_or_collect(error: UserError) -> None:
    """Raise an error; within `collected_errors`, return, and the caller goes on without what it is about."""
    errors = _collected.get()
    if errors is None:
        raise error
    errors.append(error)


class FileErrors:
    """Collects the errors of many files, so that one message can count them."""

    def __init__(self) -> None:
        self._errors: dict[str, UserError] = {}

    def __len__(self) -> int:
        return len(self._errors)

    @contextmanager
    def of(self, file: str | os.PathLike[str]) -> Iterator[None]:
        """Catch a UserError while `file` is read."""
        try:
            yield
        except UserError as error:
            self.add(file, error)

    def add(self, file: str | os.PathLike[str], error: UserError) -> None:
        """Keep an error; of several for one file, only the first."""
        self._errors.setdefault(os.fspath(file), error)

    @property
    def files(self) -> tuple[str, ...]:
        """The files with an error."""
        return tuple(self._errors)

    def check(self) -> None:
        """Raise a UserError if there is any: the first one, with the number and names of the others.

        Within `collected_errors`, it returns, and the caller goes on without what is wrong.
        """
        if not self._errors:
            return
        first, *others = self._errors
        more = f"; {len(self._errors)} files have errors, including {some(others)}" if others else ""
        raise_or_collect(UserError(f"{self._errors[first]}{more}", files=tuple(self._errors)))


_MEMORY = re.compile(
    r"out of memory|insufficient memory|not enough memory|cannot allocate memory|can't allocate memory"
    r"|bad_alloc|failed to allocate|could not allocate",
    re.IGNORECASE,
)


def counted(number: float, noun: str) -> str:
    """A number with its noun: `1 image`, `3 images`, `2 boxes`, `0 classes`."""
    ending = "" if number == 1 else "es" if noun.endswith(("x", "ss")) else "s"
    return f"{number} {noun}{ending}"


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception means out of memory; every library (torch, OpenCV, runtimes) has its own."""
    return isinstance(error, MemoryError) or (
        isinstance(error, Exception) and not isinstance(error, UserError) and bool(_MEMORY.search(str(error)))
    )


def printable(text: str) -> str:
    r"""`text` on one line that any terminal can show: a line break becomes `\n`, as in Python's literals."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def text_width(text: str) -> int:
    """The number of columns in a terminal: two for Chinese, Japanese and Korean letters and for emoji, none
    for accents that are characters of their own."""
    marks = ("Mn", "Me", "Cf")
    return sum(
        0 if unicodedata.category(letter) in marks else 1 + (unicodedata.east_asian_width(letter) in "WF")
        for letter in text
    )


def padded(text: str, width: int) -> str:
    """A text, followed by spaces up to this width in a terminal."""
    return text + " " * (width - text_width(text))


def no_split(split: str, known: Iterable[str], *, source: str, reasons: Sequence[str] = ()) -> UserError:
    """The error for a split that `source` does not have."""
    remedy = "add images to train" if split == "train" else f"set data.split={' or '.join(sorted(known))}"
    return UserError(f"no split {split!r} in {source}; {'; '.join([*reasons, remedy])}")


def no_labels(what: str, *, first_image: str) -> UserError:
    """The error for evaluating on a split without `what` (masks, boxes, labels)."""
    return UserError(
        f"{first_image}: this split has no {what} to evaluate against; add them, choose another data.split, "
        "or use tools/predict.py with input=<its folder>"
    )


def some(names: Sequence[str], most: int = 4) -> str:
    """The first few names and the number of others, for a one-line message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.5) -> str:
    """`; did you mean '...'?`, or an empty string if no known name is similar.

    Suggests a near-exact match (a typo) with the same digits. If there is none, it suggests names that start
    with `name` when punctuation is ignored (`mobilenet_v3_...` for `mobilenetv3` and `mobilenet_v3`);
    otherwise, the most similar name.

    cutoff: the least similarity, 0..1.
    """
    plain = {other: re.sub(r"\W|_", "", other.lower()) for other in known}
    start = re.sub(r"\W|_", "", name.lower())
    matches = difflib.get_close_matches(name, list(plain), n=1, cutoff=0.9)
    matches = [other for other in matches if re.findall(r"\d", other) == re.findall(r"\d", name)]
    matches = matches or [other for other in plain if len(start) > 2 and plain[other].startswith(start)][:3]
    matches = matches or difflib.get_close_matches(name, list(plain), n=1, cutoff=cutoff)
    return f"; did you mean {' or '.join(map(repr, matches))}?" if matches else ""
