"""The PKCS #11 backend, on SoftHSM. Judges: openssl, pkcs11-tool, p11tool, cryptography."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from hypothesis import given
from hypothesis import strategies as st
from pkcs11 import PROTECTED_AUTH, PKCS11Error, TokenFlag, exceptions

from backends.contract import ENVIRONMENT, HASHES, KeyContract, LockedKey, MakeKey, PinContract, openssl_verifies
from emulators import InProcessSoftHSM
from hwsigner.backends import _pkcs11_key, _pkcs11_module, _pkcs11_objects, _pkcs11_paths, _pkcs11_token
from hwsigner.errors import (
    AmbiguousKeyError,
    BackendUnavailableError,
    CertificateError,
    HwsignerError,
    KeyNotFoundError,
    PinError,
    PinLockedError,
    PinRequiredError,
    SigningKeyError,
    UnsupportedKeyError,
    UsageError,
    WrongPinError,
)
from hwsigner.key import find_certificates, open_key
from hwsigner.pin import PinRequest, PinSource
from hwsigner.uri import KeyURI

ROOT = Path(__file__).parents[2]
KEYS = {
    "P-256": ("EC:prime256v1", b"\x01"),
    "P-384": ("EC:secp384r1", b"\x02"),
    "P-521": ("EC:secp521r1", b"\x03"),
    "RSA-2048": ("rsa:2048", b"\x04"),
    "RSA-3072": ("rsa:3072", b"\x05"),
}


@pytest.fixture(scope="module")
def hsm(softhsm: InProcessSoftHSM) -> InProcessSoftHSM:
    """Three tokens: one with a key of each kind, one with keys that are alike, and one whose PIN may suffer.

    Two more are for keys that have certificates and no public key objects.
    """
    token = softhsm.label
    for label in ("alike", "suffering", "certified", "also certified"):
        softhsm.add_token(label)
    for label, (kind, key_id) in KEYS.items():
        softhsm.generate(label, key_id, kind, token=token)
    for label, key_id in (("twin", b"\xaa"), ("twin", b"\x0b"), ("same id", b"\x0c"), ("odd %;?/ü", b"\x0c")):
        softhsm.generate(label, key_id, "EC:prime256v1", token="alike")
    softhsm.generate("P-256", b"\x21", "EC:prime256v1", token="suffering")
    softhsm.label = token
    return softhsm


@pytest.fixture
def uri(hsm: InProcessSoftHSM) -> Callable[..., str]:
    """Return a URI on the first token, or on none or another with `token=`."""

    def make(attributes: str = "", token: str | None = hsm.label, query: str = "") -> str:
        path = ";".join(filter(None, (f"token={token}" if token else "", attributes)))
        return f"pkcs11:{path}?module-path={hsm.module}{query}"

    return make


@pytest.fixture
def suffering(uri: Callable[..., str]) -> Iterator[str]:
    """Return the URI of a key whose PIN may be tried wrongly: a good login before and after clears the token's flag."""
    key = uri("object=P-256", token="suffering")
    open_key(key, lambda request: "1234").close()
    yield key
    open_key(key, lambda request: "1234").close()


def certificate(public_key: bytes, name: str) -> bytes:
    issuer = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    public: Any = load_der_public_key(public_key)
    builder = x509.CertificateBuilder(subject, subject, public, 1, now, now + timedelta(1))
    return builder.sign(issuer, hashes.SHA256()).public_bytes(Encoding.DER)


CERTIFICATE = certificate(
    ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    "leaf",
)


@pytest.fixture(scope="module")
def certificates(hsm: InProcessSoftHSM) -> dict[str, bytes]:
    """Certificates on the first token: with its key's label, with the key's id alone, and with the id of no key."""
    ids = {"P-256": b"\x01", "leaf": b"\x02", "stray": b"\x77"}
    ders = {label: certificate(hsm.public_key(b"\x01"), label) for label in ids}
    for label, der in ders.items():
        hsm.write_certificate(der, label, ids[label])
    return ders


@pytest.fixture(scope="module")
def public_keys(hsm: InProcessSoftHSM) -> dict[str, bytes]:
    return {kind: hsm.public_key(key_id) for kind, (_, key_id) in KEYS.items()}


class TestPKCS11Key(KeyContract):
    KINDS = tuple(KEYS)

    @pytest.fixture
    def make_key(self, public_keys: dict[str, bytes], uri: Callable[..., str]) -> MakeKey:
        return lambda kind: (open_key(uri(f"object={kind}"), "1234"), public_keys[kind])


class TestPKCS11Pin(PinContract):
    @pytest.fixture
    def locked_key(self, suffering: str) -> LockedKey:
        return LockedKey(lambda pin: open_key(suffering, pin), pin="1234")


# Modules and tokens


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/nowhere/module.so", "does not exist"),
        ("/etc", "is a folder"),
        ("/etc/passwd", "can't be used"),
        ("libz.so.1", "C_GetF"),
    ],
)
def test_what_is_no_module_is_named(path: str, words: str) -> None:
    with pytest.raises(BackendUnavailableError, match=words) as caught:
        open_key(f"pkcs11:token=x?module-path={path}")
    assert path in caught.value.message
    assert "--pkcs11-lib" in caught.value.hint


