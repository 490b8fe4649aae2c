"""uvicorn's HTTP/1.1, with bounds that it lacks: on the bytes of a request, on its time, on requests that queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from hwsigner.http.address import host_and_port
from hwsigner.serving.connections import Connections
from hwsigner.serving.known import CONNECTION, Known

# Of a request's head, and of what arrives with it.
MAX_BYTES = 16384
MAX_HEADERS = 64
MAX_QUEUED = 2


class BoundedProtocol(HttpToolsProtocol):
    """One connection.

    Args:
        connections: keeps account of it.
        log: takes a line for each refusal.
        app_state: uvicorn's; each connection has its own instead.
        others: what else uvicorn gives.
    """

    def __init__(
        self, *, connections: Connections, log: Callable[[str], None], app_state: dict[str, Any], **others: Any
    ) -> None:
        self._known = Known()
        # The last request that went to the application: its method, target and headers.
        self._head: tuple[bytes, bytes, list[tuple[bytes, bytes]]] = (b"", b"", [])
        super().__init__(app_state={CONNECTION: self._known}, **others)
        self._accounts = connections
        self._log = log
        self._unparsed = 0
        self._owes = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Take the connection in."""
        super().connection_made(transport)
        self._accounts.add(self)

    def data_received(self, data: bytes) -> None:
        """Parse what has come, unless it is too much."""
        self._unparsed += len(data)
        if self._unparsed > MAX_BYTES:
            self.send_400_response("The request is too long.")
            return
        super().data_received(data)
        if self._unparsed:
            self._owes = True
            self._accounts.expect(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, unless there are too many: each costs more than its bytes."""
        if len(self.headers) >= MAX_HEADERS:
            raise ValueError("there are too many headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer a request."""
        self._unparsed = 0
        if self._owes:
            self._owes = False
            self._accounts.settle(self)
        head = self.parser.get_method(), self.url, self.headers
        if head == self._head and self._answer_again():
            return
        self._head = head
        if len(self.pipeline) >= MAX_QUEUED:
            raise ValueError("too many requests wait for their turn")
        super().on_headers_complete()

    def _answer_again(self) -> bool:
        """Answer the last request, which has come again, past the application, and return True; False if it can't be.

        Only what the application let in is answered, and only where no other answer and no end is due.
        """
        known = self._known
        if known.now is None or known.headers is not self._head[2] or not self.is_idle() or self.pipeline:
            return False
        if self.flow.write_paused or self.parser.get_http_version() != "1.1" or not self.parser.should_keep_alive():
            return False
        try:
            answer = known.now()
        except Exception:  # The application meets it as well, and answers.
            return False
        if answer is None or self.transport.is_closing():
            return False
        self.transport.write(answer.wire)
        self.on_response_complete()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._accounts.remove(self)
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, or too much."""
        if not self.transport.is_closing():
            client = host_and_port(*self.client) if self.client else "a client"
            self._log(f"refused {client}: 400, {msg}")
            super().send_400_response(msg)

    def is_idle(self) -> bool:
        """Implement Connection.is_idle."""
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request, other than its type says.
        return cycle is None or cycle.response_complete

    def drop(self) -> None:
        """Implement Connection.drop."""
        self.transport.abort()
