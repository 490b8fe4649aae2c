"""A profile that is served: the provider of this process is made when it is needed, and started with the profile."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agent.homes import Home
from hwsigner._agent import agent_or_own
from hwsigner._agent.protocol import LOCKED
from hwsigner._aws.credentials import Credentials
from hwsigner._cli.served_profiles import ServedProfile, of_profile
from hwsigner.errors import AgentError, ServiceError, UsageError

ROLE_ARN = "arn:aws:iam::123456789012:role/path/web"
NOW = datetime.now(UTC)


class Made:
    """A fake Refresher that records its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.failure: ServiceError | None = None
        self.expiration: datetime | None = None

    def start(self) -> None:
        self.calls.append("start")

    def stop(self) -> None:
        self.calls.append("stop")

    def status(self) -> Any:
        return self

    def at_once(self) -> Credentials | None:
        return None

    def forget(self) -> None:
        self.calls.append("forget")

    def __call__(self) -> Credentials:
        if self.failure:
            raise self.failure
        self.expiration = NOW + timedelta(hours=1)
        return Credentials("ASIAOWN", "s", "t", self.expiration, ROLE_ARN, "")


@pytest.fixture
def made() -> Made:
    """The provider that `served` makes."""
    return Made()


@pytest.fixture
def served(made: Made, monkeypatch: pytest.MonkeyPatch) -> ServedProfile:
    """A profile that no agent has."""
    monkeypatch.setattr(agent_or_own, "find_credentials", lambda *_, **__: None)
    return ServedProfile("web", ROLE_ARN, lambda: made, asks_agent=True)  # type: ignore[arg-type,return-value]


def test_provider_is_made_once_when_credentials_are_first_asked_for(served: ServedProfile, made: Made) -> None:
    assert served.credentials.at_once() is None
    served.close()
    assert (made.calls, served.credentials.own_if_made()) == ([], None)
    assert {served.credentials().access_key_id for _ in range(3)} == {"ASIAOWN"}
    served.close()
    assert made.calls == ["stop"]
    assert served.role == "web"


@pytest.mark.parametrize("is_started_first", [True, False])
def test_provider_is_started_when_start_comes_before_or_after_it(
    served: ServedProfile, made: Made, is_started_first: bool
) -> None:
    for act in [served.start, served.credentials.own] if is_started_first else [served.credentials.own, served.start]:
        assert made.calls == []
        act()
    assert made.calls == ["start"]


def test_lock_of_the_profile_makes_the_provider_forget(
    served: ServedProfile, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(name: str, **_: object) -> bytes:
        raise AgentError(f"profile {name!r} is locked", exit_status=3, reason=LOCKED)

    served.credentials()
    monkeypatch.setattr(agent_or_own, "find_credentials", find)
    with pytest.raises(AgentError, match="is locked"):
        served.credentials()
    assert made.calls == ["forget"]


def test_state_follows_the_provider(served: ServedProfile, made: Made) -> None:
    assert served.state() == ("starting", None, "")
    made.failure = ServiceError("no")
    with pytest.raises(ServiceError):
        served.credentials()
    assert served.state() == ("failing", None, "service")
    made.failure = None
    served.credentials()
    assert served.state() == ("ready", NOW + timedelta(hours=1), "")
    made.expiration = NOW - timedelta(hours=1)
    assert served.state() == ("idle", NOW - timedelta(hours=1), "")


@pytest.mark.parametrize("attended", [True, False])
def test_attended_profile_needs_a_person(home: Home, monkeypatch: pytest.MonkeyPatch, attended: bool) -> None:
    home.write_profiles(web={"attended": attended})
    for name, value in home.environ.items():
        monkeypatch.setenv(name, value)
    provider = of_profile("web").credentials.own()
    assert provider.status().needs_person is attended
    provider.close()


def test_invalid_settings_are_reported_each_time() -> None:
    def make() -> Any:
        raise UsageError("no role")

    served = ServedProfile("web", "", make)
    for _ in range(2):
        with pytest.raises(UsageError, match="no role"):
            served.credentials()
