"""The listening socket: a thread for each connection, and all of them closed at once."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

_JOIN_SECONDS = 2.0
_PAUSE_SECONDS = 0.05
_BACKLOG = 128


class Listener:
    """Accepts connections, and tracks them so that stop() can close them at once.

    The serve_forever() of socketserver only polls whether to stop.
    """

    def __init__(self, address: tuple[str, int], serve: Callable[[socket.socket, threading.Event], None]) -> None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.socket = socket.create_server(address, family=family, backlog=_BACKLOG)
        self._serve_connection = serve
        self._stopping = threading.Event()
        self._open: dict[threading.Thread, socket.socket] = {}
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def stop(self) -> None:
        """Stop accepting, shut down every open connection, and wait for their threads."""
        self._stopping.set()
        self.socket.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self.socket.close()
        for thread, connection in self._open.items():
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            thread.join(_JOIN_SECONDS)

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self.socket.accept()
            except OSError:
                # Stopped, or out of file descriptors. In the latter case, others may be closed soon.
                self._stopping.wait(_PAUSE_SECONDS)
                continue
            # TLS takes over the first descriptor. Shutting down this duplicate ends both.
            duplicate = connection.dup()
            thread = threading.Thread(target=self._serve, args=(connection, duplicate), daemon=True)
            self._open = {each: opened for each, opened in self._open.items() if each.is_alive()} | {thread: duplicate}
            thread.start()

    def _serve(self, connection: socket.socket, duplicate: socket.socket) -> None:
        with duplicate:
            self._serve_connection(connection, self._stopping)
