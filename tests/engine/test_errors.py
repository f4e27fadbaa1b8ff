"""Messages of `UserError`: one printable line, whatever a file name or a typed value contains."""

import pytest

from engine.errors import (
    FileErrors,
    UserError,
    collected_errors,
    counted,
    padded,
    printable,
    raise_or_collect,
    text_width,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("street é 街.png", "street é 街.png"),
        ("two\nlines\r\n", r"two\nlines\r\n"),
        ("data=0\x1e0", r"data=0\x1e0"),  # str.splitlines also splits at U+001E, U+0085 and U+2028
        ("a\u2028b\x85c", r"a\u2028b\x85c"),
        ("\x1b[2Jred", r"\x1b[2Jred"),
        ("\udcff.png", r"\udcff.png"),  # a file name that is not UTF-8
    ],
)
def test_a_message_is_one_printable_line(text, shown):
    assert printable(text) == shown == str(UserError(text))
    assert printable(shown) == shown
    assert len(str(UserError(text)).splitlines()) == 1
    str(UserError(text)).encode("utf-8")


def test_the_errors_of_several_files_are_counted_in_one_message():
    errors = FileErrors()
    errors.check()
    for name in "abc":
        with errors.of(f"{name}.txt"):
            if name != "b":
                raise UserError(f"{name}.txt: line 1: no number")
    assert len(errors) == 2
    message = r"^a\.txt: line 1: no number; 2 files have errors, including c\.txt$"
    with pytest.raises(UserError, match=message) as caught:
        errors.check()
    assert caught.value.files == ("a.txt", "c.txt")


def test_within_collected_errors_a_caller_goes_on():
    def read():
        errors = FileErrors()
        for name in ("a", "b"):
            errors.add(name, UserError(f"{name}: first"))
            errors.add(name, UserError(f"{name}: second"))
        errors.check()
        raise_or_collect(UserError("c: third"))
        return "rest"

    with pytest.raises(UserError, match=r"^a: first; 2 files have errors, including b$"):
        read()
    with collected_errors() as errors:
        assert read() == "rest"
        with collected_errors() as inner:
            raise_or_collect(UserError("d"))
    assert [str(error) for error in errors] == ["a: first; 2 files have errors, including b", "c: third"]
    assert errors[0].files == ("a", "b")
    assert [str(error) for error in inner] == ["d"]
    with pytest.raises(UserError, match="c: third"):
        raise_or_collect(UserError("c: third"))


def test_counted_nouns():
    assert [counted(number, "image") for number in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert [counted(number, "box") for number in (1, 2)] == ["1 box", "2 boxes"]
    assert [counted(number, "class") for number in (1, 2)] == ["1 class", "2 classes"]


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("\u03a3\u03af\u03b3\u03bc\u03b1", 5),
        ("\u9053\u8def", 4),
        ("\U0001f697 a", 4),
        ("cafe\u0301", 4),
        ("\u05e9\u05dc", 2),
        ("", 0),
    ],
)
def test_the_width_of_a_text_in_a_terminal(text, width):
    assert text_width(text) == width
    assert padded(text, 6) == text + " " * (6 - width)
