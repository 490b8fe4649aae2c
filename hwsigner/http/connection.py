"""Byte streams to a peer that never outlast a deadline: name look-up and TCP (TLS is layered on them by tls.py).

A socket's own timeout starts anew at each call, so a peer that drips bytes could hold it for ever. Here each call gets
what is left of one deadline.
"""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from hwsigner.errors import ServiceUnreachableError
from hwsigner.http.address import ip_address

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# Where a name has several addresses, one that swallows packets must leave time for the others; a lost SYN is sent
# again after 1 s.
SHORTEST_TRY_SECONDS = 2.0

_AddressInfo = tuple[int, int, int, str, Any]


class Deadline:
    """A moment after which nothing is waited for.

    Args:
        seconds: how far ahead it lies.
        flag: the flag that sets it, for messages.
        clock: seconds since any moment, never going back.
    """

    def __init__(self, seconds: float, flag: str = "--timeout", *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds
        self._name = f"{seconds:g} s ({flag})"

    def __str__(self) -> str:
        return self._name

    def remaining(self) -> float:
        """Return the seconds that are left, 0.0 when there are none."""
        return max(0.0, self._end - self._clock())

    def within(self, seconds: float, flag: str) -> Deadline:
        """Return this deadline, or one `seconds` from now if that is earlier."""
        return Deadline(seconds, flag, clock=self._clock) if seconds < self.remaining() else self


class Stream(Protocol):
    """A connection to a peer, as bytes; ServiceUnreachableError is raised for all that fails or takes too long."""

    def receive(self, size: int, deadline: Deadline) -> bytes:
        """Return what has come, at most `size` bytes; none at the end of the stream."""
        ...

    def send(self, data: bytes, deadline: Deadline) -> None:
        """Send all of the bytes."""
        ...

    def close(self) -> None:
        """Close the connection, waiting for nothing."""
        ...


class SocketStream:
    """A Stream on a connected socket, which it owns.

    Args:
        sock: the socket.
        peer: the name of the other end, for messages.
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
            # A socket's sendall, unlike a TLS socket's, has one time limit for the whole.
            self._sock.sendall(data)

    def close(self) -> None:
        """Implement Stream.close."""
        self._sock.close()

    @contextmanager
    def _reporting(self, deadline: Deadline) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise out_of_time(self._peer, deadline) from error
        except OSError as error:
            raise ServiceUnreachableError(
                f"the connection to {self._peer} broke: {error.strerror}",
                "Try again later, or look for what stands between",
            ) from error


class StreamReader(io.RawIOBase):
    """A Stream as the file that http.client.HTTPResponse reads its answer from.

    Args:
        stream: where the bytes come from.
        deadline: holds for all of them together.
        buffer_size: how much to read ahead, in bytes; 1 leaves what follows the answer in the stream.
    """

    def __init__(self, stream: Stream, deadline: Deadline, *, buffer_size: int = io.DEFAULT_BUFFER_SIZE) -> None:
        super().__init__()
        self._stream = stream
        self._deadline = deadline
        self._buffer_size = buffer_size

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return this file, buffered, as a socket's makefile does."""
        return io.BufferedReader(self, self._buffer_size)

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill a buffer with what has come, and return how many bytes that was."""
        view = memoryview(buffer)
        data = self._stream.receive(len(view), self._deadline)
        view[: len(data)] = data
        return len(data)


def connect(host: str, port: int, *, peer: str, deadline: Deadline) -> SocketStream:
    """Look a host up and connect to the first of its addresses that answers.

    Args:
        host: an ASCII name, or an IP address without brackets.
        port: its TCP port.
        peer: the name of the other end, for messages.
        deadline: holds for the look-up and all tries together.

    Raises:
        ServiceUnreachableError: no address answered in time, or there is none.
    """
    failure: OSError | None = None
    addresses = _look_up(host, port, peer, deadline)
    for index, info in enumerate(addresses):
        time_left(deadline, peer)
        share = deadline.remaining() / (len(addresses) - index)
        try:
            return SocketStream(_connect_to(info, min(max(share, SHORTEST_TRY_SECONDS), deadline.remaining())), peer)
        except OSError as error:
            failure = error
    if isinstance(failure, TimeoutError):
        raise out_of_time(peer, deadline) from failure
    reason = failure.strerror if failure else "it has no address"
    raise ServiceUnreachableError(
        f"can't connect to {peer}: {reason}", "Check its URL, the network and the proxy settings"
    ) from failure


def time_left(deadline: Deadline, peer: str) -> float:
    """Return the seconds that are left, more than 0.

    Raises:
        ServiceUnreachableError: there are none.
    """
    seconds = deadline.remaining()
    if not seconds:
        raise out_of_time(peer, deadline)
    return seconds


def out_of_time(peer: str, deadline: Deadline) -> ServiceUnreachableError:
    """Return what to raise when a deadline has passed."""
    return ServiceUnreachableError(
        f"{peer} did not answer within {deadline}", "Check the network, or allow more time with that flag"
    )


def _look_up(host: str, port: int, peer: str, deadline: Deadline) -> list[_AddressInfo]:
    if ip_address(host):
        return list(socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM))
    # getaddrinfo can't be given a time limit, so it is left behind in its thread when it takes too long.
    import threading

    found: list[_AddressInfo] = []
    failures: list[OSError] = []

    def work() -> None:
        try:
            # As bytes: text would go through the IDNA codec, whose import takes milliseconds.
            found.extend(socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM))
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=work, name="name look-up", daemon=True)
    thread.start()
    thread.join(time_left(deadline, peer))
    if failures:
        raise ServiceUnreachableError(
            f"can't look up {host}: {failures[0].strerror}", "Check the name, the region and this machine's DNS"
        ) from failures[0]
    if thread.is_alive():
        raise ServiceUnreachableError(
            f"the look-up of {host} took longer than {deadline}", "Check this machine's DNS, or allow more time"
        )
    return found


def _connect_to(info: _AddressInfo, seconds: float) -> socket.socket:
    family, kind, protocol, _, address = info
    sock = socket.socket(family, kind, protocol)
    try:
        # 0 would not mean "no time" but "do not wait".
        sock.settimeout(seconds or 1e-3)
        sock.connect(address)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock
