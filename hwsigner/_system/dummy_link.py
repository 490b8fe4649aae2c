"""Give this machine the addresses for its Pods: `python -m hwsigner._system.dummy_link [--keep|--check] LINK ADDRESS…`.

With `--keep`, this goes on until SIGTERM, and gives them again when one is gone. `--check` says whether one is there,
as the exit status.

If the link does not exist, it is made, of the type dummy, which needs that kernel module; `lo` needs none. This uses
rtnetlink(7), and needs CAP_NET_ADMIN.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import signal
import socket
import struct
import sys
import time

_NLMSG_ERROR = 2
_RTM_NEWLINK = 16
_RTM_NEWADDR = 20
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_REPLACE, _NLM_F_CREATE = 1, 4, 0x100, 0x400
_IFF_UP = 1
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_INFO_KIND = 3, 18, 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFA_F_NODAD = 2  # No other machine is on the link, so none is asked whether it has the address.
_MAX_REPLY = 8192
_LOOK_SECONDS = 1.0

# The errors for an IPv6 address if the kernel has no IPv6, or the link has it turned off.
_NO_IPV6 = {errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EACCES}


def add_link(name: str, kind: str = "dummy") -> None:
    """Make a link, unless it exists. An OSError is the kernel's."""
    if name in (known for _, known in socket.if_nameindex()):
        return
    made = _attribute(_IFLA_LINKINFO, _attribute(_IFLA_INFO_KIND, kind.encode()))
    _ask(_RTM_NEWLINK, _link_info(0, 0) + _attribute(_IFLA_IFNAME, name.encode() + b"\0") + made)


def turn_on(name: str) -> None:
    """Turn a link on: addresses of one that is off can't be reached. An OSError is the kernel's."""
    _ask(_RTM_NEWLINK, _link_info(socket.if_nametoindex(name), _IFF_UP), 0)  # A link can't be replaced.


def add_address(name: str, address: str) -> None:
    """Give a link an IP address, if it does not have it. An OSError is the kernel's."""
    parsed = ipaddress.ip_address(address)
    family = socket.AF_INET if parsed.version == 4 else socket.AF_INET6
    info = struct.pack("=BBBBI", family, parsed.max_prefixlen, _IFA_F_NODAD, 0, socket.if_nametoindex(name))
    _ask(_RTM_NEWADDR, info + _attribute(_IFA_LOCAL, parsed.packed) + _attribute(_IFA_ADDRESS, parsed.packed))


def _link_info(index: int, flags: int) -> bytes:
    """Return a struct ifinfomsg that sets flags."""
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, flags, flags)


def _attribute(kind: int, value: bytes) -> bytes:
    """Return a struct rtattr, padded to a multiple of four bytes."""
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _ask(kind: int, body: bytes, flags: int = _NLM_F_CREATE | _NLM_F_REPLACE) -> None:
    """Send a struct nlmsghdr with a body. Raise an OSError if the kernel refuses."""
    if sys.platform == "darwin":
        raise OSError(errno.EAFNOSUPPORT, "macOS has no rtnetlink")
    flags |= _NLM_F_REQUEST | _NLM_F_ACK
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.sendto(struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body, (0, 0))
        reply = kernel.recv(_MAX_REPLY)
    (answer,) = struct.unpack_from("=H", reply, 4)
    (number,) = struct.unpack_from("=i", reply, 16)
    if answer != _NLMSG_ERROR or number:
        raise OSError(-number, os.strerror(-number))


def main(name: str, *addresses: str) -> int:
    """Make the link, give it the addresses, turn it on, print what was done, and return the exit status."""
    try:
        add_link(name)
    except OSError as error:
        hint = (
            "Give the container NET_ADMIN" if error.errno == errno.EPERM else "Run modprobe dummy, or take the link lo"
        )
        _say(f"can't make the link {name}: {error.strerror}. {hint}")
        return 1
    for address in addresses:
        try:
            add_address(name, address)
        except OSError as error:
            if ":" not in address or error.errno not in _NO_IPV6:
                hint = ". Give the container NET_ADMIN" if error.errno == errno.EPERM else ""
                _say(f"can't give {address} to {name}: {error.strerror}{hint}")
                return 1
            _say(f"the machine has no IPv6, so {name} does not get {address}")
        else:
            _say(f"{name} has {address}")
    try:
        turn_on(name)
    except OSError as error:
        _say(f"can't turn on the link {name}: {error.strerror}")
        return 1
    return 0


def is_there(address: str) -> bool:
    """Return whether this machine has an address."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.bind((address, 0))
    except OSError:
        return False
    return True


def keep(name: str, *addresses: str) -> int:
    """Keep the addresses until SIGTERM. Return another status than 0 if they can't be given."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # The kernel sends process 1 only signals that it handles.
    given: list[str] = []
    while True:
        if not given or not all(map(is_there, given)):
            if status := main(name, *addresses):
                return status
            given = list(filter(is_there, addresses))  # The machine may lack IPv6.
        time.sleep(_LOOK_SECONDS)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    _option = sys.argv.pop(1) if sys.argv[1:2] in (["--keep"], ["--check"]) else ""
    if len(sys.argv) < 3:
        sys.exit("usage: python -m hwsigner._system.dummy_link [--keep|--check] LINK ADDRESS…")
    if _option == "--check":
        sys.exit(not any(map(is_there, sys.argv[2:])))
    sys.exit((keep if _option else main)(*sys.argv[1:]))
