"""Which system this is, for reports and notes."""

from __future__ import annotations

_OSRELEASE = "/proc/sys/kernel/osrelease"


def name() -> str:
    """Return the system's name, version and machine, such as `macOS 15.1 arm64` or `debian 13 x86_64`."""
    import platform

    if version := platform.mac_ver()[0]:
        return f"macOS {version} {platform.machine()}"
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    system = " ".join(filter(None, (release.get("ID"), release.get("VERSION_ID")))) or platform.system()
    return f"{system} {platform.machine()}{' in WSL' if is_wsl() else ''}"


def is_wsl() -> bool:
    """Return whether this Linux runs in Windows (WSL), whose kernels have Microsoft in their name."""
    try:
        with open(_OSRELEASE, encoding="ascii", errors="replace") as file:
            return "microsoft" in file.read().lower()
    except OSError:
        return False
