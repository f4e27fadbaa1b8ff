"""Network descriptions as YAML files, one block per line. Searches write them, trainings read them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from engine.config import untrusted
from engine.errors import UserError
from engine.io.files import write_text

SUFFIXES = (".yaml", ".yml")


_BUILDER = "backbones.spec.NetSpec.from_dict"


def node(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The `backbone` config node that builds this network."""
    return {"_target_": _BUILDER, "data": dict(fields)}


def read(path: Path) -> dict[str, Any]:
    """Read the fields of a network description.

    Raises:
        UserError: if the file is unreadable or does not describe a network.
    """
    fields = yaml.safe_load(untrusted.read(path))
    has_blocks = isinstance(fields, dict) and isinstance(fields.get("blocks"), list)
    if not has_blocks or not all(isinstance(block, dict) for block in fields["blocks"]):
        raise UserError(
            f"{path}: not a network description; expected the keys name, stem, blocks (a list), last, ..."
        )
    if not isinstance(fields.get("se", {}), dict):
        raise UserError(f"{path}: se must be a mapping, such as {{ratio: 0.25}}")
    return {str(key): value for key, value in fields.items()}


def write(path: Path, fields: Mapping[str, Any], *, header: str = "") -> None:
    """Write a network description, one block per line, with `header` as comments at the top.

    Raises:
        UserError: if the file cannot be written.
    """
    lines = [f"# {line}".rstrip() for line in header.splitlines()]
    for key, value in fields.items():
        if key == "blocks":
            lines += ["blocks:", *(f"- {_flow(block)}" for block in value)]
        else:
            lines.append(f"{key}: {_flow(value)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "\n".join(lines) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None


def _flow(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000)
    return text.removesuffix("\n").removesuffix("\n...")
