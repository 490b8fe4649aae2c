"""Runs an application on sockets until it is told to stop; then it answers what it has begun, and ends."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from hwsigner.errors import HwsignerError
from hwsigner.serving.connections import Connections, most_connections

try:
    import httptools  # noqa: F401  what the protocol runs on
    import uvicorn
    import uvloop
except ImportError as error:
    raise HwsignerError(f"serving HTTP needs {error.name}", "pip install 'hwsigner[serve]' brings it") from error

from hwsigner.serving.protocol import BoundedProtocol

# Of a connection between two requests.
IDLE_SECONDS = 30
# For the answers that have begun when the server is told to stop.
DRAIN_SECONDS = 2
HANDSHAKE_SECONDS = 5.0


class Server:
    """A server.

    Args:
        application: an ASGI application.
        sockets: what to listen on; closed at the end.
        log: takes a line for each refusal of what is no request.
        tls: for HTTPS.
    """

    def __init__(
        self,
        application: Any,
        sockets: Sequence[socket.socket],
        *,
        log: Callable[[str], None],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._sockets = list(sockets)
        self._log = log
        http: Any = partial(BoundedProtocol, connections=Connections(most=most_connections()), log=log)
        self._uvicorn = _Uvicorn(
            uvicorn.Config(
                application,
                http=http,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                log_level="critical",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                timeout_keep_alive=IDLE_SECONDS,
                timeout_graceful_shutdown=DRAIN_SECONDS,
                ssl_context_factory=(lambda *_: tls) if tls else None,
            )
        )

    def run(self) -> None:
        """Serve until `stop` is called."""
        with asyncio.Runner(loop_factory=_Loop) as runner:
            runner.get_loop().set_exception_handler(self._note)
            runner.run(self._uvicorn.serve(self._sockets))

    def stop(self) -> None:
        """Let `run` end soon; from any thread, or a signal's handler, and before `run` is called as well."""
        self._uvicorn.stop()

    def _note(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # A traceback could show a secret.
        error = context.get("exception")
        if not isinstance(error, OSError):  # Those are of clients that are gone.
            self._log(f"internal error: {type(error).__name__} in a connection. Please report it")


class _Uvicorn(uvicorn.Server):
    """Leaves signals to the program, and sleeps until it is told to stop."""

    _told: asyncio.Event | None = None
    _loop: asyncio.AbstractEventLoop | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        self._loop, self._told = asyncio.get_running_loop(), asyncio.Event()
        if not self.should_exit:
            await self._told.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.server_state.connections:
            await super().shutdown(sockets)
            return
        # The library would sleep for a tenth of a second, which the user of `exec` waits for.
        for server in (*self.servers, *(sockets or ())):
            server.close()

    def stop(self) -> None:
        self.should_exit = True
        if self._loop and self._told:
            with suppress(RuntimeError):  # It has ended already.
                self._loop.call_soon_threadsafe(self._told.set)


class _Loop(uvloop.Loop):
    """Gives a TLS handshake as long as a request, where uvicorn would leave it a minute."""

    async def create_server(self, *arguments: Any, **options: Any) -> Any:
        if options.get("ssl"):
            options["ssl_handshake_timeout"] = HANDSHAKE_SECONDS
        return await super().create_server(*arguments, **options)
