"""The TSS2 PRIVATE KEY parser, without a TPM. What tpm2-tools and tpm2-openssl write is read in test_tpm2.py."""

from __future__ import annotations

import contextlib
from typing import Any, ClassVar

import pytest
from asn1crypto import core
from hypothesis import example, given
from hypothesis import strategies as st

from hwsigner.backends._tss2 import parse_tss2
from hwsigner.errors import UnsupportedKeyError

LOADABLE, IMPORTABLE, SEALED = "2.23.133.10.1.3", "2.23.133.10.1.4", "2.23.133.10.1.5"
OWNER = 0x40000001


class Policy(core.Sequence):  # type: ignore[misc]
    _fields: ClassVar = [("code", core.Integer, {"explicit": 0}), ("policy", core.OctetString, {"explicit": 1})]


class Policies(core.SequenceOf):  # type: ignore[misc]
    _child_spec = Policy


class AuthPolicies(core.SequenceOf):  # type: ignore[misc]
    _child_spec = core.Any


class TPMKey(core.Sequence):  # type: ignore[misc]
    _fields: ClassVar = [
        ("type", core.ObjectIdentifier),
        ("empty_auth", core.Boolean, {"explicit": 0, "optional": True}),
        ("policy", Policies, {"explicit": 1, "optional": True}),
        ("secret", core.OctetString, {"explicit": 2, "optional": True}),
        ("auth_policy", AuthPolicies, {"explicit": 3, "optional": True}),
        ("description", core.UTF8String, {"explicit": 4, "optional": True}),
        ("rsa_parent", core.Boolean, {"explicit": 5, "optional": True}),
        ("later", core.OctetString, {"explicit": 9, "optional": True}),
        ("parent", core.Integer),
        ("public", core.OctetString),
        ("private", core.OctetString),
    ]


def encode(**fields: Any) -> bytes:
    """Return the DER of a key, by asn1crypto's encoder."""
    given = {"type": LOADABLE, "parent": OWNER, "public": b"public", "private": b"private"} | fields
    der: bytes = TPMKey({name: value for name, value in given.items() if value is not None}).dump()
    return der


@given(
    empty_auth=st.sampled_from([None, True, False]),
    parent=st.sampled_from([OWNER, 0x40000007, 0x4000000B, 0x4000000C]) | st.integers(0x81000000, 0x81FFFFFF),
    public=st.binary(max_size=300),
    private=st.binary(max_size=300),
    description=st.none() | st.text(max_size=200),
)
def test_reads_what_was_written(
    empty_auth: bool | None, parent: int, public: bytes, private: bytes, description: str | None
) -> None:
    der = encode(empty_auth=empty_auth, parent=parent, public=public, private=private, description=description)
    key = parse_tss2(der, "k.pem")
    assert key.empty_auth is bool(empty_auth)
    assert (key.parent, key.public, key.private) == (parent, public, private)


def test_true_may_be_written_as_one() -> None:
    der = encode(empty_auth=True)
    assert der.count(b"\x01\x01\xff") == 1
    assert parse_tss2(der.replace(b"\x01\x01\xff", b"\x01\x01\x01"), "k.pem").empty_auth


def test_a_persistent_parent_may_be_written_without_its_leading_zero() -> None:
    assert parse_tss2(encode(parent=0x81000001 - (1 << 32)), "k.pem").parent == 0x81000001


def test_a_field_of_a_later_draft_is_no_obstacle() -> None:
    assert parse_tss2(encode(later=b"?"), "k.pem").public == b"public"


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"type": IMPORTABLE, "secret": b"s"}, "importable"),
        ({"type": SEALED}, "sealed"),
        ({"type": "1.2.3.4"}, "unknown type"),
        ({"policy": [{"code": 0x17F, "policy": b"p"}]}, "policy"),
        ({"auth_policy": []}, "policy"),
        ({"rsa_parent": True}, "an RSA primary key"),
        ({"parent": 0x80000000}, "0x80000000"),
        ({"parent": 0}, "0x0"),
        ({"parent": 0x40000002}, "0x40000002"),
        ({"parent": 0x82000000}, "0x82000000"),
        ({"parent": 1 << 64 | OWNER}, "0x10000000040000001"),
    ],
)
def test_what_is_not_supported_is_named(fields: dict[str, Any], fault: str) -> None:
    with pytest.raises(UnsupportedKeyError, match=fault) as caught:
        parse_tss2(encode(**fields), "/etc/k.pem")
    assert "/etc/k.pem" in caught.value.message


@given(der=st.binary(max_size=100))
@example(b"")
@example(b"\x30\x80")
@example(b"\x30\x80\x00\x00")
@example(b"\x3f" + b"\xff" * 40)
@example(b"\x30\x84\xff\xff\xff\xff")
@example(b"\x30\x80" * 50)
def test_garbage_is_refused_by_name(der: bytes) -> None:
    with pytest.raises(UnsupportedKeyError, match=r"/etc/k\.pem"):
        parse_tss2(der, "/etc/k.pem")


@given(data=st.data())
def test_a_damaged_key_is_read_or_refused(data: st.DataObject) -> None:
    whole = encode(empty_auth=True, description="d")
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    for der in (bytes(damaged), whole[:cut], whole[cut:], bytes(damaged[:cut])):
        with contextlib.suppress(UnsupportedKeyError):
            parse_tss2(der, "k.pem")


@pytest.mark.parametrize("rest", [b"\0", b"\x05\x00"])
def test_nothing_may_follow(rest: bytes) -> None:
    with pytest.raises(UnsupportedKeyError):
        parse_tss2(encode() + rest, "k.pem")


def test_the_private_area_is_not_printed() -> None:
    assert "private-area" not in repr(parse_tss2(encode(private=b"private-area"), "k.pem"))
