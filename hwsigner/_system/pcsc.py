"""PC/SC, which smart cards and YubiKeys are reached through: its library, and whether pcscd refuses this process.

Debian's pcscd asks polkit, and by default polkit allows only users at the machine's own seat: no service, no ssh
session, no cron job. PKCS #11 modules then report a device error, or no token. macOS has PC/SC itself, without pcscd.
"""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Integer = type[ctypes._SimpleCData[int]]

_HINT = (
    "pcscd refuses this user, since polkit allows only users at the machine's own seat. Allow the user in a file of "
    "/etc/polkit-1/rules.d; hwsigner systemd install --system writes one for the user hwsigner"
)
_NOT_RUNNING = (
    "Smart cards and YubiKeys need pcscd, which is not running: install the package pcscd, or run "
    "systemctl start pcscd.socket"
)
# Of /usr/libexec/SmartCardServices, which launchd starts.
_GONE_ON_MACOS = "macOS's service for smart cards does not answer: pull the token out, and insert it again"
_IN_WSL = "In WSL, first attach the token with usbipd: hwsigner help windows"
_LINUX, _MACOS = "libpcsclite.so.1", "/System/Library/Frameworks/PCSC.framework/PCSC"
_SCOPE_SYSTEM = 2
_SECURITY_VIOLATION = 0x8010006A
_NO_SERVICE = 0x8010001D


def hint(otherwise: str) -> str:
    """Return the hint if no token is seen or a module fails: `otherwise`, unless pcscd refuses this user.

    More is added if PC/SC does not run, and in WSL.
    """
    status = _status()
    if status == _SECURITY_VIOLATION and sys.platform != "darwin":
        return _HINT
    found = [otherwise]
    if status == _NO_SERVICE:
        found.append(_GONE_ON_MACOS if sys.platform == "darwin" else _NOT_RUNNING)
    from hwsigner._system.support import is_wsl  # A cold run does without it.

    if is_wsl():
        found.append(_IN_WSL)
    return ". ".join(found)


def is_refused() -> bool:
    """Return whether pcscd refuses this process. macOS has none."""
    return sys.platform != "darwin" and _status() == _SECURITY_VIOLATION


def open_library(system: str = sys.platform) -> ctypes.CDLL | None:
    """Return the library of PC/SC, or None if the system, as Python names it, has none."""
    try:
        return ctypes.CDLL(_MACOS if system == "darwin" else _LINUX)
    except OSError:
        return None


def integers(system: str = sys.platform) -> tuple[Integer, Integer]:
    """Return LONG and DWORD of PC/SC: a handle's type is LONG. macOS has 32 bits for each, as Windows."""
    return (ctypes.c_int32, ctypes.c_uint32) if system == "darwin" else (ctypes.c_long, ctypes.c_ulong)


def _status() -> int:
    """Ask PC/SC for a context (SCardEstablishContext), as modules do, and return its answer."""
    library = open_library()
    if library is None:
        return 0
    signed, unsigned = integers()
    context = signed()
    status = library.SCardEstablishContext(unsigned(_SCOPE_SYSTEM), None, None, ctypes.byref(context))
    if status == 0:
        library.SCardReleaseContext(context)
    return int(status) & 0xFFFFFFFF
