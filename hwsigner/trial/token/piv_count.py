"""How many attempts the PIN of a PIV card has left, which OpenSC's module does not say before there is one only."""

from __future__ import annotations

import ctypes

from hwsigner._system.pcsc import integers, open_library
from hwsigner.backends.pkcs11.functions import TokenInfo

_SYSTEM, _SHARED, _ANY_PROTOCOL, _LEAVE_CARD = 2, 2, 3, 0
# VERIFY without a PIN, which counts nothing (SP 800-73-4, part 2, 3.2.1), and Yubico's GET METADATA of the PIN.
_VERIFY, _METADATA = bytes.fromhex("00200080"), bytes.fromhex("00f7008000")
_TRIES = 0x06  # Of the metadata: all attempts, and those left.
_FACTORY_TRIES = 3
_LONG, _ULONG = integers()


class _CardRequest(ctypes.Structure):
    """SCARD_IO_REQUEST."""

    _fields_ = (("protocol", _ULONG), ("length", _ULONG))


def piv_pin_state(info: TokenInfo) -> str:
    """Return `an earlier try failed` if a PIV card behind OpenSC's module counts a wrong PIN, else an empty string.

    The module must have selected the card's PIV application. A card that says nothing is believed to count none.
    """
    if info.manufacturer != "piv_II":
        return ""
    library = open_library()
    if library is None:
        return ""
    answers = _transmit(library, info.slot_description, (_METADATA, _VERIFY))
    if len(answers) < 2:
        return ""
    metadata, verified = answers
    every, left = _metadata_tries(metadata)
    if left is None and verified[-2:-1] == b"\x63" and verified[-1] & 0xF0 == 0xC0:
        every, left = _FACTORY_TRIES, verified[-1] & 0x0F
    if verified == b"\x69\x83":
        return "locked"
    return "an earlier try failed" if left is not None and left < every else ""


def _metadata_tries(answer: bytes) -> tuple[int, int | None]:
    """Return all attempts and those left; None for the latter if the card does not say it."""
    fields = answer[:-2] if answer.endswith(b"\x90\x00") else b""
    while len(fields) >= 2:
        tag, size = fields[0], fields[1]
        if tag == _TRIES and size == 2 and len(fields) >= 4:
            return fields[2], fields[3]
        fields = fields[2 + size :]
    return 0, None


def _transmit(library: ctypes.CDLL, reader: str, commands: tuple[bytes, ...]) -> list[bytes]:
    """Send commands to the card in a reader, beside the module, and return the answers; none if that fails."""
    context, card, protocol = _LONG(), _LONG(), _ULONG()
    if library.SCardEstablishContext(_ULONG(_SYSTEM), None, None, ctypes.byref(context)):
        return []
    answers: list[bytes] = []
    try:
        asked = reader.encode(), _ULONG(_SHARED), _ULONG(_ANY_PROTOCOL)
        if library.SCardConnect(context, *asked, ctypes.byref(card), ctypes.byref(protocol)):
            return []
        for command in commands:
            buffer, length = (ctypes.c_ubyte * 258)(), _ULONG(258)
            request = _CardRequest(protocol.value, ctypes.sizeof(_CardRequest))
            given = ctypes.byref(request), command, _ULONG(len(command)), None, buffer, ctypes.byref(length)
            if library.SCardTransmit(card, *given):
                break
            answers.append(bytes(buffer[: length.value]))
        library.SCardDisconnect(card, _ULONG(_LEAVE_CARD))
    finally:
        library.SCardReleaseContext(context)
    return answers
