"""The TSS2 PRIVATE KEY parser, without a TPM. asn1crypto's encoder writes what is read."""

from __future__ import annotations

import contextlib
from typing import Any, ClassVar

import pytest
from asn1crypto import core
from hypothesis import example, given
from hypothesis import strategies as st

from hwsigner.backends.tpm2.key_file import AuthPolicy, PolicyCommand, TSS2Key, parse_tss2
from hwsigner.errors import UnsupportedKeyError

LOADABLE, IMPORTABLE, SEALED = "2.23.133.10.1.3", "2.23.133.10.1.4", "2.23.133.10.1.5"
OWNER = 0x40000001


class Policy(core.Sequence):  # type: ignore[misc]
    _fields: ClassVar = [("code", core.Integer, {"explicit": 0}), ("policy", core.OctetString, {"explicit": 1})]


class Policies(core.SequenceOf):  # type: ignore[misc]
    _child_spec = Policy


class SignedPolicy(core.Sequence):  # type: ignore[misc]
    _fields: ClassVar = [
        ("name", core.UTF8String, {"explicit": 0, "optional": True}),
        ("policy", Policies, {"explicit": 1}),
    ]


class AuthPolicies(core.SequenceOf):  # type: ignore[misc]
    _child_spec = SignedPolicy


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


COMMANDS = st.builds(PolicyCommand, st.integers(0, 0xFFFFFFFF), st.binary(max_size=100))
KEYS = st.builds(
    TSS2Key,
    empty_auth=st.booleans(),
    parent=st.sampled_from([OWNER, 0x40000007, 0x4000000B, 0x4000000C]) | st.integers(0x81000000, 0x81FFFFFF),
    public=st.binary(max_size=300),
    private=st.binary(max_size=300),
    secret=st.just(b"") | st.binary(max_size=100).map(lambda seed: len(seed).to_bytes(2, "big") + seed),
    policy=st.lists(COMMANDS, max_size=3).map(tuple),
    auth_policies=st.lists(
        st.builds(AuthPolicy, st.lists(COMMANDS, max_size=3).map(tuple), st.text(max_size=20)), max_size=3
    ).map(tuple),
    description=st.text(max_size=200),
    rsa_parent=st.booleans(),
    parent_name=st.just(""),  # It is not in the DER.
)


def fields_of(key: TSS2Key, absent: object) -> dict[str, Any]:
    """Return the fields of a key for asn1crypto, with a false boolean as `absent`."""
    return {
        "type": IMPORTABLE if key.secret else LOADABLE,
        "empty_auth": key.empty_auth or absent,
        "policy": [command_fields(command) for command in key.policy] or None,
        "secret": key.secret or None,
        "auth_policy": [auth_policy_fields(policy) for policy in key.auth_policies] or None,
        "description": key.description or None,
        "rsa_parent": key.rsa_parent or absent,
        "parent": key.parent,
        "public": key.public,
        "private": key.private,
    }


def command_fields(command: PolicyCommand) -> dict[str, Any]:
    return {"code": command.code, "policy": command.body}


def auth_policy_fields(policy: AuthPolicy) -> dict[str, Any]:
    name = {"name": policy.name} if policy.name else {}
    return {**name, "policy": [command_fields(command) for command in policy.commands]}


@given(key=KEYS, absent=st.sampled_from([None, False]))
def test_parser_reads_what_asn1crypto_writes(key: TSS2Key, absent: object) -> None:
    assert parse_tss2(encode(**fields_of(key, absent)), "k.pem") == key


def test_true_may_be_written_as_one() -> None:
    der = encode(empty_auth=True)
    assert der.count(b"\x01\x01\xff") == 1
    assert parse_tss2(der.replace(b"\x01\x01\xff", b"\x01\x01\x01"), "k.pem").empty_auth


def test_persistent_parent_may_be_written_without_its_leading_zero() -> None:
    assert parse_tss2(encode(parent=0x81000001 - (1 << 32)), "k.pem").parent == 0x81000001


@pytest.mark.parametrize("secret", [b"\0\x20" + bytes(32) + b"\0\x20" + bytes(32), bytes(256)])
def test_secret_may_be_written_without_its_size(secret: bytes) -> None:
    """openssl_tpm2_engine has written such files."""
    whole = len(secret).to_bytes(2, "big") + secret
    for written in (secret, whole):
        assert parse_tss2(encode(type=IMPORTABLE, secret=written), "k.pem").secret == whole


def test_description_is_read_when_it_is_not_utf_8() -> None:
    der = encode(description="key").replace(b"key", b"k\xffy")
    assert parse_tss2(der, "k.pem").description == "k\ufffdy"


def test_unknown_field_is_ignored() -> None:
    assert parse_tss2(encode(later=b"?"), "k.pem").public == b"public"


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"type": IMPORTABLE}, "importable key without its secret"),
        ({"secret": b"s"}, "loadable key with a secret"),
        ({"type": SEALED}, "sealed data, not a key"),
        ({"type": "1.2.3.4"}, "unknown type"),
        ({"type": "2.23.133.10.1.6"}, "unknown type"),
        ({"parent": 0x80000000}, "0x80000000"),
        ({"parent": 0}, "0x0"),
        ({"parent": 0x40000002}, "0x40000002"),
        ({"parent": 0x82000000}, "0x82000000"),
        ({"parent": 1 << 64 | OWNER}, "0x10000000040000001"),
        ({"parent": 1 << 128}, "a number is too long"),
    ],
)
def test_unsupported_key_is_refused_by_name(fields: dict[str, Any], fault: str) -> None:
    with pytest.raises(UnsupportedKeyError, match=fault) as caught:
        parse_tss2(encode(**fields), "/etc/k.pem")
    assert "/etc/k.pem" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "policy",
    [
        "a1023000",  # of a SEQUENCE that is empty, no fault
        "a10430020500",  # of NULL
        "a1063004a0020201",  # cut short
        "a1073005a003020101",  # without its policy
        "a1093007a0050201010500",  # of two elements
    ],
)
def test_policy_is_empty_or_refused_when_it_is_damaged(policy: str) -> None:
    whole = encode()
    content = whole[2:]
    der = content[:8] + bytes.fromhex(policy) + content[8:]
    der = b"\x30" + bytes([len(der)]) + der
    if policy == "a1023000":
        assert parse_tss2(der, "k.pem").policy == ()
    else:
        with pytest.raises(UnsupportedKeyError, match="is not a TSS2 PRIVATE KEY"):
            parse_tss2(der, "k.pem")


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
def test_damaged_key_is_read_or_refused(data: st.DataObject) -> None:
    whole = encode(**fields_of(data.draw(KEYS), None))
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    for der in (bytes(damaged), whole[:cut], whole[cut:], bytes(damaged[:cut])):
        with contextlib.suppress(UnsupportedKeyError):
            parse_tss2(der, "k.pem")


@pytest.mark.parametrize("rest", [b"\0", b"\x05\x00"])
def test_trailing_bytes_are_refused(rest: bytes) -> None:
    with pytest.raises(UnsupportedKeyError):
        parse_tss2(encode() + rest, "k.pem")


def test_private_area_is_not_printed() -> None:
    assert "private-area" not in repr(parse_tss2(encode(private=b"private-area"), "k.pem"))
