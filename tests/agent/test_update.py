"""`hwsigner update` asks a running agent first."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.homes import Home, run_agent
from hwsigner._agent.agent_or_own import AgentOrOwn
from hwsigner._aws.credentials import Credentials
from hwsigner._refresh.attempts import Attempts
from hwsigner.errors import AgentError, ServiceError

pytestmark = pytest.mark.process


def update(home: Home, *flags: str, python: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Write the credentials of a profile once."""
    command = [sys.executable, *python, "-m", "hwsigner", "update", "--once", "--config-profile=web", *flags]
    return subprocess.run(command, env=home.environ, capture_output=True, text=True, timeout=60)


def access_key(home: Home) -> str:
    return (home.folder / ".aws" / "credentials").read_text().split("aws_access_key_id = ")[1].split()[0]


def test_agent_s_credentials_are_written(home: Home) -> None:
    with run_agent(home) as running:
        held = running.get()
        done = update(home, "--profile=mine")
    assert (done.returncode, done.stdout) == (0, "")
    assert access_key(home).encode() in held
    assert len(home.emulator.requests) == 1


def test_nothing_that_creates_a_session_is_imported_with_an_agent(home: Home) -> None:
    with run_agent(home):
        done = update(home, python=("-X", "importtime"))
    assert done.returncode == 0
    assert "hwsigner._aws.credentials_file" in done.stderr
    assert "hwsigner._aws.create_session" not in done.stderr
    assert "http.client" not in done.stderr


def test_session_is_created_without_an_agent(home: Home) -> None:
    assert update(home).returncode == 0
    assert len(home.emulator.requests) == 1


def test_session_with_other_flags_is_not_the_agent_s(home: Home) -> None:
    with run_agent(home) as running:
        held = running.get()
        assert update(home, "--session-duration=900").returncode == 0
    assert access_key(home).encode() not in held
    assert len(home.emulator.requests) == 2


def test_agent_s_refusal_is_reported(home: Home) -> None:
    home.write_profiles(web={"private-key": str(home.encrypted_key("web"))})
    with run_agent(home):
        done = update(home)
    assert done.returncode == 3
    assert "hwsigner agent unlock web" in done.stderr
    assert not (home.folder / ".aws").exists()
    assert home.emulator.requests == []


class Silent(Attempts):
    """A provider that would fail if it were asked."""

    def __init__(self) -> None:
        pass

    def __call__(self) -> Credentials:
        raise ServiceError("asked")

    @property
    def failure(self) -> ServiceError:
        return ServiceError("its own")


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[bytes | Exception | None]:
    """The agents' answers, one after another."""
    given: list[bytes | Exception | None] = []

    def find(name: str, **_: object) -> bytes | None:
        answer = given.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("hwsigner._agent.agent_or_own.find_credentials", find)
    return given


def caught(call: Callable[[], object]) -> str:
    with pytest.raises((AgentError, ServiceError)) as raised:
        call()
    return str(raised.value)


def test_lasting_refusal_is_one_failure(answers: list[bytes | Exception | None], tmp_path: Path) -> None:
    source = AgentOrOwn("web", Silent, role_arn="role")
    answers += [AgentError("locked"), AgentError("locked"), AgentError("gone"), None]
    assert caught(source) == "locked"
    first = source.failure
    assert caught(source) == "locked"
    assert source.failure is first
    assert caught(source) == "gone"
    assert str(source.failure) == "gone"
    assert caught(source) == "asked"
    assert str(source.failure) == "its own"


def test_answer_without_credentials_is_an_error(answers: list[bytes | Exception | None]) -> None:
    answers += [b"{}", b"[]", b"no JSON", b'{"AccessKeyId": "A", "SecretAccessKey": "B", "SessionToken": "C"}']
    source = AgentOrOwn("web", Silent, role_arn="role")
    while answers:
        assert caught(source).startswith("the agent's reply has no credentials")


def test_provider_s_failure_is_over_when_an_agent_gives_credentials(answers: list[bytes | Exception | None]) -> None:
    good = {"AccessKeyId": "A", "SecretAccessKey": "B", "SessionToken": "C", "Expiration": "2100-01-01T00:00:00Z"}
    answers += [None, json.dumps(good).encode()]
    source = AgentOrOwn("web", Silent, role_arn="role")
    assert source.failure is None
    assert caught(source) == "asked"
    assert str(source.failure) == "its own"
    assert source().access_key_id == "A"
    assert source.failure is None
