"""The agent's door: lets clients in by the listening socket, and nobody for a moment where the system refuses that."""

from __future__ import annotations

import math
import selectors
import socket
import time
from collections.abc import Callable
from contextlib import suppress

from hwsigner.agent.listener import file_id
from hwsigner.agent.places import peer_uid

# How long nobody is let in after the system refused it: who waits at the door would be tried again without a pause.
PAUSE = 0.1
_AT_ONCE = 64

# Takes the socket of a client, and the user at its other end.
Enter = Callable[[socket.socket, int], None]


class Door:
    """A listening socket in a loop. For the loop's thread.

    Args:
        listener: the socket; closed with the door.
        selector: the loop's, whose data are what it calls.
        enter: takes each client.
        refused: called with what is wrong where the system let nobody in; descriptors may have run out.

    Attributes:
        opens: when it is to be opened again, after a pause; infinity for never.
    """

    def __init__(
        self,
        listener: socket.socket,
        selector: selectors.BaseSelector,
        *,
        enter: Enter,
        refused: Callable[[str], None],
    ) -> None:
        self._listener = listener
        self._selector = selector
        self._enter = enter
        self._refused = refused
        self._file_id = file_id(listener.getsockname())
        self._is_closed = False
        self.opens = math.inf
        listener.setblocking(False)

    def open(self) -> None:
        """Let clients in."""
        self.opens = math.inf
        self._selector.register(self._listener, selectors.EVENT_READ, self.accept)

    def tend(self, now: float) -> None:
        """Open again, if a pause is over."""
        if now >= self.opens:
            self.open()

    def is_lost(self) -> bool:
        """Tell whether nobody can come any more: the socket's file is gone, or is another one."""
        return not self._is_closed and file_id(self._listener.getsockname()) != self._file_id

    def close(self) -> None:
        """Let nobody in any more."""
        self._is_closed = True
        self._shut()
        self._listener.close()

    def accept(self) -> None:
        """Take in who waits; the loop calls it."""
        if self._is_closed:
            return  # Since another event that came with this one.
        for _ in range(_AT_ONCE):
            try:
                sock, _ = self._listener.accept()
                uid = peer_uid(sock)
            except BlockingIOError:
                return
            except OSError as error:
                self._refused(f"can't accept a client: {error.strerror}")
                self._shut()
                self.opens = time.monotonic() + PAUSE
                return
            self._enter(sock, uid)

    def _shut(self) -> None:
        self.opens = math.inf
        with suppress(KeyError):  # It is shut already.
            self._selector.unregister(self._listener)
