"""A comparison with PyTorch shows differences, and is checked against a budget."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from deploy.eager import eager_session
from deploy.export.comparison import Comparison, compare_outputs
from deploy.export.export_run import _check
from deploy.options import Budget
from deploy.session import Session
from tests.deploy.toys import ToyExport, toy_images, toy_session
from tests.refusals import refuses


def test_a_comparison_shows_what_differs():
    same = compare_outputs(ToyExport(), toy_session(), list(toy_images()))
    assert same.max_difference < 1e-3
    assert same.agreement == 1
    assert same.batches == (1, 4)
    other = compare_outputs(ToyExport(offset=2.0), toy_session(2), list(toy_images()))
    assert other.max_difference == pytest.approx(2, abs=1e-3)
    assert other.agreement == 0
    assert other.batches == (1, 2)


def test_a_mix_up_of_images_in_a_fixed_batch_shows():
    inner = toy_session(2)
    mixed = replace(inner, run=lambda images: inner.run(images[::-1]))
    assert compare_outputs(ToyExport(), mixed, list(toy_images())).max_difference > 1


def test_pytorch_does_not_differ_from_itself():
    comparison = compare_outputs(ToyExport(), eager_session(ToyExport()), list(toy_images()))
    assert (comparison.max_difference, comparison.agreement) == (0, 1)


def test_agreement_is_the_mean_over_the_images():
    """The file is right about the first two of three images: alone 1, 1, 0, and together 2/3."""
    inner, images = toy_session(), list(toy_images(3))
    last = images[2]

    def run(batch):
        wrong = [25.0 if (image == last).all() else 0.0 for image in batch]
        return [inner.run(batch)[0] + np.array(wrong, np.float32)[:, None]]

    comparison = compare_outputs(ToyExport(), replace(inner, run=run), images)
    assert comparison.agreement == pytest.approx((1 + 1 + 0 + 2 / 3) / 4)
    assert comparison.max_difference == pytest.approx(25, abs=1e-3)
    assert comparison.largest == pytest.approx(max(image.mean() for image in images), rel=1e-5)
    assert comparison.num_images == 3
    assert comparison.batches == (1, 3)


def test_a_file_for_single_images_sees_each_image_once():
    """The first of three images is wrong: with a fixed batch of 1 there is no group to compare as well."""
    inner, images = toy_session(1), list(toy_images(3))

    def run(batch):
        return [inner.run(batch)[0] + np.float32(25 * (batch == images[0]).all())]

    assert compare_outputs(ToyExport(), replace(inner, run=run), images).agreement == pytest.approx(2 / 3)


class PairExport(ToyExport):
    """The negative mean of each image, and a constant."""

    def forward(self, images):
        mean = -super().forward(images)
        return torch.cat([mean, torch.ones_like(mean)], 1)


def test_the_largest_difference_is_over_all_numbers_of_an_output():
    images = [np.full((3, 4, 6), value, np.uint8) for value in (10, 200)]

    def run(batch):
        means = batch.astype(np.float32).mean((1, 2, 3))
        return [np.stack([-means - (means > 100) * 3, np.ones_like(means)], 1)]

    comparison = compare_outputs(PairExport(), replace(toy_session(), run=run), images)
    assert comparison.max_difference == pytest.approx(3)
    assert comparison.largest == pytest.approx(200)


class ExactExport(ToyExport):
    """A post-processing that is exact for bright images only, and whose values are not compared."""

    names, compared = ("mean", "exact"), ()

    def forward(self, images):
        mean = super().forward(images)
        return mean, mean[:, 0] > 127


def test_exact_is_the_mean_over_the_images():
    images = [np.full((3, 4, 6), value, np.uint8) for value in (10, 200, 250)]
    comparison = compare_outputs(ExactExport(), eager_session(ExactExport()), images)
    assert comparison.exact == pytest.approx((0 + 1 + 1 + 2 / 3) / 4)
    assert (comparison.max_difference, comparison.largest) == (0, 0)
    assert "max difference" not in comparison.text()
    assert compare_outputs(ToyExport(), eager_session(ToyExport()), images).exact is None


def test_images_of_several_sizes_are_compared_one_by_one():
    images = [*toy_images(2), np.zeros((3, 5, 6), np.uint8)]
    assert compare_outputs(ToyExport(), toy_session(), images).batches == (1,)
    assert compare_outputs(ToyExport(), toy_session(), images[:1]).batches == (1,)
    assert compare_outputs(ToyExport(), toy_session(1), images[:2]).batches == (1,)


def test_a_file_beyond_the_budget_is_rejected():
    comparison = Comparison(
        num_images=1, max_difference=0.5, largest=9, agreement=0.9, exact=None, batches=(1,)
    )
    comparison.check(max_difference=0.5, agreement=0.9, metric="map")
    refuses(
        lambda: comparison.check(max_difference=0.4, agreement=0.9, metric="map"),
        "differ by 0.5",
        "budget.max_difference",
    )
    refuses(
        lambda: comparison.check(max_difference=1, agreement=0.95, metric="map"),
        "0.900000",
        "budget.agreement",
        "set a lower budget",
        r"compare the accuracy with budget\.agreement=0 budget\.map=1\)$",
    )
    nan = replace(comparison, max_difference=float("nan"), agreement=1.0)
    refuses(lambda: nan.check(max_difference=1e9, agreement=0, metric="map"), "budget")


def test_outputs_of_another_shape_are_rejected():
    wrong = Session(run=lambda x: [np.zeros((1, 2), np.float32)], output_names=("mean",), runtime="toy")
    refuses(
        lambda: compare_outputs(ToyExport(), wrong, list(toy_images(1))), "mean", r"\(1, 2\)", r"\(1, 1\)"
    )


def test_the_text_has_a_line_for_each_figure():
    comparison = Comparison(
        num_images=3, max_difference=0.5, largest=9, agreement=0.9, exact=0.75, batches=(1, 4)
    )
    assert comparison.text().splitlines() == [
        "images: 3, in batches of 1, 4",
        "max difference: 0.5 (of 9)",
        "agreement: 0.900000",
        "suppression exact for 75.00% of the images; for more, increase steps= or look=",
    ]
    assert replace(comparison, exact=1.0).text().endswith("suppression exact for 100.00% of the images")


@pytest.mark.parametrize(
    ("precision", "own", "accepted"),
    [
        ("fp16", None, False),
        ("fp16", 0.95, True),
        ("fp16", 0.97, False),
        ("fp32", 0.95, False),
    ],
)
def test_a_task_can_accept_a_lower_agreement_in_half_precision(precision, own, accepted):
    """Default budgets: 0.995 for fp32, 0.98 for fp16, or the task's own."""
    comparison = Comparison(
        num_images=1, max_difference=0, largest=1, agreement=0.964, exact=None, batches=(1,)
    )
    job = SimpleNamespace(
        module=SimpleNamespace() if own is None else SimpleNamespace(half_agreement=own),
        options=SimpleNamespace(float_precision=precision, budget=Budget()),
        run=SimpleNamespace(info=SimpleNamespace(metric="map")),
    )
    if accepted:
        _check(job, comparison)
    else:
        refuses(lambda: _check(job, comparison), "0.964000", "budget.map=1")
