"""Configurations as flat dicts, and their differences."""

from engine.config.compose import compose_config
from engine.config.saved import differences as of_config
from engine.report.settings import Difference, differences, flatten, varying


def test_nested_keys_are_dotted_and_lists_stay_values():
    assert flatten({"a": {"b": {"c": 1}, "d": [1, {"e": 2}]}, "f": {}}) == {
        "a.b.c": 1, "a.d": [1, {"e": 2}], "f": {},
    }  # fmt: skip


def test_only_what_differs_is_listed_and_not_where_the_run_is():
    settings = {"a": 1, "b": 2, "new": 3, "refers": "${b}", "run": "x"}
    assert differences(settings, {"a": 1, "b": 5, "gone": 6, "run": None}) == [
        Difference("b", 5, 2), Difference("new", None, 3), Difference("gone", 6, None),
    ]  # fmt: skip


def test_keys_that_vary_over_runs():
    runs = [{"seed": 0, "lr": 1}, {"seed": 1, "lr": 1}, {"seed": 2, "lr": 1, "ema": 0.9}]
    assert varying(runs) == ["seed", "ema"]
    assert varying(runs[:1]) == []


def test_a_default_configuration_differs_in_nothing_and_an_override_in_itself():
    assert of_config(compose_config("train", ["task=cls"])) == []
    changed = of_config(compose_config("train", ["task=cls", "trainer.batch=8", "seed=3"]))
    assert {key: (default != value, value) for key, default, value in changed} == {
        "trainer.batch": (True, 8), "seed": (True, 3),
    }  # fmt: skip