def test_module_name_is_looked_up(hsm: InProcessSoftHSM, uri: Callable[..., str]) -> None:
    folder = os.path.dirname(os.path.realpath(hsm.module))
    for query in ("module-name=softhsm2", f"module-path={folder}&module-name=softhsm2"):
        with open_key(f"pkcs11:token={hsm.label};object=P-256?{query}", "1234") as key:
            assert key.sign(b"message")
    with pytest.raises(BackendUnavailableError, match=r"nonesuch\.so"):
        open_key("pkcs11:token=x?module-name=nonesuch")
    with pytest.raises(UsageError, match="module-name"):
        open_key("pkcs11:token=x?module-name=/a/path")


def test_without_a_module_the_proxy_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pkcs11_paths, "_FOLDERS", ("/nowhere",))
    with pytest.raises(BackendUnavailableError, match=r"p11-kit-proxy\.so is in none of /nowhere"):
        open_key("pkcs11:token=x")


def test_an_unknown_attribute_is_refused(uri: Callable[..., str]) -> None:
    with pytest.raises(UsageError, match="'tokem'"):
        open_key(uri("tokem=x"))
    with pytest.raises(UsageError, match="'module-dir'"):
        find_certificates(uri(query="&module-dir=x"))


def test_a_missing_token_lists_those_present(uri: Callable[..., str]) -> None:
    with pytest.raises(BackendUnavailableError, match="token=nonesuch") as caught:
        open_key(uri(token="nonesuch"), "1234")
    assert "'alike' (serial " in caught.value.hint


def test_every_token_attribute_decides(uri: Callable[..., str], hsm: InProcessSoftHSM) -> None:
    token = next(t for t in _pkcs11_module.load_module(KeyURI.parse(uri())).tokens() if t.label == hsm.label)
    right = {
        "manufacturer": "SoftHSM%20project",
        "model": "SoftHSM%20v2",
        "serial": token.serial.decode(),
        "slot-id": str(token.slot.slot_id),
        "slot-manufacturer": "SoftHSM%20project",
        "slot-description": KeyURI("pkcs11", {"x": token.slot.slot_description.encode()}).name[len("pkcs11:x=") :],
        "library-manufacturer": "SoftHSM",
        "library-description": "Implementation%20of%20PKCS11",
        "library-version": "2.6",
    }
    assert {"token", *right} == _pkcs11_module.TOKEN_ATTRIBUTES
    for name, value in right.items():
        open_key(uri(f"object=P-256;{name}={value}"), "1234").close()
        with pytest.raises(BackendUnavailableError):
            open_key(uri(f"object=P-256;{name}=1"), "1234")


def test_several_tokens_get_no_pin(uri: Callable[..., str]) -> None:
    def ask(request: PinRequest) -> str:
        raise AssertionError(f"asked for the {request.kind} of {request.subject}")

    with pytest.raises(AmbiguousKeyError, match=r"names 2 tokens: .*'suffering'"):
        open_key(uri("object=P-256", token=None), ask)
    with pytest.raises(AmbiguousKeyError, match=r"names \d tokens: .*'alike'"):
        open_key(uri("object=nonesuch", token=None), ask)


def test_a_visible_object_decides_between_tokens(uri: Callable[..., str], hsm: InProcessSoftHSM) -> None:
    with open_key(uri("id=%AA", token=None), "1234") as key:
        assert key.public_key() == hsm.public_key(b"\xaa", token="alike")
    expected = hsm.public_key(b"\x21", token="suffering")
    with open_key(uri("object=P-256", token=None), "1234", public_key=expected) as key:
        assert key.public_key() == expected


# Finding keys


def test_a_missing_key_lists_what_is_there(uri: Callable[..., str]) -> None:
    with pytest.raises(KeyNotFoundError, match="object=nonesuch") as caught:
        open_key(uri("object=nonesuch"), "1234")
    assert "object=P-384" in caught.value.hint


def test_several_keys_are_listed_with_uris_that_name_each_alone(uri: Callable[..., str]) -> None:
    with pytest.raises(AmbiguousKeyError, match="names 2 keys") as caught:
        open_key(uri("object=twin", token="alike"), "1234")
    listed = caught.value.hint.removeprefix("Use one of ").split(", ")
    publics = set()
    for one in listed:
        with open_key(one, "1234") as key:
            publics.add(key.public_key())
    assert len(publics) == 2


def test_the_certificates_public_key_decides_between_keys(uri: Callable[..., str], hsm: InProcessSoftHSM) -> None:
    for key_id in (b"\xaa", b"\x0b"):
        expected = hsm.public_key(key_id, token="alike")
        with open_key(uri("object=twin", token="alike"), "1234", public_key=expected) as key:
            assert key.public_key() == expected
    with pytest.raises(AmbiguousKeyError):
        open_key(uri("object=twin", token="alike"), "1234", public_key=b"of another key")


