"""A network in a YAML file, one block to a line: what searches write and trainings read."""

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
    """The `backbone` node of a configuration that builds this network."""
    return {"_target_": _BUILDER, "data": dict(fields)}


def read(path: Path) -> dict[str, Any]:
    """The fields of the network in a file.

    Raises:
        UserError: the file is unreadable or holds no network.
    """
    fields = yaml.safe_load(untrusted.read(path))
    whole = isinstance(fields, dict) and isinstance(fields.get("blocks"), list)
    if not whole or not all(isinstance(block, dict) for block in fields["blocks"]):
        raise UserError(f"{path}: holds no network: name, stem, blocks (a list of rows), last, ...")
    if not isinstance(fields.get("se", {}), dict):
        raise UserError(f"{path}: se must be a group of keys, such as ratio: 0.25")
    return {str(key): value for key, value in fields.items()}


def write(path: Path, fields: Mapping[str, Any], *, header: str = "") -> None:
    """Write a network, one block to a line, below `header` as comments.

    Raises:
        UserError: the file cannot be written.
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
