"""launchd, which starts programs on macOS: whether it runs here, its files, and the sockets that it passes."""

from __future__ import annotations

import errno
import os
import socket
import sys
from typing import TYPE_CHECKING, Final

from hwsigner._system.environment import home_folder
from hwsigner.errors import UsageError

if TYPE_CHECKING:
    import ctypes

SOCKETS: Final = "Listeners"
"""The name of the sockets in a property list."""
# launchd did not start this process, or has no socket for it: launch_activate_socket(3).
_NO_SOCKETS = frozenset({errno.ESRCH, errno.ENOENT})


def is_here() -> bool:
    """Return whether launchd starts the programs of this system."""
    return sys.platform == "darwin"


def file_of(label: str) -> str:
    """Return the path of the property list that has the agent of this user with a label."""
    return os.path.join(home_folder(os.environ), "Library", "LaunchAgents", f"{label}.plist")


def take_sockets() -> list[socket.socket]:
    """Return the sockets that launchd passes to this process. It passes them once."""
    import ctypes

    library = _library()
    activate = getattr(library, "launch_activate_socket", None)
    if activate is None:
        return []
    descriptors, count = ctypes.POINTER(ctypes.c_int)(), ctypes.c_size_t()
    status = activate(SOCKETS.encode(), ctypes.byref(descriptors), ctypes.byref(count))
    if status in _NO_SOCKETS:
        return []
    if status:
        problem = f"launchd does not pass its sockets: {os.strerror(status)}"
        raise UsageError(problem, "Run hwsigner launchd install again, and load the agent as it says")
    found: list[socket.socket] = []
    try:
        for index in range(count.value):
            found.append(socket.socket(fileno=descriptors[index]))
            found[-1].set_inheritable(False)
    except OSError:
        for one in found:
            one.close()
        raise UsageError("launchd passed a file that is not a socket", "Run hwsigner launchd install again") from None
    finally:
        library.free(descriptors)
    return found


def _library() -> ctypes.CDLL:
    import ctypes

    return ctypes.CDLL(None)