def test_keys_that_share_an_id_keep_their_public_keys(uri: Callable[..., str], tmp_path: Path) -> None:
    publics = []
    for label in ("same%20id", "odd%20%25%3B%3F/%C3%BC"):
        with open_key(uri(f"object={label}", token="alike"), "1234") as key:
            publics.append(key.public_key() or b"")
            assert openssl_verifies(tmp_path, publics[-1], key.sign(b"message"), b"message", "sha256")
    assert publics[0] != publics[1]


def test_a_key_is_found_by_its_certificates_uri(
    uri: Callable[..., str], hsm: InProcessSoftHSM, certificates: dict[str, bytes]
) -> None:
    for attributes in ("object=P-256;type=cert", "object=leaf;type=cert", "object=leaf;id=%02", "id=%02;type=public"):
        with open_key(uri(attributes), "1234") as key:
            assert key.public_key() == hsm.public_key(b"\x01" if "P-256" in attributes else b"\x02")
    with pytest.raises(KeyNotFoundError):
        open_key(uri("object=stray"), "1234")


def test_a_key_that_may_not_sign_is_refused(uri: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pkcs11_objects.PrivateKeyObject, "can_sign", False)
    with pytest.raises(UnsupportedKeyError, match="CKA_SIGN"):
        open_key(uri("object=P-256"), "1234")


def test_a_key_of_another_kind_is_named(uri: Callable[..., str], hsm: InProcessSoftHSM) -> None:
    hsm.generate("edwards", b"\x55", "EC:edwards25519")
    with pytest.raises(UnsupportedKeyError, match="EC_EDWARDS"):
        open_key(uri("object=edwards"), "1234")


@pytest.mark.parametrize(("kind", "words"), [("rsa:1024", "RSA of 1024 bits"), ("EC:secp256k1", "EC on another curve")])
def test_a_key_that_the_service_does_not_take_is_named(
    uri: Callable[..., str], hsm: InProcessSoftHSM, kind: str, words: str
) -> None:
    key_id = bytes((0x56, len(kind)))
    hsm.generate(kind, key_id, kind)
    with pytest.raises(UnsupportedKeyError, match=words) as caught:
        open_key(uri(f"id=%56%{len(kind):02X}"), "1234")
    assert "P-256" in caught.value.hint


def test_without_a_public_key_object_there_is_none_but_for_rsa(uri: Callable[..., str], hsm: InProcessSoftHSM) -> None:
    hsm.generate("ec alone", b"\x61", "EC:prime256v1")
    hsm.generate("rsa alone", b"\x62", "rsa:2048")
    expected = hsm.public_key(b"\x62")
    hsm.delete("pubkey", b"\x61")
    hsm.delete("pubkey", b"\x62")
    with open_key(uri("id=%61"), "1234") as bare, open_key(uri("id=%62"), "1234") as rsa:
        assert bare.public_key() is None
        assert rsa.public_key() == expected


def add_certified(hsm: InProcessSoftHSM, label: str, key_id: bytes, token: str = "certified") -> bytes:
    """Add an EC key with a certificate and without a public key object; return its SubjectPublicKeyInfo."""
    hsm.generate(label, key_id, "EC:prime256v1", token)
    public_key = hsm.public_key(key_id, token)
    hsm.delete("pubkey", key_id, token)
    hsm.write_certificate(certificate(public_key, label), label, key_id, token)
    return public_key


def test_a_certificate_on_the_token_shows_the_public_key(
    uri: Callable[..., str], hsm: InProcessSoftHSM, tmp_path: Path
) -> None:
    expected = [add_certified(hsm, "two", key_id) for key_id in (b"\x01", b"\x02")]
    expected.append(add_certified(hsm, "two", b"\x01", token="also certified"))
    for public_key in expected:
        with open_key(uri("object=two", token=None), "1234", public_key=public_key) as key:
            assert key.public_key() == public_key
            assert openssl_verifies(tmp_path, public_key, key.sign(b"message"), b"message", "sha256")
    with open_key(uri("object=two", token="also certified"), "1234") as key:
        assert key.public_key() == expected[2]
    with pytest.raises(AmbiguousKeyError):
        open_key(uri("object=two", token="certified"), "1234", public_key=b"of another key")


def test_two_certificates_with_one_id_leave_the_public_key_open(uri: Callable[..., str], hsm: InProcessSoftHSM) -> None:
    other = add_certified(hsm, "attested", b"\x11")
    add_certified(hsm, "attesting", b"\x12")
    with open_key(uri("id=%12", token="certified"), "1234") as key:
        assert key.public_key()
    hsm.write_certificate(certificate(other, "attestation"), "attestation", b"\x12", "certified")
    with open_key(uri("id=%12", token="certified"), "1234") as key:
        assert key.public_key() is None


def test_two_keys_with_one_id_do_not_share_a_certificate(uri: Callable[..., str], hsm: InProcessSoftHSM) -> None:
    public_key = add_certified(hsm, "same", b"\x21")
    hsm.generate("same", b"\x21", "EC:prime256v1", "certified")
    hsm.delete("pubkey", b"\x21", "certified")
    with pytest.raises(AmbiguousKeyError):
        open_key(uri("id=%21", token="certified"), "1234", public_key=public_key)


