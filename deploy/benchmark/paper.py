"""The figures of the paper's tables, read from the experiment files.

Every experiment that is a row of a table has a `paper:` block with the table, the row and the published
figures; nothing is repeated here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from deploy.options import Suite
from engine.config.overrides import CONF, experiment_options
from engine.data.preprocessing import Size
from engine.errors import UserError, nearest


def papers_of(suite: Suite) -> dict[str, dict[str, Any]]:
    """Experiments that are rows of the suite's tables -> their `paper` blocks, in the order of the tables.

    Rows without a number are ordered by multiply-adds, largest first.

    Raises:
        UserError: if no experiment is a row of these tables.
    """
    papers = {}
    for name in sorted(experiment_options()):
        paper = paper_block(name) if name.startswith(f"{suite.task}/") else {}
        if paper.get("table") in suite.tables:
            papers[name] = paper
    if not papers:
        tables = " or ".join(map(str, suite.tables))
        raise UserError(f"no file in conf/experiment/{suite.task} is a row of table {tables}")
    return dict(sorted(papers.items(), key=lambda item: _sort_key(item[1], suite.tables)))


def is_experiment(name: str) -> bool:
    return name in experiment_options()


def paper_block(experiment: str) -> dict[str, Any]:
    """The `paper` block of an experiment's file; empty if it has none.

    Raises:
        UserError: if there is no such experiment; suggests the nearest.
    """
    options = experiment_options()
    if experiment not in options:
        raise UserError(f"{experiment}: no such experiment{nearest(experiment, list(options))}")
    file = CONF / "experiment" / f"{options[experiment]}.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8")).get("paper") or {}


def _sort_key(paper: Mapping[str, Any], tables: Sequence[int]) -> tuple[Any, ...]:
    row = paper.get("row")
    numbered = isinstance(row, int)
    return (
        list(tables).index(paper["table"]),
        row if numbered else 0,
        0 if numbered else -madds_b(paper),
        str(row),
    )


def madds_b(paper: Mapping[str, Any]) -> float:
    """The printed multiply-adds in billions, from the block's `madds_b` or `madds_m`; 0 if it has neither."""
    return float(paper.get("madds_b") or (paper.get("madds_m") or 0) / 1000)


def count_size(paper: Mapping[str, Any], default: Size) -> Size:
    """(height, width) at which the paper counts multiply-adds: 1025 x 2049 for Cityscapes."""
    height, width = paper.get("input_size") or default
    return height, width


def timed_sizes(papers: Mapping[str, Mapping[str, Any]], size: Size | None) -> dict[str, Size]:
    """(height, width) at which each row is timed.

    The paper's own, with odd sides rounded down (it counts at 1025 x 2049 and times at 1024 x 2048). `size`
    replaces that of the rows with the largest input; the others (half resolution) keep their ratio to it.
    """
    own = {name: _even(count_size(paper, (224, 224))) for name, paper in papers.items()}
    if size is None:
        return own
    largest = max(own.values())
    return {
        name: _even((max(1, size[0] * height // largest[0]), max(1, size[1] * width // largest[1])))
        for name, (height, width) in own.items()
    }


def _even(size: Size) -> Size:
    height, width = (side - side % 2 if side > 64 else side for side in size)
    return height, width


@dataclass(frozen=True, kw_only=True)
class PublishedLatency:
    """The paper's milliseconds for an input of `size` on one large core of `device`."""

    ms: float
    size: Size
    device: str


def published_latency(paper: Mapping[str, Any], size: Size) -> PublishedLatency | None:
    """The paper's latency: at half resolution if that is `size`, else at the row's own resolution.

    Tables 7 and 8 were measured on a Pixel 3, the others on a Pixel 1.
    """
    if not paper.get("input_size"):
        return None
    full = _even(count_size(paper, size))
    half = (full[0] // 2, full[1] // 2)
    if size == half and paper.get("cpu_half_s"):
        return PublishedLatency(ms=paper["cpu_half_s"] * 1000, size=half, device="Pixel 3")
    if paper.get("pixel1_ms"):
        return PublishedLatency(ms=float(paper["pixel1_ms"]), size=full, device="Pixel 1")
    if paper.get("cpu_s"):
        return PublishedLatency(ms=float(paper["cpu_s"] * 1000), size=full, device="Pixel 3")
    return None
