"""The rows of a benchmark: what a table of the paper prints, found in the experiments' own files.

Every experiment that is a row says so under `paper:`, with the table, the row and the published figures;
nothing is listed a second time here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from torch import nn

from backbones.count import Count, Totals
from engine.config.help import CONF
from engine.config.instantiate import nearest
from engine.data.preprocessing import Size
from engine.errors import UserError

METRICS = {"seg": "miou", "det": "map", "cls": "top1"}
"""Accuracy by room: the name that the paper blocks and the evaluators of this framework share."""


NUM_CLASSES = {"seg": 19, "det": 90, "cls": 1000}
"""Of the paper's rows: Cityscapes, COCO (whose ids go to 90), ImageNet."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Tables of the paper by number, and the experiment that ratios refer to (None: see `baseline`)."""

    room: str
    tables: Sequence[int]
    baseline: str | None = None


@dataclass(frozen=True, kw_only=True)
class BenchmarkRow:
    """One network in a benchmark.

    name: short, unique in a benchmark. source: the experiment or the run folder that it comes from.
    params, madds: by the counting convention of the table, at the size that the table counts at.
    size: (height, width) that is timed. executed_madds: of convolutions and linear layers at that size; None
        where nothing is timed.
    paper: the published figures, empty where there are none. accuracy: ours, by name, where it was measured.
    task: the network with what stands before and after it (`task.model`); None where only counts are wanted.
    """

    name: str
    source: str
    room: str
    params: int
    madds: int
    size: Size
    executed_madds: int | None
    paper: Mapping[str, Any]
    accuracy: Mapping[str, float]
    task: nn.Module | None = None


def choose(name: str, suites: Mapping[str, Any]) -> Suite:
    """Raises: UserError for a suite that there is not, naming the nearest."""
    if name not in suites:
        raise UserError(f"suite={name}: there are {', '.join(suites)}{nearest(str(name), suites)}")
    return Suite(**suites[name])


def published(suite: Suite) -> dict[str, dict[str, Any]]:
    """Experiments that are rows of the suite's tables -> their `paper` blocks, in the order of the tables.

    Rows without a number are ordered by multiply-adds, largest first.
    """
    found = {}
    for file in sorted((CONF / "experiment" / suite.room).glob("*.yaml")):
        paper = paper_block(f"{suite.room}/{file.stem}")
        if paper.get("table") in suite.tables:
            found[f"{suite.room}/{file.stem}"] = paper
    if not found:
        tables = " or ".join(map(str, suite.tables))
        raise UserError(f"no file in conf/experiment/{suite.room} is a row of table {tables}")
    return dict(sorted(found.items(), key=lambda item: _place(item[1], suite.tables)))


def paper_block(experiment: str) -> dict[str, Any]:
    """The `paper` block of an experiment's file; empty where it has none.

    Raises: UserError where there is no such experiment, naming the nearest.
    """
    folder = CONF / "experiment"
    file = folder / f"{experiment}.yaml"
    if not file.is_file():
        known = [str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml")]
        raise UserError(f"{experiment}: no such experiment{nearest(experiment, known)}")
    return yaml.safe_load(file.read_text(encoding="utf-8")).get("paper") or {}


def _place(paper: Mapping[str, Any], tables: Sequence[int]) -> tuple[Any, ...]:
    row = paper.get("row")
    numbered = isinstance(row, int)
    return (
        list(tables).index(paper["table"]),
        row if numbered else 0,
        0 if numbered else -madds_b(paper),
        str(row),
    )


def madds_b(paper: Mapping[str, Any]) -> float:
    """The printed multiply-adds in billions, however the block gives them; 0 where it does not."""
    return float(paper.get("madds_b") or (paper.get("madds_m") or 0) / 1000)


def count_size(paper: Mapping[str, Any], default: Size) -> Size:
    """(height, width) that the paper's multiply-adds were counted at: 1025 x 2049 for Cityscapes."""
    height, width = paper.get("input_size") or default
    return height, width


def timed_sizes(papers: Mapping[str, Mapping[str, Any]], size: Size | None) -> dict[str, Size]:
    """(height, width) at which each row is timed.

    The paper's own, odd sides rounded down (it counts at 1025 x 2049 and times 1024 x 2048). A given `size`
    is for the rows with the largest input; the others keep their share of it, as half resolution does.
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


def totals(room: str, found: Count, num_classes: int) -> Totals:
    """Parameters and multiply-adds as the paper adds them up for this kind of network; see `Count`."""
    if room == "seg":
        return found.cityscapes(num_classes=num_classes)
    return found.detection() if room == "det" else found.classification()


def published_latency(paper: Mapping[str, Any], size: Size) -> tuple[float, Size] | None:
    """The paper's milliseconds and the input that they are for: half resolution where that is timed, else the
    row's own. Tables 7 and 8: one large core of a Pixel 3; the others: of a Pixel 1."""
    if not paper.get("input_size"):
        return None
    full = _even(count_size(paper, size))
    half = (full[0] // 2, full[1] // 2)
    if size == half and paper.get("cpu_half_s"):
        return paper["cpu_half_s"] * 1000, half
    ms = paper.get("pixel1_ms") or (paper.get("cpu_s") or 0) * 1000
    return (float(ms), full) if ms else None


def baseline(rows: Sequence[BenchmarkRow], wanted: str | None) -> BenchmarkRow:
    """The row that ratios refer to: by name or source; by default the first MobileNetV2, else the first row.

    Raises: UserError for a name that no row has, naming the nearest.
    """
    if wanted is not None:
        for row in rows:
            if wanted in (row.name, row.source):
                return row
        names = [row.name for row in rows]
        raise UserError(
            f"baseline={wanted}: no such row{nearest(wanted, names)}; there are {', '.join(names)}"
        )
    return next((row for row in rows if "v2" in row.source.rpartition("/")[2]), rows[0])
