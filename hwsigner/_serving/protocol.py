"""HTTP/1.1 on a connection, on httptools' parser, with bounds on bytes, headers, time and requests sent ahead."""

from __future__ import annotations

import asyncio
from collections import deque
from http import HTTPStatus
from typing import cast
from urllib.parse import unquote

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from hwsigner._serving.admission import HTTPRequest
from hwsigner._serving.application import Application
from hwsigner._serving.connections import Connections
from hwsigner._serving.peer import Peer
from hwsigner._serving.responses import HTTPRefusal, HTTPResponse

# Of a request's head, and of what arrives with it.
MAX_BYTES = 16384
MAX_HEADERS = 64
# Requests that wait behind the one that is being answered.
MAX_QUEUED = 2


class ClientConnection(asyncio.Protocol):
    """A connection: reads requests, and writes their responses in order."""

    def __init__(self, application: Application, connections: Connections) -> None:
        self._application = application
        self._connections = connections
        self._parser = HttpRequestParser(self)
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._unparsed = 0  # Bytes since the last whole head.
        self._queue: deque[HTTPRequest] = deque()
        self._is_paused = self._is_ending = False
        # Gives the response that is being waited for.
        self._task: asyncio.Task[HTTPResponse] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Account for the connection. Called by the event loop, like the next four methods."""
        self._transport = cast(asyncio.Transport, transport)
        self._peer = Peer(transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection, and the request that waits."""
        self._connections.remove(self)
        if self._task:
            self._task.cancel()
        del self._parser  # It refers to this object, which would not be freed at once.

    def data_received(self, data: bytes) -> None:
        """Read requests and answer them."""
        self._unparsed += len(data)
        try:
            if self._unparsed > MAX_BYTES:
                raise HTTPRefusal(HTTPStatus.BAD_REQUEST, f"the request is over {MAX_BYTES} bytes long")
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            pass  # The request is answered as if it had not asked for another protocol.
        except (HttpParserError, HTTPRefusal) as error:
            # The parser's own error hides a refusal that a method of ours has raised.
            cause = error if isinstance(error, HTTPRefusal) else error.__context__
            if not isinstance(cause, HTTPRefusal):
                cause = HTTPRefusal(HTTPStatus.BAD_REQUEST, "the request is not valid HTTP")
            self.refuse(cause)
            return
        self._answer()

    def pause_writing(self) -> None:
        """Stop reading from a client that does not read its responses."""
        self._is_paused = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Continue to read requests and to answer them."""
        self._is_paused = False
        self._transport.resume_reading()
        self._answer()

    def on_url(self, part: bytes) -> None:
        """Add a part of the request's target. Called by the parser, like the next two methods."""
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header."""
        if len(self._headers) >= MAX_HEADERS:
            raise HTTPRefusal(HTTPStatus.BAD_REQUEST, f"the request has over {MAX_HEADERS} headers")
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Queue the request."""
        if len(self._queue) > MAX_QUEUED - (self._task is not None):
            raise HTTPRefusal(HTTPStatus.BAD_REQUEST, "too many requests were sent ahead")
        parser, path = self._parser, self._target.partition(b"?")[0].decode("latin-1")
        keeps_open = parser.should_keep_alive() and parser.get_http_version() == "1.1"
        path = unquote(path) if "%" in path else path
        self._queue.append(HTTPRequest(parser.get_method().decode(), path, self._headers, keeps_open, self._peer))
        self._target, self._headers, self._unparsed = b"", [], 0

    def drop(self) -> None:
        """Close the connection now, without a response."""
        self._transport.abort()

    def end(self) -> None:
        """Close the connection, after the response that is being waited for, if any."""
        self._is_ending = True
        if self._task is None:
            self._transport.close()

    def refuse(self, refusal: HTTPRefusal) -> None:
        """Send a refusal instead of the responses that are due, and close the connection."""
        self._send(self._application.refuse(refusal, self._peer))
        self._connections.rest(self)

    def _answer(self) -> None:
        """Answer requests in order, until one has to wait or the client does not read."""
        while self._queue and self._task is None and not self._is_paused and not self._transport.is_closing():
            request = self._queue.popleft()
            response = self._application.respond(request)
            if isinstance(response, HTTPResponse):
                self._send(response if request.keeps_open else response.closing())
            else:
                self._is_ending = not request.keeps_open
                self._task = asyncio.ensure_future(response)
                self._task.add_done_callback(self._finish)
        if self._task:
            self._connections.answer(self)
        elif self._unparsed:
            self._connections.receive(self)
        else:
            self._connections.rest(self)

    def _finish(self, task: asyncio.Task[HTTPResponse]) -> None:
        self._task = None
        if not self._transport.is_closing():  # Else the client has left, or was refused.
            self._send(task.result().closing() if self._is_ending else task.result())
            self._answer()

    def _send(self, response: HTTPResponse) -> None:
        self._application.sent[response.data[9:12]] += 1
        self._transport.write(response.data)
        if response.closes:
            self._transport.close()
