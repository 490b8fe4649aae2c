"""What every command that stays does at its beginning."""

from __future__ import annotations

import ctypes
import resource
import threading

from hwsigner.cli.streams import tell

_DESCRIPTORS = 4096
# <linux/prctl.h>, which Python has no name for.
_PR_SET_DUMPABLE = 4


def forbid_dumps() -> None:
    """Let this process be neither dumped nor looked into by other programs of its user; the programs it runs may be."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def allow_descriptors() -> None:
    """Let this process have more descriptors, if it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def tell_of_threads() -> None:
    """Let a thread that fails say so in a line: a traceback could show a secret."""
    threading.excepthook = _tell


def _tell(arguments: threading.ExceptHookArgs) -> None:
    tell(f"internal error: {arguments.exc_type.__name__} in a thread. Please report it")
