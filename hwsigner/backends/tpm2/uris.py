"""What a `tpm2:` URI names: a persistent handle, a key file, or an NV index with a certificate; and of which TPM.

A TCTI is a way to a TPM, such as `device:/dev/tpmrm0`, `tabrmd` or `swtpm:path=/run/swtpm/socket`.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from typing import NamedTuple
from urllib.parse import unquote

from tpm2_pytss import TPM2_HT

from hwsigner._uri import KeyURI
from hwsigner.backends.pem import read_contents
from hwsigner.backends.tpm2.errors import DEVICES, NAME_IT, environment_tctis
from hwsigner.backends.tpm2.key_file import HIERARCHIES, LABEL, PARENT_NAME, TSS2Key, parse_tss2
from hwsigner.backends.tpm2.objects import LoadableKey, LoadableObject, ParentAuth, PersistentObject
from hwsigner.backends.tpm2.srk import PROVISIONED, TrustedSRK
from hwsigner.backends.tpm2.tpm import SessionSettings
from hwsigner.errors import (
    AmbiguousKeyError,
    BackendUnavailableError,
    KeyNotFoundError,
    UnsupportedKeyError,
    UsageError,
)

# The query's attributes, except for pin-value and pin-source.
QUERY = frozenset(
    {"tcti", "session", "srk-name", "accept-new-srk", "endorsement-key"}
    | {f"{above}-pin-source" for above in ("parent", *HIERARCHIES.values()) if above != "null"}
)
_SESSIONS = {"encrypted": False, "plain": True}
_SWITCH = {"true": True, "false": False}
# The number of a hash algorithm, and its digest (TPM 2.0 Library, part 1, 16).
_NAME = r"000[bB][0-9a-fA-F]{64}|000[cC][0-9a-fA-F]{96}|000[dD][0-9a-fA-F]{128}"
_HANDLE = r"(?:0[xX])?81[0-9a-fA-F]{6}"
_NV_INDEX = r"0[xX]0?1[0-9a-fA-F]{6}"
_LEGACY_LABEL = "TSS2 KEY BLOB"

_HARMLESS = r"device(:/dev/tpm(rm)?[0-9]+)?|tabrmd(:.*)?|(swtpm|mssim)(:path=[^,]*|:port=[0-9]+)?"
_TABRMD = "com.intel.tss2.Tabrmd"
_BUS = "unix:path=/run/dbus/system_bus_socket"
_SECONDS = 1.0
_PATH, _INTERFACE, _MEMBER, _DESTINATION, _SIGNATURE = 1, 2, 3, 6, 8
_METHOD_CALL, _METHOD_RETURN, _NO_FLAGS, _VERSION = 1, 2, 0, 1
_HELLO, _HAS_OWNER = 1, 2  # The serial numbers of our two calls.


class NamedKey(NamedTuple):
    """The key that a URI names."""

    subject: str  # As messages name it: the path, or `handle:0x81000100`.
    file: TSS2Key | None  # None for a handle.
    key: LoadableKey


def session_settings(uri: KeyURI, parent: int | None = None) -> SessionSettings:
    """Return how auth values are proven for a key.

    The URI's query says so: `session` is `encrypted` or `plain`, `accept-new-srk` is `true` or `false`. The parent's
    handle is None if it is not known.
    """
    name = uri.text("srk-name") or ""
    if name and not re.fullmatch(_NAME, name):
        raise UsageError(
            f"{uri.name} has an srk-name that is not a TPM Name",
            "Write it in hexadecimal: 000b and 64 digits for SHA-256",
        )
    srk = parent if parent is not None and parent >> 24 == TPM2_HT.PERSISTENT else PROVISIONED
    trusted = TrustedSRK(name.lower(), _choice(uri, "accept-new-srk", _SWITCH, "false"), srk)
    return SessionSettings(_choice(uri, "session", _SESSIONS, "encrypted"), trusted)


def named_key(uri: KeyURI, auth: ParentAuth) -> NamedKey:
    """Return the key that a URI names, without asking the TPM.

    A missing file is a KeyNotFoundError; one with another private key too, an AmbiguousKeyError.
    """
    handle = named_handle(uri)
    if handle is None:
        file = _read_file(uri.file)
        return NamedKey(uri.file, file, LoadableObject(file, uri.file, auth))
    name = handle_name(handle)
    return NamedKey(name, None, PersistentObject(handle, name))


def named_handle(uri: KeyURI) -> int | None:
    """Return the persistent handle that a key's URI names, or None if it names a file, which need not exist."""
    if "nv" in uri.path:
        raise UsageError(f"{uri.name} names a certificate, not a key", "Name its key with --private-key")
    uri.require_known(frozenset({"handle", "path"}), QUERY)
    if len(uri.path) != 1 or uri.path.get("path") == b"":
        raise UsageError(f"{uri.name} needs one of handle= and path=", "Write tpm2:handle=0x81000100 or tpm2:path=FILE")
    handle = uri.text("handle")
    if handle is not None and not re.fullmatch(_HANDLE, handle):
        raise UsageError(f"{uri.name} has no persistent handle", "Write one from 0x81000000 to 0x81ffffff")
    return None if handle is None else int(handle, 16)


