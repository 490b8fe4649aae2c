"""One connection: shake hands, read requests, answer them, or misbehave."""

from __future__ import annotations

import socket
import ssl
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import BinaryIO

from hwsigner.emulator.answers import Answer, json_error
from hwsigner.emulator.faults import Delivery, Fault, FaultQueue
from hwsigner.emulator.record import Record
from hwsigner.emulator.service import Service
from hwsigner.emulator.wire import MalformedRequestError, head_bytes, read_request
from hwsigner.emulator.world import World

IDLE_SECONDS = 120.0


@dataclass(frozen=True)
class Site:
    """What all connections of one emulator share.

    Attributes:
        world: what the account holds.
        clock: tells the time, aware and in UTC.
        service: answers requests.
        faults: the faults still to come.
        keep: is given each record before its answer is sent.
        tls: the server's TLS context, or None for plain HTTP.
        stopping: set when the emulator stops.
    """

    world: World
    clock: Callable[[], datetime]
    service: Service
    faults: FaultQueue
    keep: Callable[[Record], None]
    tls: ssl.SSLContext | None
    stopping: threading.Event = field(default_factory=threading.Event)


def serve_connection(connection: socket.socket, site: Site) -> None:
    """Serve a connection until the client, a fault or the emulator's stop ends it; it is closed afterwards."""
    connection.settimeout(IDLE_SECONDS)
    fault = site.faults.take(before_request=True)
    try:
        if fault and fault.kind.deliver:
            fault.kind.deliver(Delivery(connection, b"", b"", fault.values, site.stopping))
        else:
            connection = _shake_hands(connection, site.tls)
            _serve_requests(connection, site)
    except OSError:
        pass  # The client is gone, or does not trust the certificate: its own business.
    finally:
        connection.close()


def _shake_hands(connection: socket.socket, context: ssl.SSLContext | None) -> socket.socket:
    if context is None:
        return connection
    secure = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
    try:
        secure.do_handshake()
    except OSError:
        secure.close()
        raise
    return secure


def _serve_requests(connection: socket.socket, site: Site) -> None:
    with connection.makefile("rb") as stream:
        while not site.stopping.is_set() and _serve_request(connection, stream, site):
            pass


def _serve_request(connection: socket.socket, stream: BinaryIO, site: Site) -> bool:
    """Serve one request, and tell whether another may follow."""
    request_id = str(uuid.uuid4())
    try:
        request = read_request(stream, connection.sendall)
    except MalformedRequestError as error:
        answer = json_error("SerializationException", error.status, f"Malformed request: {error}")
        _send(connection, answer, site.clock(), request_id, close=True)
        return False
    if request is None:
        return False
    record = Record(site.clock(), request, request_id)
    answer = site.service.answer(record)
    fault = site.faults.take(before_request=False) if request.path == site.world.session_path else None
    if fault:
        _misbehave(connection, answer, fault, record, site)
        return False
    site.keep(record)
    close = (request.value("connection") or "").lower() == "close"
    _send(connection, answer, site.clock(), request_id, close=close, head_only=request.method == "HEAD")
    return not close


def _misbehave(connection: socket.socket, answer: Answer, fault: Fault, record: Record, site: Site) -> None:
    kind, now = fault.kind, site.clock()
    if kind.replace:
        answer = kind.replace(answer, fault.values, now)
        record.answer_type = answer.error_type or record.answer_type
    record.fault = fault.name
    record.status = answer.status if kind.answers else None
    site.keep(record)
    if kind.deliver is None:
        _send(connection, answer, now, record.request_id, close=True)
        return
    length = len(answer.body) if kind.has_length else None
    head = head_bytes(answer, now=now, request_id=record.request_id, length=length, close=True)
    kind.deliver(Delivery(connection, head, answer.body, fault.values, site.stopping))


def _send(
    connection: socket.socket, answer: Answer, now: datetime, request_id: str, *, close: bool, head_only: bool = False
) -> None:
    head = head_bytes(answer, now=now, request_id=request_id, length=len(answer.body), close=close)
    connection.sendall(head if head_only else head + answer.body)
