"""The provider of a process that asks an agent first: it is made when it is needed, once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from hwsigner.cli.sources import OwnProvider, of_profile
from hwsigner.config.profiles import add_profile
from hwsigner.errors import UsageError
from serving.stage import Stage


class Made:
    """Stands for a BackgroundProvider: keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def start(self) -> None:
        self.told.append("start")

    def close(self) -> None:
        self.told.append("close")

    def read(self, name: str) -> bytes:
        return f"read {name}".encode()

    def reply(self, name: str) -> bytes:
        return f"reply {name}".encode()


def test_it_is_made_by_the_first_who_waits_for_a_reply() -> None:
    made = Made()
    calls: list[None] = []
    barrier = threading.Barrier(8)

    def make() -> Any:
        calls.append(None)
        return made

    own = OwnProvider(make)

    def reply(_: int) -> object:
        barrier.wait()
        return own.reply("container")

    assert own.read("container") is None
    own.close()
    assert calls == []
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(reply, range(8))) == {b"reply container"}
    assert len(calls) == 1
    assert own.read("container") == b"read container"
    assert made.told == []
    own.close()
    assert made.told == ["close"]


@pytest.mark.parametrize("is_started_first", [True, False])
def test_its_thread_is_started_whichever_comes_first(is_started_first: bool) -> None:
    made = Made()
    own = OwnProvider(lambda: made)  # type: ignore[arg-type,return-value]
    for act in [own.start, own.provider] if is_started_first else [own.provider, own.start]:
        assert made.told == []
        act()
    assert made.told == ["start"]


@pytest.mark.parametrize("attended", [True, False])
def test_a_profile_says_whether_its_key_needs_a_person(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, attended: bool
) -> None:
    add_profile("web", {**stage.values(), "attended": attended}, stage.environ(), replace=True)
    monkeypatch.setattr("os.environ", stage.environ())
    own = of_profile("web", lambda text: None).own
    assert own.provider().status().needs_person is attended
    own.close()


def test_what_can_t_be_meant_is_told_each_time() -> None:
    def make() -> Any:
        raise UsageError("no role")

    own = OwnProvider(make)
    for _ in range(2):
        with pytest.raises(UsageError, match="no role"):
            own.reply("container")
