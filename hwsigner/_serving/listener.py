"""The sockets that a server listens on, bound here or by systemd, and its TLS."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import warnings
from collections.abc import MutableMapping

from hwsigner._http.address import host_and_port, ip_address
from hwsigner._system.sockets import take_sockets
from hwsigner._system.users import key_exposures
from hwsigner.errors import HwsignerError, HwsignerWarning, UsageError

BACKLOG = 1024

# What `localhost` means: each address, and the other one.
_LOCALHOST = {"127.0.0.1": "::1", "::1": "127.0.0.1"}
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


def listen(address: str, port: int, hop_limit: int, *, is_shared: bool = False) -> socket.socket:
    """Return a listening socket.

    Port 0 is any free one. `hop_limit` is the IP TTL or hop limit of what connections send. If `is_shared`, other
    processes of this user may listen there too, as during an update. The kernel chooses one for each connection.
    """
    host = ip_address(address)
    if host is None:
        raise UsageError(f"--address {address!r} is not an IP address", "Give one, such as 127.0.0.1")
    family = socket.AF_INET if host.version == 4 else socket.AF_INET6
    try:
        listener = socket.create_server((str(host), port), family=family, backlog=BACKLOG, reuse_port=is_shared)
        limit_hops(listener, hop_limit)
        return listener
    except OSError as error:
        hint = "Stop the other server there (ss -ltnp shows it), or give another port"
        if isinstance(error, PermissionError):
            hint = "Give another port: only root may use those below 1024"
        elif error.errno == errno.EADDRNOTAVAIL:
            hint = "Give an address of this machine"
        problem = f"can't listen on {host_and_port(str(host), port)}: {os.strerror(error.errno or 0)}"
        raise HwsignerError(problem, hint) from error


def hold_localhost(listeners: list[socket.socket], hop_limit: int) -> bool:
    """Listen on the other address of `localhost` too, if one is listened on: else another user could take it.

    Sockets are added to `listeners`. Returns whether clients may say `localhost`; warns if another process has the
    other address.
    """
    ends = [one.getsockname()[:2] for one in listeners]
    is_held = any(address in _LOCALHOST for address, _ in ends)
    for address, port in ends:
        other = _LOCALHOST.get(address)
        if other is None or (other, port) in ends:
            continue
        try:
            listeners.append(listen(other, port, hop_limit))
        except HwsignerError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in _NO_IPV6:
                continue
            is_held = False
            problem = f"{error.message}, so that 'localhost' may be another server"
            warnings.warn(HwsignerWarning(problem, f"Use {address}, or give another --port"), stacklevel=2)
    return is_held


def limit_hops(listener: socket.socket, hop_limit: int) -> None:
    """Set the hop limit of what the connections of a listening socket send."""
    if listener.family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, hop_limit)
    else:
        listener.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hop_limit)


def take_activated(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """Return the sockets that systemd passed to this process, and remove them from the environment.

    Anything but a listening TCP socket is a UsageError.
    """
    found = take_sockets(environ)
    for one in found:
        is_tcp = one.type == socket.SOCK_STREAM and one.family in (socket.AF_INET, socket.AF_INET6)
        if not is_tcp or not one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            problem = "systemd passed a socket that is not a listening TCP socket"
            raise UsageError(problem, "Write ListenStream=127.0.0.1:9911")
    return found


def names_of(listener: socket.socket, host_names: list[str]) -> list[str]:
    """Return what clients may send as `Host`: the address and given names, with and without port."""
    host, port = listener.getsockname()[:2]
    return [host_and_port(name, number) for name in [host, *host_names] for number in (port, None)]


def tls_context(certificate: str, key: str | None) -> ssl.SSLContext:
    """Return a server's TLS settings.

    Both are paths of PEM; the key is None if it is in the certificate's file. Warns if other users can read or change
    it.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key, password="")
        status = os.stat(key or certificate)
    except (OSError, ValueError) as error:  # An ssl.SSLError is an OSError, without a useful text.
        reason = error.strerror if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else None
        raise UsageError(
            f"--tls-certificate {certificate} and its key can't be used: {reason or 'no matching pair in PEM'}",
            "Give a certificate in PEM, and its key, without a passphrase, in the same file or with --tls-key",
        ) from None
    for warning in key_exposures(key or certificate, status):
        warnings.warn(warning, stacklevel=2)
    return context
