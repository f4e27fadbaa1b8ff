"""Keys that have no effect with the chosen method are refused."""

import pytest

from nas.options import check_method_keys
from tests.refusals import refuses


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (
            "run=x target_ms=3",
            "target_ms= is for method=mnas or random or evolution, not netadapt; set budget=",
        ),
        ("method=mnas target_ms=3 budget=0.5", "budget= is for method=netadapt, not mnas; leave it out"),
        ("method=random run=x target_ms=3", "run= is for method=netadapt or sweep, not random"),
        ("method=sweep latency=phone.json", "latency= is for method=netadapt or .*, not sweep"),
    ],
)
def test_keys_of_other_methods_are_refused(typed, message):
    refuses(lambda: check_method_keys(typed.split()), message)


@pytest.mark.parametrize(
    "typed",
    [
        "run=x budget=0.7 latency=phone.json method.steps=3 data.root=a",
        "method=mnas task=seg latency=phone.json target_ms=30 samples=400",
        "method=sweep task=seg optimizer.lr=0.1,0.2 method.trials=3",
        "method=netadept run=x",  # reported later, with what was meant
    ],
)
def test_keys_of_the_method_are_not(typed):
    check_method_keys(typed.split())
