"""Rows of the paper's tables, found in the experiments themselves."""

from deploy.benchmark.paper_rows import (
    Suite,
    baseline,
    choose,
    count_size,
    paper_block,
    published,
    published_latency,
    timed_sizes,
)
from tests.deploy.rows import row
from tests.refusals import refuses

TABLE_7 = Suite(room="seg", tables=[7])


def test_table_7_has_its_eleven_rows_in_order():
    found = published(TABLE_7)
    assert [paper["row"] for paper in found.values()] == list(range(1, 12))
    assert next(iter(found)) == "seg/raspp_v2"
    assert found["seg/lraspp_v3_large"]["cpu_s"] == 2.47


def test_table_6_has_all_rows_but_mobilenet_v1s_the_large_ones_first():
    rows = [paper["row"] for paper in published(Suite(room="det", tables=[6])).values()]
    assert len(rows) == 10
    assert set(rows[:4]) == {"MnasNet", "V2", "V3", "V3 dagger"}


def test_table_8_has_both_resolutions():
    assert len(published(Suite(room="seg", tables=[8]))) == 8


def test_several_tables_follow_each_other():
    tables = [paper["table"] for paper in published(Suite(room="seg", tables=[8, 7])).values()]
    assert tables == [8] * 8 + [7] * 11


def test_what_is_not_there_is_refused():
    refuses(lambda: published(Suite(room="seg", tables=[5])), "conf/experiment/seg", "table 5")
    refuses(
        lambda: choose("tabel7", {"table7": {}, "imagenet": {}}), "table7, imagenet", "did you mean 'table7'"
    )
    refuses(
        lambda: paper_block("seg/lraspp_v3_larg"), "no such experiment", "did you mean 'seg/lraspp_v3_large'"
    )


def test_an_experiment_that_is_no_row_has_an_empty_block():
    assert paper_block("seg/camvid") == {}


def test_sizes_are_the_papers_with_odd_sides_rounded_down():
    papers = {"full": {"input_size": [1025, 2049]}, "half": {"input_size": [513, 1025]}}
    assert timed_sizes(papers, None) == {"full": (1024, 2048), "half": (512, 1024)}
    assert count_size(papers["full"], (1, 1)) == (1025, 2049)
    assert count_size({}, (7, 9)) == (7, 9)


def test_a_given_size_is_for_the_largest_rows_and_the_others_keep_their_share():
    papers = {"full": {"input_size": [1025, 2049]}, "half": {"input_size": [513, 1025]}}
    assert timed_sizes(papers, (256, 512)) == {"full": (256, 512), "half": (128, 256)}
    squares = {"a": {"input_size": [256, 256]}, "b": {"input_size": [96, 96]}}
    assert timed_sizes(squares, (128, 128)) == {"a": (128, 128), "b": (48, 48)}


def test_published_latency_is_that_of_half_resolution_only_where_that_is_timed():
    paper = {"input_size": [1025, 2049], "cpu_s": 3.9, "cpu_half_s": 1.02}
    assert published_latency(paper, (1024, 2048)) == (3900, (1024, 2048))
    assert published_latency(paper, (512, 1024)) == (1020, (512, 1024))
    assert published_latency(paper, (256, 512)) == (3900, (1024, 2048))
    assert published_latency({"input_size": [320, 320], "pixel1_ms": 162}, (320, 320)) == (162, (320, 320))
    assert published_latency({}, (320, 320)) is None
    assert published_latency({"input_size": [320, 320]}, (320, 320)) is None


def test_the_baseline_is_named_or_the_first_mobilenet_v2():
    rows = [row("lraspp_v3_large"), row("raspp_v2"), row("lraspp_v2")]
    assert baseline(rows, None).name == "raspp_v2"
    assert baseline(rows[:1], None).name == "lraspp_v3_large"
    assert baseline(rows, "lraspp_v2").name == baseline(rows, "seg/lraspp_v2").name == "lraspp_v2"
    refuses(lambda: baseline(rows, "raspp_v3"), "no such row", "did you mean", "lraspp_v3_large, raspp_v2")
