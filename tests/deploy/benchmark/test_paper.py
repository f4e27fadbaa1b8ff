"""Rows of the paper's tables, read from the experiments' own files."""

from deploy.benchmark.paper import (
    PublishedLatency,
    count_size,
    paper_block,
    papers_of,
    published_latency,
    timed_sizes,
)
from deploy.benchmark.rows import choose_baseline
from deploy.options import Suite
from tests.deploy.rows import row
from tests.refusals import refuses

TABLE_7 = Suite(task="seg", tables=[7])


def test_table_7_has_its_eleven_rows_in_order():
    papers = papers_of(TABLE_7)
    assert [paper["row"] for paper in papers.values()] == list(range(1, 12))
    assert next(iter(papers)) == "seg/raspp_v2"
    assert papers["seg/lraspp_v3_large"]["cpu_s"] == 2.47


def test_table_6_has_all_rows_except_mobilenet_v1s_large_ones_first():
    rows = [paper["row"] for paper in papers_of(Suite(task="det", tables=[6])).values()]
    assert len(rows) == 10
    assert set(rows[:4]) == {"MnasNet", "V2", "V3", "V3 dagger"}


def test_table_8_has_both_resolutions():
    assert len(papers_of(Suite(task="seg", tables=[8]))) == 8


def test_several_tables_follow_each_other():
    tables = [paper["table"] for paper in papers_of(Suite(task="seg", tables=[8, 7])).values()]
    assert tables == [8] * 8 + [7] * 11


def test_unknown_tables_and_experiments_are_rejected():
    refuses(lambda: papers_of(Suite(task="seg", tables=[5])), "conf/experiment/seg", "table 5")
    refuses(
        lambda: paper_block("seg/lraspp_v3_larg"), "no such experiment", "did you mean 'seg/lraspp_v3_large'"
    )


def test_an_experiment_that_is_not_a_row_has_an_empty_block():
    assert paper_block("seg/camvid") == {}


def test_sizes_are_the_papers_with_odd_sides_rounded_down():
    papers = {"full": {"input_size": [1025, 2049]}, "half": {"input_size": [513, 1025]}}
    assert timed_sizes(papers, None) == {"full": (1024, 2048), "half": (512, 1024)}
    assert count_size(papers["full"], (1, 1)) == (1025, 2049)
    assert count_size({}, (7, 9)) == (7, 9)


def test_the_size_is_for_the_largest_rows_and_the_others_keep_their_share():
    papers = {"full": {"input_size": [1025, 2049]}, "half": {"input_size": [513, 1025]}}
    assert timed_sizes(papers, (256, 512)) == {"full": (256, 512), "half": (128, 256)}
    squares = {"a": {"input_size": [256, 256]}, "b": {"input_size": [96, 96]}}
    assert timed_sizes(squares, (128, 128)) == {"a": (128, 128), "b": (48, 48)}


def test_the_published_latency_is_for_half_resolution_only_if_that_is_timed():
    paper = {"input_size": [1025, 2049], "cpu_s": 3.9, "cpu_half_s": 1.02}
    full = PublishedLatency(ms=3900, size=(1024, 2048), device="Pixel 3")
    assert published_latency(paper, (1024, 2048)) == full
    half = PublishedLatency(ms=1020, size=(512, 1024), device="Pixel 3")
    assert published_latency(paper, (512, 1024)) == half
    assert published_latency(paper, (256, 512)) == full
    detector = {"input_size": [320, 320], "pixel1_ms": 162}
    expected = PublishedLatency(ms=162, size=(320, 320), device="Pixel 1")
    assert published_latency(detector, (320, 320)) == expected
    assert published_latency({}, (320, 320)) is None
    assert published_latency({"input_size": [320, 320]}, (320, 320)) is None


def test_the_baseline_is_named_or_the_first_mobilenet_v2():
    rows = [row("lraspp_v3_large"), row("raspp_v2"), row("lraspp_v2")]
    assert choose_baseline(rows, None).name == "raspp_v2"
    assert choose_baseline(rows[:1], None).name == "lraspp_v3_large"
    assert (
        choose_baseline(rows, "lraspp_v2").name == choose_baseline(rows, "seg/lraspp_v2").name == "lraspp_v2"
    )
    refuses(
        lambda: choose_baseline(rows, "raspp_v3"), "no such row", "did you mean", "lraspp_v3_large, raspp_v2"
    )
