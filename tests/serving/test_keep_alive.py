"""Several requests on one connection: each is answered as if it were the first."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwsigner._serving.protocol import MAX_QUEUED
from judges import needs_netlink
from serving.conftest import Running
from serving.raw import Client
from serving.test_endpoints import AUTHORIZED, CREDENTIALS, LATER, READY, WEB, get_token

WRONG = {"Authorization": "x" * 43}


def _raw(client: Client) -> bytes:
    """Return the next response with the credentials, to its last byte."""
    data = b""
    while not data.endswith(READY):
        data += client.sock.recv(65536)
    return data


def test_repeated_request_gets_the_same_bytes(client: Client) -> None:
    responses = set()
    for _ in range(5):
        client.send("GET", WEB, AUTHORIZED)
        responses.add(_raw(client))
    assert len(responses) == 1


@needs_netlink
def test_imds_token_serves_many_requests(client: Client) -> None:
    token = get_token(client)
    for _ in range(5):
        assert client.ask("GET", CREDENTIALS, token)[::2] == (200, READY)


@pytest.mark.parametrize("other", [("GET", "/nothing", AUTHORIZED), ("GET", WEB, WRONG), ("PUT", WEB, AUTHORIZED)])
def test_another_request_is_refused_after_a_good_one(client: Client, other: tuple[str, str, dict[str, str]]) -> None:
    assert client.ask("GET", WEB, AUTHORIZED).status == 200
    assert client.ask("GET", WEB, AUTHORIZED).status == 200
    assert client.ask(*other).status in (401, 404, 405)
    assert client.rest() == b""


@pytest.mark.parametrize(
    ("version", "more"),
    [("1.0", {}), ("1.0", {"Connection": "keep-alive"}), ("1.1", {"Connection": "close"})],
    ids=["1.0", "1.0 keep-alive", "1.1 close"],
)
def test_connection_is_closed_after_the_response_when_the_client_ends_it(
    client: Client, version: str, more: dict[str, str]
) -> None:
    assert client.ask("GET", WEB, AUTHORIZED).status == 200
    client.send("GET", WEB, {**AUTHORIZED, **more}, version=version)
    data = client.rest()
    assert data.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"connection: close" in data
    assert data.endswith(READY)


def test_connection_is_closed_after_a_late_response_when_the_client_ends_it(client: Client, running: Running) -> None:
    running.source.ready = None
    client.send("GET", WEB, {**AUTHORIZED, "Connection": "close"})
    data = client.rest()
    assert b"connection: close" in data
    assert data.endswith(LATER)


def test_each_request_sees_the_credentials_of_its_time(client: Client, running: Running) -> None:
    assert client.ask("GET", WEB, AUTHORIZED).body == READY
    running.source.ready = b"other"
    assert client.ask("GET", WEB, AUTHORIZED).body == b"other"
    running.source.ready = None
    assert client.ask("GET", WEB, AUTHORIZED).body == LATER
    running.source.ready = ValueError("a secret")
    assert client.ask("GET", WEB, AUTHORIZED).status == 500


def test_ready_response_waits_for_an_earlier_late_one(client: Client, running: Running) -> None:
    assert client.ask("GET", WEB, AUTHORIZED).body == READY
    running.source.may_answer.clear()
    for ready in (None, READY):
        running.source.ready = ready
        client.send("GET", WEB, AUTHORIZED)
        with running.client() as other:
            assert other.ask("GET", WEB).status == 401  # What was sent before has been read by now.
    running.source.may_answer.set()
    assert [client.receive().body for _ in range(2)] == [LATER, READY]


_ASKED = {
    (WEB, "right"): 200,
    (WEB, "wrong"): 401,
    ("/nothing", "right"): 404,
}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(asked=st.lists(st.sampled_from(sorted(_ASKED)), min_size=1, max_size=8), at_once=st.booleans())
def test_responses_do_not_depend_on_earlier_requests(
    running: Running, asked: list[tuple[str, str]], at_once: bool
) -> None:
    headers = {"right": AUTHORIZED, "wrong": WRONG}
    if at_once:  # One is being answered, and so many may wait.
        del asked[MAX_QUEUED + 1 :]
    expected = [_ASKED[one] for one in asked]
    refused = next((index for index, status in enumerate(expected) if status != 200), len(expected))
    with running.client() as client:
        found = []
        for number, (path, token) in enumerate(asked[: refused + 1]):
            client.send("GET", path, headers[token])
            if not at_once:
                found.append(client.receive().status)
            elif number == min(refused, len(asked) - 1):
                found = [client.receive().status for _ in range(number + 1)]
    assert found == expected[: refused + 1]
