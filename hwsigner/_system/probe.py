"""Ask a server on a Unix socket how it is: `python -m hwsigner._system.probe SOCKET PATH`.

The exit status is 0 if it answers 200 in time. Otherwise, its answer is printed. For probes of Kubernetes: a probe by
HTTP at an address of the node may reach the process that replaces this one.
"""

from __future__ import annotations

import socket
import sys

_SECONDS = 3.0
_MAX_BYTES = 65536


def main(path: str, target: str) -> int:
    """Ask, print a bad answer, and return the exit status."""
    answer = b""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_SECONDS)
            connection.connect(path)
            connection.sendall(f"GET {target} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            while len(answer) < _MAX_BYTES and (part := connection.recv(4096)):
                answer += part
    except OSError as error:
        sys.stdout.write(f"no answer from {path} in {_SECONDS:g} s: {error.strerror or error}\n")
        return 1
    head, _, body = answer.partition(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 200 "):
        return 0
    sys.stdout.write(body.decode("utf-8", "replace"))
    return 1


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m hwsigner._system.probe SOCKET PATH")
    sys.exit(main(*sys.argv[1:]))
