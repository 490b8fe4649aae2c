"""Which requests are answered: those of programs that mean this server, not those from web pages or proxies.

On loopback they must also come from certain users, so that a token is of no use to any other user.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterable, Sequence
from http import HTTPStatus
from typing import NamedTuple

from hwsigner._http.address import host_and_port
from hwsigner._serving.peer import Peer
from hwsigner._serving.responses import Headers, HTTPRefusal
from hwsigner._system.loopback import KNOWS_OWNERS

HOST = b"host"
AUTHORIZATION = b"authorization"
IMDS_TOKEN = b"x-aws-ec2-metadata-token"
IMDS_SECONDS = b"x-aws-ec2-metadata-token-ttl-seconds"

# A web page sends the first, a proxy the others.
_FOREIGN = frozenset({b"origin", b"x-forwarded-for", b"forwarded"})
_LENGTH = b"content-length"
_ENCODING = b"transfer-encoding"
_CURE = "Run modprobe tcp_diag" if KNOWS_OWNERS else "Use the endpoint for containers, which has a token"
_READ = frozenset({HOST, AUTHORIZATION, IMDS_TOKEN, IMDS_SECONDS, _LENGTH, _ENCODING}) | _FOREIGN
# How the kernel says that it never tells users apart: tcp_diag is missing, this process may not ask, or it is macOS's.
_CANNOT_TELL = {errno.ENOENT, errno.EPERM, errno.EACCES, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}


class HTTPRequest(NamedTuple):
    """The head of a request."""

    method: str
    path: str  # Without the query, percent-decoded.
    headers: Sequence[tuple[bytes, bytes]]  # Names in lower case, and values, as sent.
    keeps_open: bool  # Whether the client may send more requests.
    peer: Peer


def read_headers(request: HTTPRequest, hosts: Collection[bytes] | None) -> Headers:
    """Return the headers that this server reads.

    `hosts` are what `Host` may be, in lower case, besides the address at which the client reached the server; None for
    anything. A web page whose name resolves to this machine (DNS rebinding) sends that name.
    """
    found = [header for header in request.headers if header[0] in _READ]
    headers = dict(found)
    if len(headers) != len(found):
        raise HTTPRefusal(HTTPStatus.BAD_REQUEST, "a header is repeated")
    if not _FOREIGN.isdisjoint(headers):
        name = min(_FOREIGN & headers.keys()).decode()
        raise HTTPRefusal(HTTPStatus.FORBIDDEN, f"the request has {name}: it comes from a web page or through a proxy")
    if HOST not in headers:
        raise HTTPRefusal(HTTPStatus.BAD_REQUEST, "there is no Host header")
    host = headers[HOST].lower()
    if hosts is not None and host not in hosts:
        address, port = request.peer.server
        if host.decode("latin-1") not in (host_and_port(address, port), host_and_port(address, None)):
            raise HTTPRefusal(HTTPStatus.FORBIDDEN, f"the Host header is {host[:100].decode('latin-1')!r}")
    if headers.get(_LENGTH, b"0") != b"0" or _ENCODING in headers:
        raise HTTPRefusal(HTTPStatus.BAD_REQUEST, "the request has a body")
    return headers


class Users:
    """The users whose processes may have credentials. `log` takes a line if the kernel can't tell users apart."""

    def __init__(self, uids: Iterable[int], log: Callable[[str], None]) -> None:
        self._uids = frozenset(uids)
        self._log: Callable[[str], None] | None = log

    def check(self, peer: Peer, *, has_secret: bool = False) -> None:
        """Refuse the clients of other users.

        Another user gets status 403. If the kernel can't tell users apart, a client without a secret token gets 503.
        """
        try:
            uid = peer.uid
        except OSError as error:
            if error.errno in _CANNOT_TELL:
                if self._log:
                    problem = f"the kernel does not tell which user a client is ({error.strerror})"
                    self._log(
                        f"{problem}: IMDS requests are refused, and container requests need only their token. {_CURE}"
                    )
                    self._log = None  # Once is enough.
                if has_secret:
                    return
            reason = f"the kernel does not tell which user the client is. {_CURE}"
            raise HTTPRefusal(HTTPStatus.SERVICE_UNAVAILABLE, reason) from None
        if uid not in self._uids:
            whose = "that of another machine or namespace" if uid is None else f"uid {uid}'s"
            raise HTTPRefusal(HTTPStatus.FORBIDDEN, f"the connection is {whose}; --allow-user would let one in")
