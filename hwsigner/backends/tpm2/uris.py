"""What a `tpm2:` URI names: a persistent handle, a key file, or an NV index with a certificate."""

from __future__ import annotations

import re
from typing import NamedTuple

from tpm2_pytss import TPM2_HT

from hwsigner.backends.pem import read_contents
from hwsigner.backends.tpm2.auth import ParentAuth
from hwsigner.backends.tpm2.key_file import HIERARCHIES, LABEL, TSS2Key, parse_tss2
from hwsigner.backends.tpm2.objects import KeyObject, LoadableObject, PersistentObject
from hwsigner.backends.tpm2.srk import PROVISIONED, TrustedSRK
from hwsigner.backends.tpm2.tpm import SessionSettings
from hwsigner.errors import AmbiguousKeyError, KeyNotFoundError, UnsupportedKeyError, UsageError
from hwsigner.uri import KeyURI

# The query's attributes, except for pin-value and pin-source.
QUERY = frozenset(
    {"tcti", "session", "srk-name", "accept-new-srk"}
    | {f"{above}-pin-source" for above in ("parent", *HIERARCHIES.values()) if above != "null"}
)
_SESSIONS = {"encrypted": False, "plain": True}
_SWITCH = {"true": True, "false": False}
# The number of a hash algorithm, and its digest (TPM 2.0 Library, part 1, 16).
_NAME = r"000[bB][0-9a-fA-F]{64}|000[cC][0-9a-fA-F]{96}|000[dD][0-9a-fA-F]{128}"
_HANDLE = r"(?:0[xX])?81[0-9a-fA-F]{6}"
_NV_INDEX = r"0[xX]0?1[0-9a-fA-F]{6}"
_LEGACY_LABEL = "TSS2 KEY BLOB"


class NamedKey(NamedTuple):
    """The key that a URI names.

    Attributes:
        subject: the key, as messages name it: the path, or `handle:0x81000100`.
        file: what its file says; None for a handle.
        key: the key.
    """

    subject: str
    file: TSS2Key | None
    key: KeyObject


def session_settings(uri: KeyURI, parent: int | None = None) -> SessionSettings:
    """Return how auth values are proven for a key.

    Args:
        uri: its URI: the query's `session`, `encrypted` or `plain`; `srk-name`; `accept-new-srk`, `true` or `false`.
        parent: the handle of its parent, persistent or a hierarchy's, or None if that is not known.

    Raises:
        UsageError: an attribute has an invalid value.
    """
    name = uri.text("srk-name") or ""
    if name and not re.fullmatch(_NAME, name):
        raise UsageError(
            f"{uri.name} has an srk-name that is not a TPM Name",
            "Write it in hexadecimal: 000b and 64 digits for SHA-256",
        )
    srk = parent if parent is not None and parent >> 24 == TPM2_HT.PERSISTENT else PROVISIONED
    trusted = TrustedSRK(name.lower(), _choice(uri, "accept-new-srk", _SWITCH, "false"), srk)
    return SessionSettings(_choice(uri, "session", _SESSIONS, "encrypted"), trusted)


def named_key(uri: KeyURI, auth: ParentAuth) -> NamedKey:
    """Return the key that a URI names, without asking the TPM.

    Args:
        uri: the URI.
        auth: see `LoadableObject`.

    Raises:
        UsageError: the URI names neither a handle nor a file, or has an unknown attribute.
        KeyNotFoundError: there is no such file.
        AmbiguousKeyError: the file holds another private key too.
        UnsupportedKeyError: it holds no usable key.
    """
    handle = named_handle(uri)
    if handle is None:
        file = _read_file(uri.file)
        return NamedKey(uri.file, file, LoadableObject(file, uri.file, auth))
    name = handle_name(handle)
    return NamedKey(name, None, PersistentObject(handle, name))


def named_handle(uri: KeyURI) -> int | None:
    """Return the persistent handle that a key's URI names, or None if it names a file, which need not exist.

    Raises:
        UsageError: the URI names neither a handle nor a file, or has an unknown attribute.
    """
    if "nv" in uri.path:
        raise UsageError(f"{uri.name} names a certificate, not a key", "Name its key with --private-key")
    uri.require_known(frozenset({"handle", "path"}), QUERY)
    if len(uri.path) != 1 or uri.path.get("path") == b"":
        raise UsageError(f"{uri.name} needs one of handle= and path=", "Write tpm2:handle=0x81000100 or tpm2:path=FILE")
    handle = uri.text("handle")
    if handle is not None and not re.fullmatch(_HANDLE, handle):
        raise UsageError(f"{uri.name} has no persistent handle", "Write one from 0x81000000 to 0x81ffffff")
    return None if handle is None else int(handle, 16)


def handle_name(handle: int) -> str:
    """Return a persistent handle as messages name it."""
    return f"handle:{handle:#010x}"


def named_nv_index(uri: KeyURI) -> int:
    """Return the NV index that a certificate's URI names.

    Raises:
        UsageError: the URI names none, or has an unknown attribute.
    """
    if "nv" not in uri.path and uri.path.keys() & {"handle", "path"}:
        hint = "Name a certificate file, or a certificate in the TPM as tpm2:nv=0x1c10000, with --certificate"
        raise UsageError(f"{uri.name} can't name a certificate: it names a key", hint)
    uri.require_known(frozenset({"nv"}), QUERY)
    index = uri.text("nv") or ""
    if not re.fullmatch(_NV_INDEX, index):
        raise UsageError(f"{uri.name} has no NV index", "Write one from 0x01000000 to 0x01ffffff: tpm2:nv=0x1c10000")
    return int(index, 16)


def _choice(uri: KeyURI, name: str, choices: dict[str, bool], default: str) -> bool:
    value = uri.text(name) or default
    if value not in choices:
        raise UsageError(f"{uri.name} has the unknown {name}={value}", f"Use one of {', '.join(choices)}")
    return choices[value]


def _read_file(path: str) -> TSS2Key:
    blocks = read_contents(path, KeyNotFoundError).blocks
    keys = [block for block in blocks if block.label.endswith("PRIVATE KEY")]
    found = [block for block in keys if block.label == LABEL]
    if found and len(keys) > 1:
        raise AmbiguousKeyError(f"{path} holds {len(keys)} private keys", "Keep each in a file of its own")
    if not found:
        legacy = any(block.label == _LEGACY_LABEL for block in blocks)
        hint = f"Write it again as {LABEL}: {_LEGACY_LABEL} is obsolete" if legacy else "Name a key file of a TPM"
        raise UnsupportedKeyError(f"{path} holds no {LABEL}", hint)
    return parse_tss2(found[0].data, path)
