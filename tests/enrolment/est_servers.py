"""estserver in a network namespace of its own, as it listens on all addresses, behind a Unix socket.

A relay on loopback connects to that socket, since Unix sockets reach across network namespaces. As a program, this file
is the other half of the relay, in the namespace.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

PORT = 8085
_CONFIG = """
[ca]
default_ca = est
[est]
database = ./index.txt
serial = ./serial
new_certs_dir = .
certificate = ./ca.pem
private_key = ./ca.key
default_md = sha256
default_days = 2
policy = any
copy_extensions = copyall
unique_subject = no
[any]
commonName = supplied
organizationalUnitName = optional
"""


class EstServer:
    """A running estserver.

    Args:
        folder: a folder with `ca.pem` and `ca.key`, and the server's `server.pem` and `server.key`.
        flags: more flags for it.
    """

    def __init__(self, folder: Path, *flags: str) -> None:
        (folder / "ca.cnf").write_text(_CONFIG)
        (folder / "index.txt").write_text("")
        (folder / "serial").write_text("01\n")
        self._socket = folder / "est.sock"
        files = {"EST_OPENSSL_CACONFIG": "ca.cnf", "EST_TRUSTED_CERTS": "ca.pem", "EST_CACERTS_RESP": "ca.pem"}
        server = ["estserver", "-c", "server.pem", "-k", "server.key", "-r", "est", "-b", "-p", str(PORT), *flags]
        inside = [sys.executable, __file__, str(self._socket), *server]
        with (folder / "log").open("w") as log:
            self._process = subprocess.Popen(
                ["unshare", "--net", "--map-root-user", "--kill-child", *inside],
                cwd=folder,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **files},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        for _ in range(600):
            if self._socket.exists() or self._process.poll() is not None:
                break
            time.sleep(0.05)
        assert self._socket.exists(), (folder / "log").read_text()
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=_relay, args=[self._listener, self._connect], daemon=True).start()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._listener.getsockname()[1]}"

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self._socket))
        return connection

    def stop(self) -> None:
        # Its accept() would otherwise keep the thread and the socket.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._process.communicate()  # The end of its stdin ends the relay inside, and so the server.


def _relay(listener: socket.socket, connect: Callable[[], socket.socket]) -> None:
    """Join each connection to another one, until the listener is closed."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_join, args=[connection, connect()], daemon=True).start()


def _join(one: socket.socket, other: socket.socket) -> None:
    with one, other:
        back = threading.Thread(target=_copy, args=[other, one], daemon=True)
        back.start()
        _copy(one, other)
        back.join()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _run_inside(path: str, server: list[str]) -> None:
    """Start a server, listen on a Unix socket once it accepts connections, and end it at the end of stdin."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)

    def connect() -> socket.socket:
        return socket.create_connection(("127.0.0.1", PORT))

    with subprocess.Popen(server, stdin=subprocess.DEVNULL) as process:
        while process.poll() is None:
            with suppress(OSError):
                connect().close()
                break
            time.sleep(0.02)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{path}.new")
        listener.listen()
        Path(f"{path}.new").rename(path)
        threading.Thread(target=_relay, args=[listener, connect], daemon=True).start()
        sys.stdin.read()
        process.kill()


if __name__ == "__main__":
    _run_inside(sys.argv[1], sys.argv[2:])
