"""The same request again on one connection, which is answered past the application: as if it were the first."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwsigner.serving.application import Application
from hwsigner.serving.protocol import MAX_QUEUED
from serving.conftest import Running
from serving.raw import Client
from serving.test_endpoints import AUTHORIZED, CREDENTIALS, LATER, READY, WEB, _token

WRONG = {"Authorization": "x" * 43}


@pytest.fixture
def admitted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the requests that the application looks over."""
    paths: list[str] = []
    real = Application._admit

    def admit(application: Application, scope: dict[str, str]) -> object:
        paths.append(scope["path"])
        return real(application, scope)

    monkeypatch.setattr(Application, "_admit", admit)
    return paths


def _raw(client: Client) -> bytes:
    """Return the next answer with the credentials, to its last byte."""
    data = b""
    while not data.endswith(READY):
        data += client.sock.recv(65536)
    return data


def test_it_is_answered_byte_for_byte_the_same_without_another_look(client: Client, admitted: list[str]) -> None:
    answers = set()
    for _ in range(5):
        client.send("GET", WEB, AUTHORIZED)
        answers.add(_raw(client))
    assert len(answers) == 1
    assert admitted == [WEB]


def test_so_is_imds(client: Client, admitted: list[str]) -> None:
    token = _token(client)
    for _ in range(5):
        assert client.ask("GET", CREDENTIALS, token)[::2] == (200, READY)
    assert admitted == ["/latest/api/token", CREDENTIALS]


def test_each_token_is_a_new_one_s(client: Client, admitted: list[str]) -> None:
    assert _token(client)
    assert _token(client)
    assert len(admitted) == 2


@pytest.mark.parametrize("other", [("GET", "/nothing", AUTHORIZED), ("GET", WEB, WRONG), ("PUT", WEB, AUTHORIZED)])
def test_a_head_that_differs_in_anything_is_looked_over(client: Client, other: tuple[str, str, dict[str, str]]) -> None:
    assert client.ask("GET", WEB, AUTHORIZED).status == 200
    assert client.ask("GET", WEB, AUTHORIZED).status == 200
    assert client.ask(*other).status in (401, 404, 405)
    assert client.rest() == b""


@pytest.mark.parametrize("more", [{}, {"Connection": "keep-alive"}])
def test_http_1_0_ends_the_connection_though_its_head_is_known(client: Client, more: dict[str, str]) -> None:
    assert client.ask("GET", WEB, {**AUTHORIZED, **more}).status == 200
    client.send("GET", WEB, {**AUTHORIZED, **more}, version="1.0")
    answer = client.rest()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"connection: close" in answer


def test_new_credentials_and_none_are_seen(client: Client, running: Running) -> None:
    assert client.ask("GET", WEB, AUTHORIZED).body == READY
    running.source.ready = b"other"
    assert client.ask("GET", WEB, AUTHORIZED).body == b"other"
    running.source.ready = None
    assert client.ask("GET", WEB, AUTHORIZED).body == LATER
    running.source.ready = ValueError("a secret")
    assert client.ask("GET", WEB, AUTHORIZED).status == 500


def test_it_waits_for_its_turn(client: Client, running: Running) -> None:
    assert client.ask("GET", WEB, AUTHORIZED).body == READY
    running.source.ready = None
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
def test_the_order_of_requests_changes_no_answer(running: Running, asked: list[tuple[str, str]], at_once: bool) -> None:
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
