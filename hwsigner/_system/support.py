"""What hwsigner does on Linux only, and what macOS lacks of it."""

from __future__ import annotations

import sys
from typing import Final

from hwsigner.errors import HwsignerError, UsageError

LACKS_OF_MACOS: Final = (
    "serve does not know which user a client is: whoever has the token of a container endpoint gets credentials, and "
    "there is no IMDS endpoint",
    "the agent locks secrets in memory, but not the rest of its process (mlockall)",
    "no part of memory can be kept out of core dumps (MADV_DONTDUMP): the process leaves none at all",
    "a child process has the agent's secrets until it starts its program (MADV_WIPEONFORK)",
    "the audit log has the number of a client's process, but not its program, unit and parent",
    "the agent notices within a minute that its socket was removed, and not at once",
    "exec does not pass on a SIGINT or SIGQUIT that a program sends it while it has the terminal",
    "TPMs and systemd units need Linux",
)
"""What is lost on macOS, a line for each."""


def lacks() -> tuple[str, ...]:
    """Return what hwsigner lacks on this system."""
    return LACKS_OF_MACOS if sys.platform == "darwin" else ()


def require_linux(
    subject: str, hint: str = "Use a machine with Linux", *, error: type[HwsignerError] = UsageError
) -> None:
    """Raise `error` if this is another system: `subject` is what only Linux has."""
    if sys.platform == "darwin":
        raise error(f"{subject} needs Linux", hint)
