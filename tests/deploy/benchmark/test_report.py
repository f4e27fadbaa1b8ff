"""Tables, the document and the chart of a benchmark."""

import json

import pytest
from PIL import Image

from deploy.benchmark.pareto import accuracy, draw_pareto, panels, pareto_front
from deploy.benchmark.report import document, save
from deploy.benchmark.results import result
from deploy.benchmark.tables import tables
from tests.deploy.rows import row
from tests.refusals import refuses

MACHINE = {
    "device": "cpu",
    "cpu": "Some CPU",
    "cores": 2,
    "load": 0.5,
    "platform": "Linux",
    "python": "3.12",
    "versions": {"torch": "2.14"},
    "date": "2026-11-24",
}


def measured(name, *, ms=100.0, ratio=1.0, runtime="eager", threads=1, date="2026-11-24", **options):
    return result(
        row(name, **options),
        baseline=row("raspp_v2", input_size=[1025, 2049], cpu_s=3.9),
        runtime=runtime,
        threads=threads,
        include="network",
        baseline_runtime="eager",
        latency_ms_p50=ms,
        latency_ms_p95=ms * 1.1,
        latency_ms_min=ms * 0.9,
        latency_ms_interval=(ms * 0.99, ms * 1.03),
        interval_reached=False,
        rounds=12,
        ratio_to_baseline=ratio,
        ratio_p5=ratio - 0.1,
        ratio_p95=ratio + 0.1,
        ratio_interval=(ratio, ratio),
        gemm_gmadds_per_s=50.0,
        machine=MACHINE | {"date": date},
    )


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([], []),
        ([(1, 1)], [0]),
        ([(3, 3), (1, 1), (2, 2)], [1, 2, 0]),
        ([(1, 5), (2, 4), (3, 6)], [0, 2]),
        ([(1, 5), (1, 6)], [1]),  # as fast, and better
        ([(2, 5), (1, 5)], [1]),  # as good, and faster
        ([(1, 5), (1, 5)], [0]),
    ],
)
def test_pareto_front(points, front):
    assert pareto_front(points) == front


def test_table_7s_own_pareto_front():
    """By the paper's latencies and mIoUs: rows 11, 9, 8, 7, 4 and 3; the other decoder is never on it."""
    seconds = [3.90, 3.03, 2.98, 2.89, 3.55, 2.60, 2.55, 2.47, 1.59, 1.27, 1.21]
    miou = [72.84, 72.56, 72.97, 72.74, 72.64, 71.91, 72.37, 72.36, 68.57, 66.83, 68.38]
    front = [at + 1 for at in pareto_front(list(zip(seconds, miou, strict=True)))]
    assert front == [11, 9, 8, 7, 4, 3]


def cells(text, name):
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {name} ")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_table_has_our_figures_and_the_papers_in_columns_of_their_own():
    paper = {"row": 8, "params_m": 1.51, "madds_b": 9.74, "cpu_s": 2.47, "input_size": [1025, 2049]}
    text = tables([measured("raspp_v2"), measured("lraspp", ms=61.25, ratio=0.612, **paper)])
    header = cells(text, "name")
    shown = dict(zip(header, cells(text, "lraspp"), strict=True))
    assert header[:6] == ["name", "row", "params M", "paper's", "MAdds B", "paper's"]
    assert (shown["params M"], shown["MAdds B"], shown["p50 ms"]) == ("2.000", "20.000", "61.25")
    assert (shown["paper's ms"], shown["paper's ratio"]) == ("2470", "0.633")
    assert shown["ratio (p5-p95)"] == "0.612 (0.512-0.712)"
    assert shown["+-"] == "3.0% !"
    assert "MB" not in header  # nothing was measured
    assert text.startswith("eager, 1 thread, network alone, 1024x2048, 12 rounds; ratios are to raspp_v2,")


def test_the_papers_milliseconds_have_their_size_if_it_is_another():
    paper = {"cpu_s": 2.47, "input_size": [1025, 2049]}
    assert "2470 at 1024x2048" in tables([measured("a", size=(256, 512), **paper)])


