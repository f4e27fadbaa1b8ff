"""The sections of reports name their units."""

import re

import numpy as np

from engine.html.page import Page
from engine.report.sections import add_curves, add_images, add_results


def _rows(*scores):
    steps = [{"kind": "train", "step": step, "loss": 1.0, "lr": 0.1} for step in (1, 2)]
    return [*steps, *({"kind": "eval", "step": step, "miou": score} for step, score in enumerate(scores, 1))]


def test_the_curve_of_a_share_is_in_percent_like_the_mark_at_its_best():
    page = Page("t")
    add_curves(page, _rows(0.5, 0.625), "miou")
    html = page.html()
    assert ">miou, %<" in html
    assert ">best 62.50%<" in html
    assert ">60<" in html  # a tick
    assert ">0.6<" not in html


def test_other_metrics_keep_their_values():
    page = Page("t")
    add_curves(page, _rows(-1.5, 0.25), "miou")
    html = page.html()
    assert ">miou<" in html
    assert "%" not in re.sub("<style>.*</style>", "", html, flags=re.DOTALL)


def test_a_single_evaluation_is_no_curve():
    page = Page("t")
    add_curves(page, _rows(0.5), "miou")
    assert "Training loss" in page.html()
    assert "Evaluated miou" not in page.html()


def test_a_metric_that_the_data_do_not_have_is_not_listed():
    page = Page("t")
    add_results(page, {"miou": 0.5, "miou_category": float("nan"), "num_images": 3})
    assert "miou_category" not in page.html()
    assert ">50.00%<" in page.html()


def test_the_worst_images_say_what_they_are_ranked_by():
    class Reporter:
        def draw_sample(self, dataset, index):
            return np.zeros((4, 4, 3), np.uint8)

    page = Page("t")
    add_images(page, Reporter(), [], [("a", 0, 0.25)], worst_by="lowest F1", random=0)
    html = page.html()
    assert "The images with the lowest F1, the worst first." in html
    assert "1.\N{NO-BREAK SPACE}a: 0.250" in html
