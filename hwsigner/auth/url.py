"""What of a URL goes on the wire: the request's target and its Host header, as `requests` and urllib3 send them."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

from hwsigner.errors import UsageError
from hwsigner.sigv4.canonical import percent_decode, percent_encode

_DEFAULT_PORTS = {"http": 80, "https": 443}
# What urllib3 leaves alone, and S3's canonical path too; without empty parameters. The server, then the target.
_PLAIN = re.compile(
    r"(https?://[a-z0-9.-]++(?::[0-9]++)?+)(/[A-Za-z0-9._~/-]*+(?:\?[A-Za-z0-9._~=-]++(?:&[A-Za-z0-9._~=-]++)*+)?+)"
).fullmatch
_DOT_SEGMENT = re.compile(r"/\.\.?(?:/|$)").search
# An escape, or a character that urllib3 escapes (RFC 3986, 3.3 and 3.4).
_TO_MEND = re.compile(r"%[0-9A-Fa-f]{2}|[^A-Za-z0-9._~!$&'()*+,;=:@/?-]")


class Server(NamedTuple):
    """Whom a URL names.

    Attributes:
        origin: the URL up to its path, without user information and the scheme's own port, the host in lower case:
            equal for two URLs of one scheme, host and port.
        host: the value of the Host header.
    """

    origin: str
    host: str

    @property
    def secure(self) -> bool:
        """Whether the connection is TLS."""
        return self.origin.startswith("https:")


def wire_url(url: str, s3: bool) -> tuple[str, str, Server]:
    """Return a prepared request's URL as it shall be sent, so that what is signed is what a service reads.

    A `+` in the query, as `requests` writes a space, becomes `%20`; parameters without name and value go, as services
    read them differently. The hex digits of escapes come in upper case, what urllib3 would escape is escaped, and dot
    segments go. S3 verifies the path that it makes of the decoded key, so a path for S3 is escaped as S3 does it.

    Args:
        url: as `PreparedRequest.url` has it.
        s3: take S3's rule for the path.

    Returns:
        A URL of the same meaning that goes on the wire as it is written; its path and query; and whom it names.

    Raises:
        UsageError: no host, or a port that is no port; a text that is no URL; a dot segment in a path for S3.
    """
    plain = _PLAIN(url)
    if plain and "/." not in url:
        target, server = plain[2], _server(plain[1])
        return server.origin + target, target, server
    try:
        parts = urlsplit(url)
        path = _wire_path(parts.path, s3)
        query = _wire_query(parts.query)
    except ValueError:  # It may quote user information.
        raise UsageError("a text that is no URL", "Give it as https://HOST/PATH") from None
    server = _server(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}")
    target = f"{path}?{query}" if query else path
    fragment = f"#{parts.fragment}" if parts.fragment else ""
    return f"{server.origin}{target}{fragment}", target, server


def _wire_path(path: str, s3: bool) -> str:
    path = _TO_MEND.sub(_mended, path) or "/"
    if not s3:
        path = _without_dot_segments(path) if _DOT_SEGMENT(path) else path
        # At the path's end `requests` leaves it away on the way to a proxy.
        return f"{path[:-1]}%3B" if path.endswith(";") else path
    path = percent_encode(percent_decode(path), slash=True).decode("ascii")
    if _DOT_SEGMENT(path):
        raise UsageError(
            "a segment . or .. in a path for S3, which clients and proxies take out after it is signed",
            "Give the path without it; a key with such a segment is out of reach",
        )
    return path


def _without_dot_segments(path: str) -> str:
    """Take them out by RFC 3986, 5.2.4, as urllib3 does on the way to a proxy; a signature's rule is another."""
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
    return _TO_MEND.sub(_mended, "&".join(parameters)).replace("+", "%20")


@lru_cache(maxsize=256)
def _server(prefix: str) -> Server:
    scheme, _, authority = prefix.partition("://")
    try:
        parts = urlsplit(prefix)
        # A dot at its end reaches the Host header through a proxy, and does not without one.
        name, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        name, port = "", None
    if not name or port == 0:
        raise UsageError("a URL without a host, or with a port that is none", "Give it as https://HOST/PATH")
    if scheme not in _DEFAULT_PORTS:
        # Of an adapter of the caller's: only that knows how it reads the rest.
        return Server(prefix, authority)
    suffix = f":{port}" if port and port != _DEFAULT_PORTS[scheme] else ""
    if ":" in name:
        # The zone of an IPv6 address is for the own machine: the Host header is without it.
        return Server(f"{scheme}://[{name}]{suffix}", f"[{name.partition('%')[0]}]{suffix}")
    host = f"{name.lower()}{suffix}"
    return Server(f"{scheme}://{host}", host)


def _mended(match: re.Match[str]) -> str:
    found = match[0]
    return found.upper() if len(found) == 3 else percent_encode(found.encode()).decode("ascii")
