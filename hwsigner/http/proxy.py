"""Choose the proxy from HTTPS_PROXY, HTTP_PROXY and NO_PROXY, as Go's net/http does.

A variable in upper case takes precedence over the same one in lower case. HTTP_PROXY is ignored if REQUEST_METHOD is
set: in a CGI program, it holds the `Proxy` header of a client.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Final

from hwsigner.errors import UsageError
from hwsigner.http.address import DEFAULT_PORTS, Endpoint, host_and_port, ip_address, is_loopback, parse_host


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

    Raises:
        UsageError: the variable is malformed, or names an unsupported kind of proxy. The message does not show its
            value, which may contain a password.
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
    excepted = ip_address(name)
    if excepted is not None:
        return address == excepted
    return _under(name, host)


def _under(name: str, host: str) -> bool:
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
        raise UsageError(
            f"{variable} is not the URL of a proxy",
            "Use http://host:port; percent-encode special characters in a user name or password",
        ) from None
    # As in Go, the default port is the scheme's.
    return Proxy(scheme, host, port or DEFAULT_PORTS[scheme], variable, _basic(user) if user else None)


def _basic(user: str) -> str:
    from base64 import b64encode
    from urllib.parse import unquote_to_bytes

    name, _, password = user.partition(":")
    return "Basic " + b64encode(unquote_to_bytes(name) + b":" + unquote_to_bytes(password)).decode("ascii")
