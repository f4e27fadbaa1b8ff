"""Prints and writes the result of a check."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from doctor.check.dataset_check import CheckedDataset
from doctor.check.page import write_page
from engine.contracts import Finding
from engine.data.exclude import read_excluded, write_excluded
from engine.io.files import write_json

_EXCLUDE = "data.exclude="


def text(checked: CheckedDataset) -> str:
    """The findings for a terminal, the most severe first."""
    counts = ", ".join(
        f"{count} {severity}{'' if count == 1 else 's'}"
        for severity in ("error", "warning", "note")
        if (count := checked.count(severity))
    )
    blocks = [_block(finding) for finding in checked.findings]
    return "\n".join(
        [checked.description or "the data cannot be read", *blocks, counts or "no problems found"]
    )


def _block(finding: Finding) -> str:
    lines = [f"{finding.severity.upper():8}{finding.title}  [{finding.code}]"]
    lines += [f"        {example}" for example in finding.examples]
    lines.append(f"        {finding.why}")
    if finding.remedy:
        lines.append(f"        -> {finding.remedy}")
    return "\n".join(lines)


def write_results(checked: CheckedDataset, out: Path, *, name: str, arguments: Sequence[str]) -> list[str]:
    """Write report.html and findings.json, and exclude.json if samples should be left out, together with
    those that `data.exclude=` left out already; if not, remove the exclude.json of an earlier check.

    Args:
        name: of the data, for the title.
        arguments: of tools/train.py, which choose the data.

    Returns: lines for the console that say what to do next.
    Raises: UserError if a file cannot be written.
    """
    checked = checked.at(str(out))
    entries = [_entry(finding) for finding in checked.findings]
    write_json(out / "findings.json", {"data": checked.description, "findings": entries})
    exclude, typed = out / "exclude.json", _typed_exclude(arguments)
    if checked.excluded:
        known = {} if typed is None else read_excluded(typed)
        splits = {**known, **checked.excluded}
        write_excluded(
            exclude, {split: {**known.get(split, {}), **checked.excluded.get(split, {})} for split in splits}
        )
    elif typed is None or typed.absolute() != exclude.absolute():
        exclude.unlink(missing_ok=True)
    command = train_command(arguments, checked, out)
    write_page(checked, out / "report.html", name=name, command=command)
    return [f"report: {out / 'report.html'}", *([f"next: {command}"] if command else [])]


def _typed_exclude(arguments: Sequence[str]) -> Path | None:
    """The file of `data.exclude=` among the arguments."""
    files = [each.partition("=")[2] for each in arguments if each.startswith(_EXCLUDE)]
    return Path(files[-1]).expanduser() if files and files[-1] not in ("", "null") else None


def _entry(finding: Finding) -> dict[str, Any]:
    entry = {
        name: getattr(finding, name)
        for name in ("code", "severity", "title", "count", "examples", "why", "remedy")
    }
    return {**entry, "exclude": {split: list(names) for split, names in finding.exclude.items()}}


def data_name(data: Mapping[str, Any]) -> str:
    """What to call the data of a configuration: its folder at `root`, or that of its annotations."""
    file = (data.get("train") or {}).get("annotations")
    if data.get("root"):
        return Path(data["root"]).absolute().name
    if file:
        folder = Path(file).absolute().parent
        return (folder.parent if folder.name == "annotations" else folder).name
    return str(data["source"]["_target_"]).rpartition(".")[2]


def train_command(arguments: Sequence[str], checked: CheckedDataset, out: Path) -> str:
    """The command that trains on the data without the excluded samples; empty if training would not start."""
    if not checked.can_train:
        return ""
    extra = list(checked.needed)
    if checked.excluded:
        arguments = [each for each in arguments if not each.startswith(_EXCLUDE)]
        extra.append(f"data.exclude={out / 'exclude.json'}")
    return shlex.join(["python", "tools/train.py", *arguments, *extra])
