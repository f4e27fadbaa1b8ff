"""Class names in other alphabets: drawings show their letters, or say that no font has them."""

import sys
import warnings

import numpy as np
import pytest

from cls.drawing import with_lines
from det.drawing import overlay
from engine import fonts
from engine.config.launch import make_output_safe
from engine.data.class_map import ClassMap
from engine.plots import save_confusion_matrix
from seg.drawing import legend
from tests.det.eval.scenes import detections
from tests.tools.commands import run

ACCENTED = ClassMap(names=("piéton à vélo", "straße", "žena", "собака", "δρόμος", "a"))
TOOLS = ("train", "eval", "predict", "export", "benchmark", "search", "prepare", "publish")
CHINESE = ClassMap(names=("道路", "狗 dog", "car"), ids=(7, 8, 9))


def glyph(letter):
    font = fonts.load(20, [letter])
    return bytes(font.getmask(letter)), bytes(font.getmask("\U0010fffd"))


@pytest.mark.parametrize("letter", "éßžиδ")
def test_letters_of_many_alphabets_are_not_boxes(letter):
    shown, missing = glyph(letter)
    assert shown != missing
    assert fonts.shown_names(ACCENTED) == ACCENTED.names
    assert fonts.font_notes(ACCENTED) == []


@pytest.fixture
def no_system_fonts(monkeypatch):
    monkeypatch.setattr(fonts, "_system_fonts", lambda: ())
    fonts._file_with.cache_clear()
    yield
    fonts._file_with.cache_clear()


def test_names_that_no_font_can_show_are_replaced_and_named(no_system_fonts):
    assert fonts.shown_names(CHINESE) == ("class 7", "dog", "car")
    (note,) = fonts.font_notes(CHINESE)
    assert note.startswith(
        "no installed font has all letters of 道路, 狗 dog: drawings show 'class 7' for '道路'"
    )
    assert "Noto Sans CJK" in note


def test_a_system_font_is_used_if_it_has_the_letters(monkeypatch):
    monkeypatch.setattr(fonts, "_system_fonts", lambda: ("no_font.ttf", "chinese.ttf"))
    letters = frozenset("".join(CHINESE.names))
    real = fonts._letters
    monkeypatch.setattr(fonts, "_letters", lambda file: letters if file == "chinese.ttf" else real(file))
    fonts._file_with.cache_clear()
    assert fonts._file_with(letters) == "chinese.ttf"
    assert fonts.shown_names(CHINESE) == CHINESE.names
    fonts._file_with.cache_clear()


def test_a_letter_that_no_font_has_does_not_spoil_the_other_names(monkeypatch):
    thai = ClassMap(names=("กล่อง", "รถ🚗", "🚗"))
    monkeypatch.setattr(fonts, "_system_fonts", lambda: ("no_font.ttf", "thai.ttf"))
    real = fonts._letters
    monkeypatch.setattr(
        fonts, "_letters", lambda file: frozenset("กล่องรถ") if file == "thai.ttf" else real(file)
    )
    fonts._file_with.cache_clear()
    assert fonts.shown_names(thai) == ("กล่อง", "รถ", "class 2")
    (note,) = fonts.font_notes(thai)
    assert note.endswith("drawings show 'รถ' for 'รถ🚗'; install one that has them, such as Noto Emoji")
    fonts._file_with.cache_clear()


@pytest.mark.parametrize(
    ("name", "font"),
    [("กล่อง", "Thai"), ("डिब्बा", "Devanagari"), ("상자", "CJK"), ("はこ", "CJK"), ("ሳጥን", "Ethiopic")],
)
def test_the_font_to_install_has_the_letters(no_system_fonts, name, font):
    (note,) = fonts.font_notes(ClassMap(names=(name, "dog")))
    assert note.endswith(f"such as Noto Sans {font}")


def test_all_drawings_and_charts_take_such_names(tmp_path, no_system_fonts):
    image = np.zeros((90, 300, 3), np.uint8)
    for classes in (ACCENTED, CHINESE, ClassMap(names=("$5 bill", "a$b$c", "x\ny"))):
        count = len(classes)
        assert legend(300, classes)[0].shape[1] == 300
        boxes = detections([[10, 40, 60, 80]], [0.9], [0])
        assert (overlay(image, boxes, classes) != image).any()
        with_lines(image, [(name, 0.5, None) for name in fonts.shown_names(classes)])
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # matplotlib warns of missing letters
            save_confusion_matrix(np.eye(count, dtype=int), classes, tmp_path / "a.png", of="pixels")


@pytest.mark.parametrize("width", [200, 1000, 4000, 10_000])
def test_a_legend_is_as_large_as_its_image_allows(width):
    """At least a fortieth of the width, so it is legible when the image is shown at the width of a screen."""
    (strip,) = legend(width, ClassMap(names=("road", "car")))
    assert strip.shape[0] >= max(12, width / 40)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_console_without_the_letters_gets_escapes(tmp_path, monkeypatch, encoding):
    with open(tmp_path / "out", "w", encoding=encoding) as out:
        monkeypatch.setattr(sys, "stdout", out)
        make_output_safe()
        print("道 é")
    assert (tmp_path / "out").read_text(encoding=encoding).startswith("\\u9053 ")


def refusal(tool, folder, encoding, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    source = "resume=猫" if tool == "train" else "input=猫"
    return run(tool, "run=猫道", source, cwd=folder, status=1, alone=True)


@pytest.mark.weekly
def test_predict_does_not_fail_on_a_console_with_another_encoding(tmp_path, monkeypatch):
    assert "error: run=\\u732b\\u9053: " in refusal("predict", tmp_path, "cp1252", monkeypatch)


@pytest.mark.weekly
@pytest.mark.parametrize("tool", ["train", "eval", "export", "benchmark", "search", "prepare", "publish"])
def test_no_tool_fails_on_a_console_with_another_encoding(tmp_path, monkeypatch, tool):
    assert "error: " in refusal(tool, tmp_path, "ascii", monkeypatch)
