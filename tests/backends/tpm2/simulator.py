"""A TPM simulator's server, as the `mssim` TCTI speaks with it: one client at a time, the next one waits."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress

from ports import reserve_port
from serving_sockets import SocketServer
from softhsm.tpm import SoftTPM

_SEND_COMMAND, _SESSION_END = 8, 20
_HOST = "127.0.0.1"


class Simulator(SocketServer):
    """Such a server before a swtpm. Its ports are two that follow each other: for commands, and for power.

    Attributes:
        tcti: the TCTI that reaches it.
    """

    def __init__(self, tpm: SoftTPM) -> None:
        self._tpm = tpm
        commands, power = _neighbours()
        super().__init__({commands: self._serve_commands, power: self._serve_power}, one_at_a_time=True)
        self.tcti = f"mssim:host={_HOST},port={commands.getsockname()[1]}"

    def _serve_commands(self, client: socket.socket) -> None:
        stream = client.makefile("rb")
        while _number(stream.read(4)) == _SEND_COMMAND:
            _, size = struct.unpack(">BI", stream.read(5))
            with socket.socket(socket.AF_UNIX) as server:
                server.connect(str(self._tpm.socket))
                server.sendall(stream.read(size))
                answer = server.recv(4096)
            client.sendall(struct.pack(">I", len(answer)) + answer + bytes(4))

    def _serve_power(self, client: socket.socket) -> None:
        stream = client.makefile("rb")
        while _number(stream.read(4)) != _SESSION_END:
            client.sendall(bytes(4))


def _neighbours() -> tuple[socket.socket, socket.socket]:
    while True:
        port = reserve_port()
        with suppress(OSError):
            return socket.create_server((_HOST, port)), socket.create_server((_HOST, port + 1))


def _number(data: bytes) -> int:
    """Return the number of a request; that of the end if the connection is closed."""
    return int.from_bytes(data) if data else _SESSION_END
