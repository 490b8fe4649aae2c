"""The way to a peer: the proxy, name look-up and TCP, under one deadline. TLS goes on top, in tls.py.

The proxy is chosen from HTTPS_PROXY, HTTP_PROXY and NO_PROXY, as Go's net/http does. A variable in upper case takes
precedence over the same one in lower case. HTTP_PROXY is ignored if REQUEST_METHOD is set: in a CGI program, it holds
the `Proxy` header of a client.

A socket's timeout starts again at each call, so a peer that sends byte by byte could keep it busy for ever. Here, each
call gets only the time that the deadline leaves.
"""

from __future__ import annotations

import io
import ipaddress
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from hwsigner._http.address import DEFAULT_PORTS, Endpoint, host_and_port, ip_address, is_loopback, parse_host
from hwsigner.errors import ServiceUnreachableError, UsageError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# For one of several addresses: if it drops packets, time must be left for the others. TCP resends a lost SYN after 1 s.
SHORTEST_ATTEMPT_SECONDS = 2.0
RETRY_HINT = "Retry later, or look for a proxy or firewall in between"

_AddressInfo = tuple[int, int, int, str, Any]


class Deadline:
    """The time by which an operation must end. `flag` is the flag that sets it, for messages."""

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
    """A Stream on a connected socket, which it closes."""

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

    A buffer of 1 byte leaves what follows the response in the stream.
    """

    def __init__(self, stream: Stream, deadline: Deadline, *, buffer_size: int = io.DEFAULT_BUFFER_SIZE) -> None:
        super().__init__()
        self._stream = stream
        self._deadline = deadline
        self._buffer_size = buffer_size
        self.ended = False

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
        self.ended = not data
        return len(data)


def connect(host: str, port: int, *, peer: str, deadline: Deadline) -> SocketStream:
    """Look up a host and connect to the first of its addresses that answers.

    The deadline is for the look-up and all attempts together. An IP address has no brackets.
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
    problem = f"can't connect to {peer}: {reason}"
    raise ServiceUnreachableError(problem, "Check the URL, the network and the proxy settings") from failure


def time_left(deadline: Deadline, peer: str) -> float:
    """Return the seconds left, more than 0. If no time is left, raise a ServiceUnreachableError."""
    seconds = deadline.remaining()
    if not seconds:
        raise timeout_error(peer, deadline)
    return seconds


def timeout_error(peer: str, deadline: Deadline) -> ServiceUnreachableError:
    """Return the error for a deadline that has passed."""
    problem = f"{peer} did not answer within {deadline}"
    return ServiceUnreachableError(problem, "Check the network, or allow more time with that flag")


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
        hint = "Check the name, the region, the proxy settings and this machine's DNS"
        raise ServiceUnreachableError(f"can't look up {host}: {failures[0].strerror}", hint) from failures[0]
    if thread.is_alive():
        problem = f"looking up {host} took longer than {deadline}"
        raise ServiceUnreachableError(problem, "Check this machine's DNS, or allow more time")
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


class Proxy:
    """A proxy for requests.

    Attributes:
        scheme: how to connect to the proxy itself, `http` or `https`.
        host: a name, or an IP address without brackets.
        port: the port, also if it is the scheme's default.
        variable: the environment variable that names this proxy.
        authorization: the value of `Proxy-Authorization`, or None. Secret.
    """

    def __init__(self, scheme: str, host: str, port: int, variable: str, authorization: str | None = None) -> None:
        self.scheme: Final = scheme
        self.host: Final = host
        self.port: Final = port
        self.variable: Final = variable
        self.authorization: Final = authorization

    def __str__(self) -> str:
        return f"{self.scheme}://{host_and_port(self.host, self.port)} ({self.variable})"


def find_proxy(endpoint: Endpoint, environ: Mapping[str, str]) -> Proxy | None:
    """Return the proxy for requests to an endpoint, or None to connect directly.

    The error for a malformed variable does not show its value, which may contain a password.
    """
    if endpoint.scheme == "http" and environ.get("REQUEST_METHOD"):
        names: tuple[str, ...] = ("http_proxy",)
    else:
        names = (f"{endpoint.scheme.upper()}_PROXY", f"{endpoint.scheme}_proxy")
    variable = next((name for name in names if environ.get(name)), None)
    exceptions = environ.get("NO_PROXY") or environ.get("no_proxy") or ""
    if variable is None or bypasses(endpoint.host, endpoint.port, exceptions):
        return None
    return _parse(variable, environ[variable])


def bypasses(host: str, port: int, exceptions: str) -> bool:
    """Return whether to connect to a host without a proxy: it is this machine, or NO_PROXY lists it.

    Args:
        host: a name in lower case, or an IP address without brackets.
        port: its port.
        exceptions: the value of NO_PROXY, a comma-separated list: `*` (every host), `example.com` (the name and its
            subdomains), `.example.com` or `*.example.com` (subdomains only), IP addresses and CIDR blocks. All but
            blocks may have a `:port`.
    """
    if is_loopback(host):
        return True
    entries = (entry.strip().lower() for entry in exceptions.split(","))
    return any(entry == "*" or _covers(entry, host, port) for entry in entries)


def _covers(entry: str, host: str, port: int) -> bool:
    address = ip_address(host)
    block = _block(entry)
    if block is not None:
        return address is not None and address in block
    name, only_port = _split_port(entry)
    if only_port and only_port != str(port):
        return False
    if (excepted := ip_address(name)) is not None:
        return address == excepted
    name = name.removeprefix("*") if name.startswith("*.") else name
    if name.startswith("."):
        return host.endswith(name)
    return name != "" and (host == name or host.endswith(f".{name}"))


def _block(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    start, slash, length = entry.partition("/")
    if not slash or not length.isdecimal():
        return None
    try:
        return ipaddress.ip_network(f"{start}/{length}", strict=False)
    except ValueError:
        return None


def _split_port(entry: str) -> tuple[str, str]:
    if entry.startswith("["):
        name, _, port = entry[1:].partition("]")
        return name, port.removeprefix(":")
    if entry.count(":") == 1:
        name, _, port = entry.partition(":")
        return name, port
    return entry, ""


def _parse(variable: str, value: str) -> Proxy:
    scheme, separator, rest = value.partition("://")
    if not separator:
        scheme, rest = "http", value
    scheme = scheme.lower()
    if scheme not in DEFAULT_PORTS:
        raise UsageError(f"{variable} names a proxy that is neither http: nor https:", "Use http://host:port")
    for end in "/?#":
        rest = rest.partition(end)[0]
    user, _, netloc = rest.rpartition("@")
    try:
        host, port = parse_host(netloc)
    except ValueError:
        hint = "Use http://host:port; percent-encode special characters in a user name or password"
        raise UsageError(f"{variable} is not the URL of a proxy", hint) from None
    # As in Go, the default port is the scheme's.
    return Proxy(scheme, host, port or DEFAULT_PORTS[scheme], variable, _basic(user) if user else None)


def _basic(user: str) -> str:
    from base64 import b64encode
    from urllib.parse import unquote_to_bytes

    name, _, password = user.partition(":")
    return "Basic " + b64encode(unquote_to_bytes(name) + b":" + unquote_to_bytes(password)).decode("ascii")
