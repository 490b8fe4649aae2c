"""Values of config.toml as they are shown: without PINs and passwords."""

from __future__ import annotations

import re
from typing import Any

from hwsigner._config.flags import IDENTITY, IN_PROFILES
from hwsigner._uri import KeyURI
from hwsigner.errors import UsageError

URIS = ("certificate", "private-key", "intermediates")
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
