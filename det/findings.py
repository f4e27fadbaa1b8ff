"""What a reader noticed in annotations and how it was settled: a line per kind, with two files."""

from collections.abc import Iterable


class Findings:
    """Counts by kind, in the order of first notice."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        self._files: dict[tuple[str, str], list[str]] = {}

    def note(self, noun: str, what: str, files: Iterable[str]) -> None:
        """One `noun` per item of `files`, which becomes "3 boxes thinner than 1 pixel: left out (a.xml)"."""
        kind = (noun, what)
        for file in files:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            shown = self._files.setdefault(kind, [])
            if len(shown) < 2 and file not in shown:
                shown.append(file)

    def lines(self, where: str) -> list[str]:
        """The report; `where` says which data it is about."""
        return [
            f"{where}: {count} {counted(noun, count)} {what} ({', '.join(self._files[noun, what])})"
            for (noun, what), count in self._counts.items()
        ]


def counted(noun: str, count: int) -> str:
    """The noun in the number that `count` asks for."""
    if count == 1:
        return noun
    return f"{noun}es" if noun.endswith(("x", "ss")) else f"{noun}s"
