"""The process of a command: its stderr and stdout, Ctrl-C, limits, and no dumps."""

from __future__ import annotations

import os
import resource
import sys
import threading
from contextlib import suppress

from hwsigner.errors import printable


def tell(text: str) -> None:
    """Write lines to stderr. Where it is closed or full there is nobody to tell, and nothing else changes."""
    if sys.stderr is None:
        return  # print() would take stdout then.
    lines = "".join(f"hwsigner: {printable(line)}\n" for line in text.splitlines())
    # Past the buffer: what it could not write, the interpreter would try again at exit, and end with status 120.
    with suppress(OSError):
        sys.stderr.flush()
        os.write(sys.stderr.fileno(), lines.encode(sys.stderr.encoding, "backslashreplace"))


def abandon_stdout() -> None:
    """Let nothing more be written to stdout: the interpreter would try at exit, and complain in its own way."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def clear_up(interruption: KeyboardInterrupt) -> None:
    """Give up what is in the frames of an interruption, and let nothing be printed of what fails by that."""
    before = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        trace = interruption.__traceback__
        while trace:
            with suppress(RuntimeError):  # It runs yet.
                trace.tb_frame.clear()
            trace = trace.tb_next
        interruption.__traceback__ = None
    finally:
        sys.unraisablehook = before


_DESCRIPTORS = 4096
# <linux/prctl.h>, which Python has no name for.
_PR_SET_DUMPABLE = 4


def forbid_dumps() -> None:
    """Let this process be neither dumped nor looked into by other programs of its user; the programs it runs may be."""
    import ctypes

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
