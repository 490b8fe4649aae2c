"""What travels between a machine and the registrar: JSON objects, in which the documents of an attestation are members.

| Request | Body | Answer |
|---|---|---|
| `POST /v1/challenge` | `statement` | `challenge`, `state` |
| `POST /v1/certificate` | `statement`, `state`, `answer` | `certificates` |

`state` is base64, and `certificates` is a list of base64 (DER). A refusal has `error` and `hint` instead.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any

from hwsigner.attestation.documents import MAX_BYTES, Document, Kind, read

CHALLENGE_PATH = "/v1/challenge"
CERTIFICATE_PATH = "/v1/certificate"
# A statement, an answer and a state.
MAX_BODY_BYTES = 3 * MAX_BYTES


def read_object(data: bytes, *names: str) -> dict[str, Any]:
    """Read a JSON object with exactly these members. The ValueError for something else does not quote it."""
    try:
        members = json.loads(data.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError:
        raise ValueError("it is not JSON, or gives a member twice") from None
    if not isinstance(members, dict) or members.keys() != set(names):
        raise ValueError(f"it is not an object with the members {', '.join(names)}")
    return members


def document(value: Any, kind: Kind) -> Document:
    """Read a member that is a document of an attestation."""
    try:
        return read(json.dumps(value).encode("ascii"), kind)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def members(document: Document) -> dict[str, Any]:
    """Return a document as a member."""
    found: dict[str, Any] = json.loads(document.to_json())
    return found


def encode(data: bytes) -> str:
    """Return bytes as a member."""
    return base64.b64encode(data).decode("ascii")


def decode(value: Any) -> bytes:
    """Read a member of bytes. Each value has one text: no other characters, no bits after the last byte."""
    try:
        data = binascii.a2b_base64(value, strict_mode=True)
    except (TypeError, ValueError):
        data = b""
    if not data or encode(data) != value:
        raise ValueError("a member is not base64")
    return data


def write_object(members: Mapping[str, Any]) -> bytes:
    """Return a JSON object in ASCII."""
    return json.dumps(members).encode("ascii")


def _without_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError
    return members
