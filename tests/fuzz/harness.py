"""What every fuzz test shares: damaged bytes, a bounded number of them, and what may come of them."""

import os
import resource
import shutil
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import UserError

THOROUGH = 8
"""How many times more examples the weekly variant tries."""
_MEMORY = 3 << 30
_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def fuzzed(strategy: st.SearchStrategy[Any], *, examples: int) -> Callable[[Callable[..., None]], Any]:
    """A test of (folder, example): `examples` of them, always the same; many more in the weekly tests.

    It runs in an empty working folder that must stay empty, with at most 3 GiB more memory than before.
    """

    def decorate(body: Callable[[Path, Any], None]) -> Any:
        counts = [examples, pytest.param(examples * THOROUGH, marks=pytest.mark.weekly)]

        @pytest.mark.timeout(1800)
        @pytest.mark.filterwarnings("ignore")  # Pillow's, of damage that it overlooks
        @pytest.mark.parametrize("count", counts)
        def test(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
            working, folder = tmp_path / "working", tmp_path / "given"
            working.mkdir(parents=True)
            folder.mkdir()
            monkeypatch.chdir(working)

            @settings(
                max_examples=count,
                derandomize=True,
                database=None,
                deadline=timedelta(seconds=60),
                suppress_health_check=list(HealthCheck),
            )
            @given(strategy)
            def check(example: Any) -> None:
                shutil.rmtree(folder)
                folder.mkdir()
                body(folder, example)

            with _bounded_memory():
                check()
            assert not list(working.iterdir())
            assert {path.name for path in tmp_path.iterdir()} == {"working", "given"}

        test.__doc__ = body.__doc__
        return test

    return decorate


def outcome(call: Callable[[], Any], named: Any) -> Any:
    """What `call` returns, or None where it raises a UserError that is one line and holds `named`."""
    try:
        return call()
    except UserError as error:
        text = str(error)
    assert str(named) in text, text
    assert len(text.splitlines()) == 1, text
    return None


@contextmanager
def _bounded_memory() -> Any:
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if os.path.exists("/proc/self/statm") else 0
    before = resource.getrlimit(resource.RLIMIT_AS)
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def damaged(seeds: Sequence[bytes], most: int = 4) -> st.SearchStrategy[bytes]:
    """One of `seeds` after one to `most` flips, cuts, repeats, insertions, extreme numbers, splices."""

    @st.composite
    def build(draw: st.DrawFn) -> bytes:
        data = bytearray(draw(st.sampled_from(seeds)))
        for _ in range(draw(st.integers(1, most))):
            # Headers decide most: half of the damage is done to the first 64 bytes.
            at = draw(st.integers(0, min(63, len(data))) | st.integers(0, len(data)))
            damage_at(draw, data, at, seeds)
        return bytes(data)

    return build()


def damage_at(draw: st.DrawFn, data: bytearray, at: int, seeds: Sequence[bytes]) -> None:
    kind = draw(st.sampled_from(("flip", "set", "number", "cut", "remove", "repeat", "insert", "splice")))
    if kind == "flip" and at < len(data):
        data[at] ^= 1 << draw(st.integers(0, 7))
    elif kind == "set":
        data[at : at + 1] = bytes([draw(st.integers(0, 255))])
    elif kind == "number":
        size, order = draw(st.sampled_from((2, 4, 8))), draw(st.sampled_from(("big", "little")))
        number = draw(st.sampled_from(_EXTREMES))
        data[at : at + size] = (number % (1 << 8 * size)).to_bytes(size, order)  # type: ignore[arg-type]
    elif kind == "cut":
        del data[at:]
    elif kind == "remove":
        del data[at : at + draw(st.integers(1, 64))]
    elif kind == "repeat":
        data[at:at] = data[at : at + draw(st.integers(1, 64))] * draw(st.integers(1, 4))
    elif kind == "insert":
        data[at:at] = draw(st.binary(min_size=1, max_size=16))
    elif kind == "splice":
        other = draw(st.sampled_from(seeds))
        data[at:] = other[min(at, len(other)) :]
