"""Send one request with http.client, directly or through a proxy, under one deadline.

It follows no redirect, reads no `~/.netrc`, changes no header and does not retry: the caller must date and sign each
attempt again.
"""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, cast

from hwsigner._http import defaults
from hwsigner._http.address import Endpoint, host_and_port
from hwsigner._http.connection import RETRY_HINT, Deadline, Proxy, Stream, StreamReader, connect
from hwsigner._http.tls import TlsSettings, TlsStream, TrustedCAs, find_cas, make_settings
from hwsigner.errors import ServiceUnreachableError

if TYPE_CHECKING:
    import socket

Headers = Sequence[tuple[str, str]]
MAX_BODY_BYTES = 1 << 20
_LINE = re.compile(r"[\x20-\x7e\t]+")


class Response:
    """A complete HTTP response, and whether the server accepts another request on its connection.

    Headers are found by name in any case, and their values are not checked. The body has at most MAX_BODY_BYTES.
    """

    def __init__(self, status: int, headers: http.client.HTTPMessage, body: bytes, *, keeps_open: bool = False) -> None:
        self.status: Final = status
        self.headers: Final = headers
        self.body: Final = body
        self.keeps_open: Final = keeps_open

    def json_object(self) -> dict[str, Any]:
        """Return the JSON object in the body, or an empty one if the body is something else."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    def retry_after(self, now: datetime) -> float:
        """Return the seconds that the server asks to wait (RFC 9110, section 10.2.3); 0.0 if it does not ask."""
        text = self.headers.get("Retry-After", "").strip()
        if text.isascii() and text.isdigit():
            return float(text[:9])
        until = parse_date(text)
        return max(0.0, (until - now).total_seconds()) if until else 0.0


def parse_date(text: str) -> datetime | None:
    """Return the time in a header such as Date, in UTC; None if it is something else."""
    try:
        date = parsedate_to_datetime(text)
        return date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        return None


class TransportOptions:
    """How to reach a service.

    Attributes:
        connect_timeout: seconds for name look-up, TCP, proxy and TLS together.
        read_timeout: seconds for sending the request and reading the response.
        verify: False to accept any server certificate.
        cas: the CAs to trust; None for the system's.
        proxy: the proxy to use, or None.
    """

    def __init__(
        self,
        connect_timeout: float = defaults.CONNECT_TIMEOUT,
        read_timeout: float = defaults.READ_TIMEOUT,
        *,
        verify: bool = True,
        cas: TrustedCAs | None = None,
        proxy: Proxy | None = None,
    ) -> None:
        self.connect_timeout: Final = connect_timeout
        self.read_timeout: Final = read_timeout
        self.verify: Final = verify
        self.cas: Final = cas
        self.proxy: Final = proxy

    def with_limits(self, connect_timeout: float, read_timeout: float) -> TransportOptions:
        """Return these options with other time limits."""
        return TransportOptions(connect_timeout, read_timeout, verify=self.verify, cas=self.cas, proxy=self.proxy)

    @cached_property
    def _tls(self) -> TlsSettings:
        return make_settings(self.cas or find_cas({}), verify=self.verify)

    def read_cas(self) -> None:
        """Read the CAs now, not with the first request.

        Raises:
            ConfigError: they can't be read.
        """
        _ = self._tls

    def present_certificate(self, certificate: str, key: str) -> None:
        """Present a client certificate to all servers, in this whole process.

        Args:
            certificate: the path of the leaf and its intermediates, in PEM.
            key: the path of its key.

        Raises:
            ConfigError: the CAs can't be read.
            OSError: a file can't be read, or the key can't be used (`ssl.SSLError`).
        """
        self._tls.context.load_cert_chain(certificate, key)


def post(
    endpoint: Endpoint, target: str, headers: Headers, body: bytes, *, options: TransportOptions, deadline: Deadline
) -> Response:
    """Send a POST request and return its response.

    The headers are sent in order and unchanged, with `Host` among them; `Content-Length` and `Connection: close` are
    added. The endpoint's path is not used. `retryable` of a ServiceUnreachableError says whether a retry may help.
    """
    sent = [*headers, ("Content-Length", str(len(body)))]
    request = _request("POST", endpoint, target, sent, options) + body
    return _exchange("POST", endpoint, request, options, deadline)


def get(
    endpoint: Endpoint, target: str, headers: Headers, *, options: TransportOptions, deadline: Deadline
) -> Response:
    """Send a GET request and return its response; the rest is as for `post`."""
    request = _request("GET", endpoint, target, headers, options)
    return _exchange("GET", endpoint, request, options, deadline)


def _request(method: str, endpoint: Endpoint, target: str, headers: Headers, options: TransportOptions) -> bytes:
    """Return the head of a request as it is sent to the server, or to the proxy."""
    sent = [*headers, ("Connection", "close")]
    if options.proxy and endpoint.scheme == "http":
        target = f"http://{endpoint.host_header}{target}"
        sent += _authorization(options.proxy)
    return request_head(method, target, sent)


def _exchange(
    method: str, endpoint: Endpoint, request: bytes, options: TransportOptions, deadline: Deadline
) -> Response:
    peer = endpoint.host_header
    stream = _open(endpoint, options, peer, deadline.within(options.connect_timeout, "--connect-timeout"))
    try:
        limit = deadline.within(options.read_timeout, "--read-timeout")
        stream.send(request, limit)
        response = read_response(method, stream, peer, limit)
    finally:
        stream.close()
    if options.proxy and response.status == 407:
        raise _proxy_error(options.proxy, response.status)
    return response


def _open(endpoint: Endpoint, options: TransportOptions, peer: str, deadline: Deadline) -> Stream:
    proxy = options.proxy
    if endpoint.scheme == "https":
        # Report a missing CA file before the network is used.
        options.read_cas()
    if proxy is None:
        stream: Stream = connect(endpoint.host, endpoint.port, peer=peer, deadline=deadline)
    else:
        stream = connect(proxy.host, proxy.port, peer=f"the proxy {proxy}", deadline=deadline)
    try:
        if proxy and proxy.scheme == "https":
            stream = _start_tls(stream, options, proxy.host, f"the proxy {proxy}", deadline)
        if proxy and endpoint.scheme == "https":
            _tunnel(stream, proxy, endpoint, deadline)
        if endpoint.scheme == "https":
            stream = _start_tls(stream, options, endpoint.host, peer, deadline)
    except BaseException:
        stream.close()
        raise
    return stream


def _start_tls(stream: Stream, options: TransportOptions, host: str, peer: str, deadline: Deadline) -> TlsStream:
    tls = TlsStream(stream, options._tls, host=host, peer=peer)
    tls.handshake(deadline)
    return tls


def _tunnel(stream: Stream, proxy: Proxy, endpoint: Endpoint, deadline: Deadline) -> None:
    """Ask the proxy to connect this stream to the endpoint (RFC 9110, section 9.3.6)."""
    target = host_and_port(endpoint.host, endpoint.port)
    stream.send(request_head("CONNECT", target, [("Host", target), *_authorization(proxy)]), deadline)
    # Do not read ahead: TLS follows the response.
    reader = StreamReader(stream, deadline, buffer_size=1)
    with _http_errors(f"the proxy {proxy}"), _begin_response(reader, "CONNECT") as response:
        status = response.status
    if status != 200:
        raise _proxy_error(proxy, status)


def _authorization(proxy: Proxy) -> list[tuple[str, str]]:
    return [("Proxy-Authorization", proxy.authorization)] if proxy.authorization else []


def _proxy_error(proxy: Proxy, status: int) -> ServiceUnreachableError:
    phrase = http.client.responses.get(status, "")
    hint = f"Add user:password@ to {proxy.variable}" if status == 407 else "Ask the proxy's administrator"
    problem = f"the proxy {proxy} answered {status} {phrase}".rstrip()
    return ServiceUnreachableError(problem, hint, retryable=status >= 500)


def request_head(method: str, target: str, headers: Headers) -> bytes:
    """Return a request's head. A control or non-ASCII character in it is a ValueError."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    if not all(_LINE.fullmatch(line) for line in lines):
        raise ValueError("the request's target or a header contains a control or non-ASCII character")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def _begin_response(reader: StreamReader, method: str) -> http.client.HTTPResponse:
    response = http.client.HTTPResponse(cast("socket.socket", reader), method=method)
    try:
        response.begin()
        if reader.ended:  # http.client takes the end of the stream for that of the head.
            raise http.client.IncompleteRead(b"")
    except BaseException:
        response.close()
        raise
    return response


