"""How folders are mounted."""

from __future__ import annotations

import os
import re
from contextlib import suppress

_MOUNTS = "/proc/self/mountinfo"


def is_read_only_mount(folder: str) -> bool:
    """Return whether a folder itself is mounted read-only, as a ConfigMap or Secret of Kubernetes is in a container.

    A read-only file system is not enough: under systemd's ProtectSystem, all are read-only, but for this process alone.
    """
    if not os.statvfs(folder).f_flag & os.ST_RDONLY:
        return False
    if os.path.ismount(folder):
        return True
    # A bind mount from the same file system. The kernel escapes what would end the field.
    path = re.sub(r"[ \t\n\\]", lambda found: f"\\{ord(found[0]):03o}", os.path.realpath(folder))
    with suppress(OSError), open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as mounts:
        return any(line.split(" ")[4] == path for line in mounts)
    return False