# Certificates


def test_certificates_are_found_without_a_pin(uri: Callable[..., str], certificates: dict[str, bytes]) -> None:
    assert {found.der for found in find_certificates(uri())} == set(certificates.values())
    assert [found.der for found in find_certificates(uri("object=leaf;type=cert", token=None))] == [
        certificates["leaf"]
    ]
    assert {found.der for found in find_certificates(uri(token=None))} >= set(certificates.values())


def test_a_found_certificates_uri_names_it_alone_for_p11tool_too(
    uri: Callable[..., str], hsm: InProcessSoftHSM, certificates: dict[str, bytes]
) -> None:
    for found in find_certificates(uri(query="&pin-value=1234")):
        assert find_certificates(found.uri) == [found]
        assert "1234" not in found.uri.partition("?")[2]
        command = ["p11tool", "--provider", hsm.module, "--export", found.uri.partition("?")[0]]
        exported = subprocess.run(command, env={**ENVIRONMENT, **hsm.env}, capture_output=True, check=True).stdout
        assert x509.load_pem_x509_certificate(exported).public_bytes(Encoding.DER) == found.der


def test_no_certificate_is_an_error_that_names_the_uri(uri: Callable[..., str]) -> None:
    for pin in ("1234", None):
        with pytest.raises(CertificateError, match="object=nonesuch"):
            find_certificates(uri("object=nonesuch"), pin)
    with pytest.raises(CertificateError, match="object=nonesuch"):
        find_certificates(uri("object=nonesuch", token=None), "1234")


def test_a_private_certificate_is_found_after_a_login(uri: Callable[..., str], hsm: InProcessSoftHSM) -> None:
    der = certificate(hsm.public_key(b"\xaa", token="alike"), "hidden")
    path = hsm.folder / "hidden.der"
    path.write_bytes(der)
    tool(hsm, "alike", "--write-object", str(path), "--type", "cert", "--label", "hidden", "--private")
    hidden = uri("object=hidden", token="alike")
    assert [found.der for found in find_certificates(hidden, "1234")] == [der]
    with pytest.raises(CertificateError, match="without a PIN"):
        find_certificates(hidden)


def test_a_wide_search_with_a_stored_pin_finds_private_certificates_too(
    uri: Callable[..., str], hsm: InProcessSoftHSM
) -> None:
    def ask(request: PinRequest) -> str:
        raise AssertionError(f"asked for the {request.kind} of {request.subject}")

    path = hsm.folder / "private.der"
    path.write_bytes(certificate(add_certified(hsm, "shown", b"\x31"), "private"))
    tool(hsm, "certified", "--write-object", str(path), "--type", "cert", "--label", "private", "--private")
    everything = uri(token="certified")
    public, whole = find_certificates(everything, ask), find_certificates(f"{everything}&pin-value=1234")
    assert [found.der for found in whole if found not in public] == [path.read_bytes()]
    assert find_certificates(everything, "1234") == whole
    assert find_certificates(uri("id=%31", token="certified"), "not the PIN") == [
        found for found in public if "id=%31" in found.uri
    ]


def tool(hsm: InProcessSoftHSM, token: str, *arguments: str) -> str:
    command = ["pkcs11-tool", "--module", hsm.module, "--token-label", token, "--login", "--pin", "1234", *arguments]
    return subprocess.run(command, env={**ENVIRONMENT, **hsm.env}, capture_output=True, check=True, text=True).stdout


def test_uris_of_foreign_tools_open_keys(uri: Callable[..., str], hsm: InProcessSoftHSM) -> None:
    listed = tool(hsm, "alike", "--list-objects", "--type", "privkey")
    uris = [line.partition("uri:")[2].strip() for line in listed.splitlines() if "uri:" in line]
    command = [
        "p11tool",
        "--provider",
        hsm.module,
        "--login",
        "--list-all-privkeys",
        "--only-urls",
        "pkcs11:token=alike",
    ]
    environment = {**ENVIRONMENT, **hsm.env, "GNUTLS_PIN": "1234"}
    uris += subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout.split()
    assert len(uris) == 8
    for one in uris:
        with open_key(f"{one}?module-path={hsm.module}", "1234") as key:
            assert key.sign(b"message")


# PINs


