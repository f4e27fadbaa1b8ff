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


def test_cosine_decays_to_end():
    factor = optimization.cosine(steps=4, end=0.2)
    assert [factor(step) for step in (0, 2, 4, 9)] == pytest.approx([1.0, 0.6, 0.2, 0.2])


def test_exponential_after_a_warm_up():
    factor = optimization.exponential(steps=9, rate=0.5, every_steps=2, warmup_steps=3, warmup_factor=0.4)
    assert [factor(step) for step in range(5)] == pytest.approx([0.4, 0.6, 0.8 / 2, 0.5, 0.25])


def test_defaults():
    """Power 0.9 (DeepLab), 0.99 per period (the paper: 0.01 less), and a warm-up from a tenth."""
    assert optimization.poly(steps=2)(1) == pytest.approx(0.5**0.9)
    assert optimization.exponential(steps=9, every_steps=1)(2) == pytest.approx(0.99**2)
    for make in (optimization.poly, optimization.cosine, optimization.constant):
        assert make(steps=100)(0) == 1
        assert make(steps=100, warmup_steps=5)(0) == pytest.approx(0.1)
    assert optimization.exponential(steps=9, every_steps=9, warmup_steps=5)(0) == pytest.approx(0.1)
    assert optimization.exponential(steps=9, every_steps=9)(0) == 1
    assert optimization.cosine(steps=3)(3) == pytest.approx(0)


def test_a_warm_up_as_long_as_the_run():
    factor = optimization.cosine(steps=4, warmup_steps=4, warmup_factor=0.2)
    assert [factor(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factor(5) == pytest.approx(0)


def test_options_at_their_limits_are_accepted():
    assert optimization.poly(steps=1, end=0)(0) == 1
    assert optimization.poly(steps=1, end=1)(1) == 1
    assert optimization.poly(steps=2, power=0.5)(1) == pytest.approx(0.5**0.5)
    assert optimization.constant(steps=1, warmup_steps=2, warmup_factor=1)(0) == 1
    assert optimization.constant(steps=1, warmup_steps=2, warmup_factor=0)(0) == 0
    assert optimization.exponential(steps=1, every_steps=1, rate=1)(5) == 1
    assert optimization.exponential(steps=1, every_steps=1, rate=0.5)(1) == 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optimization.poly(steps=9, end=-0.1), "end is a factor"),
        (lambda: optimization.cosine(steps=9, end=1.1), "end is a factor"),
        (lambda: optimization.cosine(steps=0), "steps must be at least 1"),
        (lambda: optimization.constant(steps=0), "steps must be at least 1"),
        (lambda: optimization.exponential(steps=0, every_steps=1), "steps must be at least 1"),
        (lambda: optimization.poly(steps=9, warmup_factor=-0.1), r"warmup_factor in \[0, 1\]"),
        (lambda: optimization.poly(steps=9, power=-1), "power must be positive"),
        (lambda: optimization.exponential(steps=9, every_steps=1, rate=0), "rate in"),
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
