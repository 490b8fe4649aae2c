"""Which TPM to use: its TCTI, and the errors for one that can't be reached.

A TCTI is a way to a TPM, such as `device:/dev/tpmrm0`, `tabrmd` or `swtpm:path=/run/swtpm/socket`.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
from urllib.parse import unquote

from hwsigner.errors import BackendUnavailableError, UsageError
from hwsigner.uri import KeyURI

_VARIABLES = ("TPM2_TCTI", "TPM2TOOLS_TCTI")
_DEVICE_VARIABLE = "TPM_DEVICE"
_DEVICES = ("/dev/tpmrm0", "/dev/tpm0")
_HARMLESS = re.compile(
    r"device(:/dev/tpm(rm)?[0-9]+)?|tabrmd(:.*)?|(swtpm|mssim)(:path=[^,]*|:port=[0-9]+)?", re.DOTALL
)
_NAME_IT = "name it with --tcti, with tcti= in the key URI, or in TPM2_TCTI"
_ELSEWHERE = f"If the TPM is elsewhere, {_NAME_IT}"
_TCTI_NOT_SUPPORTED = 0xA0015

_NAME = "com.intel.tss2.Tabrmd"
_BUS = "unix:path=/run/dbus/system_bus_socket"
_SECONDS = 1.0
_PATH, _INTERFACE, _MEMBER, _DESTINATION, _SIGNATURE = 1, 2, 3, 6, 8
_METHOD_CALL, _METHOD_RETURN, _NO_FLAGS, _VERSION = 1, 2, 0, 1
_HELLO, _HAS_OWNER = 1, 2  # The serial numbers of our two calls.


def tcti_of(uri: KeyURI) -> str:
    """Return the TCTI of a key URI: its own, the environment's, tabrmd if it runs, or the kernel's TPM device.

    Raises:
        BackendUnavailableError: none is named, and none of these exists.
    """
    given = uri.text("tcti") or next((tcti for _, tcti in _environment()), None)
    if given:
        return given
    if is_tabrmd_running():
        return "tabrmd"
    for path in _DEVICES:
        if os.path.exists(path):
            return f"device:{path}"
    raise BackendUnavailableError(
        f"found no TPM: tabrmd is not running, and there is no {' and no '.join(_DEVICES)}",
        f"Enable it in the firmware and load its driver; if it is elsewhere, {_NAME_IT}",
    )


def check_tcti(uri: KeyURI) -> None:
    """Refuse a URI whose TCTI may do more than talk to a TPM.

    The loader reads a TCTI as a library's name or path, `:`, and the library's own configuration. That may be a command
    (`cmd`), another TCTI (`pcap`, and the loader itself as `libtss2-tctildr.so.0`), or a file to be written: `device`
    writes into any file that it can open, and `libtpms` keeps its state in one. `swtpm` and `mssim` may name another
    host, which would get what `pin-source` names.

    Raises:
        UsageError: it is not one of a few known ones.
    """
    tcti = uri.text("tcti")
    if tcti and not _HARMLESS.fullmatch(tcti):
        raise UsageError(
            f"TCTI {tcti} is not one of the system's ways to a TPM: it can load, run, write or send any file",
            "Give allow_modules=True if the key URI may do that",
        )


def unavailable(tcti: str, error: Exception) -> BackendUnavailableError:
    """Return the error for a TPM that could not be reached, or that failed without an answer."""
    kind, _, configuration = tcti.partition(":")
    source = next((f" ({name})" for name, value in _environment() if value == tcti), "")
    if getattr(error, "rc", 0) == _TCTI_NOT_SUPPORTED:
        return BackendUnavailableError(
            f"TCTI {tcti}{source} can't be loaded: {error}",
            f"Install the package with libtss2-tcti-{kind}.so, or name another TPM",
        )
    if kind == "device":
        return _unavailable_device(configuration or _DEVICES[0], source, error)
    hint = "Join the group tss and log in again, or check systemctl status tpm2-abrmd" if kind == "tabrmd" else ""
    return BackendUnavailableError(f"the TPM at {tcti}{source} does not answer: {error}", hint or _ELSEWHERE)


def _environment() -> list[tuple[str, str]]:
    """Return the variables that name a TCTI, and the TCTIs, in order of precedence."""
    found = [(name, os.environ.get(name, "")) for name in _VARIABLES]
    device = os.environ.get(_DEVICE_VARIABLE, "")
    return [item for item in (*found, (_DEVICE_VARIABLE, device and f"device:{device}")) if item[1]]


def _unavailable_device(path: str, source: str, error: Exception) -> BackendUnavailableError:
    """Return the error for a TPM device, with the reason: the libraries report all reasons as one."""
    device = f"TPM device {path}{source}"
    try:
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
    except FileNotFoundError:
        return BackendUnavailableError(f"there is no {device}", _ELSEWHERE)
    except PermissionError:
        return BackendUnavailableError(
            f"no permission to use {device}", f"Join its group ({_group(path)}) and log in again"
        )
    except OSError as reason:
        if reason.errno == errno.EBUSY:
            return BackendUnavailableError(
                f"{device} is in use by another program", "Use the resource manager: tcti=device:/dev/tpmrm0"
            )
        return BackendUnavailableError(f"{device} can't be opened: {reason.strerror}", _ELSEWHERE)
    return BackendUnavailableError(f"{device} does not answer: {error}", _ELSEWHERE)


def _group(path: str) -> str:
    import grp

    try:
        return grp.getgrgid(os.stat(path).st_gid).gr_name
    except (OSError, KeyError):
        return "tss"


def is_tabrmd_running() -> bool:
    """Return whether tabrmd's name has an owner on the system's D-Bus. Without a bus it has none."""
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
    """Return the path of the first Unix socket in a list of D-Bus addresses."""
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
        # Byte order, type, flags, version, length of the body, serial number, length of the header's fields.
        start = answers.read(16)
        order = "<" if start[:1] == b"l" else ">"
        kind, _, _, size, _, fields = struct.unpack(f"{order}BBBIII", start[1:])
        header = answers.read(fields + -fields % 8)
        body = answers.read(size)
        if kind == _METHOD_RETURN and struct.pack(f"{order}BBBxI", 5, 1, ord("u"), _HAS_OWNER) in header:
            return bool(struct.unpack(f"{order}I", body)[0])


def _call(serial: int, member: str, argument: str = "") -> bytes:
    """Return a call of a method of the bus."""
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
