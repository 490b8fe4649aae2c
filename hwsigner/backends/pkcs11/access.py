"""Files that a module reads and that this user may not: modules report these as a general error."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from hwsigner.system.users import reading_group

_DEFAULTS = ("~/.config/softhsm2/softhsm2.conf", "/etc/softhsm/softhsm2.conf", "/etc/softhsm2.conf")
_TOKENS = "/var/lib/softhsm/tokens"
_TOKEN_FOLDER = re.compile(r"^\s*directories\.tokendir\s*=\s*(\S.*?)\s*$", re.MULTILINE)


def hint(module: str, otherwise: str) -> str:
    """Return the hint if a module does not start: the group to join, or `otherwise`. SoftHSM's files are known."""
    if "softhsm" not in os.path.basename(module):
        return otherwise
    for path in _files():
        group = reading_group(path)
        if group:
            return f"Join the group {group}, which may read {path}, and log in again"
    return otherwise


def _files() -> Iterator[str]:
    """Yield SoftHSM's configuration file, and the folder of its tokens."""
    chosen = os.environ.get("SOFTHSM2_CONF")
    for path in [chosen] if chosen else map(os.path.expanduser, _DEFAULTS):
        yield path
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                match = _TOKEN_FOLDER.search(file.read())
        except OSError:
            continue
        yield match[1] if match else _TOKENS
        return