def handle_name(handle: int) -> str:
    """Return a persistent handle as messages name it."""
    return f"handle:{handle:#010x}"


def named_nv_index(uri: KeyURI) -> int:
    """Return the NV index that a certificate's URI names."""
    if "nv" not in uri.path and uri.path.keys() & {"handle", "path"}:
        hint = "Name a certificate file, or a certificate in the TPM as tpm2:nv=0x1c10000, with --certificate"
        raise UsageError(f"{uri.name} can't name a certificate: it names a key", hint)
    uri.require_known(frozenset({"nv"}), QUERY)
    index = uri.text("nv") or ""
    if not re.fullmatch(_NV_INDEX, index):
        raise UsageError(f"{uri.name} has no NV index", "Write one from 0x01000000 to 0x01ffffff: tpm2:nv=0x1c10000")
    return int(index, 16)


def _choice(uri: KeyURI, name: str, choices: dict[str, bool], default: str) -> bool:
    value = uri.text(name) or default
    if value not in choices:
        raise UsageError(f"{uri.name} has the unknown {name}={value}", f"Use one of {', '.join(choices)}")
    return choices[value]


def _read_file(path: str) -> TSS2Key:
    blocks = read_contents(path, KeyNotFoundError).blocks
    keys = [block for block in blocks if block.label.endswith("PRIVATE KEY")]
    found = [block for block in keys if block.label == LABEL]
    if found and len(keys) > 1:
        raise AmbiguousKeyError(f"{path} holds {len(keys)} private keys", "Keep each in a file of its own")
    if not found:
        legacy = any(block.label == _LEGACY_LABEL for block in blocks)
        hint = f"Write it again as {LABEL}: {_LEGACY_LABEL} is obsolete" if legacy else "Name a key file of a TPM"
        raise UnsupportedKeyError(f"{path} holds no {LABEL}", hint)
    name = re.search(rb"^%b(%b)$" % (PARENT_NAME.encode(), _NAME.encode()), found[0].before, re.MULTILINE)
    key = parse_tss2(found[0].data, path)
    return key._replace(parent_name=name[1].decode().lower()) if name else key


def tcti_of(uri: KeyURI) -> str:
    """Return the TCTI of a key URI: its own, the environment's, tabrmd if it runs, or the kernel's TPM device.

    If none is named, and none of these exists, that is a BackendUnavailableError.
    """
    given = uri.text("tcti") or next((tcti for _, tcti in environment_tctis()), None)
    if given:
        return given
    if is_tabrmd_running():
        return "tabrmd"
    for path in DEVICES:
        if os.path.exists(path):
            return f"device:{path}"
    from hwsigner._system import host

    raise BackendUnavailableError(
        f"found no TPM: tabrmd is not running, and there is no {' and no '.join(DEVICES)}",
        f"{host.tpm_cure()}; if it is elsewhere, {NAME_IT}",
    )


def check_tcti(uri: KeyURI) -> None:
    """Refuse a URI whose TCTI may do more than talk to a TPM.

    The loader reads a TCTI as a library's name or path, `:`, and the library's own configuration. That may be a command
    (`cmd`), another TCTI (`pcap`, and the loader itself as `libtss2-tctildr.so.0`), or a file to be written: `device`
    writes into any file that it can open, and `libtpms` keeps its state in one. `swtpm` and `mssim` may name another
    host, which would get what `pin-source` names.
    """
    tcti = uri.text("tcti")
    if tcti and not re.fullmatch(_HARMLESS, tcti, re.DOTALL):
        raise UsageError(
            f"TCTI {tcti} is not one of the system's ways to a TPM: it can load, run, write or send any file",
            "Give allow_modules=True if the key URI may do that",
        )


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
    bus.sendall(b"BEGIN\r\n" + _call(_HELLO, "Hello") + _call(_HAS_OWNER, "NameHasOwner", _TABRMD))
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
    bus = "org.freedesktop.DBus"
    fields = (
        (_PATH, "o", "/org/freedesktop/DBus"),
        (_INTERFACE, "s", bus),
        (_MEMBER, "s", member),
        (_DESTINATION, "s", bus),
    )
    header, body = b"", _string(argument) if argument else b""
    for code, kind, value in fields:  # Each has its code, the signature of its value, and the value.
        header += bytes(-len(header) % 8) + struct.pack("<B3s", code, b"\1%c\0" % ord(kind)) + _string(value)
    if body:
        header += bytes(-len(header) % 8) + struct.pack("<B3sB2s", _SIGNATURE, b"\1g\0", 1, b"s\0")
    start = struct.pack("<cBBBIII", b"l", _METHOD_CALL, _NO_FLAGS, _VERSION, len(body), serial, len(header))
    return start + header + bytes(-len(header) % 8) + body


def _string(text: str) -> bytes:
    return struct.pack("<I", len(text)) + text.encode() + b"\0"
