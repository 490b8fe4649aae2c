"""The provider of a process that asks an agent first: made once, when it is needed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from hwsigner.cli.sources import LazyProvider, of_profile
from hwsigner.config.profiles import add_profile
from hwsigner.errors import UsageError
from serving.stage import Stage


class Made:
    """A fake BackgroundProvider that records its calls."""

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


def test_provider_is_made_once_when_a_reply_is_first_asked_for() -> None:
    made = Made()
    calls: list[None] = []
    barrier = threading.Barrier(8)

    def make() -> Any:
        calls.append(None)
        return made

    provider = LazyProvider(make)

    def reply(_: int) -> object:
        barrier.wait()
        return provider.reply("container")

    assert provider.read("container") is None
    provider.close()
    assert calls == []
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(reply, range(8))) == {b"reply container"}
    assert len(calls) == 1
    assert provider.read("container") == b"read container"
    assert made.told == []
    provider.close()
    assert made.told == ["close"]


@pytest.mark.parametrize("is_started_first", [True, False])
def test_provider_is_started_when_start_comes_before_or_after_it(is_started_first: bool) -> None:
    made = Made()
    provider = LazyProvider(lambda: made)  # type: ignore[arg-type,return-value]
    for act in [provider.start, provider.provider] if is_started_first else [provider.provider, provider.start]:
        assert made.told == []
        act()
    assert made.told == ["start"]


@pytest.mark.parametrize("attended", [True, False])
def test_attended_profile_needs_a_person(stage: Stage, monkeypatch: pytest.MonkeyPatch, attended: bool) -> None:
    add_profile("web", {**stage.values(), "attended": attended}, stage.environ(), replace=True)
    monkeypatch.setattr("os.environ", stage.environ())
    provider = of_profile("web", lambda text: None).local
    assert provider.provider().status().needs_person is attended
    provider.close()


def test_invalid_settings_are_reported_each_time() -> None:
    def make() -> Any:
        raise UsageError("no role")

    provider = LazyProvider(make)
    for _ in range(2):
        with pytest.raises(UsageError, match="no role"):
            provider.reply("container")
