"""Misbehaviour on order: the table of faults, and what each does to an answer or to the connection.

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

from hwsigner.emulator.answers import Answer, json_error
from hwsigner.emulator.wire import http_date
from hwsigner.errors import UsageError

Values = Mapping[str, Any]
_SPEC = re.compile(r"([a-z-]+)(?:\*(\d+|always))?(?::(.+))?", re.DOTALL)


@dataclass(frozen=True)
class Delivery:
    """An answer ready to be sent, and the connection to send it on, plain or TLS.

    Attributes:
        connection: the connected socket; it is closed after the fault.
        head: status line and headers.
        body: the body.
        values: the fault's parameters.
        stopping: set when the emulator stops: whoever waits, waits for this.
    """

    connection: socket.socket
    head: bytes
    body: bytes
    values: Values
    stopping: Event


@dataclass(frozen=True)
class Kind:
    """One row of the table of faults.

    Attributes:
        summary: what it does, for the command's help.
        parameters: names and defaults; a default's type is the parameter's.
        replace: what to answer instead of the true answer; `now` is the emulator's time.
        deliver: how to send it, where not as a whole.
        answers: whether the client gets the beginning of an answer at all.
        has_length: whether the answer says its length.
        before_request: whether it strikes at the connection, before TLS and before a request is read.
    """

    summary: str
    parameters: Values = field(default_factory=dict)
    replace: Callable[[Answer, Values, datetime], Answer] | None = None
    deliver: Callable[[Delivery], None] | None = None
    answers: bool = True
    has_length: bool = True
    before_request: bool = False


class Fault:
    """An order to misbehave at the next CreateSession requests.

    Args:
        name: a name of KINDS.
        times: how often, or None for every time from now on.
        values: the fault's parameters.

    Raises:
        UsageError: no such fault, parameter or value.
    """

    def __init__(self, name: str, times: int | None = 1, **values: object) -> None:
        if name not in KINDS:
            raise UsageError(f"no fault is named {name}", f"The faults are {', '.join(KINDS)}")
        if times is not None and times < 1:
            raise UsageError(f"the fault {name} can't be had {times} times", "Give 1 or more")
        self.name = name
        self.kind = KINDS[name]
        self.times = times
        self.values = {**self.kind.parameters, **{key: self._convert(key, value) for key, value in values.items()}}

    @classmethod
    def parse(cls, spec: str) -> Fault:
        """Parse `NAME`, `NAME*TIMES` or `NAME*TIMES:KEY=VALUE,KEY=VALUE`; TIMES may be `always`.

        Raises:
            UsageError: not of that form, or no such fault, parameter or value.
        """
        match = _SPEC.fullmatch(spec)
        pairs = [each.partition("=") for each in re.split(r",(?=[a-z-]+=)", match[3])] if match and match[3] else []
        if not match or not all(equals for _, equals, _ in pairs):
            raise UsageError(
                f"the fault {spec} can't be read", "Write NAME*TIMES:KEY=VALUE, as in throttle*2:retry-after=1"
            )
        times = None if match[2] == "always" else int(match[2] or 1)
        return cls(match[1], times, **{key.replace("-", "_"): value for key, _, value in pairs})

    def with_times(self, times: int) -> Fault:
        """Return the same fault with another number of times."""
        return Fault(self.name, times, **self.values)

    def _convert(self, key: str, value: object) -> object:
        if key not in self.kind.parameters:
            known = ", ".join(self.kind.parameters) or "none"
            raise UsageError(f"the fault {self.name} has no parameter {key}", f"Its parameters: {known}")
        try:
            return type(self.kind.parameters[key])(value)
        except ValueError as error:
            raise UsageError(f"the fault {self.name} can't have {key}={value}", "Give a number") from error


class FaultQueue:
    """The faults still to come, in order; safe to use from several threads."""

    def __init__(self) -> None:
        self._faults: deque[Fault] = deque()
        self._lock = Lock()

    def add(self, *faults: Fault) -> None:
        """Put faults at the end."""
        with self._lock:
            self._faults.extend(faults)

    def clear(self) -> None:
        """Forget all faults."""
        with self._lock:
            self._faults.clear()

    def take(self, *, before_request: bool) -> Fault | None:
        """Take the first fault, once, if it is one that strikes now."""
        with self._lock:
            if not self._faults or self._faults[0].kind.before_request != before_request:
                return None
            fault = self._faults[0]
            if fault.times is not None:
                self._faults.popleft()
                if fault.times > 1:
                    self._faults.appendleft(fault.with_times(fault.times - 1))
            return fault


def _throttle(answer: Answer, values: Values, now: datetime) -> Answer:
    error = json_error("ThrottlingException", 429, "Rate exceeded")
    return error.with_header("Retry-After", values["retry_after"]) if values["retry_after"] else error


def _fail(answer: Answer, values: Values, now: datetime) -> Answer:
    name = "ServiceUnavailableException" if values["status"] == 503 else "InternalServerException"
    error = json_error(name, values["status"], "The service is not able to answer")
    return error.with_header("Retry-After", values["retry_after"]) if values["retry_after"] else error


def _deny(answer: Answer, values: Values, now: datetime) -> Answer:
    return json_error("AccessDeniedException", 403, values["message"])


def _html(answer: Answer, values: Values, now: datetime) -> Answer:
    return Answer(values["status"], "text/html; charset=utf-8", b"<html><body><h1>Please sign in</h1></body></html>\n")


def _not_json(answer: Answer, values: Values, now: datetime) -> Answer:
    return Answer(201, "application/json", values["body"].encode())


def _redirect(answer: Answer, values: Values, now: datetime) -> Answer:
    return Answer(values["status"], "text/plain", b"").with_header("Location", values["location"])


def _wrong_clock(answer: Answer, values: Values, now: datetime) -> Answer:
    error = json_error("AccessDeniedException", 403, "Invalid signature")
    return error.with_header("Date", http_date(now + timedelta(seconds=values["seconds"])))


def _edited(answer: Answer, edit: Callable[[dict[str, Any]], None]) -> Answer:
    """Return the answer with its document edited; a refusal stays as it is."""
    if answer.error_type:
        return answer
    document = json.loads(answer.body)
    edit(document)
    return replace(answer, body=json.dumps(document).encode())


def _missing_field(answer: Answer, values: Values, now: datetime) -> Answer:
    def remove(node: object) -> None:
        if isinstance(node, dict):
            node.pop(values["field"], None)
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            remove(child)

    return _edited(answer, remove)


def _no_credentials(answer: Answer, values: Values, now: datetime) -> Answer:
    return _edited(answer, lambda document: document.update(credentialSet=[]))


def _expiration(answer: Answer, text: str) -> Answer:
    return _edited(answer, lambda document: document["credentialSet"][0]["credentials"].update(expiration=text))


def _past_expiration(answer: Answer, values: Values, now: datetime) -> Answer:
    return _expiration(answer, f"{now - timedelta(seconds=values['seconds']):%Y-%m-%dT%H:%M:%SZ}")


def _bad_expiration(answer: Answer, values: Values, now: datetime) -> Answer:
    return _expiration(answer, values["value"])


def _other_role(answer: Answer, values: Values, now: datetime) -> Answer:
    return _edited(answer, lambda document: document["credentialSet"][0].update(roleArn=values["arn"]))


def _stall(delivery: Delivery) -> None:
    delivery.stopping.wait()


def _close(delivery: Delivery) -> None:
    """Send nothing; the connection is closed afterwards."""


def _reset(delivery: Delivery) -> None:
    # Closing a socket that lingers for no time sends RST.
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


KINDS: dict[str, Kind] = {
    "throttle": Kind("429 ThrottlingException", {"retry_after": ""}, _throttle),
    "fail": Kind("500, or the status given", {"status": 500, "retry_after": ""}, _fail),
    "deny": Kind("403 AccessDeniedException", {"message": "Access denied"}, _deny),
    "html": Kind("an HTML page, as of a proxy", {"status": 200}, _html),
    "not-json": Kind("201 with a body that is no JSON", {"body": '{"credentialSet": ['}, _not_json),
    "redirect": Kind("a redirect", {"status": 307, "location": "https://elsewhere.invalid/sessions"}, _redirect),
    "wrong-clock": Kind("403 Invalid signature, and a Date some seconds off", {"seconds": 600}, _wrong_clock),
    "missing-field": Kind("credentials without a field", {"field": "sessionToken"}, _missing_field),
    "no-credentials": Kind("an empty credentialSet", {}, _no_credentials),
    "past-expiration": Kind("credentials that have expired", {"seconds": 3600}, _past_expiration),
    "bad-expiration": Kind("an expiration that is no time", {"value": "tomorrow"}, _bad_expiration),
    "other-role": Kind("credentials of another role", {"arn": "arn:aws:iam::123456789012:role/other"}, _other_role),
    "stall": Kind("reads the request and never answers", deliver=_stall, answers=False),
    "drip": Kind("answers a byte at a time", {"interval": 0.2}, deliver=_drip),
    "cut-off": Kind("closes after half of the body", deliver=_cut_off),
    "reset": Kind("resets the connection before it answers", deliver=_reset, answers=False),
    "close": Kind("closes the connection before it answers", deliver=_close, answers=False),
    "huge": Kind("answers with a body without end", deliver=_huge, has_length=False),
    "stall-handshake": Kind("accepts, and never shakes hands", deliver=_stall, answers=False, before_request=True),
}
