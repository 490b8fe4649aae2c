"""Whether tabrmd, the resource manager in user space, runs. The system's D-Bus knows, and does not start it when asked.

The exchange is that of the D-Bus specification: the handshake, Hello, and NameHasOwner.
"""

from __future__ import annotations

import os
import socket
import struct
from urllib.parse import unquote

_NAME = "com.intel.tss2.Tabrmd"
_BUS = "unix:path=/run/dbus/system_bus_socket"
_SECONDS = 1.0
_PATH, _INTERFACE, _MEMBER, _DESTINATION, _SIGNATURE = 1, 2, 3, 6, 8
_METHOD_CALL, _METHOD_RETURN, _NO_FLAGS, _VERSION = 1, 2, 0, 1
_HELLO, _HAS_OWNER = 1, 2  # The serial numbers of our two calls.


def is_running() -> bool:
    """Return whether somebody owns tabrmd's name on the system's bus. Where there is no bus, nobody does."""
    path = _socket_path(os.environ.get("DBUS_SYSTEM_BUS_ADDRESS", _BUS))
    if path is None or not os.path.exists(path):
        return False
    with socket.socket(socket.AF_UNIX) as bus:
        bus.settimeout(_SECONDS)
        try:
            bus.connect(path)
            return _ask(bus)
        except (OSError, ValueError, struct.error):
            return False


def _socket_path(addresses: str) -> str | None:
    """Return the path of the first Unix socket among D-Bus addresses."""
    for address in addresses.split(";"):
        transport, _, options = address.partition(":")
        for option in options.split(","):
            name, _, value = option.partition("=")
            if (transport, name) == ("unix", "path"):
                return unquote(value)
    return None


def _ask(bus: socket.socket) -> bool:
    uid = str(os.getuid()).encode().hex()
    bus.sendall(f"\0AUTH EXTERNAL {uid}\r\n".encode())
    answers = bus.makefile("rb")
    if not answers.readline(256).startswith(b"OK "):
        return False
    bus.sendall(b"BEGIN\r\n" + _call(_HELLO, "Hello") + _call(_HAS_OWNER, "NameHasOwner", _NAME))
    while True:
        # Byte order, type, flags, version, length of the body, serial, length of the header's fields.
        start = answers.read(16)
        order = "<" if start[:1] == b"l" else ">"
        kind, _, _, size, _, fields = struct.unpack(f"{order}BBBIII", start[1:])
        header = answers.read(fields + -fields % 8)
        body = answers.read(size)
        if kind == _METHOD_RETURN and struct.pack(f"{order}BBBxI", 5, 1, ord("u"), _HAS_OWNER) in header:
            return bool(struct.unpack(f"{order}I", body)[0])


def _call(serial: int, member: str, argument: str = "") -> bytes:
    """Return a call of a method of the bus itself."""
    body = _string(argument) if argument else b""
    fields = [
        _field(_PATH, "o", "/org/freedesktop/DBus"),
        _field(_INTERFACE, "s", "org.freedesktop.DBus"),
        _field(_MEMBER, "s", member),
        _field(_DESTINATION, "s", "org.freedesktop.DBus"),
    ]
    if body:
        fields.append(struct.pack("<B3sB2s", _SIGNATURE, b"\1g\0", 1, b"s\0"))
    header = b""
    for field in fields:
        header += bytes(-len(header) % 8) + field
    start = struct.pack("<cBBBIII", b"l", _METHOD_CALL, _NO_FLAGS, _VERSION, len(body), serial, len(header))
    return start + header + bytes(-len(header) % 8) + body


def _field(code: int, kind: str, value: str) -> bytes:
    """Return a field of a header: its code, the signature of its value, and the value."""
    return struct.pack("<B3s", code, b"\1%c\0" % ord(kind)) + _string(value)


def _string(text: str) -> bytes:
    return struct.pack("<I", len(text)) + text.encode() + b"\0"
