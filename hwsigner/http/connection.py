"""Name look-up and TCP, under one deadline. TLS goes on top, in tls.py.

A socket's timeout starts again at each call, so a peer that sends byte by byte could keep it busy for ever. Here, each
call gets only the time that the deadline leaves.
"""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from hwsigner.errors import ServiceUnreachableError
from hwsigner.http.address import ip_address

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# For one of several addresses: if it drops packets, time must be left for the others. TCP resends a lost SYN after 1 s.
SHORTEST_ATTEMPT_SECONDS = 2.0
RETRY_HINT = "Retry later, or look for a proxy or firewall in between"

_AddressInfo = tuple[int, int, int, str, Any]


class Deadline:
    """The time by which an operation must end.

    Args:
        seconds: the time from now.
        flag: the flag that sets it, for messages.
        clock: returns monotonic seconds.
    """

    def __init__(self, seconds: float, flag: str = "--timeout", *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds
        self._name = f"{seconds:g} s ({flag})"

    def __str__(self) -> str:
        return self._name

    def remaining(self) -> float:
        """Return the seconds left, at least 0.0."""
        return max(0.0, self._end - self._clock())

    def within(self, seconds: float, flag: str) -> Deadline:
        """Return a deadline `seconds` from now, or this one if it is earlier."""
        return Deadline(seconds, flag, clock=self._clock) if seconds < self.remaining() else self


class Stream(Protocol):
    """A connection to a peer. Every failure or timeout raises ServiceUnreachableError."""

    def receive(self, size: int, deadline: Deadline) -> bytes:
        """Receive 1 to `size` bytes, or none at the end of the stream."""
        ...

    def send(self, data: bytes, deadline: Deadline) -> None:
        """Send all bytes."""
        ...

    def close(self) -> None:
        """Close the connection without waiting."""
        ...


class SocketStream:
    """A Stream on a connected socket, which it closes.

    Args:
        sock: the socket.
        peer: the peer's name, for messages.
    """

    def __init__(self, sock: socket.socket, peer: str) -> None:
        self._sock = sock
        self._peer = peer

    def receive(self, size: int, deadline: Deadline) -> bytes:
        """Implement Stream.receive."""
        with self._reporting(deadline):
            self._sock.settimeout(time_left(deadline, self._peer))
            return self._sock.recv(size)

    def send(self, data: bytes, deadline: Deadline) -> None:
        """Implement Stream.send."""
        with self._reporting(deadline):
            self._sock.settimeout(time_left(deadline, self._peer))
            # On a plain socket, the timeout of sendall covers the whole call.
            self._sock.sendall(data)

    def close(self) -> None:
        """Implement Stream.close."""
        self._sock.close()

    @contextmanager
    def _reporting(self, deadline: Deadline) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise timeout_error(self._peer, deadline) from error
        except OSError as error:
            problem = f"the connection to {self._peer} failed: {error.strerror}"
            raise ServiceUnreachableError(problem, RETRY_HINT) from error


class StreamReader(io.RawIOBase):
    """A Stream as the file from which http.client.HTTPResponse reads.

    Args:
        stream: the stream.
        deadline: for the whole response.
        buffer_size: how many bytes to read ahead; 1 leaves what follows the response in the stream.
    """

    def __init__(self, stream: Stream, deadline: Deadline, *, buffer_size: int = io.DEFAULT_BUFFER_SIZE) -> None:
        super().__init__()
        self._stream = stream
        self._deadline = deadline
        self._buffer_size = buffer_size

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return this file with a buffer, as socket.makefile does."""
        return io.BufferedReader(self, self._buffer_size)

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Receive bytes into a buffer and return their number."""
        view = memoryview(buffer)
        data = self._stream.receive(len(view), self._deadline)
        view[: len(data)] = data
        return len(data)


def connect(host: str, port: int, *, peer: str, deadline: Deadline) -> SocketStream:
    """Look up a host and connect to the first of its addresses that answers.

    Args:
        host: an ASCII name, or an IP address without brackets.
        port: the TCP port.
        peer: the peer's name, for messages.
        deadline: for the look-up and all attempts together.

    Raises:
        ServiceUnreachableError: no address answered in time, or the host has none.
    """
    failure: OSError | None = None
    addresses = _look_up(host, port, peer, deadline)
    for index, info in enumerate(addresses):
        left = time_left(deadline, peer)
        share = max(left / (len(addresses) - index), SHORTEST_ATTEMPT_SECONDS)
        try:
            return SocketStream(_connect_to(info, min(share, left)), peer)
        except OSError as error:
            failure = error
    if isinstance(failure, TimeoutError):
        raise timeout_error(peer, deadline) from failure
    reason = failure.strerror if failure else "it has no address"
    raise ServiceUnreachableError(
        f"can't connect to {peer}: {reason}", "Check the URL, the network and the proxy settings"
    ) from failure


def time_left(deadline: Deadline, peer: str) -> float:
    """Return the seconds left, more than 0.

    Raises:
        ServiceUnreachableError: no time is left.
    """
    seconds = deadline.remaining()
    if not seconds:
        raise timeout_error(peer, deadline)
    return seconds


def timeout_error(peer: str, deadline: Deadline) -> ServiceUnreachableError:
    """Return the error for a deadline that has passed."""
    return ServiceUnreachableError(
        f"{peer} did not answer within {deadline}", "Check the network, or allow more time with that flag"
    )


def _look_up(host: str, port: int, peer: str, deadline: Deadline) -> list[_AddressInfo]:
    # Bytes, as for text the IDNA codec would be imported, which takes milliseconds.
    look_up = partial(socket.getaddrinfo, host.encode("ascii"), port, type=socket.SOCK_STREAM)
    if ip_address(host):
        return list(look_up())
    # getaddrinfo has no time limit, so it runs in a thread that is abandoned if it takes too long.
    import threading

    found: list[_AddressInfo] = []
    failures: list[OSError] = []

    def work() -> None:
        try:
            found.extend(look_up())
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=work, name="name look-up", daemon=True)
    thread.start()
    thread.join(time_left(deadline, peer))
    if failures:
        raise ServiceUnreachableError(
            f"can't look up {host}: {failures[0].strerror}",
            "Check the name, the region, the proxy settings and this machine's DNS",
        ) from failures[0]
    if thread.is_alive():
        raise ServiceUnreachableError(
            f"looking up {host} took longer than {deadline}", "Check this machine's DNS, or allow more time"
        )
    return found


def _connect_to(info: _AddressInfo, seconds: float) -> socket.socket:
    family, kind, protocol, _, address = info
    sock = socket.socket(family, kind, protocol)
    try:
        sock.settimeout(seconds)
        sock.connect(address)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock
