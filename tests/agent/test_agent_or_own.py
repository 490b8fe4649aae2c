"""Credentials of an agent, or of this process's provider if there is no agent."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from hwsigner._agent import agent_or_own
from hwsigner._agent.agent_or_own import AgentOrOwn
from hwsigner._agent.protocol import LOCKED
from hwsigner._aws.credentials import Credentials
from hwsigner._pins import AskPin, PinRequest
from hwsigner._system.clocks import Clocks
from hwsigner.errors import AgentError, HwsignerError, ServiceError

ROLE_ARN = "arn:aws:iam::123456789012:role/web"


OWN = Credentials("ASIAOWN", "s", "t", datetime(2100, 1, 1, tzinfo=UTC), ROLE_ARN, "")


class Own:
    """A provider of this process."""

    ready: Credentials | None = None
    failure: HwsignerError | None = None
    is_forgotten = False

    def at_once(self) -> Credentials | None:
        return self.ready

    def forget(self) -> None:
        self.ready, self.is_forgotten = None, True

    def __call__(self) -> Credentials:
        if self.failure:
            raise self.failure
        self.ready = OWN
        return self.ready


class Agent:
    """An agent with sessions of an hour, by a clock that a test advances."""

    def __init__(self) -> None:
        self.start = datetime(2030, 1, 1, tzinfo=UTC)
        self.elapsed = 0.0
        self.asked = 0
        self.runs = True
        self.failure: AgentError | None = None
        self.hangs_for = 0

    def find(self, name: str) -> bytes | None:
        assert name == "web"
        self.asked += 1
        self.elapsed += self.hangs_for
        if self.failure:
            raise self.failure
        return self.answer() if self.runs else None

    def answer(self) -> bytes:
        ends = (self.now() + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        keys = {"AccessKeyId": f"ASIA{self.asked}", "SecretAccessKey": "s", "SessionToken": "t", "Expiration": ends}
        return f"{json.dumps({'Version': 1, **keys})}\n".encode()

    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.elapsed)

    def source(self, own: Own | None = None) -> AgentOrOwn[Own]:
        clocks = Clocks(self.now, lambda: self.elapsed, lambda seconds: None)
        return AgentOrOwn("web", lambda: own or Own(), role_arn=ROLE_ARN, clocks=clocks)


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Agent:
    """The agent that sources ask."""
    made = Agent()
    monkeypatch.setattr(agent_or_own, "find_credentials", lambda name, **_: made.find(name))
    return made


def _key(credentials: Credentials | None) -> str | None:
    return credentials.access_key_id if credentials else None


def test_agent_s_credentials_are_given_and_cached(agent: Agent) -> None:
    source = agent.source()
    assert source.at_once() is None
    expiration = datetime(2030, 1, 1, 1, tzinfo=UTC)
    assert source.of_agent is None
    found = source()
    assert found == Credentials("ASIA1", "s", "t", expiration, ROLE_ARN, "")
    assert found is source.of_agent
    assert _key(source.at_once()) == "ASIA1"
    assert (agent.asked, source.own_if_made()) == (1, None)


def test_agent_is_asked_again_when_its_answer_is_a_second_old_and_a_client_asks(agent: Agent) -> None:
    source = agent.source()
    source()
    agent.elapsed = agent_or_own.ASK_SECONDS - 0.1
    assert _key(source.at_once()) == "ASIA1"
    agent.elapsed = agent_or_own.ASK_SECONDS
    assert source.at_once() is None
    assert _key(source()) == "ASIA2"
    assert _key(source.at_once()) == "ASIA2"


@pytest.mark.parametrize(("answer", "questions"), [(None, 1), ("wrong", 1), ("right", 2)])
def test_user_is_asked_for_a_pin_after_another_failure_and_not_after_a_question_that_failed(
    monkeypatch: pytest.MonkeyPatch, answer: str | None, questions: int
) -> None:
    agent, asked = Agent(), list[PinRequest]()
    failures: list[AgentError | None] = [AgentError("the service is busy"), None, None]

    def find(name: str, *, ask_pin: AskPin | None) -> bytes:
        if failure := failures.pop(0):
            raise failure
        if ask_pin is None or ask_pin(PinRequest("user PIN", "token")) != "right":
            raise AgentError("profile 'web' is locked: token needs its user PIN")
        return agent.answer()

    def ask(request: PinRequest) -> str | None:
        asked.append(request)
        return answer

    monkeypatch.setattr(agent_or_own, "find_credentials", find)
    own = Own()
    own.failure = AgentError("no provider")
    source = AgentOrOwn("web", lambda: own, ask_pin=ask)
    for _ in range(3):
        with suppress(AgentError):
            source()
    assert len(asked) == questions


def test_agent_that_hangs_is_asked_more_rarely(agent: Agent) -> None:
    source = agent.source()
    source()
    agent.elapsed, agent.runs, agent.hangs_for = 10, False, 1
    assert source.at_once() is None
    assert _key(source()) == "ASIA1"
    agent.elapsed = 20.9
    assert _key(source.at_once()) == "ASIA1"
    agent.elapsed = 21
    assert source.at_once() is None


@pytest.mark.parametrize("has_agent_s", [True, False])
def test_lock_of_the_profile_ends_the_agent_s_credentials_and_the_provider_s(agent: Agent, has_agent_s: bool) -> None:
    own = Own()
    source = agent.source(own)
    agent.runs = has_agent_s
    source()
    agent.elapsed, agent.runs = 1, True
    agent.failure = AgentError("profile 'web' is locked: it was", exit_status=3, reason=LOCKED)
    assert source.at_once() is None
    for _ in range(2):
        with pytest.raises(AgentError, match="is locked: it was"):
            source()
        assert source.at_once() is None
    assert own.ready is None
    agent.failure = None
    assert _key(source()) == "ASIA4"


def test_lock_of_the_profile_closes_a_provider_that_gave_no_credentials(agent: Agent) -> None:
    own = Own()
    source = agent.source(own)
    agent.runs, own.failure = False, ServiceError("no")
    with pytest.raises(ServiceError):
        source()
    agent.failure = AgentError("profile 'web' is locked", exit_status=3, reason=LOCKED)
    with pytest.raises(AgentError, match="is locked"):
        source()
    assert own.is_forgotten


def test_provider_s_credentials_are_given_when_an_agent_that_came_later_fails(agent: Agent) -> None:
    source = agent.source()
    agent.runs = False
    source()
    agent.elapsed, agent.failure = 1, AgentError("profile 'web' is locked: token needs its PIN", exit_status=3)
    assert source() == OWN


def test_agent_is_asked_first_when_16_minutes_are_left(agent: Agent) -> None:
    source = agent.source()
    source()
    agent.elapsed = 3600 - 960
    assert source.at_once() is None
    assert _key(source()) == "ASIA2"


def test_provider_creates_no_session_when_a_client_asks_while_the_agent_is_asked_first(agent: Agent) -> None:
    class Unused(Own):
        def at_once(self) -> Credentials | None:
            pytest.fail("reading makes it create a session in the background")

    source = agent.source(Unused())
    find = agent.find
    agent.find = lambda name: find(name) if source.at_once() is None else None  # type: ignore[method-assign]
    assert _key(source()) == "ASIA1"
    assert _key(source.at_once()) == "ASIA1"


def test_provider_gives_the_credentials_when_no_agent_has_them(agent: Agent) -> None:
    agent.runs = False
    source = agent.source()
    assert source.at_once() is None
    assert source() == OWN
    assert (source.at_once(), source.of_agent) == (OWN, None)


def test_provider_replaces_an_agent_that_ended_when_its_credentials_are_due(agent: Agent) -> None:
    source = agent.source()
    source()
    agent.runs = False
    agent.elapsed = 1000
    assert _key(source()) == "ASIA1"
    assert _key(source.at_once()) == "ASIA1"
    agent.elapsed = 3000
    assert source.at_once() is None
    assert source() == OWN
    assert source.at_once() == OWN


def test_last_credentials_are_given_until_they_expire_when_there_are_no_others(agent: Agent) -> None:
    own = Own()
    source = agent.source(own)
    source()
    agent.runs, own.failure = False, ServiceError("no")
    agent.elapsed = 3599
    assert _key(source()) == "ASIA1"
    agent.elapsed = 3600
    with pytest.raises(ServiceError, match="no"):
        source()


def test_agent_s_error_is_raised_once_its_last_credentials_have_expired(agent: Agent) -> None:
    source = agent.source()
    source()
    agent.failure = AgentError("locked", "hwsigner agent unlock web", exit_status=3)
    agent.elapsed = 3599
    assert _key(source()) == "ASIA1"
    agent.elapsed = 3600
    with pytest.raises(AgentError, match=r"locked\. hwsigner agent unlock web"):
        source()


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"nothing", b'{"AccessKeyId": 1, "Expiration": 2}'])
def test_answer_without_credentials_is_an_error_that_does_not_show_it(agent: Agent, body: bytes) -> None:
    agent.answer = lambda: body or b" "  # type: ignore[method-assign]
    with pytest.raises(AgentError, match=r"the agent.s reply has no credentials\."):
        agent.source()()
