"""Whether pcscd, which smart cards and YubiKeys are reached through, refuses this process or is not running.

Debian's pcscd asks polkit, and by default polkit allows only users at the machine's own seat: no service, no ssh
session, no cron job. PKCS #11 modules then report a device error, or no token.
"""

from __future__ import annotations

import ctypes

_HINT = (
    "pcscd refuses this user, since polkit allows only users at the machine's own seat. Allow the user in a file of "
    "/etc/polkit-1/rules.d; hwsigner systemd install --system writes one for the user hwsigner"
)
_NOT_RUNNING = (
    "Smart cards and YubiKeys need pcscd, which is not running: install the package pcscd, or run "
    "systemctl start pcscd.socket"
)
_SCOPE_SYSTEM = 2
_SECURITY_VIOLATION = 0x8010006A
_NO_SERVICE = 0x8010001D


def hint(otherwise: str) -> str:
    """Return the hint if no token is seen or a module fails: `otherwise`, unless pcscd is the likely cause."""
    status = _status()
    if status == _SECURITY_VIOLATION:
        return _HINT
    return f"{otherwise}. {_NOT_RUNNING}" if status == _NO_SERVICE else otherwise


def is_refused() -> bool:
    """Return whether pcscd refuses this process."""
    return _status() == _SECURITY_VIOLATION


def _status() -> int:
    """Ask pcscd for a context (SCardEstablishContext of PC/SC), as modules do, and return its answer."""
    try:
        library = ctypes.CDLL("libpcsclite.so.1")
    except OSError:
        return 0
    context = ctypes.c_long()
    status = library.SCardEstablishContext(ctypes.c_ulong(_SCOPE_SYSTEM), None, None, ctypes.byref(context))
    if status == 0:
        library.SCardReleaseContext(context)
    return int(status) & 0xFFFFFFFF
