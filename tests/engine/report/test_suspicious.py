"""The ranking of suspicious labels, and the files about them."""

import json

import numpy as np
import pytest

from engine.data.exclude import read_excluded
from engine.html.page import Page
from engine.report.suspicious import (
    Place,
    Suspicion,
    add_suspicious,
    class_thresholds,
    ranked,
    write_suspicious,
)


def suspicion(name, *scores):
    places = tuple(Place(f"label cat, seen as dog {score}", score, (1, 2, 3, 4)) for score in scores)
    return Suspicion(
        name=name, index=ord(name), score=max(scores), places=places,
        draw=lambda: np.zeros((6, 8, 3), np.uint8),
    )  # fmt: skip


def test_a_prediction_is_confident_from_the_mean_probability_of_its_class():
    thresholds = class_thresholds(np.array([1.8, 0.4, 0.0]), np.array([2, 4, 0]))
    assert thresholds.tolist() == pytest.approx([0.9, 0.5, np.inf])  # 0.1 would be no confidence


def test_images_are_ranked_by_score_then_by_all_their_places():
    images = [suspicion("a", 0.5), suspicion("b", 0.9), suspicion("c", 0.5, 0.4)]
    assert [each.name for each in ranked(images, 9)] == ["b", "c", "a"]
    assert [each.name for each in ranked(images, 1)] == ["b"]


def test_the_list_and_the_images_to_leave_out_are_written(tmp_path):
    write_suspicious(tmp_path, "val", [suspicion("b", 0.9, 0.25), suspicion("a", 0.5)])
    written = json.loads((tmp_path / "suspicious.json").read_text())
    assert written["split"] == "val"
    assert [entry["name"] for entry in written["images"]] == ["b", "a"]
    assert written["images"][0]["places"][1] == {
        "text": "label cat, seen as dog 0.25", "score": 0.25, "box_xyxy": [1, 2, 3, 4],
    }  # fmt: skip
    assert read_excluded(tmp_path / "exclude.json") == {
        "val": {"b": "label cat, seen as dog 0.9", "a": "label cat, seen as dog 0.5"}
    }


def test_an_edited_list_is_never_overwritten(tmp_path, capsys):
    edited = tmp_path / "exclude.json"
    write_suspicious(tmp_path, "val", [suspicion("b", 0.9), suspicion("a", 0.5)])
    write_suspicious(tmp_path, "val", [suspicion("c", 0.9)])
    assert [file.name for file in tmp_path.glob("exclude*")] == ["exclude.json"]  # the first was not edited
    for number in (1, 2):
        edited.write_text(f'{{"val": ["mine {number}"]}}')
        write_suspicious(tmp_path, "val", [suspicion("a", 0.5)])
        assert f"{edited}: was edited, so it is kept as exclude_{number}.json\n" == capsys.readouterr().out
        assert read_excluded(tmp_path / f"exclude_{number}.json") == {"val": {f"mine {number}": ""}}
        assert list(read_excluded(edited)["val"]) == ["a"]
    edited.write_text("{damaged")
    write_suspicious(tmp_path, "val", [])
    assert (tmp_path / "exclude_3.json").read_text() == "{damaged"


def test_the_report_shows_them_and_what_to_do(tmp_path):
    page = Page("t")
    add_suspicious(page, tmp_path, "train", [suspicion("b", 0.9)])
    html = page.html()
    assert f"data.exclude={tmp_path / 'exclude.json'}" in html
    assert "was trained on these labels" in html
    assert html.count("data:image/jpeg") == 1
    nothing = Page("t")
    add_suspicious(nothing, tmp_path, "val", [])
    assert "No label is contradicted" in nothing.html()
    assert "data.exclude" not in nothing.html()
