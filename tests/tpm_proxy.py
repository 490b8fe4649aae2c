"""A proxy between a program and its swtpm: it records all commands, and can misbehave.

The swtpm TCTI opens a connection for each command, so closing one loses one command or its answer.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from serving_sockets import SocketServer
from softhsm.tpm import SoftTPM

_HEADER = struct.Struct(">HII")
_NO_SESSIONS = 0x8001

# CreatePrimary, Load, ContextLoad, LoadExternal, StartAuthSession, HashSequenceStart (TPM 2.0 Library, part 2, 6.5.2):
# the answers start with the handle of the loaded object.
_LOADING = (0x131, 0x157, 0x161, 0x167, 0x176, 0x186)

# What to do with a command: forward it; answer with a response code; close the connection before the TPM gets it; let
# the TPM execute it, then send half of the answer or none before closing the connection.
Fault = Literal["pass", "cut", "drop", "half"] | int
FAULTS: tuple[Fault, ...] = ("cut", "drop", "half", 0x101)


class Exchange(NamedTuple):
    """A command and its answer, which is empty if there was none."""

    command: bytes
    answer: bytes

    @property
    def code(self) -> int:
        """The command code (TPM 2.0 Library, part 2, 6.5.2)."""
        return int(_HEADER.unpack_from(self.command)[2])


def answer(code: int) -> bytes:
    """Return an answer that consists only of a response code."""
    return _HEADER.pack(_NO_SESSIONS, _HEADER.size, code)


class TPMProxy(SocketServer):
    """A proxy on Unix sockets in a folder.

    Attributes:
        tcti: the TCTI that uses the proxy.
        exchanges: all commands and answers, in order.
        decide: called with the bytes of a command, returns what to do with it.
        loses_handles: whether an answer with the handle of a loaded object may be lost, which then can't be flushed.
            If not, the connection is closed before the TPM gets the command.
        lost: the handles in lost answers, in hexadecimal.
    """

    def __init__(self, tpm: SoftTPM, folder: Path) -> None:
        self.tcti = f"swtpm:path={folder / 'proxy'}"
        self.exchanges: list[Exchange] = []
        self.decide: Callable[[bytes], Fault] = lambda command: "pass"
        self.loses_handles = True
        self.lost: list[str] = []
        self._tpm = tpm
        control = _listener(folder / "proxy.ctrl")
        super().__init__({_listener(folder / "proxy"): self._serve, control: self._serve_control})

    @property
    def codes(self) -> list[int]:
        """The codes of all commands."""
        return [exchange.code for exchange in self.exchanges]

    @property
    def stream(self) -> bytes:
        """All bytes of commands and answers."""
        return b"".join(exchange.command + exchange.answer for exchange in self.exchanges)

    def at(self, number: int, fault: Fault) -> None:
        """Misbehave once, at the command with this number, counted from now, starting at 0."""
        left = number

        def decide(command: bytes) -> Fault:
            nonlocal left
            left -= 1
            return fault if left == -1 else "pass"

        self.decide = decide

    def _serve(self, client: socket.socket) -> None:
        while command := _read_message(client):
            fault = self.decide(command)
            loads = int.from_bytes(command[6:10]) in _LOADING
            if fault in ("drop", "half") and loads and not self.loses_handles:
                fault = "cut"
            if fault == "cut":
                self.exchanges.append(Exchange(command, b""))
                return
            reply = answer(fault) if isinstance(fault, int) else self._forward(command)
            self.exchanges.append(Exchange(command, b"" if fault == "drop" else reply))
            if fault in ("drop", "half"):
                if loads and reply[6:10] == bytes(4):
                    self.lost.append(f"{int.from_bytes(reply[10:14]):#x}")
                client.sendall(reply[: len(reply) // 2] if fault == "half" else b"")
                return
            client.sendall(reply)

    def _forward(self, command: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as server:
            try:
                server.connect(str(self._tpm.socket))
                server.sendall(command)
                return _read_message(server)
            except OSError:
                return b""

    def _serve_control(self, client: socket.socket) -> None:
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(f"{self._tpm.socket}.ctrl")
            while request := client.recv(4096):
                server.sendall(request)
                client.sendall(server.recv(4096))


def _listener(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


def _read_message(connection: socket.socket) -> bytes:
    """Return one command or answer, or the part received before the connection closed."""
    data = b""
    while len(data) < 6 or len(data) < int.from_bytes(data[2:6]):
        part = connection.recv(4096)
        if not part:
            break
        data += part
    return data
