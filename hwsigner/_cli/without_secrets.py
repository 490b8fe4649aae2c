"""Values of config.toml as they are shown: without PINs and passwords."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from typing import Any

from hwsigner._config import profiles
from hwsigner._config.flags import IDENTITY, IN_PROFILES, URIS
from hwsigner._config.profiles import Profile
from hwsigner._uri import KeyURI
from hwsigner.errors import UnsafeKeyWarning, UsageError

_SECRET = {flag.name for flag in IDENTITY if flag.secret}


def without_secret(key: str, value: Any) -> Any:
    """Return a value of a profile without a PIN or password."""
    if key in _SECRET or key not in IN_PROFILES:  # A key that is not a flag may be a misspelt password.
        return "…"
    if key in URIS and isinstance(value, str):
        try:
            uri = KeyURI.parse(value)
        except UsageError:
            return "…"
        return value if uri.pin_value is None else str(uri)
    # A URL may have a password.
    return re.sub(r"(?<=://)[^/@\s]*@", "…@", value) if isinstance(value, str) else value


def warn_of_exposed(written: Iterable[Profile]) -> None:
    """Warn if one of the profiles that were written into a file has a secret, and others can read the file."""
    for one in written:
        if one.exposed and any(without_secret(key, value) != value for key, value in one.values.items()):
            is_system = one.file == profiles.SYSTEM_FILE
            fix = f"chown root:hwsigner {one.file} && chmod 640 {one.file}" if is_system else f"chmod 600 {one.file}"
            problem = f"{one.file} contains a password and others can read it"
            warnings.warn(UnsafeKeyWarning(problem, f"Run {fix}"), stacklevel=2)
            return
