"""Serial numbers of certificates: reading them as tools print them, and writing them."""

from __future__ import annotations

import re

from hwsigner.errors import UsageError

_DECIMAL = re.compile(r"0|[1-9][0-9]*")
_COLONS = re.compile(r"[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2})+")
_PREFIXED = re.compile(r"(?:0x|serial=)([0-9A-Fa-f]+)", re.IGNORECASE)  # `openssl x509 -serial` prints serial=
_BOTH = re.compile(r"([0-9]+) \(0x([0-9a-f]+)\)")  # `openssl x509 -text` prints 4096 (0x1000)
_HEXADECIMAL = re.compile(r"[0-9A-Fa-f]+")
_LONGEST = 1 << 160  # 20 octets (RFC 5280, 4.1.2.2)


def parse_serial(text: str) -> int:
    """Return a serial number, written in decimal or as openssl prints it.

    Hexadecimal has colons (`03:E8`) or a prefix (`0x3E8`, `serial=03E8`), as its digits may look like decimal ones.
    """
    number = _number(text.strip())
    if number is None and _HEXADECIMAL.fullmatch(text.strip()):
        problem = f"the serial number {text.strip()[:100]!r} could be hexadecimal or decimal"
        raise UsageError(problem, f"Write 0x{text.strip()[:100]} for hexadecimal, or decimal without a leading zero")
    if number is None or not 0 <= number < _LONGEST:
        hint = "Write it in decimal, or in hexadecimal with colons or 0x, as openssl x509 -text prints it"
        raise UsageError(f"{text[:100]!r} is not a serial number", hint)
    return number


def _number(text: str) -> int | None:
    if len(text) > 100:
        return None
    if _DECIMAL.fullmatch(text):
        return int(text)
    if _COLONS.fullmatch(text):
        return int(text.replace(":", ""), 16)
    if found := _PREFIXED.fullmatch(text):
        return int(found[1], 16)
    both = _BOTH.fullmatch(text)
    return int(both[1]) if both and int(both[1]) == int(both[2], 16) else None


def serial_text(serial: int) -> str:
    """Return a serial number in hexadecimal, with colons between the bytes: `03:E8`."""
    digits = f"{serial:X}"
    return ":".join(re.findall("..", digits.zfill(len(digits) + len(digits) % 2)))


def described_serial(serial: int) -> str:
    """Return a serial number in hexadecimal and decimal."""
    return f"{serial_text(serial)} (decimal {serial})"
