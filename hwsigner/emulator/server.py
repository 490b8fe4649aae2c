"""The emulator as a server on the loopback interface."""

from __future__ import annotations

import contextlib
import ipaddress
import shutil
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from hwsigner.emulator.connection import Site, serve_connection
from hwsigner.emulator.faults import Fault, FaultQueue
from hwsigner.emulator.record import Record
from hwsigner.emulator.service import Service
from hwsigner.emulator.tls import make_tls
from hwsigner.emulator.world import World
from hwsigner.errors import HwsignerError, UsageError

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_JOIN_SECONDS = 2.0
_PAUSE_SECONDS = 0.05
_BACKLOG = 128


def utc_now() -> datetime:
    """Return the present time, aware and in UTC."""
    return datetime.now(UTC)


class Emulator:
    """A local CreateSession and sts:GetCallerIdentity, on HTTP or HTTPS, that verifies requests of any service.

    Use it in a `with` statement, or call start() and stop().

    Args:
        world: what the account holds.
        tls: whether to serve HTTPS, with a CA made for this run.
        host_names: further names that the server's certificate is for, besides those of the loopback interface.
        address: a loopback host and a port; port 0 takes a free one.
        clock: tells the time, aware and in UTC.

    Attributes:
        requests: a record of each request, oldest first; it is there before the client has its answer.
        on_record: called with each record, from the connection's thread.
        ca_file: the PEM of the CA to trust, or None without TLS; gone after stop().
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
            raise UsageError(
                f"{address[0]} is not a loopback address", "The emulator serves 127.0.0.1, ::1 or localhost"
            )
        self.world = world
        self.requests: list[Record] = []
        self.on_record: Callable[[Record], None] | None = None
        self.ca_file: Path | None = None
        self._clock = clock
        self._tls = tls
        self._host_names = dict.fromkeys((*LOOPBACK_NAMES, *host_names))
        self._address = address
        self._service = Service(world, clock)
        self._faults = FaultQueue()
        self._server: _Server | None = None
        self._folder: Path | None = None

    def start(self) -> None:
        """Make the TLS certificates, listen, and serve in threads of its own.

        Raises:
            HwsignerError: the address can't be listened on.
        """
        context = self._make_tls() if self._tls else None
        site = Site(self.world, self._clock, self._service, self._faults, self._keep, context)
        try:
            self._server = _Server(self._address, site)
        except OSError as error:
            self.stop()
            host, port = self._address
            raise HwsignerError(
                f"can't listen on {host} port {port}: {error.strerror}", "Choose another port"
            ) from error

    def stop(self) -> None:
        """Stop serving: end every connection, stalled ones too, and remove the temporary folder."""
        if self._server:
            self._server.end()
        if self._folder:
            shutil.rmtree(self._folder)
        self._server = self._folder = None

    def misbehave(self, *faults: Fault) -> None:
        """Put faults in the queue: each applies to the next CreateSession requests, then the next fault does."""
        self._faults.add(*faults)

    def behave(self) -> None:
        """Forget all faults that are still in the queue."""
        self._faults.clear()

    def add_credentials(self, access_key_id: str, secret_access_key: str, session_token: str | None = None) -> None:
        """Let requests be signed with these credentials too, besides those that CreateSession vends.

        Args:
            access_key_id: 1 to 128 letters and digits; credentials that were added under it are replaced.
            secret_access_key: the secret.
            session_token: must be sent with each request; None for credentials that have none.

        Raises:
            UsageError: a value of the wrong form.
        """
        self._service.vault.add(access_key_id, secret_access_key, session_token)

    def _make_tls(self) -> ssl.SSLContext:
        self._folder = Path(tempfile.mkdtemp(prefix="hwsigner-emulator-"))
        context, self.ca_file = make_tls(self._folder, self._host_names)
        return context

    def _keep(self, record: Record) -> None:
        self.requests.append(record)
        if self.on_record:
            self.on_record(record)

    @property
    def url(self) -> str:
        """The endpoint, without a slash at its end.

        Raises:
            HwsignerError: the emulator does not run.
        """
        if self._server is None:
            raise HwsignerError("the emulator does not run", "Start it first")
        host, port = self._server.listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        return f"{'https' if self._tls else 'http'}://{shown}:{port}"

    @property
    def trust_anchor_arn(self) -> str:
        """The first trust anchor's ARN."""
        return next(iter(self.world.trust_anchors))

    @property
    def profile_arn(self) -> str:
        """The first profile's ARN."""
        return next(iter(self.world.profiles))

    @property
    def role_arn(self) -> str:
        """The first role's ARN."""
        return next(iter(self.world.roles))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


class _Server:
    """Accepts connections and keeps each at hand, so that stopping can end it.

    socketserver's serve_forever() looks only now and then whether it should stop; this ends at once.
    """

    def __init__(self, address: tuple[str, int], site: Site) -> None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.listener = socket.create_server(address, family=family, backlog=_BACKLOG)
        self._site = site
        self._open: dict[threading.Thread, socket.socket] = {}
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def end(self) -> None:
        """Accept no more, shut every open connection down, and wait for their threads."""
        self._site.stopping.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self.listener.close()
        for thread, connection in self._open.items():
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            thread.join(_JOIN_SECONDS)

    def _accept(self) -> None:
        while not self._site.stopping.is_set():
            try:
                connection, _ = self.listener.accept()
            except OSError:
                # Stopped, or out of file descriptors: then others may soon be closed.
                self._site.stopping.wait(_PAUSE_SECONDS)
                continue
            # A duplicate: TLS takes the first descriptor over, and shutting this one down ends both.
            handle = connection.dup()
            thread = threading.Thread(target=self._serve, args=(connection, handle), daemon=True)
            self._open = {each: opened for each, opened in self._open.items() if each.is_alive()} | {thread: handle}
            thread.start()

    def _serve(self, connection: socket.socket, handle: socket.socket) -> None:
        with handle:
            serve_connection(connection, self._site)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
