"""Network namespaces with the addresses at which Pods find their node."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

ADDRESSES = ("169.254.170.23", "fd00:ec2::23")
_CLONE_NEWNET = 0x40000000
# A kernel without the module for dummy links may have bridges: one without ports is as good.
_COMMANDS = """
ip link set lo up
ip link add pods type dummy 2> /dev/null || ip link add pods type bridge
ip link set pods up
ip address add 169.254.170.23/32 dev pods
ip address add fd00:ec2::23/128 dev pods nodad
"""


@contextmanager
def node_network() -> Iterator[None]:
    """Put this thread, and the processes and threads it starts, into a new network namespace. Needs root.

    Sockets stay in the namespace in which they were made.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(libc.unshare(_CLONE_NEWNET))
        try:
            give_addresses()
            yield
        finally:
            _check(libc.setns(before, _CLONE_NEWNET))
    finally:
        os.close(before)


def give_addresses() -> None:
    """Make the link with the addresses."""
    subprocess.run(["sh", "-ec", _COMMANDS], check=True)


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
