"""Hosts, ports and URLs: parse, compare and format them."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from hwsigner.errors import UsageError

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
DEFAULT_PORTS = {"http": 80, "https": 443}
_NETLOC = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(:(?P<port>[0-9]{0,5}))?", re.ASCII)
_NAME = re.compile(r"([a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?")
_PATH = re.compile(r"(/([A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*)*")


class Endpoint(NamedTuple):
    """A URL to send requests to.

    Attributes:
        scheme: `http` or `https`.
        host: a name in lower case, or an IP address without brackets.
        port: the port, also if it is the scheme's default.
        path: percent-encoded, without a query. Starts with `/`, or is empty.
    """

    scheme: str
    host: str
    port: int
    path: str

    @property
    def host_header(self) -> str:
        """The value of the `Host` header, without the port if it is the scheme's default."""
        return host_and_port(self.host, self.port if self.port != DEFAULT_PORTS[self.scheme] else None)

    @property
    def url(self) -> str:
        """The whole URL."""
        return f"{self.scheme}://{self.host_header}{self.path}"


def host_and_port(host: str, port: int | None) -> str:
    """Return `host:port` for URLs and `Host` headers, with an IPv6 address in brackets. A port of None is left out."""
    name = f"[{host}]" if ":" in host else host
    return name if port is None else f"{name}:{port}"


def parse_host(netloc: str) -> tuple[str, int | None]:
    """Return the host (a name in lower case, or an IP address without brackets) and port of a URL's `host:port`.

    The message of a ValueError does not contain the text.
    """
    match = _NETLOC.fullmatch(netloc.lower())
    if match is None:
        raise ValueError("malformed host or port")
    host, port = match["name"], int(match["port"] or 0)
    if host.startswith("["):
        host = str(ipaddress.IPv6Address(host[1:-1]))
    elif not _NAME.fullmatch(host):
        raise ValueError("malformed host name")
    if port > 65535 or (match["port"] and not port):
        raise ValueError("port out of range")
    return host, port or None


def host_name(text: str) -> str:
    """Convert the value of a flag for a host: a name or an IP address, without a port."""
    try:
        return parse_host(host_and_port(text, None))[0]
    except ValueError:
        raise ValueError("write a name such as server.example.com, or an IP address, without a port") from None


def parse_url(url: str) -> Endpoint:
    """Parse an `http:` or `https:` URL without a user name, query and fragment. The path may be empty.

    The message of a ValueError does not contain the text.
    """
    scheme, _, rest = url.partition("://")
    netloc, slash, path = rest.partition("/")
    host, port = parse_host(netloc)
    scheme = scheme.lower()
    if scheme not in DEFAULT_PORTS or not _PATH.fullmatch(slash + path):
        raise ValueError("malformed scheme or path")
    return Endpoint(scheme, host, port or DEFAULT_PORTS[scheme], slash + path)


def read_url(source: str, url: str) -> Endpoint:
    """Parse the URL that a flag, variable or setting gives.

    The message of an error does not show a URL that may contain a password.
    """
    if "@" in url:
        raise UsageError(f"{source} is a URL with a user name or an @", "Use https://host, without a user name")
    try:
        return parse_url(url)
    except ValueError:
        problem = f"{source} is {url[:200]!r}, which is not an endpoint URL"
        raise UsageError(problem, "Use https://host, followed by :port and /path if needed, without a query") from None


def check_protected(source: str, endpoint: Endpoint, hint: str = "Use https:") -> None:
    """Check that an endpoint is `https:`, or on this machine."""
    if endpoint.scheme == "http" and not is_loopback(endpoint.host):
        raise UsageError(f"{source} is {endpoint.url}, but http: is for this machine only", hint)


def ip_address(host: str) -> IPAddress | None:
    """Return a host's IP address, an IPv4-mapped one as IPv4, or None if the host is a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def is_loopback(host: str) -> bool:
    """Return whether a host is `localhost`, in 127.0.0.0/8, or ::1."""
    address = ip_address(host)
    return host == "localhost" if address is None else address.is_loopback
