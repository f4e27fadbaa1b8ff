"""How a user's error has to look."""

import re

import pytest

from engine.errors import UserError


def refuses(build, *parts):
    """The UserError of `build`, which is one line and holds every one of `parts`."""
    with pytest.raises(UserError) as caught:
        build()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert re.search(part, message), f"{part!r} not in {message!r}"
    return message


def check_line(error, place):
    assert "\n" not in str(error)
    assert str(place) in str(error)
