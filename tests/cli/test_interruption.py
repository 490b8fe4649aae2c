"""Objects that Ctrl-C met half made say nothing as they go."""

from __future__ import annotations

import gc

import pytest

from hwsigner.cli.process import clear_up


class HalfMade:
    """Is interrupted before it has what its finalizer wants."""

    gone = 0

    def __init__(self) -> None:
        raise KeyboardInterrupt

    def __del__(self) -> None:
        HalfMade.gone += 1
        print(self.file)  # type: ignore[attr-defined]


def test_what_is_half_made_goes_without_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        HalfMade()

    try:
        work()
    except KeyboardInterrupt as interruption:
        clear_up(interruption)
    gc.collect()
    assert HalfMade.gone == 1
    assert capfd.readouterr() == ("", "")
