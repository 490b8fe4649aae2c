"""A server of HTTP on sockets, until it is told to stop. It then answers the requests that it has, and ends."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from hwsigner.errors import HwsignerError, install_command

try:
    import uvloop

    from hwsigner._serving.protocol import ClientConnection
except ImportError as error:
    raise HwsignerError(f"serving HTTP needs {error.name}", f"Run {install_command('serve')}") from error

from hwsigner._serving.application import Application
from hwsigner._serving.connections import Connections, most_connections
from hwsigner._serving.listener import BACKLOG

# For the responses that are due when the server is told to stop.
DRAIN_SECONDS = 2.0
HANDSHAKE_SECONDS = 5.0


class HTTPServer:
    """A server.

    The sockets are closed at the end. `most` is how many connections there may be; None for as many as there is room
    for.
    """

    def __init__(
        self,
        application: Application,
        sockets: Sequence[socket.socket],
        *,
        log: Callable[[str], None],
        tls: ssl.SSLContext | None = None,
        most: int | None = None,
    ) -> None:
        self._application = application
        self._sockets = sockets
        self._log = log
        self._tls: dict[str, Any] = {"ssl": tls, "ssl_handshake_timeout": HANDSHAKE_SECONDS} if tls else {}
        self._most = most
        self.is_stopped = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()

    def run(self) -> None:
        """Serve until `stop` is called."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.get_loop().set_exception_handler(self._note)
            runner.run(self._serve())

    def stop(self) -> None:
        """Let `run` end soon. May be called from any thread or signal handler, and before `run`."""
        self.is_stopped = True
        if self._loop:
            with suppress(RuntimeError):  # It has ended.
                self._loop.call_soon_threadsafe(self._wake.set)

    def is_running(self, seconds: float) -> bool:
        """Return whether the event loop runs a call within this time. For other threads."""
        done = threading.Event()
        try:
            if self._loop:
                self._loop.call_soon_threadsafe(done.set)
        except RuntimeError:  # It has ended.
            return False
        return done.wait(seconds)

    async def _serve(self) -> None:
        self._loop = loop = asyncio.get_running_loop()
        connections = Connections(most_connections() if self._most is None else self._most)

        def connect() -> ClientConnection:
            return ClientConnection(self._application, connections)

        servers = [
            await (loop.create_unix_server if sock.family == socket.AF_UNIX else loop.create_server)(
                connect, sock=sock, backlog=BACKLOG, **self._tls
            )
            for sock in self._sockets
        ]
        if not self.is_stopped:
            await self._wake.wait()
        # Connections that wait would be reset. Of a shared address, the other process gets those that come later.
        copies = [sock.dup() for sock in self._sockets]
        for server in servers:
            server.close()
        for copy in copies:
            with copy, suppress(OSError):
                while True:
                    await loop.connect_accepted_socket(connect, copy.accept()[0], **self._tls)
        await connections.drain(DRAIN_SECONDS)

    def _note(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # A traceback could show a secret.
        error = context.get("exception")
        if not isinstance(error, OSError):  # Those are of clients that have left.
            self._log(f"internal error: {type(error).__name__} in a connection. Please report it")
