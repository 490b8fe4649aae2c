"""Which requests are considered: those of programs that mean this server, not those from web pages or proxies."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from http import HTTPStatus
from typing import NamedTuple

from hwsigner.http.address import host_and_port
from hwsigner.serving.peer import Peer
from hwsigner.serving.responses import Headers, Refusal

HOST = b"host"
AUTHORIZATION = b"authorization"
IMDS_TOKEN = b"x-aws-ec2-metadata-token"
IMDS_SECONDS = b"x-aws-ec2-metadata-token-ttl-seconds"

# A web page sends the first, a proxy the others.
_FOREIGN = frozenset({b"origin", b"x-forwarded-for", b"forwarded"})
_LENGTH = b"content-length"
_ENCODING = b"transfer-encoding"
_READ = frozenset({HOST, AUTHORIZATION, IMDS_TOKEN, IMDS_SECONDS, _LENGTH, _ENCODING}) | _FOREIGN


class Request(NamedTuple):
    """The head of a request.

    Attributes:
        method: such as `GET`.
        path: without the query, percent-decoded.
        headers: names in lower case, and values, as sent.
        keeps_open: whether the client may send more requests.
        peer: the client.
    """

    method: str
    path: str
    headers: Sequence[tuple[bytes, bytes]]
    keeps_open: bool
    peer: Peer


def read_headers(request: Request, hosts: Collection[bytes]) -> Headers:
    """Return the headers that this server reads.

    Args:
        request: the request.
        hosts: what `Host` may be, in lower case, besides the address at which the client reached the server. A web page
            whose name resolves to this machine (DNS rebinding) sends that name.

    Raises:
        Refusal: 400 if one of them is repeated, `Host` is missing, or there is a body; 403 if the request is foreign.
    """
    found = [header for header in request.headers if header[0] in _READ]
    headers = dict(found)
    if len(headers) != len(found):
        raise Refusal(HTTPStatus.BAD_REQUEST, "a header is repeated")
    if not _FOREIGN.isdisjoint(headers):
        name = min(_FOREIGN & headers.keys()).decode()
        raise Refusal(HTTPStatus.FORBIDDEN, f"the request has {name}: it comes from a web page or through a proxy")
    if HOST not in headers:
        raise Refusal(HTTPStatus.BAD_REQUEST, "there is no Host header")
    host = headers[HOST].lower()
    if host not in hosts:
        address, port = request.peer.server
        if host.decode("latin-1") not in (host_and_port(address, port), host_and_port(address, None)):
            raise Refusal(HTTPStatus.FORBIDDEN, f"the Host header is {host[:100].decode('latin-1')!r}")
    if headers.get(_LENGTH, b"0") != b"0" or _ENCODING in headers:
        raise Refusal(HTTPStatus.BAD_REQUEST, "the request has a body")
    return headers