def read_response(method: str, stream: Stream, peer: str, deadline: Deadline) -> Response:
    """Read the response to a request that was sent. One that is longer than MAX_BODY_BYTES is an error."""
    with _http_errors(peer), _begin_response(StreamReader(stream, deadline), method) as response:
        too_long = (response.length or 0) > MAX_BODY_BYTES
        # Without a Content-Length, one byte more than allowed shows that the body is too long.
        body = b"" if too_long else response.read(MAX_BODY_BYTES + 1)
        missing = response.length
    if too_long or len(body) > MAX_BODY_BYTES:
        problem = f"the response of {peer} is longer than {MAX_BODY_BYTES} bytes"
        raise ServiceUnreachableError(problem, "Check the URL and the proxy settings", retryable=False)
    if missing:
        raise _cut_off(peer)
    return Response(response.status, response.msg, body, keeps_open=not response.will_close)


def _cut_off(peer: str) -> ServiceUnreachableError:
    return ServiceUnreachableError(f"{peer} closed the connection before its response was complete", RETRY_HINT)


@contextmanager
def _http_errors(peer: str) -> Iterator[None]:
    try:
        yield
    # Not chained: the exception contains a part of the response, which may be credentials.
    except (http.client.RemoteDisconnected, http.client.IncompleteRead):
        raise _cut_off(peer) from None
    except (http.client.HTTPException, ValueError):
        problem = f"{peer} did not answer with HTTP"
        raise ServiceUnreachableError(problem, "Check the URL and the proxy settings") from None
