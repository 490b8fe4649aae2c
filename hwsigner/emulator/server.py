"""The emulator as a server on the loopback interface: connections, requests, responses and faults."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shutil
import socket
import ssl
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Self

from hwsigner.emulator.faults import Delivery, Fault, FaultQueue
from hwsigner.emulator.record import Record
from hwsigner.emulator.refusals import json_error
from hwsigner.emulator.service import CREATE_SESSION, EmulatedService
from hwsigner.emulator.tls import make_tls
from hwsigner.emulator.vault import check_action
from hwsigner.emulator.wire import MalformedRequestError, Response, read_request
from hwsigner.emulator.world import World
from hwsigner.errors import HwsignerError, UsageError

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_IDLE_SECONDS = 120.0
_JOIN_SECONDS = 2.0
_PAUSE_SECONDS = 0.05
_BACKLOG = 128


class Listener:
    """Accepts connections, and tracks them so that stop() can close them at once.

    The serve_forever() of socketserver only polls whether to stop.
    """

    def __init__(self, address: tuple[str, int], serve: Callable[[socket.socket, threading.Event], None]) -> None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.socket = socket.create_server(address, family=family, backlog=_BACKLOG)
        self._serve_connection = serve
        self._stopping = threading.Event()
        self._open: dict[threading.Thread, socket.socket] = {}
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def stop(self) -> None:
        """Stop accepting, shut down every open connection, and wait for their threads."""
        self._stopping.set()
        self.socket.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self.socket.close()
        for thread, connection in self._open.items():
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            thread.join(_JOIN_SECONDS)

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self.socket.accept()
            except OSError:
                # Stopped, or out of file descriptors. In the latter case, others may be closed soon.
                self._stopping.wait(_PAUSE_SECONDS)
                continue
            # TLS takes over the first descriptor. Shutting down this duplicate ends both.
            duplicate = connection.dup()
            thread = threading.Thread(target=self._serve, args=(connection, duplicate), daemon=True)
            self._open = {each: opened for each, opened in self._open.items() if each.is_alive()} | {thread: duplicate}
            thread.start()

    def _serve(self, connection: socket.socket, duplicate: socket.socket) -> None:
        with duplicate:
            self._serve_connection(connection, self._stopping)


def utc_now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


class Emulator:
    """A local IAM Roles Anywhere, IAM and STS, over HTTP or HTTPS, that verifies requests to any service.

    Use it in a `with` statement, or call start() and stop().

    Args:
        world: the resources of the account.
        tls: whether to serve HTTPS, with a CA made for this run.
        host_names: more names for the server's certificate, besides those of the loopback interface.
        address: a loopback host and a port. Port 0 is any free port.
        clock: returns the time, aware and in UTC.

    Attributes:
        requests: the record of each request, oldest first. It is added before the client gets its response.
        on_record: called with each record, in the connection's thread.
        ca_file: the PEM file of the CA to trust, or None without TLS. stop() deletes it.
    """

    def __init__(
        self,
        world: World,
        *,
        tls: bool = False,
        host_names: Iterable[str] = (),
        address: tuple[str, int] = ("127.0.0.1", 0),
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        if not _is_loopback(address[0]):
            raise UsageError(f"{address[0]} is not a loopback address", "Give 127.0.0.1, ::1 or localhost")
        self.world = world
        self.requests: list[Record] = []
        self.on_record: Callable[[Record], None] | None = None
        self.ca_file: Path | None = None
        self._clock = clock
        self._tls = tls
        self._host_names = dict.fromkeys((*LOOPBACK_NAMES, *host_names))
        self._address = address
        self._service = EmulatedService(world, clock)
        self._faults = FaultQueue()
        self._listener: Listener | None = None
        self._context: ssl.SSLContext | None = None
        self._folder: Path | None = None

    def start(self) -> None:
        """Make the TLS certificates, listen, and serve in background threads.

        Raises:
            HwsignerError: the address can't be listened on.
        """
        if self._tls:
            self._folder = Path(tempfile.mkdtemp(prefix="hwsigner-emulator-"))
            self._context, self.ca_file = make_tls(self._folder, self._host_names)
        try:
            self._listener = Listener(self._address, self._serve)
        except OSError as error:
            self.stop()
            host, port = self._address
            problem = f"can't listen on {host} port {port}: {os.strerror(error.errno or 0)}"
            raise HwsignerError(problem, "Choose another port") from error

    def stop(self) -> None:
        """Close every connection, even stalled ones, and delete the temporary folder."""
        if self._listener:
            self._listener.stop()
        if self._folder:
            shutil.rmtree(self._folder)
        self._listener = self._folder = None

    def misbehave(self, *faults: Fault, action: str = CREATE_SESSION) -> None:
        """Queue faults. Each applies to the next requests of an action, then the next one does.

        Args:
            faults: the faults, in order.
            action: what the requests ask for, such as "iam:CreateRole", "rolesanywhere:*" or "*".

        Raises:
            UsageError: the action is malformed, or a fault is for CreateSession only.
        """
        for fault in faults:
            if fault.kind.sessions_only and action != CREATE_SESSION:
                raise UsageError(f"the fault {fault.name} is for CreateSession only", "Leave the action out")
        self._faults.add(*faults, action=check_action(action))

    def clear_faults(self) -> None:
        """Drop all queued faults."""
        self._faults.clear()

    def deny(self, *actions: str, by: str = "identity-based policy") -> None:
        """Refuse actions of IAM and of the control plane, as AWS does if no policy of the caller allows them.

        Args:
            actions: such as "iam:CreateRole", "iam:PassRole" (for CreateProfile and UpdateProfile) or
                "rolesanywhere:*".
            by: what does not allow them, as AWS's message names it, such as "permissions boundary".

        Raises:
            UsageError: one is malformed.
        """
        self.world.denied.update(dict.fromkeys(map(check_action, actions), by))

    def allow(self) -> None:
        """Allow all actions again."""
        self.world.denied.clear()

    def add_credentials(
        self,
        access_key_id: str,
        secret_access_key: str,
        session_token: str | None = None,
        *,
        account: str | None = None,
    ) -> None:
        """Accept requests signed with these credentials, besides those that CreateSession issues.

        Args:
            access_key_id: 1 to 128 letters and digits. It replaces credentials that were added with the same ID.
            secret_access_key: the secret.
            session_token: must be sent with each request; None if the credentials have none.
            account: whose resources the control plane shows them: twelve digits. Default: the world's account.

        Raises:
            UsageError: a value is malformed.
        """
        account = self.world.account if account is None else account
        self._service.vault.add(access_key_id, secret_access_key, session_token, account)

    @property
    def url(self) -> str:
        """The endpoint, without a trailing slash.

        Raises:
            HwsignerError: the emulator is not running.
        """
        if self._listener is None:
            raise HwsignerError("the emulator is not running", "Start it first")
        host, port = self._listener.socket.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        return f"{'https' if self._tls else 'http'}://{shown}:{port}"

    @property
    def trust_anchor_arn(self) -> str:
        """The ARN of the first trust anchor. A HwsignerError says that there is none."""
        return _first("trust anchor", self.world.trust_anchors)

    @property
    def profile_arn(self) -> str:
        """The ARN of the first profile. A HwsignerError says that there is none."""
        return _first("profile", self.world.profiles)

    @property
    def role_arn(self) -> str:
        """The ARN of the first role. A HwsignerError says that there is none."""
        return _first("role", self.world.roles)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _serve(self, connection: socket.socket, stopping: threading.Event) -> None:
        """Serve a connection until the client, a fault or stop() ends it, then close it."""
        connection.settimeout(_IDLE_SECONDS)
        try:
            # TLS sends tickets and the first response apart, and the client delays its acknowledgement by 40 ms.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            fault = self._faults.take(None)
            if fault and fault.kind.deliver:
                fault.kind.deliver(Delivery(connection, b"", b"", fault.values, stopping))
                return
            if self._context:
                # It takes over the descriptor, so only the new object needs to be closed.
                connection = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
                connection.do_handshake()
            with connection.makefile("rb") as stream:
                while not stopping.is_set() and self._serve_request(connection, stream, stopping):
                    pass
        except OSError:
            pass  # The client has gone, or does not trust the certificate.
        finally:
            connection.close()

    def _serve_request(self, connection: socket.socket, stream: BinaryIO, stopping: threading.Event) -> bool:
        """Serve one request, and return whether another may follow."""
        request_id = str(uuid.uuid4())
        try:
            request = read_request(stream, connection.sendall)
        except MalformedRequestError as error:
            response = json_error("SerializationException", error.status, f"Malformed request: {error}")
            length = len(response.body)
            head = response.head(now=self._clock(), request_id=request_id, length=length, close=True)
            connection.sendall(head + response.body)
            return False
        if request is None:
            return False
        record = Record(self._clock(), request, request_id, self._service.action(request))
        fault = self._faults.take(record.action)
        response = self._service.respond(record, act=fault is None or fault.kind.acts)
        if fault:
            self._misbehave(connection, response, fault, record, stopping)
            return False
        self._store(record)
        close = (request.value("connection") or "").lower() == "close"
        head = response.head(now=self._clock(), request_id=request_id, length=len(response.body), close=close)
        connection.sendall(head if request.method == "HEAD" else head + response.body)
        return not close

    def _misbehave(
        self, connection: socket.socket, response: Response, fault: Fault, record: Record, stopping: threading.Event
    ) -> None:
        """Respond to one request as the fault demands."""
        kind, now = fault.kind, self._clock()
        if kind.error:
            response = self._service.refuse(record, kind.error(fault.values))
        if kind.replace:
            response = kind.replace(response, fault.values, now)
        if kind.error or kind.replace:
            record.answer_type = response.error_type or record.answer_type
        record.fault = fault.name
        record.status = response.status if kind.responds else None
        self._store(record)
        length = len(response.body) if kind.has_length else None
        head = response.head(now=now, request_id=record.request_id, length=length, close=True)
        if kind.deliver is None:
            connection.sendall(head + response.body)
        else:
            kind.deliver(Delivery(connection, head, response.body, fault.values, stopping))

    def _store(self, record: Record) -> None:
        self.requests.append(record)
        if self.on_record:
            self.on_record(record)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _first(kind: str, resources: Mapping[str, object]) -> str:
    if not resources:
        raise HwsignerError(f"the emulator has no {kind}", "Add one to its world")
    return next(iter(resources))
