"""Documents of an attestation: what is read back, and what is refused."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

from hwsigner.attestation import documents
from hwsigner.attestation.documents import MAX_BYTES, Document, Value, new, read
from hwsigner.errors import AttestationError

VALUES: dict[str, Value] = {
    "keyPublic": b"key",
    "akPublic": b"ak",
    "ekPublic": b"ek",
    "ekCertificates": (b"leaf", b"issuer"),
}
STATEMENT = new("statement", "tpm2", VALUES)


def _changed(**members: Any) -> bytes:
    given = json.loads(STATEMENT.to_json()) | members
    return json.dumps({name: value for name, value in given.items() if value is not None}).encode()


def _refusal(data: bytes) -> str:
    with pytest.raises(AttestationError) as caught:
        read(data, "statement")
    return caught.value.message


def test_document_is_read_as_it_was_written() -> None:
    assert read(STATEMENT.to_json().encode(), "statement") == STATEMENT


def test_secret_of_a_state_is_not_in_its_repr() -> None:
    state = new("state", "tpm2", {"statement": b"s", "nonce": b"n", "secret": b"sesame", "created": "now"})
    assert "sesame" not in repr(state)


def test_absent_members_are_empty_and_empty_ones_are_left_out() -> None:
    statement = new("statement", "tpm2", {**VALUES, "certificateRequest": b""})
    assert statement == STATEMENT
    assert statement.blob("certificateRequest") == b""
    assert Document("answer", "tpm2", {}).blobs("pcrValues") == ()
    assert Document("state", "tpm2", {}).text("created") == ""


def test_digest_is_of_the_content_and_not_of_the_whitespace() -> None:
    again = read(json.dumps(json.loads(STATEMENT.to_json()), indent=7, sort_keys=True).encode(), "statement")
    assert again.digest() == STATEMENT.digest()
    assert new("statement", "tpm2", {**VALUES, "keyPublic": b"kez"}).digest() != STATEMENT.digest()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"other": "AAAA"}, "the statement has an unknown member 'other'"),
        ({"keyPublic": None}, "the statement has no keyPublic"),
        ({"keyPublic": 7}, "the statement has keyPublic of the wrong type"),
        ({"keyPublic": ["AAAA"]}, "the statement has keyPublic of the wrong type"),
        ({"ekCertificates": "AAAA"}, "the statement has ekCertificates of the wrong type"),
        ({"ekCertificates": [7]}, "the statement has ekCertificates of the wrong type"),
        ({"keyPublic": ""}, "the statement has keyPublic that is empty or not base64"),
        ({"keyPublic": "A\nAAA"}, "the statement has keyPublic that is empty or not base64"),
        ({"keyPublic": "a2V6\ud800"}, "the statement has keyPublic that is empty or not base64"),
        # The same byte as in AA==, with a bit set that is not part of it.
        ({"keyPublic": "AB=="}, "the statement has keyPublic that is empty or not base64"),
        ({"type": "hwsigner-attestation-answer"}, "the statement has the type 'hwsigner-attestation-answer', not"),
        ({"type": None}, "the statement has the type 'None', not"),
        ({"version": 2}, "the statement has version '2', not 1"),
        ({"version": True}, "the statement has version 'True', not 1"),
        ({"version": 1.0}, "the statement has version '1.0', not 1"),
        ({"format": "tpm3"}, "the statement has the unknown format 'tpm3'"),
        ({"format": ["tpm2"]}, "the statement has the unknown format \"['tpm2']\""),
    ],
)
def test_document_is_refused_when_a_member_is_wrong(members: dict[str, Any], message: str) -> None:
    assert _refusal(_changed(**members)).startswith(message)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"7", b"null", b"\xff", b"{", b"[" * 60000, b'{"version": ' + b"9" * 5000 + b"}"]
)
def test_data_is_refused_when_it_is_not_a_json_object(data: bytes) -> None:
    assert _refusal(data).startswith("the statement is not a JSON object")


def test_document_is_refused_when_a_member_is_there_twice() -> None:
    twice = STATEMENT.to_json().replace("{", '{"keyPublic": "AAAA",', 1).encode()
    assert _refusal(twice) == "the statement is not a JSON object, or gives a member twice"


def test_document_is_refused_when_it_is_too_long() -> None:
    long = _changed(keyPublic=base64.b64encode(bytes(MAX_BYTES)).decode())
    assert _refusal(long) == f"the statement has more than {MAX_BYTES} bytes"


def test_document_is_refused_when_it_is_truncated_anywhere() -> None:
    data = STATEMENT.to_json().rstrip().encode()
    for length in range(len(data)):
        assert _refusal(data[:length])


def test_page_has_every_member_of_every_document() -> None:
    page = (Path(documents.__file__).parents[2] / "docs" / "how-to" / "attestation.md").read_text()
    tables = page.split("## Documents")[1].split("### ")[1:]
    found: dict[tuple[str, str], dict[str, str]] = {}
    for formats, table in zip((("tpm2",), ("piv", "pkcs11")), tables, strict=True):
        kind = ""
        for name, member, optional, contents in re.findall(
            r"^\| (.*?) ?\| `(\w+)`(\??) \| (.*) \|$", table, re.MULTILINE
        ):
            kind = name or kind
            one = re.search(r"`(\w+)`", kind)
            for hardware in (one[1],) if one else formats:
                base = next((word for word in ("list", "text") if contents.startswith(f"{word}: ")), "bytes")
                found.setdefault((kind.split()[0], hardware), {})[member] = f"{base}{optional}"
    assert found == {key: dict(schema) for key, schema in documents._SCHEMAS.items()}
