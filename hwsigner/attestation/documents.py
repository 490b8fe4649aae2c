"""The documents of an attestation: JSON objects that can travel by mail, with binary members in base64 (RFC 4648, 4).

They are read strictly: a document is refused if a member is unknown, twice there, missing or of the wrong type.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from hwsigner.errors import AttestationError

Kind = Literal["statement", "challenge", "answer", "state"]
# What a member may hold: bytes, a list of bytes, or text. Members with a question mark may be absent.
Type = Literal["bytes", "bytes?", "list", "list?", "text", "text?"]
Value = bytes | tuple[bytes, ...] | str

VERSION = 1
MAX_BYTES = 64 * 1024
NONCE_BYTES = 32
_PREFIX = "hwsigner-attestation-"
_LABEL = b"hwsigner-attestation-1\0"
_HINT = "Ask for it again; it must arrive unchanged"


def _schema(binary: str, **others: Type) -> Mapping[str, Type]:
    """Return the types of a document's members: the names of those that are bytes, and the others."""
    plain: Type = "bytes"
    return {**dict.fromkeys(binary.split(), plain), **others}


_SCHEMAS: dict[tuple[Kind, str], Mapping[str, Type]] = {
    ("statement", "tpm2"): _schema("keyPublic akPublic ekPublic", ekCertificates="list", certificateRequest="bytes?"),
    ("challenge", "tpm2"): _schema("statement nonce credentialBlob encryptedSecret", pcrs="text?"),
    ("answer", "tpm2"): _schema(
        "nonce secret certifyInfo certifySignature", quoteInfo="bytes?", quoteSignature="bytes?", pcrValues="list?"
    ),
    ("state", "tpm2"): _schema("statement nonce secret", created="text"),
    ("statement", "piv"): _schema(
        "slotCertificate attestationCertificate", intermediates="list?", certificateRequest="bytes?"
    ),
    ("statement", "pkcs11"): {
        **_schema("keyPublic", certificateRequest="bytes?", sensitive="text?", neverExtractable="text?", local="text?"),
        "token": "text",
    },
    **{("challenge", name): _schema("statement nonce") for name in ("piv", "pkcs11")},
    **{("answer", name): _schema("nonce signature") for name in ("piv", "pkcs11")},
    **{("state", name): _schema("statement nonce", created="text") for name in ("piv", "pkcs11")},
}


@dataclass(frozen=True)
class Document:
    """A document.

    Attributes:
        kind: which one it is.
        format: what kind of hardware it is about: `tpm2`, `piv` or `pkcs11`.
        values: the members of this kind and format, decoded. Absent ones are missing.
    """

    kind: Kind
    format: str
    values: Mapping[str, Value] = field(repr=False)  # A state's secret is among them.

    def blob(self, name: str) -> bytes:
        """Return a binary member; empty if it is absent."""
        return cast(bytes, self.values.get(name, b""))

    def blobs(self, name: str) -> tuple[bytes, ...]:
        """Return a list of binary members; empty if it is absent."""
        return cast(tuple[bytes, ...], self.values.get(name, ()))

    def text(self, name: str) -> str:
        """Return a member that is text; empty if it is absent."""
        return cast(str, self.values.get(name, ""))

    def to_json(self) -> str:
        """Return the document as it travels, with a newline at its end."""
        return json.dumps(self._members(), indent=2) + "\n"

    def digest(self) -> bytes:
        """Return the SHA-256 of the document in its canonical form (RFC 8785), without whitespace."""
        canonical = json.dumps(self._members(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).digest()

    def _members(self) -> dict[str, Any]:
        head = {"type": _PREFIX + self.kind, "version": VERSION, "format": self.format}
        return head | {name: _encoded(value) for name, value in self.values.items()}


def new(kind: Kind, format: str, values: Mapping[str, Value]) -> Document:
    """Make a document. Empty members that may be absent are left out; an unknown one is a KeyError."""
    types = {name: _SCHEMAS[kind, format][name] for name in values}
    return Document(kind, format, {name: value for name, value in values.items() if value or types[name][-1] != "?"})


def read(data: bytes, kind: Kind) -> Document:
    """Read a document.

    Raises:
        AttestationError: it has more than 64 KiB, or is not a document of this kind in the form of
            docs/how-to/attestation.md.
    """
    members = _parse(data, kind)
    given, version, hardware = (members.pop(name, None) for name in ("type", "version", "format"))
    if given != _PREFIX + kind:
        problem = f"the {kind} has the type {str(given)[:60]!r}, not {_PREFIX + kind!r}"
        raise AttestationError(problem, f"Name the file with the {kind}")
    if not isinstance(version, int) or isinstance(version, bool) or version != VERSION:
        raise AttestationError(f"the {kind} has version {str(version)[:20]!r}, not {VERSION}", "Update hwsigner")
    schema = _SCHEMAS.get((kind, hardware)) if isinstance(hardware, str) else None
    if schema is None:
        raise AttestationError(f"the {kind} has the unknown format {str(hardware)[:20]!r}", "Update hwsigner")
    for name in members:
        if name not in schema:
            raise _refusal(kind, f"has an unknown member {name[:40]!r}")
    for name in schema:
        if not schema[name].endswith("?") and name not in members:
            raise _refusal(kind, f"has no {name}")
    return Document(kind, hardware, {name: _decoded(kind, name, schema[name], members[name]) for name in members})


def binding(document: Document) -> bytes:
    """Return the bytes that bind an answer to one challenge, given that or its state: a label, statement and nonce."""
    return _LABEL + document.blob("statement") + document.blob("nonce")


def _parse(data: bytes, kind: Kind) -> dict[str, Any]:
    if len(data) > MAX_BYTES:
        raise _refusal(kind, f"has more than {MAX_BYTES} bytes")
    try:
        members = json.loads(data.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise _refusal(kind, "is not a JSON object, or gives a member twice") from error
    if not isinstance(members, dict):
        raise _refusal(kind, "is not a JSON object")
    return members


def _without_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is given twice")
    return members


def _decoded(kind: Kind, name: str, type: Type, value: Any) -> Value:
    base, items = type.rstrip("?"), value if isinstance(value, list) else [value]
    if isinstance(value, list) != (base == "list") or not all(isinstance(item, str) for item in items):
        raise _refusal(kind, f"has {name} of the wrong type")
    if base == "text":
        if not value.isprintable():
            raise _refusal(kind, f"has {name} with characters that can't be printed")
        return str(value)
    decoded = tuple(_from_base64(kind, name, item) for item in items)
    return decoded if base == "list" else decoded[0]


def _from_base64(kind: Kind, name: str, text: str) -> bytes:
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        data = b""
    if not data or base64.b64encode(data).decode("ascii") != text:  # Bits after the last byte may not be set.
        raise _refusal(kind, f"has {name} that is empty or not base64")
    return data


def _encoded(value: Value) -> str | list[str]:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return [base64.b64encode(item).decode("ascii") for item in value]


def _refusal(kind: Kind, problem: str) -> AttestationError:
    return AttestationError(f"the {kind} {problem}", _HINT)
