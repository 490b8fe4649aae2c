"""Which system this is, for reports and advice."""

from __future__ import annotations

import sys

from hwsigner._system.support import is_wsl


def release() -> tuple[str, str]:
    """Return the system's name and version, such as `macOS` and `15.1`, or `debian` and `13`; empty if not known."""
    import platform

    if version := platform.mac_ver()[0]:
        return "macOS", version
    try:
        found = platform.freedesktop_os_release()
    except OSError:
        return "", ""
    return found.get("ID", ""), found.get("VERSION_ID", "")


def name() -> str:
    """Return the system's name, version and machine, such as `macOS 15.1 arm64` or `debian 13 x86_64 in WSL`."""
    import platform

    system = " ".join(filter(None, release())) or platform.system()
    return f"{system} {platform.machine()}{' in WSL' if is_wsl() else ''}"


def clock_cure() -> str:
    """Return how the clock is corrected where that differs from a Linux of its own, else an empty text."""
    if sys.platform == "darwin":
        return "Have macOS set it: System Settings, General, Date & Time"
    return "Run sudo hwclock --hctosys, or wsl.exe --shutdown in Windows" if is_wsl() else ""


def tpm_cure() -> str:
    """Return what to do if no TPM is found."""
    if sys.platform == "darwin":
        return "A Mac has no TPM: use a YubiKey"
    return "WSL gives Linux no TPM: use a YubiKey" if is_wsl() else "Enable it in the firmware and load its driver"
