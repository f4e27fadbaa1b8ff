"""The report of a checked dataset as one HTML file."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from doctor.check.dataset_check import CheckedDataset
from doctor.check.scan import Scan
from engine.contracts import Image
from engine.data.class_map import ClassMap
from engine.data.images import read_image
from engine.data.labels.report import LabelReport
from engine.errors import UserError
from engine.html.charts import bar_chart, heat_map, histogram, scatter_chart
from engine.html.page import Page
from engine.io.files import evenly_spaced
from engine.io.progress import announced
from engine.sample_images import panel_size, resize_panel, side_by_side

_CLASSES_SHOWN, _SAMPLED_CLASSES, _PAIRS_SHOWN = 30, 24, 12
_SIZES_SHOWN = 1500  # per split
_CELLS = 20  # of the heat map, per side
_LONGEST = 480  # pixels of a sample


@announced("writing the report")
def write_page(checked: CheckedDataset, path: Path, *, name: str, command: str) -> None:
    """Write the report. Raises: UserError if it cannot be written."""
    page = Page(f"Dataset check: {name}", checked.description)
    page.section("Findings", "" if checked.findings else "No problems found.").findings(checked.findings)
    if command:
        page.section("Train", "Train on this data with:").code(command)
    if checked.scan is not None and checked.classes is not None:
        _statistics(page, checked.scan, checked.labels, checked.classes)
        if checked.labels is not None:
            if checked.labels.boxes is not None:
                _boxes(page, checked.labels)
            _samples(page, checked.labels, checked.classes)
        _duplicates(page, checked)
    page.write(path)


def _statistics(page: Page, scan: Scan, labels: LabelReport | None, classes: ClassMap) -> None:
    page.section("Images and classes")
    rows = []
    for split, files in scan.rows.items():
        facts = scan.facts[files]
        read = facts[facts["height"] > 0]
        sizes = np.unique(np.column_stack([read["width"], read["height"]]), axis=0)
        amounts = labels.amounts.get(split) if labels is not None else None
        labeled = amounts.images if amounts is not None else 0
        present = int((amounts.present > 0).sum()) if amounts is not None else 0
        brightness = round(float(read["brightness"].mean()), 1) if len(read) else None
        rows.append([split, len(files), labeled, present, len(sizes), brightness])
    page.table(["split", "images", "labeled", "classes present", "different sizes", "mean brightness"], rows)
    if labels is not None and labels.amounts:
        order = np.argsort(-sum(amounts.shares for amounts in labels.amounts.values()), kind="stable")
        shown = order[:_CLASSES_SHOWN]
        series = {split: (amounts.shares[shown] * 100).tolist() for split, amounts in labels.amounts.items()}
        more = (
            f", the {len(shown)} most frequent of {len(classes)} classes" if len(shown) < len(classes) else ""
        )
        title = f"Share of the {labels.unit} per class{more}"
        page.chart(bar_chart([classes.names[index] for index in shown], series, title=title, unit="%"))
    points: dict[str, list[tuple[float, float]]] = {}
    values: list[float] = []
    for split, files in scan.rows.items():
        facts = scan.facts[files]
        read = facts[facts["height"] > 0]
        values += read["brightness"].tolist()
        chosen = read[evenly_spaced(len(read), _SIZES_SHOWN)] if len(read) else read
        points[split] = [(float(row["width"]), float(row["height"])) for row in chosen]
    if values:
        page.chart(scatter_chart(points, title="Image sizes", x_label="width in pixels", y_label="height"))
        page.chart(histogram(values, title="Brightness of the images", x_label="mean gray value, 0 to 255"))


def _boxes(page: Page, labels: LabelReport) -> None:
    assert labels.boxes is not None
    page.section("Boxes", "The training boxes, scaled to the network's input size (data.size).")
    guides = {f"stride {stride:.0f}": float(stride) for stride in labels.strides}
    sides = [
        (float(width), float(height)) for width, height in labels.boxes[:, 2:].tolist() if width * height > 0
    ]
    page.chart(
        scatter_chart(
            sides,
            title="Box sizes, with the strides of the feature maps",
            x_label="width in pixels",
            y_label="height",
            log=True,
            x_guides=guides,
            y_guides=guides,
        )
    )
    x, y = np.clip(labels.boxes[:, 0], 0, 1), np.clip(labels.boxes[:, 1], 0, 1)
    counts = np.histogram2d(y, x, bins=_CELLS, range=((0, 1), (0, 1)))[0]
    page.chart(heat_map(counts, title="Where box centers lie in the image"))


def _samples(page: Page, labels: LabelReport, classes: ClassMap) -> None:
    drawn = []
    for index in range(min(len(classes), _SAMPLED_CLASSES)):
        for split, row in list(labels.samples(index))[:1]:
            try:
                drawn.append((labels.draw(split, row), f"{classes.names[index]} ({split})"))
            except UserError:  # reported as a finding
                continue
    if drawn:
        page.section(
            "A sample of each class",
            "" if labels.unit == "images" else f"The image with the most {labels.unit} of the class.",
        ).images(drawn, longest=_LONGEST)


def _duplicates(page: Page, checked: CheckedDataset) -> None:
    scan, pairs = checked.scan, checked.pairs
    drawn = [] if scan is None or pairs is None else list(_drawn_pairs(scan, pairs.tolist()))
    if drawn:
        page.section("Near-duplicates", "Pairs in different splits come first.").images(drawn)


def _drawn_pairs(scan: Scan, pairs: Sequence[Sequence[int]]) -> Iterator[tuple[Image, str]]:
    first, splits = scan.first_split, list(scan.rows)
    ordered = sorted(pairs, key=lambda pair: first[pair[0]] == first[pair[1]])
    for one, other in ordered[:_PAIRS_SHOWN]:
        try:
            read = partial(read_image, pixel_range=scan.pixel_range, upright=scan.upright)
            images = [read(scan.path(file)) for file in (one, other)]
        except UserError:  # reported as a finding
            continue
        size = panel_size(images[0])
        names = [f"{splits[first[file]]}: {Path(scan.path(file)).name}" for file in (one, other)]
        panels = [(name, resize_panel(image, size)) for name, image in zip(names, images, strict=True)]
        yield side_by_side(panels), " and ".join(names)
