"""A server of a test: threads accept the clients of some listeners until the `with` statement ends."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self

Serve = Callable[[socket.socket], None]


class SocketServer:
    """Such a server.

    Args:
        served: by listener, what serves a client. Its connection is closed afterwards.
        one_at_a_time: whether the next client waits until the last one is served.
    """

    def __init__(self, served: dict[socket.socket, Serve], *, one_at_a_time: bool = False) -> None:
        self._served = served
        self._one_at_a_time = one_at_a_time

    def __enter__(self) -> Self:
        for listener, serve in self._served.items():
            threading.Thread(target=self._accept, args=(listener, serve), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for listener in self._served:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _accept(self, listener: socket.socket, serve: Serve) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=_serve, args=(client, serve), daemon=True)
            thread.start()
            if self._one_at_a_time:
                thread.join()


def _serve(client: socket.socket, serve: Serve) -> None:
    with client, suppress(OSError, struct.error):
        serve(client)
