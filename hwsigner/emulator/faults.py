"""Faults on demand: the table of faults, and what each does to a response or to the connection.

A new fault is one function and one row of KINDS.
"""

from __future__ import annotations

import json
import re
import socket
import struct
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from threading import Event, Lock
from typing import Any

from hwsigner.emulator.refusals import RefusalError, denied, invalid_signature
from hwsigner.emulator.vault import matches
from hwsigner.emulator.wire import Response, http_date
from hwsigner.errors import UsageError, suggestion

Values = Mapping[str, Any]
_SPEC = re.compile(r"([a-z-]+)(?:\*(\d+|always))?(?::(.+))?", re.DOTALL)


@dataclass(frozen=True)
class Delivery:
    """A response to send, and the connection to send it on, which is closed after the fault."""

    connection: socket.socket
    head: bytes
    body: bytes
    values: Values
    stopping: Event  # Set when the emulator stops. A fault that waits must wait for this.


@dataclass(frozen=True)
class FaultKind:
    """One row of the table of faults."""

    summary: str
    parameters: Values = field(default_factory=dict)  # Names and defaults, which have the type of the parameter.
    error: Callable[[Values], RefusalError] | None = None  # What to respond with, in each service's form.
    # Returns the response to send instead of the true one, or of the error, at the emulator's time.
    replace: Callable[[Response, Values, datetime], Response] | None = None
    deliver: Callable[[Delivery], None] | None = None  # Sends the response, if it is not sent as usual.
    responds: bool = True  # Whether the client gets at least the beginning of a response.
    has_length: bool = True
    before_request: bool = False  # Whether it applies to a new connection, before TLS.
    acts: bool = True  # Whether IAM and the control plane do what the request asks for all the same.
    sessions_only: bool = False  # Whether it is for CreateSession only.


class Fault:
    """A fault to apply to the next requests.

    Args:
        name: a name in KINDS.
        times: the number of requests, or None for all from now on.
        values: the fault's parameters.

    Raises:
        UsageError: there is no such fault or parameter, or a value is invalid.
    """

    def __init__(self, name: str, times: int | None = 1, **values: object) -> None:
        if name not in KINDS:
            hint = suggestion(name, KINDS, f"The faults are {', '.join(KINDS)}")
            raise UsageError(f"no fault is named {name}", hint)
        if times is not None and times < 1:
            raise UsageError(f"the fault {name} can't occur {times} times", "Give 1 or more")
        self.name = name
        self.kind = KINDS[name]
        self.times = times
        self.values = {**self.kind.parameters, **{key: self._convert(key, value) for key, value in values.items()}}

    @classmethod
    def parse(cls, spec: str) -> Fault:
        """Parse `NAME`, `NAME*TIMES` or `NAME*TIMES:KEY=VALUE,KEY=VALUE`. TIMES may be `always`.

        Raises:
            UsageError: the text is malformed, there is no such fault or parameter, or a value is invalid.
        """
        match = _SPEC.fullmatch(spec)
        pairs = [each.partition("=") for each in re.split(r",(?=[a-z-]+=)", match[3])] if match and match[3] else []
        if not match or not all(equals for _, equals, _ in pairs):
            raise UsageError(f"invalid fault {spec!r}", "Write NAME*TIMES:KEY=VALUE, as in throttle*2:retry-after=1")
        times = None if match[2] == "always" else int(match[2] or 1)
        return cls(match[1], times, **{key.replace("-", "_"): value for key, _, value in pairs})

    def _convert(self, key: str, value: object) -> object:
        if key not in self.kind.parameters:
            known = ", ".join(self.kind.parameters) or "none"
            raise UsageError(f"the fault {self.name} has no parameter {key}", f"Its parameters: {known}")
        try:
            return type(self.kind.parameters[key])(value)
        except ValueError as error:
            raise UsageError(f"the fault {self.name} can't have {key}={value}", "Give a number") from error


class FaultQueue:
    """The faults that are still to occur, in order, for each pattern of actions. Thread-safe."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[tuple[Fault, int | None]]] = {}
        self._lock = Lock()

    def add(self, *faults: Fault, action: str) -> None:
        """Append faults for the requests of an action, which may have wildcards."""
        with self._lock:
            self._queues.setdefault(action, deque()).extend((fault, fault.times) for fault in faults)

    def clear(self) -> None:
        """Drop all faults."""
        with self._lock:
            self._queues.clear()

    def take(self, action: str | None) -> Fault | None:
        """Take one occurrence of the first fault for a request's action, or, if that is None, for a new connection."""
        with self._lock:
            for pattern, queue in self._queues.items():
                fits = action is None or matches(action, pattern)
                if fits and queue and queue[0][0].kind.before_request == (action is None):
                    fault, left = queue.popleft()
                    if left != 1:
                        queue.appendleft((fault, None if left is None else left - 1))
                    return fault
            return None


def _with_retry_after(response: Response, values: Values, now: datetime) -> Response:
    return response.with_header("Retry-After", values["retry_after"]) if values["retry_after"] else response


def _throttle(values: Values) -> RefusalError:
    return RefusalError("ThrottlingException", 429, "Rate exceeded")


def _fail(values: Values) -> RefusalError:
    name = "ServiceUnavailableException" if values["status"] == 503 else "InternalServerException"
    return RefusalError(name, values["status"], "The service is not able to answer")


