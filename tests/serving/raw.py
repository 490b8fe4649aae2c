"""HTTP over a raw socket, for requests that no library would send."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from types import TracebackType
from typing import NamedTuple, Self


class Response(NamedTuple):
    """An answer; the names of its headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Client:
    """A connection."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.port = port
        self.sock = socket.create_connection((host, port), timeout=60)
        self._data = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.sock.close()

    def send(self, method: str, path: str, headers: Mapping[str, str] | None = None, *, version: str = "1.1") -> None:
        """Send a request with a Host header, which `headers` may replace or, as an empty text, drop."""
        named = {"Host": f"127.0.0.1:{self.port}", **(headers or {})}
        lines = [f"{method} {path} HTTP/{version}", *(f"{name}: {value}" for name, value in named.items() if value)]
        self.sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def ask(self, method: str, path: str, headers: Mapping[str, str] | None = None, **more: str) -> Response:
        """Send a request and return the answer."""
        self.send(method, path, headers, **more)
        return self.receive()

    def receive(self) -> Response:
        """Return the next answer."""
        while b"\r\n\r\n" not in self._data:
            self._read()
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = int(headers["content-length"])
        while len(self._data) < length:
            self._read()
        body, self._data = self._data[:length], self._data[length:]
        return Response(int(first.split()[1]), headers, body)

    def rest(self) -> bytes:
        """Return what comes until the server ends the connection."""
        data = self._data
        try:
            while more := self.sock.recv(65536):
                data += more
        except ConnectionResetError:
            pass
        return data

    def _read(self) -> None:
        more = self.sock.recv(65536)
        assert more, f"the connection ended after {self._data!r}"
        self._data += more
