"""Credentials of an agent, or of this process's provider if there is no agent."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hwsigner.agent import source as source_module
from hwsigner.agent.protocol import LOCKED
from hwsigner.agent.source import AgentFirst
from hwsigner.aws.credentials import Credentials, read_agent_credentials
from hwsigner.errors import AgentError, ServiceError
from hwsigner.serving.credentials import FORMATS
from hwsigner.system.clocks import Clocks

ROLE_ARN = "arn:aws:iam::123456789012:role/web"


class Local:
    """A provider of this process."""

    ready: bytes | None = None
    failure: Exception | None = None

    def read(self, name: str) -> bytes | None:
        return self.ready

    def forget(self) -> None:
        self.ready = None

    def reply(self, name: str) -> bytes:
        if self.failure:
            raise self.failure
        self.ready = f"local {name}".encode()
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

    def find(self) -> Credentials | None:
        self.asked += 1
        self.elapsed += self.hangs_for
        if self.failure:
            raise self.failure
        return read_agent_credentials(self.answer(), role_arn=ROLE_ARN) if self.runs else None

    def answer(self) -> bytes:
        ends = (self.now() + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        keys = {"AccessKeyId": f"ASIA{self.asked}", "SecretAccessKey": "s", "SessionToken": "t", "Expiration": ends}
        return f"{json.dumps({'Version': 1, **keys})}\n".encode()

    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.elapsed)

    def source(self, local: Any = None) -> AgentFirst:
        clocks = Clocks(self.now, lambda: self.elapsed, lambda seconds: None)
        return AgentFirst(self.find, local or Local(), FORMATS, clocks=clocks)


def _key(reply: Any) -> str:
    found: str = json.loads(bytes(reply))["AccessKeyId"]
    return found


def test_agent_s_credentials_are_given_in_both_formats_and_cached() -> None:
    agent = Agent()
    source = agent.source()
    assert source.read("container") is None
    assert json.loads(bytes(source.reply("container"))) == {
        "AccessKeyId": "ASIA1",
        "SecretAccessKey": "s",
        "Token": "t",
        "Expiration": "2030-01-01T01:00:00Z",
        "RoleArn": ROLE_ARN,
    }
    imds = source.read("imds")
    assert imds is not None
    assert json.loads(bytes(imds)).items() >= {"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "ASIA1"}.items()
    assert agent.asked == 1


def test_agent_is_asked_again_when_its_answer_is_a_second_old_and_a_client_asks() -> None:
    agent = Agent()
    source = agent.source()
    source.reply("container")
    agent.elapsed = source_module.ASK_SECONDS - 0.1
    assert _key(source.read("container")) == "ASIA1"
    agent.elapsed = source_module.ASK_SECONDS
    assert source.read("container") is None
    assert _key(source.reply("container")) == "ASIA2"
    assert _key(source.read("imds")) == "ASIA2"


def test_agent_that_hangs_is_asked_more_rarely() -> None:
    agent = Agent()
    source = agent.source()
    source.reply("container")
    agent.elapsed, agent.runs, agent.hangs_for = 10, False, 1
    assert source.read("container") is None
    assert _key(source.reply("container")) == "ASIA1"
    agent.elapsed = 20.9
    assert _key(source.read("container")) == "ASIA1"
    agent.elapsed = 21
    assert source.read("container") is None


@pytest.mark.parametrize("has_agent_s", [True, False])
def test_lock_of_the_profile_ends_the_agent_s_credentials_and_the_provider_s(has_agent_s: bool) -> None:
    agent, local = Agent(), Local()
    source = agent.source(local)
    agent.runs = has_agent_s
    source.reply("container")
    agent.elapsed, agent.runs = 1, True
    agent.failure = AgentError(f"profile 'web' is locked: {LOCKED}. Run hwsigner agent unlock web", exit_status=3)
    assert source.read("container") is None
    for _ in range(2):
        with pytest.raises(AgentError, match="is locked: it was locked with"):
            source.reply("container")
        assert source.read("imds") is None
    assert local.ready is None
    agent.failure = None
    assert _key(source.reply("container")) == "ASIA4"


def test_provider_s_credentials_are_given_when_an_agent_that_came_later_fails() -> None:
    agent = Agent()
    source = agent.source()
    agent.runs = False
    source.reply("container")
    agent.elapsed, agent.failure = 1, AgentError("profile 'web' is locked: token needs its PIN", exit_status=3)
    assert source.reply("container") == b"local container"


def test_agent_is_asked_first_when_16_minutes_are_left() -> None:
    agent = Agent()
    source = agent.source()
    source.reply("container")
    agent.elapsed = 3600 - 960
    assert source.read("container") is None
    assert _key(source.reply("container")) == "ASIA2"


def test_provider_creates_no_session_when_a_client_asks_while_the_agent_is_asked_first() -> None:
    class Unused(Local):
        def read(self, name: str) -> bytes | None:
            pytest.fail("reading makes it create a session in the background")

    agent = Agent()
    source = agent.source(Unused())
    find = source._find
    source._find = lambda: find() if source.read("imds") is None else None
    assert _key(source.reply("container")) == "ASIA1"
    assert _key(source.read("imds")) == "ASIA1"


def test_provider_gives_the_credentials_when_no_agent_has_them() -> None:
    agent = Agent()
    agent.runs = False
    source = agent.source()
    assert source.read("container") is None
    assert source.reply("container") == b"local container"
    assert source.read("container") == b"local container"


def test_provider_replaces_an_agent_that_ended_when_its_credentials_are_due() -> None:
    agent = Agent()
    source = agent.source()
    source.reply("container")
    agent.runs = False
    agent.elapsed = 1000
    assert _key(source.reply("container")) == "ASIA1"
    assert _key(source.read("container")) == "ASIA1"
    agent.elapsed = 3000
    assert source.read("container") is None
    assert source.reply("container") == b"local container"
    assert source.read("container") == b"local container"


def test_last_credentials_are_given_until_they_expire_when_there_are_no_others() -> None:
    agent, local = Agent(), Local()
    source = agent.source(local)
    source.reply("container")
    agent.runs, local.failure = False, ServiceError("no")
    agent.elapsed = 3599
    assert _key(source.reply("container")) == "ASIA1"
    agent.elapsed = 3600
    with pytest.raises(ServiceError, match="no"):
        source.reply("container")


def test_agent_s_error_is_raised_once_its_last_credentials_have_expired() -> None:
    agent = Agent()
    source = agent.source()
    source.reply("container")
    agent.failure = AgentError("locked", "hwsigner agent unlock web", exit_status=3)
    agent.elapsed = 3599
    assert _key(source.reply("container")) == "ASIA1"
    agent.elapsed = 3600
    with pytest.raises(AgentError, match=r"locked\. hwsigner agent unlock web"):
        source.reply("container")


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"nothing", b'{"AccessKeyId": 1, "Expiration": 2}'])
def test_answer_without_credentials_is_an_error_that_does_not_show_it(body: bytes) -> None:
    agent = Agent()
    agent.answer = lambda: body or b" "  # type: ignore[method-assign]
    with pytest.raises(AgentError, match=r"the agent.s reply has no credentials\."):
        agent.source().reply("container")
