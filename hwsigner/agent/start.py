"""Starting an agent beside a command that has done its work: `agent = "auto"` in a profile."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

from hwsigner.agent.client import is_running
from hwsigner.agent.places import VARIABLE, may_start, runtime_folder, user_place
from hwsigner.pin_child import VARIABLE as PIN_VARIABLE


def start_agent(environ: Mapping[str, str]) -> subprocess.Popen[bytes] | None:
    """Start the user's agent, unless one runs or the user has no runtime folder; of two that start at once one stays.

    It gets a session of its own, /dev/null for stdin, stdout and stderr, and no other descriptor, so that nobody who
    waits for this command waits for it.

    Args:
        environ: its environment, less PINs; with HWSIGNER_AGENT=none nothing is started.

    Returns:
        The process, or None if none was started.
    """
    has_place = os.path.isdir(runtime_folder(environ))
    if not may_start(environ) or not has_place or is_running(user_place(environ)):
        return None
    return subprocess.Popen(
        # -P: the current folder, which is anybody's, is not on the path of modules.
        [sys.executable, "-P", "-m", "hwsigner", "agent"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={name: value for name, value in environ.items() if name not in (VARIABLE, PIN_VARIABLE)},
        start_new_session=True,
        umask=0o077,
    )