def test_what_was_measured_apart_has_a_table_of_its_own():
    apart = [
        measured("a"),
        measured("a", threads=2, date="later"),
        measured("a", runtime="onnx", date="last"),
    ]
    assert tables(apart).count("| name") == 3
    together = tables([measured("a"), measured("a", runtime="onnx")])
    assert together.count("| name") == 1
    assert "runtime" in cells(together, "name")
    assert "ratios are to raspp_v2 on eager" in together


def test_counts_alone_have_no_columns_of_time():
    text = tables([result(row("a", row=3), baseline=row("a"))])
    assert cells(text, "name") == ["name", "row", "params M", "MAdds B"]


def test_the_document_names_the_machine_and_the_papers_phone():
    paper = {"cpu_s": 2.47, "input_size": [1025, 2049]}
    text = document([measured("a", **paper)], command="python tools/benchmark.py suite=table7")
    for part in ("benchmark.py suite=table7", "Some CPU, 2 cores", "torch 2.14", "2026-11-24", "Pixel 3"):
        assert part in text
    assert "Pixel" not in document([measured("a")], command="x")


def test_measured_accuracy_is_preferred_to_the_published_one():
    assert accuracy(measured("a", miou=72.4)) == (72.4, "published")
    assert accuracy(measured("a", miou=72.4, accuracy={"miou": 0.7})) == (70.0, "measured")
    assert accuracy(measured("a", miou=None)) is None


def test_results_are_a_list_of_rows_and_a_chart_is_drawn(tmp_path):
    rows = [
        measured("a", miou=70.0),
        measured("b", ms=50.0, miou=60.0),
        measured("c", accuracy={"miou": 0.5}),
    ]
    save(rows, tmp_path, command="x")
    stored = json.loads((tmp_path / "results.json").read_text())
    assert [entry["name"] for entry in stored] == ["a", "b", "c"]
    assert stored[0]["paper"]["miou"] == 70.0
    assert (tmp_path / "results.md").read_text().startswith("# Benchmark")
    assert Image.open(tmp_path / "pareto.png").size[0] > 500


def test_accuracies_of_other_tasks_and_data_are_not_on_one_pareto_front():
    """As in suite=own, beside a run on other data."""
    seg = {"accuracy": {"miou": 0.7}, "accuracy_on": "CamVid"}
    det = {"task": "det", "metric": "map", "accuracy": {"map": 0.5}, "accuracy_on": "BCCD"}
    rows = [measured("a", **seg), measured("b", **seg), measured("run", accuracy={"miou": 0.4})]
    rows += [measured("c", **det), measured("d", runtime="onnx", **det)]
    named = {title: [row["name"] for row in part] for title, part in panels(rows, "name").items()}
    assert named == {
        "eager, 1 thread; seg, miou on CamVid": ["a", "b"],
        "eager, 1 thread; seg, miou": ["run"],
        "eager, 1 thread; det, map on BCCD": ["c"],
        "onnx, 1 thread; det, map on BCCD": ["d"],
    }
    assert list(panels(rows[:2], "name")) == ["eager, 1 thread"]


def test_without_accuracies_or_latencies_there_is_no_chart(tmp_path):
    draw_pareto([measured("a"), result(row("b", miou=70.0), baseline=row("b"))], tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_a_folder_that_cannot_be_written_is_rejected(tmp_path):
    (tmp_path / "results.json").mkdir()
    refuses(lambda: save([measured("a")], tmp_path, command="x"), "results.json", "cannot be written")


@pytest.mark.parametrize(("data", "text"), [("BCCD", "57.9 map on BCCD"), (None, "57.9 map")])
def test_an_accuracy_from_a_suite_names_its_data(data, text):
    figures = measured("panlite", task="det", metric="map", accuracy={"map": 0.5785}) | {"accuracy_on": data}
    table = tables([figures])
    assert dict(zip(cells(table, "name"), cells(table, "panlite"), strict=True))["measured %"] == text
