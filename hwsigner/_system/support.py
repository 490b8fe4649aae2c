"""What hwsigner does on Linux only, and what macOS and a Linux in Windows (WSL) lack of it."""

from __future__ import annotations

import sys
from typing import Final

from hwsigner._system.systemd import is_booted
from hwsigner.errors import HwsignerError, UsageError

HAS_SYSTEMD: Final = sys.platform != "darwin"
"""Whether systemd can run this system."""

_OSRELEASE = "/proc/sys/kernel/osrelease"

LACKS_OF_MACOS: Final = (
    "serve does not know which user a client is: whoever has the token of a container endpoint gets credentials, and "
    "there is no IMDS endpoint",
    "the agent locks secrets in memory, but not the rest of its process (mlockall)",
    "no part of memory can be kept out of core dumps (MADV_DONTDUMP): the process leaves none at all",
    "a child process has the agent's secrets until it starts its program (MADV_WIPEONFORK)",
    "commands give a PIN also to an agent's socket that root listens on, as launchd does",
    "the audit log has the number of a client's process, but not its program, unit and parent",
    "the agent notices within a minute that its socket was removed, and not at once",
    "exec does not pass on a SIGINT or SIGQUIT that a program sends it while it has the terminal",
    "console does not open the browser, which it can't tell from another user's: it prints the URL",
    "TPMs and systemd units need Linux",
)
"""What is lost on macOS, a line for each."""

LACKS_OF_WSL: Final = (
    "WSL gives Linux no TPM, so there are no keys in one",
    "a USB token is seen only while usbipd has attached it to WSL, and Windows does not see it then",
    "any program of your Windows user can be root in WSL, and read keys in files, PINs and credentials",
    "serve may take a program of another Windows user for one of root, and give it credentials",
)
"""What is lost in WSL, a line for each."""

_NO_SYSTEMD = "systemd does not run: units of hwsigner and pcscd need systemd=true below [boot] in /etc/wsl.conf"


def is_wsl() -> bool:
    """Return whether this Linux runs in Windows (WSL), whose kernels have Microsoft in their name."""
    try:
        with open(_OSRELEASE, encoding="ascii", errors="replace") as file:
            return "microsoft" in file.read().lower()
    except OSError:
        return False


def lacks() -> tuple[str, ...]:
    """Return what hwsigner lacks on this system."""
    if sys.platform == "darwin":
        return LACKS_OF_MACOS
    if not is_wsl():
        return ()
    return LACKS_OF_WSL if is_booted() else (*LACKS_OF_WSL, _NO_SYSTEMD)


def require_linux(
    subject: str, hint: str = "Use a machine with Linux", *, error: type[HwsignerError] = UsageError
) -> None:
    """Raise `error` if this is another system: `subject` is what only Linux has."""
    if sys.platform == "darwin":
        raise error(f"{subject} needs Linux", hint)


def has_system_agent() -> bool:
    """Return whether there can be a system's agent, for its profiles."""
    return sys.platform != "darwin"


def require_system_agent() -> None:
    """Raise a UsageError if there can be no system's agent, which --system is for."""
    require_linux("--system", "Leave it out: a Mac has no system's agent")
