"""Whether a process that is not this one's child has ended."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def is_alive(process: int) -> bool:
    """Return whether a process has not ended. One that ended may not have been waited for."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    with suppress(FileNotFoundError):  # macOS has no /proc.
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return True
