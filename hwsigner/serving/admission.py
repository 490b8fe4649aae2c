"""Which requests are looked at: those of programs of this machine, and none that a browser or a proxy passes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from hwsigner.http.address import host_and_port
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

Scope = Mapping[str, Any]


class Admission:
    """Reads a request's headers, and refuses what does not come from a program that means this server.

    A page whose name was made to lead here (DNS rebinding) sends that name as `Host`.

    Args:
        names: what clients may call this server besides the address that they reached it by.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._hosts = {name.lower().encode() for name in names}

    def headers(self, scope: Scope) -> Headers:
        """Return those of a request's headers that are of use here, by their names in lower case.

        Raises:
            Refusal: 400, one of them is repeated, `Host` is missing, or there is a body; 403, it is foreign.
        """
        found = [header for header in scope["headers"] if header[0] in _READ]
        headers: dict[bytes, bytes] = dict(found)
        if len(headers) != len(found):
            raise Refusal(HTTPStatus.BAD_REQUEST, "a header is repeated")
        if not _FOREIGN.isdisjoint(headers):
            name = min(_FOREIGN & headers.keys()).decode()
            raise Refusal(HTTPStatus.FORBIDDEN, f"the request has {name}: it comes from a web page or through a proxy")
        if headers.get(HOST) not in self._hosts:
            self._check_host(headers, scope)
        if headers.get(_LENGTH, b"0") != b"0" or _ENCODING in headers:
            raise Refusal(HTTPStatus.BAD_REQUEST, "the request has a body")
        return headers

    def _check_host(self, headers: Headers, scope: Scope) -> None:
        if HOST not in headers:
            raise Refusal(HTTPStatus.BAD_REQUEST, "there is no Host header")
        own = scope["server"]
        name = headers[HOST].lower()
        allowed = {host_and_port(*own).encode(), host_and_port(own[0], None).encode(), *self._hosts}
        if name not in allowed:
            raise Refusal(HTTPStatus.FORBIDDEN, f"the Host header is {name[:100].decode('latin-1')!r}")