class Person:
    """One who answers, and remembers what was asked."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.asked: list[PinRequest] = []

    def __call__(self, request: PinRequest) -> str:
        self.asked.append(request)
        return self.answers.pop(0)


def test_a_stored_pin_is_not_sent_after_an_earlier_try_failed(suffering: str) -> None:
    with pytest.raises(WrongPinError, match="an earlier try failed"):
        open_key(suffering, "wrong")
    for stored in ("wrong", "1234"):
        with pytest.raises(PinLockedError, match="an earlier PIN failed at token 'suffering'"):
            open_key(suffering, stored)
    open_key(suffering, PinSource("1234", allow_final_try=True)).close()
    open_key(suffering, "1234").close()


def test_a_person_is_told_of_an_earlier_try(suffering: str) -> None:
    person = Person("1234")
    with pytest.raises(WrongPinError):
        open_key(suffering, "wrong")
    open_key(suffering, person).close()
    (asked,) = person.asked
    assert asked == PinRequest("user PIN", "token 'suffering'", "an earlier try failed", asked.serial)
    assert re.fullmatch("[0-9a-f]{16}", asked.serial)


class Flagged:
    """A token that sets other flags than SoftHSM does, counts what is opened, and fails logins with a fault."""

    def __init__(self, token: Any, raised: int = 0, cleared: int = 0, fault: type[PKCS11Error] | None = None) -> None:
        self._token = token
        self.flags = (token.flags | raised) & ~cleared
        self.fault = fault
        self.opened: list[Any] = []
        self.slot = FlaggedSlot(self, token.slot)

    def open(self, user_pin: Any = None, **rest: Any) -> Any:
        self.opened.append(user_pin)
        if self.fault is not None and user_pin is not None:
            raise self.fault
        return self._token.open(user_pin="1234" if user_pin is PROTECTED_AUTH else user_pin, **rest)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._token, name)


class FlaggedSlot:
    """The slot of such a token."""

    def __init__(self, token: Flagged, slot: Any) -> None:
        self._token = token
        self._slot = slot

    def get_token(self) -> Flagged:
        self._slot.get_token()
        return self._token

    def __getattr__(self, name: str) -> Any:
        return getattr(self._slot, name)


@pytest.fixture
def flag(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Flagged]]:
    matching = _pkcs11_module.Module.matching_tokens

    def flag(**flags: Any) -> list[Flagged]:
        made: list[Flagged] = []

        def flagged(module: _pkcs11_module.Module, uri: KeyURI) -> list[Flagged]:
            made[:] = [Flagged(token, **flags) for token in matching(module, uri)]
            return made

        monkeypatch.setattr(_pkcs11_module.Module, "matching_tokens", flagged)
        return made

    return flag


def test_no_pin_is_sent_on_the_final_try_unless_allowed(suffering: str, flag: Callable[..., list[Flagged]]) -> None:
    made = flag(raised=TokenFlag.USER_PIN_FINAL_TRY | TokenFlag.USER_PIN_COUNT_LOW)
    person = Person("1234")
    for pin in ("1234", person):
        with pytest.raises(PinLockedError, match="locks token 'suffering'") as caught:
            open_key(suffering, pin)
        assert "--allow-final-pin-try" in caught.value.hint
        assert made[0].opened == []
    open_key(suffering, PinSource(ask=person, allow_final_try=True)).close()
    assert [request.state for request in person.asked] == ["one try is left"]


def test_a_locked_pin_is_never_tried(suffering: str, flag: Callable[..., list[Flagged]]) -> None:
    made = flag(raised=TokenFlag.USER_PIN_LOCKED)
    with pytest.raises(PinLockedError, match="the PIN of token 'suffering' is locked"):
        open_key(suffering, PinSource("1234", allow_final_try=True))
    assert made[0].opened == []


def test_a_keypad_needs_no_pin(suffering: str, flag: Callable[..., list[Flagged]]) -> None:
    made = flag(raised=TokenFlag.PROTECTED_AUTHENTICATION_PATH)
    with open_key(suffering) as key:
        assert key.sign(b"message")
    assert made[0].opened == [PROTECTED_AUTH]


def test_a_login_that_is_not_required_is_made_when_nothing_shows(
    suffering: str, flag: Callable[..., list[Flagged]]
) -> None:
    made = flag(cleared=TokenFlag.LOGIN_REQUIRED)
    with pytest.raises(PinRequiredError):
        open_key(suffering)
    assert made[0].opened == [None]
    with open_key(suffering, "1234") as key:
        assert key.sign(b"message")
    with pytest.raises(KeyNotFoundError):
        open_key(suffering.replace("P-256", "nonesuch"), "1234")


@pytest.mark.parametrize("pin", ["", "x" * 100_000, "\ud800", "a\0b", "ü" * 300])
def test_odd_pins_are_errors(suffering: str, pin: str) -> None:
    with pytest.raises(PinError) as caught:
        open_key(suffering, pin)
    assert not pin or pin not in str(caught.value)


def test_a_second_key_shares_the_login(uri: Callable[..., str]) -> None:
    with open_key(uri("object=P-256"), "1234") as first:
        with open_key(uri("object=P-384")) as second:
            assert second.sign(b"message")
        assert first.sign(b"message")
    with pytest.raises(PinRequiredError):
        open_key(uri("object=P-384"))


@pytest.fixture(scope="module")
def careful(hsm: InProcessSoftHSM) -> str:
    """The URI of a key that wants a PIN at each signature."""
    arguments = ("--key-type", "EC:prime256v1", "--label", "careful", "--id", "44", "--always-auth")
    tool(hsm, "suffering", "--keypairgen", *arguments)
    return f"pkcs11:token=suffering;object=careful?module-path={hsm.module}"


def test_always_authenticate_asks_each_time(suffering: str, careful: str) -> None:
    person = Person("1234", "1234", "1234")
    with open_key(careful, person) as key:
        key.sign(b"one")
        key.sign(b"two")
    assert [request.kind for request in person.asked] == [
        "user PIN",
        "PIN for this signature",
        "PIN for this signature",
    ]
    with open_key(careful, "1234") as key, pytest.raises(PinRequiredError, match="PIN for this signature") as caught:
        key.sign(b"message")
    assert "--reuse-pin" in caught.value.hint
    answers = ["1234", None]
    with open_key(careful, lambda request: answers.pop(0)) as key, pytest.raises(PinRequiredError) as caught:
        key.sign(b"message")
    assert "pin-source=file:" in caught.value.hint


def test_reuse_answers_always_authenticate_with_the_logins_pin(suffering: str, careful: str, tmp_path: Path) -> None:
    person = Person("1234")
    for pins in (PinSource("1234", reuse=True), PinSource(ask=person, reuse=True)):
        with open_key(careful, pins) as key:
            for message in (b"one", b"two"):
                assert openssl_verifies(tmp_path, key.public_key() or b"", key.sign(message), message, "sha256")
    assert len(person.asked) == 1


def test_a_wrong_pin_for_a_signature_is_named_and_a_right_one_works_after_it(suffering: str, careful: str) -> None:
    with open_key(careful, Person("1234", "wrong", "1234")) as key:
        with pytest.raises(WrongPinError, match="wrong PIN for token 'suffering'"):
            key.sign(b"message")
        assert key.sign(b"message")


def test_every_error_of_a_token_says_what_to_do(hsm: InProcessSoftHSM) -> None:
    module = _pkcs11_module.load_module(KeyURI.parse(f"pkcs11:?module-path={hsm.module}"))
    token = _pkcs11_token.OpenToken(module, module.tokens()[0])
    kinds = [kind for kind in vars(exceptions).values() if isinstance(kind, type) and issubclass(kind, PKCS11Error)]
    assert len(kinds) > 50
    assert [kind for kind in kinds if not token.error("could not sign", kind()).hint] == []


# Sessions, threads, processes


def test_a_session_that_ends_is_an_error_once(uri: Callable[..., str], hsm: InProcessSoftHSM, tmp_path: Path) -> None:
    with open_key(uri("object=P-256"), "1234") as key, open_key(uri("object=RSA-2048"), "1234") as other:
        assert isinstance(key, _pkcs11_key.PKCS11Key)
        key._token.session().close()
        with pytest.raises(SigningKeyError, match=rf"token '{hsm.label}' could not sign: its session has ended"):
            key.sign(b"message")
        for one, key_id in ((key, b"\x01"), (other, b"\x04")):
            assert openssl_verifies(tmp_path, hsm.public_key(key_id), one.sign(b"message"), b"message", "sha256")


def test_a_login_that_fails_later_is_not_tried_twice(uri: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []
    open_session = _pkcs11_token.OpenToken._open

    def refuse(token: _pkcs11_token.OpenToken, pin: str | None) -> Any:
        if pin is None:
            return open_session(token, pin)
        tries.append(pin)
        raise WrongPinError("wrong PIN for the test")

    with open_key(uri("object=P-256"), "1234") as key:
        assert isinstance(key, _pkcs11_key.PKCS11Key)
        key._token.drop_session()
        monkeypatch.setattr(_pkcs11_token.OpenToken, "_open", refuse)
        for _ in range(3):
            with pytest.raises(WrongPinError, match="for the test"):
                key.sign(b"message")
    assert tries == ["1234"]


def test_another_token_in_the_slot_gets_no_pin(uri: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    with open_key(uri("object=P-256"), "1234") as key:
        assert isinstance(key, _pkcs11_key.PKCS11Key)
        key._token.drop_session()
        other = type("Other", (Flagged,), {"label": "other", "opened": []})(key._token.token)
        slot = type("Slot", (), {"get_token": lambda self: other, "slot_id": key._token.token.slot.slot_id})()
        token = Flagged(key._token.token)
        token.slot = slot
        key._token.token = token  # type: ignore[assignment]
        with pytest.raises(SigningKeyError, match="another one is in its slot"):
            key.sign(b"message")
        assert other.opened == []


def test_the_last_key_to_close_logs_the_token_out(uri: Callable[..., str], hsm: InProcessSoftHSM) -> None:
    module = _pkcs11_module.load_module(KeyURI.parse(uri()))
    first, second = open_key(uri("object=P-256"), "1234"), open_key(uri("object=P-384"), "1234")
    first.close()
    first.close()
    assert second.sign(b"message")
    second.close()
    assert module.open_tokens == {}


def test_a_failed_open_leaves_nothing_open(uri: Callable[..., str], suffering: str) -> None:
    module = _pkcs11_module.load_module(KeyURI.parse(uri()))
    for bad, pin in ((uri("object=nonesuch"), "1234"), (suffering, "wrong"), (uri("object=P-256"), None)):
        with pytest.raises(HwsignerError):
            open_key(bad, pin)
        assert module.open_tokens == {}
        # A failed login's session is ended by finalising the module: nothing else holds it.
        assert module._lib.initialized is (pin != "wrong")


def test_rsa_is_signed_with_the_tokens_own_hash_or_a_digest_info(
    uri: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_key(uri("object=RSA-2048"), "1234") as key:
        offered = [key.sign(b"message", name) for name in HASHES]
        monkeypatch.setattr(_pkcs11_key.PKCS11Key, "_offers", lambda self, mechanism: False)
        assert [key.sign(b"message", name) for name in HASHES] == offered


def test_a_digest_is_cut_to_the_length_of_the_curves_order(
    uri: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = []
    sign = _pkcs11_key.PKCS11Key._sign

    def watched(key: _pkcs11_key.PKCS11Key, found: Any, data: bytes, mechanism: Any) -> bytes:
        lengths.append(len(data))
        return sign(key, found, data, mechanism)

    monkeypatch.setattr(_pkcs11_key.PKCS11Key, "_sign", watched)
    for curve in ("P-256", "P-384", "P-521"):
        with open_key(uri(f"object={curve}"), "1234") as key:
            for name in HASHES:
                key.sign(b"message", name)
    assert lengths == [32, 32, 32, 32, 48, 48, 32, 48, 64]


def test_control_characters_of_a_label_reach_no_question_and_no_message() -> None:
    token = type("Token", (), {"label": "a\x1b[2J\u202eb"})()
    assert _pkcs11_token.token_name(token) == "token 'a\\x1b[2J\\u202eb'"


def test_a_module_that_others_have_initialised_is_named(hsm: InProcessSoftHSM) -> None:
    code = """
