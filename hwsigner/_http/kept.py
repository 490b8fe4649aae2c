"""Requests to one HTTPS server on connections that are kept for the next ones. No proxy is used."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from hwsigner._http.address import Endpoint
from hwsigner._http.connection import Deadline, connect
from hwsigner._http.tls import TlsSettings, TlsStream
from hwsigner._http.transport import Headers, Response, read_response, request_head
from hwsigner.errors import ServiceUnreachableError

# An idle connection is closed after this many seconds: less than servers and firewalls give it.
IDLE_SECONDS = 30.0


class KeptConnections:
    """The connections to a server, one for each request at a time. Thread-safe."""

    def __init__(self, endpoint: Endpoint, clock: Callable[[], float] = time.monotonic) -> None:
        self._endpoint = endpoint
        self._peer = endpoint.host_header
        self._clock = clock
        self._lock = threading.Lock()
        self._idle: list[tuple[TlsStream, TlsSettings, float]] = []

    def request(
        self, method: str, target: str, headers: Headers, body: bytes, *, tls: TlsSettings, deadline: Deadline
    ) -> Response:
        """Send a request that may be sent twice, and return its response. It is sent twice if a kept connection fails.

        Connections with another TLS context are not used any more.
        """
        sent = [("Host", self._peer), *headers, ("Content-Length", str(len(body)))]
        data = request_head(method, target, sent) + body
        if kept := self._take(tls):
            try:
                return self._exchange(method, data, kept, tls=tls, deadline=deadline)
            except ServiceUnreachableError:  # The server may have closed it, and the others too.
                self.close()
        stream = TlsStream(
            connect(self._endpoint.host, self._endpoint.port, peer=self._peer, deadline=deadline),
            tls,
            host=self._endpoint.host,
            peer=self._peer,
        )
        try:
            stream.handshake(deadline)
        except BaseException:
            stream.close()
            raise
        return self._exchange(method, data, stream, tls=tls, deadline=deadline)

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for stream, _, _ in idle:
            stream.close()

    def _exchange(
        self, method: str, data: bytes, stream: TlsStream, *, tls: TlsSettings, deadline: Deadline
    ) -> Response:
        is_kept = False
        try:
            stream.send(data, deadline)
            response = read_response(method, stream, self._peer, deadline)
            is_kept = response.keeps_open
            return response
        finally:
            if is_kept:
                with self._lock:
                    self._idle.append((stream, tls, self._clock() + IDLE_SECONDS))
            else:
                stream.close()

    def _take(self, tls: TlsSettings) -> TlsStream | None:
        """Return the connection that was used last, after closing those that are not good any more."""
        with self._lock:
            now = self._clock()
            good = [one for one in self._idle if one[1] is tls and now < one[2]]
            for stream, _, _ in set(self._idle) - set(good):
                stream.close()
            taken = good.pop()[0] if good else None
            self._idle = good
        return taken
