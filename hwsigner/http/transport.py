"""One POST under one deadline, on http.client: directly or through a proxy.

No redirect is followed, no `~/.netrc` is read, no header is changed, and nothing is tried twice: every retry must be
dated and signed anew, which is the caller's work.
"""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, cast

from hwsigner import defaults
from hwsigner.errors import ServiceUnreachableError
from hwsigner.http.address import Endpoint, host_and_port
from hwsigner.http.connection import Deadline, Stream, StreamReader, connect
from hwsigner.http.proxy import Proxy
from hwsigner.http.tls import TlsSettings, TlsStream, TrustedCAs, find_cas, make_settings

if TYPE_CHECKING:
    import socket

__all__ = ["MAX_BODY_BYTES", "Answer", "Deadline", "TransportOptions", "post"]

MAX_BODY_BYTES = 1 << 20
_LINE = re.compile(r"[\x20-\x7e\t]+")


class Answer(NamedTuple):
    """An answer that came whole.

    Attributes:
        status: the HTTP status.
        headers: by name, whatever its case: `headers.get("x-amzn-requestid")`. Their values are foreign text.
        body: at most MAX_BODY_BYTES bytes, as they were sent.
    """

    status: int
    headers: http.client.HTTPMessage
    body: bytes


@dataclass(frozen=True)
class TransportOptions:
    """How to reach a service.

    Attributes:
        connect_timeout: seconds for name look-up, TCP, proxy and TLS together.
        read_timeout: seconds for sending the request and reading the whole answer.
        verify: False to take any certificate.
        cas: the CAs to trust; None for the system's.
        proxy: the proxy to go through, or None.
    """

    connect_timeout: float = defaults.CONNECT_TIMEOUT
    read_timeout: float = defaults.READ_TIMEOUT
    verify: bool = True
    cas: TrustedCAs | None = None
    proxy: Proxy | None = None

    @cached_property
    def tls(self) -> TlsSettings:
        """The TLS settings, made on first use.

        Raises:
            ConfigError: the CAs can't be read.
        """
        return make_settings(self.cas or find_cas({}), verify=self.verify)


def post(
    endpoint: Endpoint,
    target: str,
    headers: Sequence[tuple[str, str]],
    body: bytes,
    *,
    options: TransportOptions,
    deadline: Deadline,
) -> Answer:
    """Send one POST request and read its whole answer.

    Args:
        endpoint: where to connect to; its path is not used.
        target: path and query, percent-encoded.
        headers: `Host` and all others in their order, sent as they are; `Content-Length` and `Connection: close` are
            added.
        body: the bytes of the body.
        options: time limits, CAs, proxy.
        deadline: holds for everything together.

    Raises:
        ServiceUnreachableError: no whole answer came in time; `retryable` says whether another try may help.
        ConfigError: the CAs can't be read.
        ValueError: the target or a header holds a character that does not belong there.
    """
    proxy = options.proxy
    sent = [*headers, ("Content-Length", str(len(body))), ("Connection", "close")]
    if proxy and endpoint.scheme == "http":
        target = f"http://{endpoint.host_header}{target}"
        sent += _authorization(proxy)
    request = _head("POST", target, sent) + body
    stream = _open(endpoint, options, deadline.within(options.connect_timeout, "--connect-timeout"))
    try:
        answering = deadline.within(options.read_timeout, "--read-timeout")
        stream.send(request, answering)
        answer = _read_answer(stream, endpoint.host_header, answering)
    finally:
        stream.close()
    if proxy and answer.status == 407:
        raise _refusal(proxy, answer.status)
    return answer


def _open(endpoint: Endpoint, options: TransportOptions, deadline: Deadline) -> Stream:
    proxy, peer = options.proxy, endpoint.host_header
    if endpoint.scheme == "https":
        # Before anything is sent, as a missing CA file is an error whatever the network does.
        _ = options.tls
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
    tls = TlsStream(stream, options.tls, host=host, peer=peer)
    tls.handshake(deadline)
    return tls


def _tunnel(stream: Stream, proxy: Proxy, endpoint: Endpoint, deadline: Deadline) -> None:
    """Ask a proxy to connect this stream to the endpoint (RFC 9110, 9.3.6)."""
    target = host_and_port(endpoint.host, endpoint.port)
    stream.send(_head("CONNECT", target, [("Host", target), *_authorization(proxy)]), deadline)
    # Nothing is read ahead: what follows the answer is TLS.
    reader = StreamReader(stream, deadline, buffer_size=1)
    with _http_errors(f"the proxy {proxy}"), _response(reader, "CONNECT") as response:
        status = response.status
    if status != 200:
        raise _refusal(proxy, status)


def _authorization(proxy: Proxy) -> list[tuple[str, str]]:
    return [("Proxy-Authorization", proxy.authorization)] if proxy.authorization else []


def _refusal(proxy: Proxy, status: int) -> ServiceUnreachableError:
    phrase = http.client.responses.get(status, "")
    hint = f"Put user:password@ into {proxy.variable}" if status == 407 else "Ask whoever runs the proxy"
    return ServiceUnreachableError(
        f"the proxy {proxy} answered {status} {phrase}".rstrip(), hint, retryable=status >= 500
    )


def _head(method: str, target: str, headers: Sequence[tuple[str, str]]) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    if not all(_LINE.fullmatch(line) for line in lines):
        raise ValueError("a request's target or header holds a control or non-ASCII character")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def _response(reader: StreamReader, method: str) -> http.client.HTTPResponse:
    response = http.client.HTTPResponse(cast("socket.socket", reader), method=method)
    try:
        response.begin()
    except BaseException:
        response.close()
        raise
    return response


def _read_answer(stream: Stream, peer: str, deadline: Deadline) -> Answer:
    with _http_errors(peer), _response(StreamReader(stream, deadline), "POST") as response:
        too_long = (response.length or 0) > MAX_BODY_BYTES
        # One byte more than allowed shows a body that is too long, whatever its framing.
        body = b"" if too_long else response.read(MAX_BODY_BYTES + 1)
        missing = response.length
    if too_long or len(body) > MAX_BODY_BYTES:
        raise ServiceUnreachableError(
            f"the answer of {peer} is longer than {MAX_BODY_BYTES} bytes",
            "Check its URL and the proxy settings",
            retryable=False,
        )
    if missing:
        raise _cut_off(peer)
    return Answer(response.status, response.msg, body)


def _cut_off(peer: str) -> ServiceUnreachableError:
    hint = "Try again later, or look for what stands between"
    return ServiceUnreachableError(f"{peer} closed the connection before its answer was whole", hint)


@contextmanager
def _http_errors(peer: str) -> Iterator[None]:
    try:
        yield
    # Not chained: these exceptions hold what came of the answer, which may be credentials.
    except (http.client.RemoteDisconnected, http.client.IncompleteRead):
        raise _cut_off(peer) from None
    except (http.client.HTTPException, ValueError):
        raise ServiceUnreachableError(
            f"what {peer} answered is not HTTP", "Check its URL and the proxy settings"
        ) from None
