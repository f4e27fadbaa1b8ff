"""Schedules compared with values computed by hand."""

import math

import pytest

from engine.train import optimization


def test_poly_equals_deeplabs_schedule():
    factor = optimization.poly(steps=100, power=0.9)
    assert factor(0) == 1.0
    assert factor(50) == pytest.approx(0.5358867312681466)  # 0.5 ** 0.9
    assert factor(99) == pytest.approx(0.01**0.9)
    assert factor(100) == factor(120) == 0.0


def test_poly_decays_to_end():
    factor = optimization.poly(steps=10, power=1.0, end=0.2)
    assert [factor(step) for step in (0, 5, 10)] == pytest.approx([1.0, 0.6, 0.2])


def test_cosine_at_start_middle_and_end():
    factor = optimization.cosine(steps=110, warmup_steps=10, warmup_factor=0.5)
    assert factor(0) == 0.5
    assert factor(5) == pytest.approx(0.75)
    assert factor(10) == 1.0
    assert factor(60) == pytest.approx(0.5)
    assert factor(35) == pytest.approx((1 + math.sqrt(0.5)) / 2)  # cos 45 degrees
    assert factor(110) == pytest.approx(0.0)
    assert factor(10_000) == pytest.approx(0.0)


def test_exponential_decays_in_steps():
    # Section 6.1.1 of the paper: 0.01 every 3 epochs.
    factor = optimization.exponential(steps=100, rate=0.5, every_steps=10)
    assert [factor(step) for step in (0, 9, 10, 29, 30)] == [1.0, 1.0, 0.5, 0.25, 0.125]


def test_constant_after_a_linear_warm_up():
    factor = optimization.constant(steps=10, warmup_steps=4, warmup_factor=0.2)
    assert [factor(step) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_warm_up_multiplies_the_decay():
    plain, warm = (
        optimization.poly(steps=100),
        optimization.poly(steps=100, warmup_steps=10, warmup_factor=0.0),
    )
    assert warm(0) == 0.0
    assert warm(5) == pytest.approx(plain(5) / 2)
    assert warm(10) == plain(10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optimization.poly(steps=0), "steps must be at least 1"),
        (lambda: optimization.poly(steps=9, power=0), "power must be positive"),
        (lambda: optimization.poly(steps=9, end=2), "end is a factor"),
        (lambda: optimization.cosine(steps=9, warmup_steps=-1), "warmup_steps must be >= 0"),
        (lambda: optimization.constant(steps=9, warmup_factor=1.5), r"warmup_factor in \[0, 1\]"),
        (lambda: optimization.exponential(steps=9, every_steps=0), "every_steps must be >= 1"),
        (lambda: optimization.exponential(steps=9, every_steps=1, rate=1.1), "rate in"),
    ],
)
def test_invalid_options_are_rejected(make, message):
    with pytest.raises(ValueError, match=message):
        make()
