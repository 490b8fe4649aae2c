"""Where config.toml is, as text: a cold run looks there, and importing pathlib would take it longer than that."""

from __future__ import annotations

import os
from collections.abc import Mapping

from hwsigner.system.environment import home_folder

SYSTEM_FILE = "/etc/hwsigner/config.toml"


def user_file(environ: Mapping[str, str]) -> str:
    """Return the path of the user's file, which may be missing. As XDG says, a relative XDG_CONFIG_HOME is ignored."""
    folder = environ.get("XDG_CONFIG_HOME", "")
    base = folder if os.path.isabs(folder) else os.path.join(home_folder(environ), ".config")
    return os.path.join(base, "hwsigner", "config.toml")
