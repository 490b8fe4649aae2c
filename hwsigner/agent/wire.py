"""Lines and bodies on a blocking socket, with time limits: both ends of what is not the agent's fast way."""

from __future__ import annotations

import socket
import time

from hwsigner.agent import protocol
from hwsigner.agent.protocol import Head
from hwsigner.errors import AgentError


class Wire:
    """A connection.

    Args:
        sock: the socket; it stays the caller's to close.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def send(self, data: bytes) -> None:
        """Send all of some bytes; raises OSError."""
        self._sock.settimeout(protocol.SILENCE_LIMIT)
        self._sock.sendall(data)

    def head(self, limit: float) -> Head:
        """Return the next line.

        Args:
            limit: the seconds that it may take as a whole.

        Raises:
            AgentError: none comes in time, or none of this protocol.
        """
        deadline = time.monotonic() + limit
        line, byte = b"", memoryview(bytearray(1))
        # Byte by byte: what follows may be a PIN, which is read to where it stays.
        while not line.endswith(b"\n") and len(line) < protocol.MAX_LINE:
            self._receive_into(byte, deadline)
            line += byte
        head = protocol.parse_head(line.removesuffix(b"\n")) if line.endswith(b"\n") else None
        if head is None:
            raise AgentError("the other end of the agent's socket does not speak this version of its protocol")
        return head

    def answer(self, limit: float = protocol.FIRST_BYTE_LIMIT) -> tuple[Head, bytes]:
        """Return the line that ends an answer, past those that say that the agent is at work, and its body.

        Args:
            limit: the seconds that the first line may take; there is no haste where a person waits.

        Raises:
            AgentError: none comes in time, or none of this protocol.
        """
        deadline = time.monotonic() + protocol.ANSWER_LIMIT
        head = self.head(limit)
        while head.kind == "working":
            head = self.head(min(protocol.SILENCE_LIMIT, deadline - time.monotonic()))
        body = bytearray(head.size)
        self.body_into(memoryview(body))
        return head, bytes(body)

    def body_into(self, body: memoryview) -> None:
        """Fill a buffer with what comes next; raises AgentError."""
        deadline = time.monotonic() + protocol.SILENCE_LIMIT
        filled = 0
        while filled < len(body):
            filled += self._receive_into(body[filled:], deadline)

    def _receive_into(self, buffer: memoryview, deadline: float) -> int:
        """Wait for bytes, put some into a buffer and return how many, one at least."""
        try:
            # Not 0: that is a socket which never waits, and has another error.
            self._sock.settimeout(max(0.001, deadline - time.monotonic()))
            count = self._sock.recv_into(buffer)
        except TimeoutError:
            hint = "hwsigner agent status asks it; end it if it hangs"
            raise AgentError("the agent does not answer in time", hint) from None
        except OSError as error:
            raise AgentError(f"the agent's socket failed: {error.strerror or error}") from None
        if count == 0:
            raise AgentError("the other end closed the agent's socket")
        return count
