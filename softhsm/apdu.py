"""Command and response APDUs (ISO/IEC 7816-4, 5): short, extended and chained commands, and responses in pieces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

OK = 0x9000
MORE_DATA = 0x6100
WRONG_REFERENCE = 0x63C0  # plus the tries that are left
WRONG_LENGTH = 0x6700
SECURITY_STATUS = 0x6982
BLOCKED = 0x6983
CONDITIONS = 0x6985
WRONG_DATA = 0x6A80
NOT_FOUND = 0x6A82
REFERENCE_NOT_FOUND = 0x6A88
UNKNOWN_INSTRUCTION = 0x6D00

_CHAINED = 0x10
_GET_RESPONSE = 0xC0
_MAX_DATA = 4096
# VERIFY, CHANGE REFERENCE DATA, RESET RETRY COUNTER, IMPORT KEY, SET MANAGEMENT KEY: their data is not logged.
_SECRET = (0x20, 0x24, 0x2C, 0xFE, 0xFF)


class StatusError(Exception):
    """A refused command.

    Attributes:
        status: the status word, SW1 and SW2.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"{status:04X}")
        self.status = status


@dataclass(frozen=True)
class Command:
    """A command APDU. `le` is the maximum length of one piece of response data."""

    cla: int
    ins: int
    p1: int
    p2: int
    data: bytes = b""
    le: int = 256

    @classmethod
    def parse(cls, raw: bytes) -> Command:
        """Parse a command.

        Raises:
            StatusError: 6700, the lengths do not add up.
        """
        if len(raw) < 4:
            raise StatusError(WRONG_LENGTH)
        cla, ins, p1, p2 = raw[:4]
        body = raw[4:]
        # If the first byte is 0 and more bytes follow, lengths have two bytes.
        size = 2 if len(body) > 1 and body[0] == 0 else 1
        body = body[1:] if size == 2 else body
        if len(body) <= size:
            return cls(cla, ins, p1, p2, le=int.from_bytes(body) or 256**size)
        length, body = int.from_bytes(body[:size]), body[size:]
        data, rest = body[:length], body[length:]
        if len(data) < length or len(rest) not in (0, size):
            raise StatusError(WRONG_LENGTH)
        return cls(cla, ins, p1, p2, data, int.from_bytes(rest) or 256**size)

    def __str__(self) -> str:
        data = f"<{len(self.data)} bytes>" if self.ins in _SECRET and self.data else self.data.hex()
        return f"{self.ins:02X} {self.p1:02X} {self.p2:02X} {data}".rstrip()


class Exchange:
    """The card's side of an exchange of APDUs: joins chained commands and splits long responses.

    Attributes:
        log: each complete command with the status word of its response, without PINs and keys.
    """

    def __init__(self, process: Callable[[Command], bytes]) -> None:
        self.log: list[str] = []
        self._process = process
        self._chain = b""
        self._rest = b""

    def reset(self) -> None:
        """Drop a partial command and a partial response."""
        self._chain = self._rest = b""

    def respond(self, raw: bytes) -> bytes:
        """Return the response APDU to a command APDU."""
        try:
            command = Command.parse(raw)
            if command.ins == _GET_RESPONSE:
                return self._piece(command.le)
            if len(self._chain + command.data) > _MAX_DATA:
                raise StatusError(WRONG_LENGTH)
            if command.cla & _CHAINED:
                self._chain += command.data
                return OK.to_bytes(2)
            command = replace(command, data=self._chain + command.data)
            self._chain = b""
            self._rest = self._run(command)
            return self._piece(command.le)
        except StatusError as error:
            self.reset()
            return error.status.to_bytes(2)

    def _run(self, command: Command) -> bytes:
        status = OK
        try:
            return self._process(command)
        except StatusError as error:
            status = error.status
            raise
        finally:
            self.log.append(f"{command} -> {status:04X}")

    def _piece(self, size: int) -> bytes:
        piece, self._rest = self._rest[:size], self._rest[size:]
        status = MORE_DATA + min(len(self._rest), 256) % 256 if self._rest else OK
        return piece + status.to_bytes(2)
