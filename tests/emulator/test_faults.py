"""Each fault, as a raw socket sees it."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from emulator.client import Caller, Reply, connect, create_session, draft, read_reply
from hwsigner.emulator import KINDS, Emulator, Fault, server
from hwsigner.errors import UsageError


def expiration(reply: Reply) -> datetime:
    return datetime.strptime(reply.credentials["expiration"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def clock_error(reply: Reply) -> float:
    return (parsedate_to_datetime(reply.headers["date"]) - datetime.now(UTC)).total_seconds()


def is_error(status: int, error_type: str, **headers: str) -> Callable[[Reply], bool]:
    def check(reply: Reply) -> bool:
        return (
            (reply.status, reply.headers["x-amzn-errortype"]) == (status, error_type)
            and isinstance(reply.json["message"], str)
            and headers.items() <= reply.headers.items()
        )

    return check


def lacks(*path: Any) -> Callable[[Reply], bool]:
    def check(reply: Reply) -> bool:
        node = reply.json
        for key in path[:-1]:
            node = node[key]
        return reply.status == 201 and path[-1] not in node

    return check


ANSWERS: list[tuple[str, dict[str, Any], Callable[[Reply], bool]]] = [
    ("throttle", {}, is_error(429, "ThrottlingException")),
    ("throttle", {}, lambda reply: "retry-after" not in reply.headers),
    ("throttle", {"retry_after": 7}, lambda reply: reply.headers["retry-after"] == "7"),
    ("fail", {}, is_error(500, "InternalServerException")),
    ("fail", {"status": 503}, is_error(503, "ServiceUnavailableException")),
    ("fail", {"status": 503, "retry_after": 3}, lambda reply: reply.headers["retry-after"] == "3"),
    ("deny", {}, is_error(403, "AccessDeniedException")),
    ("deny", {"message": "No"}, lambda reply: reply.json == {"message": "No"}),
    ("html", {}, lambda reply: reply.status == 200 and reply.headers["content-type"].startswith("text/html")),
    ("html", {"status": 503}, lambda reply: reply.status == 503 and b"<html>" in reply.body),
    ("not-json", {}, lambda reply: reply.status == 201 and not is_json(reply.body)),
    ("redirect", {}, lambda reply: (reply.status, reply.headers["location"][:8]) == (307, "https://")),
    ("redirect", {"status": 302, "location": "http://x/"}, lambda reply: reply.headers["location"] == "http://x/"),
    (
        "wrong-clock",
        {},
        lambda reply: 590 < clock_error(reply) < 610 and reply.json == {"message": "Invalid signature"},
    ),
    ("wrong-clock", {"seconds": -900}, lambda reply: -910 < clock_error(reply) < -890),
    ("missing-field", {}, lacks("credentialSet", 0, "credentials", "sessionToken")),
    ("missing-field", {"field": "roleArn"}, lacks("credentialSet", 0, "roleArn")),
    ("missing-field", {"field": "credentialSet"}, lacks("credentialSet")),
    ("no-credentials", {}, lambda reply: reply.json["credentialSet"] == []),
    ("past-expiration", {}, lambda reply: expiration(reply) < datetime.now(UTC) - timedelta(minutes=59)),
    ("past-expiration", {"seconds": 60}, lambda reply: expiration(reply) > datetime.now(UTC) - timedelta(minutes=2)),
    ("bad-expiration", {}, lambda reply: reply.credentials["expiration"] == "tomorrow"),
    ("bad-expiration", {"value": ""}, lambda reply: reply.credentials["expiration"] == ""),
    ("other-role", {}, lambda reply: reply.json["credentialSet"][0]["roleArn"].endswith(":role/other")),
    ("other-role", {"arn": "x"}, lambda reply: reply.json["credentialSet"][0]["roleArn"] == "x"),
    ("drip", {"interval": 0}, lambda reply: reply.status == 201),
]


def is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(("name", "values", "check"), ANSWERS)
def test_fault_gives_its_documented_answer(
    emulator: Emulator, caller: Caller, name: str, values: dict[str, Any], check: Callable[[Reply], bool]
) -> None:
    emulator.misbehave(Fault(name, **values))
    reply = create_session(emulator, caller)
    assert check(reply)
    record = emulator.requests[0]
    assert (record.fault, record.status, record.accepted) == (name, reply.status, True)
    assert record.answer_type == reply.headers.get("x-amzn-errortype", "Success")
    assert create_session(emulator, caller).status == 201


def test_every_fault_is_tested() -> None:
    silent = {"stall", "cut-off", "reset", "close", "huge", "stall-handshake"}
    assert {name for name, _, _ in ANSWERS} | silent == set(KINDS)


@pytest.fixture
def asked(emulator: Emulator, caller: Caller) -> Iterator[Callable[..., Any]]:
    """A function that sets a fault, sends a request, and returns the connection."""
    connections = []

    def ask(name: str, **values: Any) -> Any:
        emulator.misbehave(Fault(name, **values))
        connection = connect(emulator)
        connections.append(connection)
        connection.sendall(draft(emulator, caller).signed().to_bytes())
        return connection

    yield ask
    for connection in connections:
        connection.close()


def assert_silent(connection: Any) -> None:
    connection.settimeout(0.2)
    with pytest.raises(TimeoutError):
        connection.recv(1)


def test_stall_sends_nothing(emulator: Emulator, asked: Callable[..., Any]) -> None:
    connection = asked("stall")
    while not emulator.requests:
        time.sleep(0.01)
    assert_silent(connection)
    assert (emulator.requests[0].fault, emulator.requests[0].status) == ("stall", None)


def test_stall_handshake_never_completes_the_handshake(
    emulator: Emulator, caller: Caller, asked: Callable[..., Any]
) -> None:
    assert_silent(asked("stall-handshake"))
    assert emulator.requests == []
    assert create_session(emulator, caller).status == 201


def test_drip_sends_a_byte_at_a_time(asked: Callable[..., Any]) -> None:
    began = time.monotonic()
    connection = asked("drip", interval=0.02)
    received = b""
    while len(received) < 10:
        received += connection.recv(4096)
    assert received.startswith(b"HTTP/1.1 ")
    assert time.monotonic() - began >= 0.02 * (len(received) - 1)


def test_cut_off_ends_within_the_body(asked: Callable[..., Any]) -> None:
    received = everything(asked("cut-off"))
    head, _, body = received.partition(b"\r\n\r\n")
    promised = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    assert len(body) == promised // 2


def test_close_ends_the_connection_without_an_answer(emulator: Emulator, asked: Callable[..., Any]) -> None:
    assert everything(asked("close")) == b""
    assert emulator.requests[0].status is None


def test_reset_resets_the_connection(asked: Callable[..., Any]) -> None:
    with pytest.raises(ConnectionResetError):
        everything(asked("reset"))


def everything(connection: Any) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


def test_huge_sends_megabytes(asked: Callable[..., Any]) -> None:
    connection, length = asked("huge"), 0
    while length < 5_000_000:
        received = len(connection.recv(65536))
        assert received
        length += received


def test_faults_occur_in_order_and_as_often_as_asked(emulator: Emulator, caller: Caller) -> None:
    emulator.misbehave(Fault("throttle", times=2), Fault("fail"))
    assert [create_session(emulator, caller).status for _ in range(4)] == [429, 429, 500, 201]


def test_fault_may_last_until_it_is_cleared(emulator: Emulator, caller: Caller) -> None:
    emulator.misbehave(Fault("throttle", times=None))
    assert [create_session(emulator, caller).status for _ in range(3)] == [429] * 3
    emulator.clear_faults()
    assert create_session(emulator, caller).status == 201


def test_refused_request_stays_refused_when_a_fault_edits_credentials(emulator: Emulator, caller: Caller) -> None:
    emulator.misbehave(Fault("missing-field"))
    assert create_session(emulator, caller, body=b"").status == 400


def test_faults_do_not_affect_other_paths(emulator: Emulator, caller: Caller) -> None:
    emulator.misbehave(Fault("throttle"))
    assert create_session(emulator, caller, path="/other").status == 404
    assert create_session(emulator, caller).status == 429


@pytest.mark.parametrize("name", ["stall", "drip", "huge", "stall-handshake"])
def test_stopping_ends_a_fault(
    emulator: Emulator, asked: Callable[..., Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_JOIN_SECONDS", 60)  # The thread ends, or the test fails by its time limit.
    assert emulator._listener
    before = set(threading.enumerate()) - {emulator._listener._accepting}
    connection = asked(name)
    if name in ("drip", "huge"):
        connection.recv(1)
    emulator.stop()
    connection.settimeout(60)
    with contextlib.suppress(ConnectionResetError):
        everything(connection)
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize(
    ("spec", "name", "times", "values"),
    [
        ("stall", "stall", 1, {}),
        ("throttle*2", "throttle", 2, {"retry_after": ""}),
        ("throttle*always:retry-after=1", "throttle", None, {"retry_after": "1"}),
        ("fail:status=503,retry-after=2", "fail", 1, {"status": 503, "retry_after": "2"}),
        ("drip:interval=0.5", "drip", 1, {"interval": 0.5}),
        ("deny:message=No: not you, ever", "deny", 1, {"message": "No: not you, ever"}),
        ("redirect:location=http://a:1/?b=c,status=301", "redirect", 1, {"status": 301, "location": "http://a:1/?b=c"}),
    ],
)
def test_fault_text_is_parsed(spec: str, name: str, times: int | None, values: dict[str, object]) -> None:
    fault = Fault.parse(spec)
    assert (fault.name, fault.times, fault.values) == (name, times, values)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nonsense", "no fault is named nonsense"),
        ("", "invalid fault"),
        ("stall*0", "0 times"),
        ("stall*x", "invalid fault"),
        ("stall:", "invalid fault"),
        ("deny:message", "invalid fault"),
        ("stall:status=1", "no parameter status"),
        ("fail:status=x", "status=x"),
    ],
)
def test_invalid_fault_text_is_refused(spec: str, words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("*", r"\*")):
        Fault.parse(spec)


def test_answer_after_a_fault_closes_the_connection(emulator: Emulator, caller: Caller) -> None:
    emulator.misbehave(Fault("throttle"))
    with connect(emulator) as connection:
        connection.sendall(draft(emulator, caller).signed().to_bytes())
        assert read_reply(connection).headers["connection"] == "close"
        assert connection.recv(1) == b""
