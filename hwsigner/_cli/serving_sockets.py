"""What `serve` listens on: systemd's sockets, TLS, and the URL of both."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Collection

from hwsigner._cli.parser import Arguments
from hwsigner._http.address import host_and_port, ip_address, is_loopback
from hwsigner._serving.listener import limit_hops, take_activated, tls_context
from hwsigner.errors import UsageError


def server_tls(arguments: Arguments) -> ssl.SSLContext | None:
    """Return the TLS settings that the flags name, or None for HTTP."""
    if arguments.tls_certificate is None:
        if arguments.tls_key:
            raise UsageError("--tls-key is given without --tls-certificate", "Give both flags")
        return None
    return tls_context(arguments.tls_certificate, arguments.tls_key)


def activated_sockets(
    arguments: Arguments, tls: ssl.SSLContext | None, addresses: Collection[str], local: Collection[str] = ()
) -> list[socket.socket]:
    """Return systemd's sockets, if it passed any.

    `addresses` are what to listen on if it passed none, and `local` those besides loopback that other machines can't
    reach. An address that they can reach needs TLS.
    """
    found = take_activated(os.environ)
    for one in found:
        limit_hops(one, arguments.hop_limit)
    used = [one.getsockname()[0] for one in found] or addresses
    # `listen` refuses a name.
    if not (tls or all(is_loopback(one) or one in local or ip_address(one) is None for one in used)):
        raise UsageError("other machines can reach the address, and there is no TLS", "Give --tls-certificate")
    return found


def base_url(listener: socket.socket, names: list[str], tls: ssl.SSLContext | None) -> str:
    """Return the URL of the server: by the first name if it has TLS, else by its address."""
    address, port = listener.getsockname()[:2]
    # Another user could make a name lead elsewhere, but does not have its certificate.
    return f"https://{host_and_port((*names, address)[0], port)}" if tls else f"http://{host_and_port(address, port)}"
