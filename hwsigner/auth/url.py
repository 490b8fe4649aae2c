"""What of a URL goes on the wire: the request's target and its Host header, as `requests` and urllib3 send them."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

from hwsigner.canonical import percent_decode, percent_encode
from hwsigner.errors import UsageError

_LONGEST_SCHEME = len("https://")
_DEFAULT_PORTS = {"http": 80, "https": 443}
# What urllib3 leaves alone, and S3's canonical path too; without empty parameters.
_PLAIN = re.compile(r"/[A-Za-z0-9._~/-]*+(?:\?[A-Za-z0-9._~=-]++(?:&[A-Za-z0-9._~=-]++)*+)?+").fullmatch
# An escape, or a character that urllib3 escapes (RFC 3986, 3.3 and 3.4).
_TO_MEND = re.compile(r"%[0-9A-Fa-f]{2}|[^A-Za-z0-9._~!$&'()*+,;=:@/?-]")


class Server(NamedTuple):
    """Whom a URL names.

    Attributes:
        prefix: the URL up to its path, without user information and without the scheme's own port.
        host: the value of the Host header.
        origin: scheme, host and port, equal for two URLs of one server.
    """

    prefix: str
    host: str
    origin: str

    @property
    def secure(self) -> bool:
        """Whether the connection is TLS."""
        return self.prefix.startswith("https:")


def wire_url(url: str, s3: bool) -> tuple[str, str, Server]:
    """Return a prepared request's URL as it shall be sent, so that what is signed is what a service reads.

    A `+` in the query, as `requests` writes a space, becomes `%20`; parameters without name and value go, as services
    read them differently. The hex digits of escapes come in upper case, and what urllib3 would escape is escaped. S3
    verifies the path that it makes of the decoded key, so a path for S3 is escaped as S3 does it.

    Args:
        url: as `PreparedRequest.url` has it.
        s3: take S3's rule for the path.

    Returns:
        A URL of the same meaning that goes on the wire as it is written; its path and query; and whom it names.

    Raises:
        UsageError: no host, or a port that is no port.
    """
    start = url.find("/", _LONGEST_SCHEME)
    if start > 0 and _PLAIN(url, start):
        target, server = url[start:], _server(url[:start])
        return server.prefix + target, target, server
    parts = urlsplit(url)
    server = _server(f"{parts.scheme}://{parts.netloc}")
    path = _TO_MEND.sub(_mended, parts.path) or "/"
    if s3:
        path = percent_encode(percent_decode(path), slash=True).decode("ascii")
    parameters = [parameter for parameter in parts.query.split("&") if parameter]
    query = _TO_MEND.sub(_mended, "&".join(parameters)).replace("+", "%20")
    target = f"{path}?{query}" if query else path
    fragment = f"#{parts.fragment}" if parts.fragment else ""
    return f"{server.prefix}{target}{fragment}", target, server


@lru_cache(maxsize=256)
def _server(prefix: str) -> Server:
    parts = urlsplit(prefix)
    try:
        hostname, port = parts.hostname, parts.port
    except ValueError:
        hostname = port = None
    if not hostname:
        raise UsageError("a URL without a host, or with a port that is none", "Give it as https://HOST/PATH")
    authority = parts.netloc.rpartition("@")[2]
    if port == _DEFAULT_PORTS.get(parts.scheme):
        authority, port = authority[: authority.rindex(":")], None
    # urllib3 looks a name with a dot at its end up as it is, and leaves the dot out of the Host header.
    host = f"[{hostname}]" if ":" in hostname else hostname.rstrip(".")
    host = f"{host}:{port}" if port else host
    return Server(f"{parts.scheme}://{authority}", host, f"{parts.scheme}://{host}")


def _mended(match: re.Match[str]) -> str:
    found = match[0]
    return found.upper() if len(found) == 3 else percent_encode(found.encode()).decode("ascii")