import ctypes, sys
from hwsigner.errors import BackendUnavailableError
from hwsigner.key import open_key
ctypes.CDLL(sys.argv[1]).C_Initialize(None)
try:
    open_key(f"pkcs11:?module-path={sys.argv[1]}")
except BackendUnavailableError as error:
    print(error.message)
"""
    assert "another part of this process has initialised it" in run_alone(code, hsm)


def run_alone(code: str, hsm: InProcessSoftHSM) -> str:
    """Run Python code in a process of its own, where nothing but the backend has initialised the module."""
    environment = {**ENVIRONMENT, **hsm.env, "PYTHONPATH": str(ROOT), "URI": f"pkcs11:token={hsm.label}"}
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, hsm.module]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


THREADS = """
import os, sys, threading
from hwsigner.key import open_key
uris = [f"{os.environ['URI']};object={label}?module-path={sys.argv[1]}" for label in ("P-256", "P-384")]
keys = [open_key(uri, "1234") for uri in uris[:COUNT]]
signatures = []
def work(number):
    for _ in range(50):
        signatures.append(keys[number % len(keys)].sign(b"message"))
        if number == 7:
            open_key(uris[0], "1234").close()
threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(len(set(signatures)))
"""


@pytest.mark.parametrize("count", ["1", "2"])
def test_eight_threads_sign_fifty_times_each(hsm: InProcessSoftHSM, count: str) -> None:
    assert run_alone(THREADS.replace("COUNT", count), hsm) == "400\n"


FORK = """
import os, signal, sys, threading
from hwsigner.key import open_key
uri = f"{os.environ['URI']};object=P-256?module-path={sys.argv[1]}"
key = open_key(uri, "1234")
def keep_signing():
    while not done:
        key.sign(b"message")
