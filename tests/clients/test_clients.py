"""The AWS CLIs, the SDKs and rclone with the credentials of each output; the emulator verifies what they sign."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from clients.clock import Clock, ClockedStage
from clients.outputs import RESIDENT, Output, open_output
from clients.programs import CLIENTS
from serving.stage import Stage

HOUR = 3600


def refusals(output: Output) -> list[str]:
    """Return the reason for each request that the service refused."""
    return [record.reason for record in output.stage.service.requests if not record.accepted]


def last_access_key(output: Output) -> str:
    """Return the access key that signed the last request."""
    found = re.search(r"Credential=(\w+)/", output.stage.service.requests[-1].request.value("Authorization") or "")
    assert found
    return found[1]


@pytest.mark.parametrize("name", CLIENTS)
def test_client_acts_as_the_role_of_the_output(
    output: Output, name: str, installed: Path, record_property: Callable[[str, str], None]
) -> None:
    client = CLIENTS[name]
    record_property("client", name)
    record_property("output", output.name)
    record_property("version", client.find_version(installed))
    before = output.sessions
    (caller,) = set(client.run(installed, output))
    assert caller.startswith(f"arn:aws:sts::123456789012:assumed-role/{output.name}/")
    assert refusals(output) == []
    assert output.sessions == 1 if output.name in RESIDENT else output.sessions > before


# Go programs get the time directly from the kernel, so no library can set their clock.
@pytest.mark.parametrize("name", ["boto3", "JavaScript v3", "Ruby v3"])
@pytest.mark.parametrize("kind", ["credential-process", "agent", "serve", "serve-imds"])
def test_program_gets_the_next_session_when_its_session_expires(
    clocked_stage: ClockedStage, clock: Clock, installed: Path, kind: str, name: str
) -> None:
    with open_output(clocked_stage, kind) as output, CLIENTS[name].converse(installed, output) as call:
        caller, first = call(), last_access_key(output)
        assert (call(), last_access_key(output)) == (caller, first)
        clock.advance(HOUR + 60)
        output.way.settle(clock.now())
        assert call() == caller
        assert last_access_key(output) != first
        assert f":assumed-role/{kind}/" in caller
        assert refusals(output) == []


@pytest.mark.parametrize(("kind", "most"), [("credential-process", None), ("agent", 1)])
def test_agent_gives_boto3_one_session_when_sessions_are_short(
    stage: Stage, installed: Path, kind: str, most: int | None
) -> None:
    with open_output(stage, kind, {"session-duration": 900}) as output:
        calls = CLIENTS["boto3"].run(installed, output, "\n" * 4)
    assert len(calls) == 4
    assert output.sessions == most if most else output.sessions >= 4
