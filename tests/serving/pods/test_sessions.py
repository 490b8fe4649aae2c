"""The table of sessions: one for each account or Pod, until nothing needs it, and never more than there is room for."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from hwsigner._aws.credentials import Credentials
from hwsigner._serving.pods import sessions as module
from hwsigner._serving.pods.pod_policy import PodPolicy
from hwsigner._serving.pods.sessions import PodRules, Sessions
from hwsigner._serving.pods.token import PodIdentity
from hwsigner._serving.pods.verification import VerificationSettings
from hwsigner._serving.responses import HTTPResponse
from serving.pods.verifying import PEER

END = datetime(2099, 1, 1, tzinfo=UTC)


class FakeSession:
    """A session whose credentials a test makes live."""

    def __init__(self, profile: FakeProfile, name: str) -> None:
        self.profile = profile
        self.name = name
        self.is_closed = False
        self.live: Credentials | None = None

    def at_once(self) -> Credentials | None:
        return self.live

    def __call__(self) -> Credentials:
        assert self.profile.may_answer.wait(30)
        with self.profile.lock:
            self.profile.at_work += 1
            self.profile.most_at_work = max(self.profile.most_at_work, self.profile.at_work)
        time.sleep(0.005)  # Long enough for others to come.
        self.live = Credentials("ASIA", "secret", self.name, END, "arn:aws:iam::123456789012:role/web", "")
        with self.profile.lock:
            self.profile.at_work -= 1
        return self.live

    @property
    def has_expired(self) -> bool:
        return self.live is None

    def close(self) -> None:
        assert not self.is_closed
        self.is_closed = True


@dataclass(eq=False)
class FakeProfile:
    """A profile that keeps the sessions it opens."""

    opened: list[FakeSession] = field(default_factory=list)
    may_answer: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    at_work: int = 0
    most_at_work: int = 0
    identity: object = field(default_factory=object)

    def __post_init__(self) -> None:
        self.may_answer.set()

    def open(self, name: str, account: str) -> FakeSession:
        self.opened.append(FakeSession(self, name))
        return self.opened[-1]


class Table:
    """A table of sessions with its rules and clock, for one test."""

    def __init__(self, *, per_pod: bool = False) -> None:
        self.now = 1000.0
        self.profiles = {"web": FakeProfile(), "batch": FakeProfile()}
        self.accounts = {"a/*": "web"}
        self.per_pod = per_pod
        self.sessions = Sessions(self.rules, lambda: self.now)

    def rules(self) -> PodRules:
        policy = PodPolicy(VerificationSettings(("hwsigner",), "node1"), self.accounts, self.per_pod)
        return PodRules(policy, self.profiles, lambda *_: pytest.fail("no token is verified"))

    async def ask(self, account: str, pod: str = "pod-1", uid: str = "1") -> str:
        """Ask as a Pod, and return the session token."""
        identity = PodIdentity("a", account, pod, uid, "node1", 0.0)
        found = self.rules().profile("a", account)
        assert found
        responses = self.sessions.responses(identity, found[1], is_per_pod=self.per_pod)
        response = responses.respond(PEER)
        if not isinstance(response, HTTPResponse):
            response = await response
        token: str = json.loads(response.data.partition(b"\r\n\r\n")[2])["Token"]
        return token


def _run(test: Callable[[Table], Coroutine[Any, Any, None]], table: Table | None = None) -> None:
    asyncio.run(test(table or Table()))


def test_pods_of_an_account_share_its_session() -> None:
    async def test(table: Table) -> None:
        assert await table.ask("web") == await table.ask("web", "pod-2", "2") == "a.web.node1"
        assert await table.ask("db") == "a.db.node1"
        assert len(table.sessions) == 2

    _run(test)


def test_each_pod_has_its_own_session_if_the_policy_says_so() -> None:
    async def test(table: Table) -> None:
        assert await table.ask("web") == "a.web.pod-1"
        assert await table.ask("web", "pod-2", "2") == "a.web.pod-2"
        await table.ask("web", "pod-1", "3")  # Another Pod of the same name, as a StatefulSet makes it.
        assert [one.name for one in table.profiles["web"].opened] == ["a.web.pod-1", "a.web.pod-2", "a.web.pod-1"]

    _run(test, Table(per_pod=True))


def test_session_is_closed_once_it_has_expired_and_is_not_asked_for() -> None:
    async def test(table: Table) -> None:
        await table.ask("web")
        [session] = table.profiles["web"].opened
        table.now += 10000
        table.sessions.close_unneeded()
        assert not session.is_closed  # Its credentials are live.
        session.live = None
        table.now += Sessions.IDLE_SECONDS - 1
        await table.ask("web")
        session.live = None
        table.now += Sessions.IDLE_SECONDS - 1
        table.sessions.close_unneeded()
        assert not session.is_closed  # It was asked for.
        table.now += 1
        table.sessions.close_unneeded()
        assert session.is_closed
        assert len(table.sessions) == 0
        await table.ask("web")
        assert len(table.profiles["web"].opened) == 2

    _run(test)


def test_session_that_waits_for_its_first_credentials_stays() -> None:
    async def test(table: Table) -> None:
        table.profiles["web"].may_answer.clear()
        asking = asyncio.ensure_future(table.ask("web"))
        await asyncio.sleep(0)
        table.now += 10000
        table.sessions.close_unneeded()
        table.profiles["web"].may_answer.set()
        assert await asking == "a.web.node1"

    _run(test)


@pytest.mark.parametrize("accounts", [{}, {"a/*": "batch"}, {"b/*": "web"}])
def test_session_is_closed_once_the_policy_says_otherwise(accounts: dict[str, str]) -> None:
    async def test(table: Table) -> None:
        await table.ask("web")
        table.accounts = accounts
        table.sessions.close_unneeded()
        assert table.profiles["web"].opened[0].is_closed

    _run(test)


def test_session_is_replaced_at_once_if_its_profile_has_changed() -> None:
    async def test(table: Table) -> None:
        await table.ask("web")
        [old] = table.profiles["web"].opened
        table.profiles = {"web": FakeProfile()}
        await table.ask("web")
        assert old.is_closed
        assert len(table.profiles["web"].opened) == len(table.sessions) == 1

    _run(test)


@pytest.mark.parametrize("per_pod", [True, False])
def test_sessions_are_closed_if_the_policy_changes_whose_they_are(*, per_pod: bool) -> None:
    async def test(table: Table) -> None:
        await table.ask("web")
        table.per_pod = not per_pod
        table.sessions.close_unneeded()
        assert table.profiles["web"].opened[0].is_closed

    _run(test, Table(per_pod=per_pod))


def test_sessions_that_were_asked_for_longest_ago_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(table: Table) -> None:
        monkeypatch.setattr(module, "MOST_SESSIONS", 3)
        for account in ("one", "two", "three", "one", "four"):
            await table.ask(account)
        assert len(table.sessions) == 3
        assert [one.name for one in table.profiles["web"].opened if one.is_closed] == ["a.two.node1"]

    _run(test)


def test_few_sessions_of_a_profile_are_made_at_once_and_all_in_the_end() -> None:
    async def test(table: Table) -> None:
        found = await asyncio.gather(*(table.ask(f"account-{number}") for number in range(100)))
        assert Counter(found).most_common(1)[0][1] == 1
        assert 1 <= table.profiles["web"].most_at_work <= module.MOST_AT_ONCE

    _run(test)


def test_profile_that_hangs_does_not_stop_another() -> None:
    async def test(table: Table) -> None:
        hanging = table.profiles["web"]
        hanging.may_answer.clear()
        waiting = [asyncio.ensure_future(table.ask(f"account-{number}")) for number in range(50)]
        await asyncio.sleep(0.1)
        table.accounts["a/other"] = "batch"
        assert await table.ask("other") == "a.other.node1"
        hanging.may_answer.set()
        await asyncio.gather(*waiting)

    _run(test)


def test_table_looks_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(table: Table) -> None:
        monkeypatch.setattr(Sessions, "LOOK_SECONDS", 0.01)
        await table.ask("web")
        table.accounts = {}
        while len(table.sessions):
            await asyncio.sleep(0.01)
        assert table.profiles["web"].opened[0].is_closed

    _run(test)