done = []
thread = threading.Thread(target=keep_signing, daemon=True)
thread.start()
for _ in range(5):
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        key.sign(b"message")
        key.close()
        with open_key(uri, "1234") as another:
            another.sign(b"message")
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
done.append(True)
thread.join()
print(len(key.sign(b"message")) > 60)
"""


def test_a_forked_child_signs_and_so_does_its_parent(hsm: InProcessSoftHSM) -> None:
    assert run_alone(FORK, hsm) == "True\n"


FORKED_TOGETHER = """
import os, sys
from hwsigner.errors import SigningKeyError
from hwsigner.key import open_key
uri = f"{os.environ['URI']};object=P-256?module-path={sys.argv[1]}"
key = open_key(uri, "1234")
key.sign(b"message")
def child():
    global key
    for _ in range(8):
        try:
            key = key or open_key(uri, "1234")
            key.sign(b"message")
            return 7
        except SigningKeyError as error:
            if "did not accept the login" not in error.message:
                raise
            key = key and key.close()
    return 8
statuses = []
for _ in range(8):
    children = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = child()
            finally:
                os._exit(status)
        children.append(pid)
    statuses += [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
print(len(statuses), set(statuses))
"""


def test_children_forked_together_sign(hsm: InProcessSoftHSM) -> None:
    # SoftHSM writes to a token's file at each login: a login of another process may fail then, and is not tried again.
    assert run_alone(FORKED_TOGETHER, hsm) == "32 {7}\n"


OVERLOOKED = """
import glob, os, sys, threading
from hwsigner.key import open_key
with open(os.environ["SOFTHSM2_CONF"]) as file:
    folder = file.readline().split("=")[1].strip()
paths = glob.glob(f"{folder}/*/token.object")
contents = [open(path, "rb").read() for path in paths]
def write(contents):
    for path, content in zip(paths, contents, strict=True):
        with open(path, "wb") as file:
            file.write(content)
write([b""] * len(paths))
timer = threading.Timer(0.05, write, [contents])
timer.start()
try:
    open_key(f"{os.environ['URI']};object=P-256?module-path={sys.argv[1]}", "1234").close()
finally:
    timer.join()
print("found")
"""


def test_a_token_that_another_process_writes_to_is_not_overlooked(hsm: InProcessSoftHSM) -> None:
    assert run_alone(OVERLOOKED, hsm) == "found\n"


FAULTS = (exceptions.DeviceError, exceptions.GeneralError, exceptions.FunctionFailed, exceptions.SlotIDInvalid)


def sent(opened: list[Any]) -> list[Any]:
    return [pin for pin in opened if pin is not None]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("cleared", [0, TokenFlag.LOGIN_REQUIRED])
@pytest.mark.usefixtures("certificates")
def test_a_pin_is_sent_once_whatever_the_login_fails_with(
    uri: Callable[..., str], flag: Callable[..., list[Flagged]], fault: type[PKCS11Error], cleared: int
) -> None:
    made = flag(cleared=cleared)
    with open_key(uri("object=P-256"), "1234") as key:
        assert isinstance(key, _pkcs11_key.PKCS11Key)
        token = made[0]
        token.opened.clear()
        token.fault = fault
        key._token.drop_session()
        for _ in range(3):
            with pytest.raises(SigningKeyError, match=fault.__name__):
                key.sign(b"message")
            assert sent(token.opened) == ["1234"]
        assert find_certificates(uri("object=P-256;type=cert"))
        with pytest.raises(SigningKeyError, match="not tried again") as caught:
            key.sign(b"message")
        assert "open the key again" in caught.value.hint
        assert sent(token.opened) == ["1234"]
        token.fault = None
        with open_key(uri("object=P-384"), "1234") as another:
            assert another.sign(b"message")
            assert key.sign(b"message")
        assert sent(token.opened) == ["1234", "1234"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_first_login_that_fails_is_not_tried_twice(
    uri: Callable[..., str], flag: Callable[..., list[Flagged]], fault: type[PKCS11Error]
) -> None:
    made = flag(fault=fault)
    with pytest.raises(SigningKeyError, match=fault.__name__):
        open_key(uri("object=P-256"), "1234")
    assert sent(made[0].opened) == ["1234"]


def test_the_module_is_called_by_one_thread_at_a_time(uri: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    inside = threading.Semaphore(1)
    clashes = []
    search = _pkcs11_objects.search

    def watched(*arguments: Any) -> list[Any]:
        clashes.append(not inside.acquire(blocking=False))
        found = search(*arguments)
        inside.release()
        return found

    monkeypatch.setattr(_pkcs11_objects, "search", watched)
    threads = [threading.Thread(target=lambda: open_key(uri("id=%01"), "1234").close()) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(clashes) == 4
    assert not any(clashes)


# DER


@given(st.integers(1, 66).flatmap(lambda size: st.tuples(*[st.binary(min_size=size, max_size=size)] * 2)))
def test_signature_encoding_is_cryptographys(halves: tuple[bytes, bytes]) -> None:
    r, s = (int.from_bytes(half, "big") for half in halves)
    assert _pkcs11_objects.encode_ecdsa_signature(halves[0] + halves[1]) == encode_dss_signature(r, s)


def test_the_public_key_of_a_certificate_is_cryptographys() -> None:
    for kind in ("P-256", "P-521", "RSA"):
        if kind == "RSA":
            public: Any = rsa.generate_private_key(65537, 2048).public_key()
        else:
            public = ec.generate_private_key(ec.SECP256R1() if kind == "P-256" else ec.SECP521R1()).public_key()
        expected = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        der = certificate(expected, kind)
        assert _pkcs11_objects.certificate_public_key(der) == expected
        version = bytes.fromhex("a003020102")
        assert der.count(version) == 1
        start = der.index(version)
        without = b"\x30\x82" + (len(der) - start - 5).to_bytes(2) + der[start + 5 :]
        assert _pkcs11_objects.certificate_public_key(b"\x30\x82" + len(without).to_bytes(2) + without) == expected


@given(st.binary(max_size=64), st.integers(0, 300))
def test_broken_certificates_have_no_public_key(junk: bytes, size: int) -> None:
    assert _pkcs11_objects.certificate_public_key(junk) is None
    assert _pkcs11_objects.certificate_public_key(CERTIFICATE[: min(size, len(CERTIFICATE) // 2)]) is None


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_points_are_read_with_and_without_their_octet_string(curve: ec.EllipticCurve) -> None:
    for _ in range(20):
        public = ec.generate_private_key(curve).public_key()
        point = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        header = bytes((0x04, len(point))) if len(point) < 0x80 else bytes((0x04, 0x81, len(point)))
        assert _pkcs11_objects._raw_point(point) == point
        assert _pkcs11_objects._raw_point(header + point) == point
