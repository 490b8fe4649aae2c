"""How a `tpm2:` URI says that auth values are to be proven."""

from __future__ import annotations

import re

from tpm2_pytss import TPM2_HT

from hwsigner.backends._tpm2_sessions import SessionSettings
from hwsigner.backends._tpm2_srk import PROVISIONED, Trust
from hwsigner.errors import UsageError
from hwsigner.uri import KeyURI

# The query's attributes that are read here, and by _tpm2_auth.
_ABOVE = ("parent", "owner", "endorsement", "platform")
SETTINGS = frozenset({"session", "srk-name", "accept-new-srk", *(f"{above}-pin-source" for above in _ABOVE)})
_KINDS = {"encrypted": False, "plain": True}
_SWITCH = {"true": True, "false": False}
# The number of a hash algorithm, and its digest (TPM 2.0 Library, part 1, 16).
_NAME = re.compile(r"000[bB][0-9a-fA-F]{64}|000[cC][0-9a-fA-F]{96}|000[dD][0-9a-fA-F]{128}")


def session_settings(uri: KeyURI, parent: int | None = None) -> SessionSettings:
    """Return how auth values are proven for a key.

    Args:
        uri: its URI: the query's `session`, `encrypted` or `plain`; `srk-name`; `accept-new-srk`, `true` or `false`.
        parent: the handle of its parent, persistent or a hierarchy's, or None where that is not known.

    Raises:
        UsageError: an attribute has a value that can't be meant.
    """
    name = uri.text("srk-name") or ""
    if name and not _NAME.fullmatch(name):
        raise UsageError(
            f"{uri.name} has an srk-name that is no TPM Name", "Write it in hexadecimal: 000b and 64 digits for SHA-256"
        )
    trust = Trust(name.lower(), _choice(uri, "accept-new-srk", _SWITCH, "false"), _storage_key(parent))
    return SessionSettings(_choice(uri, "session", _KINDS, "encrypted"), trust)


def _storage_key(parent: int | None) -> int:
    return parent if parent is not None and parent >> 24 == TPM2_HT.PERSISTENT else PROVISIONED


def _choice(uri: KeyURI, name: str, choices: dict[str, bool], default: str) -> bool:
    value = uri.text(name) or default
    if value not in choices:
        raise UsageError(f"{uri.name} has {name}={value}", f"It is one of {', '.join(choices)}")
    return choices[value]
