"""From a URL to the request target and Host header, as `requests` and urllib3 send them."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

from hwsigner.errors import UsageError
from hwsigner.sigv4.reference import percent_decode, percent_encode

INVALID_URL = "the URL is invalid", "Give a URL as in https://HOST/PATH"
"""The message and hint for an invalid URL. It is not quoted, because it may contain a password."""
_DEFAULT_PORTS = {"http": 80, "https": 443}
# URLs that neither urllib3 nor S3's canonical path changes, without empty parameters: the server, then the target.
_PLAIN = re.compile(
    r"(https?://[a-z0-9.-]++(?::[0-9]++)?+)(/[A-Za-z0-9._~/-]*+(?:\?[A-Za-z0-9._~=-]++(?:&[A-Za-z0-9._~=-]++)*+)?+)"
).fullmatch
_DOT_SEGMENT = re.compile(r"/\.\.?(?:/|$)").search
# An escape, or a character that urllib3 escapes (RFC 3986, 3.3 and 3.4).
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}|[^A-Za-z0-9._~!$&'()*+,;=:@/?-]")


class Server(NamedTuple):
    """The server that a URL names.

    The origin is the URL up to its path, without user information and default port, with the host in lower case. It is
    equal for URLs with the same scheme, host and port. `host` is the value of the Host header.
    """

    origin: str
    host: str

    @property
    def secure(self) -> bool:
        """Whether the connection is TLS."""
        return self.origin.startswith("https:")


def wire_url(url: str, s3: bool) -> tuple[str, str, Server]:
    """Return the URL to send for a prepared request, so that the service reads what was signed.

    A `+` in the query, which is how `requests` writes a space, becomes `%20`. Empty parameters are removed, because
    services read them differently. Escapes get upper-case hex digits, characters that urllib3 would escape are escaped,
    and dot segments are removed. S3 verifies the path that it builds from the decoded key, so a path for S3 is escaped
    as S3 does it. The result is an equivalent URL that goes on the wire as it is, its path and query, and its server.
    An invalid URL, and one with a dot segment in a path for S3, is a UsageError.
    """
    plain = _PLAIN(url)
    if plain and "/." not in url:
        target, server = plain[2], _server(plain[1])
        return server.origin + target, target, server
    try:
        parts = urlsplit(url)
        path = _wire_path(parts.path, s3)
        query = _wire_query(parts.query)
    except ValueError:
        raise UsageError(*INVALID_URL) from None
    server = _server(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}")
    target = f"{path}?{query}" if query else path
    fragment = f"#{parts.fragment}" if parts.fragment else ""
    return f"{server.origin}{target}{fragment}", target, server


def _wire_path(path: str, s3: bool) -> str:
    path = _ESCAPE.sub(_escaped, path) or "/"
    if not s3:
        path = _without_dot_segments(path) if _DOT_SEGMENT(path) else path
        # `requests` drops a final `;` on the way to a proxy.
        return f"{path[:-1]}%3B" if path.endswith(";") else path
    path = percent_encode(percent_decode(path), slash=True).decode("ascii")
    if _DOT_SEGMENT(path):
        problem = "the path for S3 has a segment . or .., which clients and proxies remove after signing"
        raise UsageError(problem, "Give the path without it; objects whose key has such a segment can't be requested")
    return path


def _without_dot_segments(path: str) -> str:
    """Remove dot segments by RFC 3986, 5.2.4, as urllib3 does on the way to a proxy. SigV4 has another rule."""
    kept: list[str] = []
    *segments, last = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if last == "..":
        del kept[-1:]
    return "/" + "/".join([*kept, "" if last in (".", "..") else last])


def _wire_query(query: str) -> str:
    parameters = [parameter for parameter in query.split("&") if parameter]
    return _ESCAPE.sub(_escaped, "&".join(parameters)).replace("+", "%20")


@lru_cache(maxsize=256)
def _server(prefix: str) -> Server:
    scheme, _, authority = prefix.partition("://")
    try:
        parts = urlsplit(prefix)
        # A final dot reaches the Host header only through a proxy.
        name, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        name, port = "", None
    if not name or port == 0:
        raise UsageError("the URL has no host, or an invalid port", INVALID_URL[1])
    if scheme not in _DEFAULT_PORTS:
        # For an adapter of the caller's own, which alone knows how to read the rest.
        return Server(prefix, authority)
    suffix = f":{port}" if port and port != _DEFAULT_PORTS[scheme] else ""
    if ":" in name:
        # The zone of an IPv6 address is only meaningful on this machine, so it is not in the Host header.
        return Server(f"{scheme}://[{name}]{suffix}", f"[{name.partition('%')[0]}]{suffix}")
    host = f"{name.lower()}{suffix}"
    return Server(f"{scheme}://{host}", host)


def _escaped(match: re.Match[str]) -> str:
    found = match[0]
    return found.upper() if len(found) == 3 else percent_encode(found.encode()).decode("ascii")
