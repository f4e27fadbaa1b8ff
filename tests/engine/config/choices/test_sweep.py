"""Overrides with several values become the dimensions of a sweep."""

import pytest

from engine.config.choices.sweep import Dimension, split_dimensions
from tests.refusals import refuses


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("a.b=1,2", Dimension(key="a.b", choices=("1", "2"))),
        ("backbone=x_v2,x_v3", Dimension(key="backbone", choices=("x_v2", "x_v3"))),
        ("a=choice(0.5,0.9)", Dimension(key="a", choices=("0.5", "0.9"))),
        ("a=null,0.9", Dimension(key="a", choices=("null", "0.9"))),
        ("a=[64,64],[96,96]", Dimension(key="a", choices=("[64,64]", "[96,96]"))),
        ("a=range(1,6,2)", Dimension(key="a", choices=("1", "3", "5"))),
        ("a=interval(0.5,1)", Dimension(key="a", low=0.5, high=1.0)),
        ("a=int(interval(2,5))", Dimension(key="a", low=2, high=5)),
        ("a=tag(log,interval(1e-4,1e-1))", Dimension(key="a", low=1e-4, high=0.1, log=True)),
    ],
)  # fmt: skip
def test_dimensions(typed, expected):
    assert split_dimensions([typed]) == ([], [expected])


def test_other_overrides_stay_as_they_are():
    typed = ["task=seg", "data.root=a,b", "data.size=[64,128]", "a=null", "a=x"]
    # Paths can contain commas.
    assert split_dimensions(typed) == (typed, [])


def test_whole_numbers_and_the_first_value():
    (whole,), (real,) = (
        split_dimensions([f"a={text}"])[1] for text in ("int(interval(2,5))", "interval(2,5)")
    )
    assert (whole.whole, whole.first) == (True, "2")
    assert (real.whole, real.first) == (False, "2.0")
    assert split_dimensions(["a=x,y"])[1][0].first == "x"


@pytest.mark.parametrize(
    ("typed", "part"),
    [
        ("a=interval(2,1)", "low < high"),
        ("a=interval(1,1)", "low < high"),
        ("a=tag(log,interval(0,1))", "0 < low < high"),
        ("a=glob(*)", "cannot be parsed"),
        ("a=interval(", "cannot be parsed"),
        ("a=interval(x,y)", "cannot be parsed"),
    ],
)
def test_what_cannot_be_swept(typed, part):
    refuses(lambda: split_dimensions([typed]), "a=", part)