def _deny(values: Values) -> RefusalError:
    return denied(values["message"])


def _html(response: Response, values: Values, now: datetime) -> Response:
    page = b"<html><body><h1>Please sign in</h1></body></html>\n"
    return Response(values["status"], "text/html; charset=utf-8", page)


def _not_json(response: Response, values: Values, now: datetime) -> Response:
    return Response(201, "application/json", values["body"].encode())


def _redirect(response: Response, values: Values, now: datetime) -> Response:
    return Response(values["status"], "text/plain", b"").with_header("Location", values["location"])


def _with_wrong_clock(response: Response, values: Values, now: datetime) -> Response:
    return response.with_header("Date", http_date(now + timedelta(seconds=values["seconds"])))


def _edited(response: Response, edit: Callable[[dict[str, Any]], None]) -> Response:
    """Return the response with its document edited. Errors are left alone."""
    if response.error_type:
        return response
    document = json.loads(response.body)
    edit(document)
    return replace(response, body=json.dumps(document).encode())


def _missing_field(response: Response, values: Values, now: datetime) -> Response:
    def remove(node: object) -> None:
        if isinstance(node, dict):
            node.pop(values["field"], None)
            node = list(node.values())
        for child in node if isinstance(node, list) else ():
            remove(child)

    return _edited(response, remove)


def _no_credentials(response: Response, values: Values, now: datetime) -> Response:
    return _edited(response, lambda document: document.update(credentialSet=[]))


def _expiration(response: Response, text: str) -> Response:
    return _edited(response, lambda document: document["credentialSet"][0]["credentials"].update(expiration=text))


def _past_expiration(response: Response, values: Values, now: datetime) -> Response:
    return _expiration(response, f"{now - timedelta(seconds=values['seconds']):%Y-%m-%dT%H:%M:%SZ}")


def _bad_expiration(response: Response, values: Values, now: datetime) -> Response:
    return _expiration(response, values["value"])


def _other_role(response: Response, values: Values, now: datetime) -> Response:
    return _edited(response, lambda document: document["credentialSet"][0].update(roleArn=values["arn"]))


def _edit(summary: str, parameters: Values, replace: Callable[[Response, Values, datetime], Response]) -> FaultKind:
    return FaultKind(summary, parameters, replace=replace, sessions_only=True)


def _stall(delivery: Delivery) -> None:
    delivery.stopping.wait()


def _close(delivery: Delivery) -> None:
    """Send nothing. The connection is closed after every fault."""


def _reset(delivery: Delivery) -> None:
    # With a linger time of zero, closing the socket sends RST.
    delivery.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _drip(delivery: Delivery) -> None:
    for byte in delivery.head + delivery.body:
        delivery.connection.sendall(bytes([byte]))
        if delivery.stopping.wait(delivery.values["interval"]):
            return


def _cut_off(delivery: Delivery) -> None:
    delivery.connection.sendall(delivery.head + delivery.body[: len(delivery.body) // 2])


def _huge(delivery: Delivery) -> None:
    delivery.connection.sendall(delivery.head)
    while not delivery.stopping.is_set():
        delivery.connection.sendall(b" " * 65536)


KINDS: dict[str, FaultKind] = {
    "throttle": FaultKind("429 ThrottlingException", {"retry_after": ""}, _throttle, _with_retry_after, acts=False),
    "fail": FaultKind(
        "500, or another status", {"status": 500, "retry_after": ""}, _fail, _with_retry_after, acts=False
    ),
    "deny": FaultKind("403 AccessDeniedException", {"message": "Access denied"}, _deny, acts=False),
    "html": FaultKind("an HTML page, as from a proxy", {"status": 200}, replace=_html, acts=False),
    "not-json": FaultKind("201 with a body that is not JSON", {"body": '{"credentialSet": ['}, replace=_not_json),
    "redirect": FaultKind(
        "a redirect", {"status": 307, "location": "https://elsewhere.invalid/sessions"}, replace=_redirect, acts=False
    ),
    "wrong-clock": FaultKind(
        "403 Invalid signature, with a Date header that is off",
        {"seconds": 600},
        lambda values: invalid_signature("the fault wrong-clock"),
        _with_wrong_clock,
        sessions_only=True,
    ),
    "missing-field": _edit("credentials without a field", {"field": "sessionToken"}, _missing_field),
    "no-credentials": _edit("an empty credentialSet", {}, _no_credentials),
    "past-expiration": _edit("credentials that have expired", {"seconds": 3600}, _past_expiration),
    "bad-expiration": _edit("an expiration that is not a time", {"value": "tomorrow"}, _bad_expiration),
    "other-role": _edit("credentials for another role", {"arn": "arn:aws:iam::123456789012:role/other"}, _other_role),
    "stall": FaultKind("reads the request, then never responds", deliver=_stall, responds=False),
    "drip": FaultKind("responds one byte at a time", {"interval": 0.2}, deliver=_drip),
    "cut-off": FaultKind("closes the connection after half of the body", deliver=_cut_off),
    "reset": FaultKind("resets the connection instead of responding", deliver=_reset, responds=False),
    "close": FaultKind("closes the connection instead of responding", deliver=_close, responds=False),
    "huge": FaultKind("responds with an endless body", deliver=_huge, has_length=False),
    "stall-handshake": FaultKind(
        "accepts the connection but never does the TLS handshake", deliver=_stall, responds=False, before_request=True
    ),
}
