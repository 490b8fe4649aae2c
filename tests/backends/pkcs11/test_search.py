"""Finding keys and certificates on tokens. Judges: openssl, pkcs11-tool."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

import judges
from backends.contract import openssl_verifies
from backends.pkcs11.tokens import EC, P256, PRIVATE_KEY, create, key_uri, remove_tokens, self_made, tool
from emulators import InProcessSoftHSM
from hwsigner._pins import PinRequest
from hwsigner.errors import (
    AmbiguousKeyError,
    BackendUnavailableError,
    CertificateError,
    KeyNotFoundError,
    UnsupportedKeyError,
)
from hwsigner.key import find_certificates, open_key

KEYS = {"P-256": ("EC:prime256v1", b"\x01"), "P-384": ("EC:secp384r1", b"\x02"), "RSA": ("rsa:2048", b"\x04")}


@pytest.fixture(scope="module")
def hsm(softhsm: InProcessSoftHSM) -> Iterator[InProcessSoftHSM]:
    """A token with a key of each kind, one with similar keys, and empty ones for the tests."""
    token, others = softhsm.label, ("akin", "second", "certified 1", "certified 2")
    for label in others:
        softhsm.add_token(label)
    for label, (kind, key_id) in KEYS.items():
        softhsm.generate(label, key_id, kind, token=token)
    for label, key_id in (("twin", b"\xa7"), ("twin", b"\x0b"), ("same id", b"\x0c"), ("odd %;?/ü", b"\x0c")):
        softhsm.generate(label, key_id, "EC:prime256v1", token="akin")
    softhsm.generate("P-256", b"\x21", "EC:prime256v1", token="second")
    softhsm.label = token
    yield softhsm
    remove_tokens(softhsm, token, *others)


@pytest.fixture
def uri(hsm: InProcessSoftHSM) -> Callable[..., str]:
    """Return a function that makes a URI on the first token, or on another or none with `token=`."""
    return partial(key_uri, hsm.module, token=hsm.label)


@pytest.fixture(scope="module")
def certificates(hsm: InProcessSoftHSM) -> dict[str, bytes]:
    """Certificates on the first token: with its key's label, with the key's id alone, and with the id of no key."""
    ids = {"P-256": b"\x01", "the-leaf": b"\x02", "stray": b"\x77"}
    ders = {label: self_made(hsm.public_key(b"\x01"), label) for label in ids}
    for label, der in ders.items():
        hsm.write_certificate(der, label, ids[label])
    return ders


def test_error_lists_the_tokens_present_when_none_matches(uri: Callable[..., str]) -> None:
    with pytest.raises(BackendUnavailableError, match="token=nonesuch") as caught:
        open_key(uri(token="nonesuch"), "1234")
    assert "'akin' (serial " in caught.value.hint


def test_no_pin_is_sent_when_several_tokens_match(uri: Callable[..., str]) -> None:
    def ask(request: PinRequest) -> str:
        raise AssertionError(f"asked for the {request.kind} of {request.subject}")

    with pytest.raises(AmbiguousKeyError, match=r"names \d+ tokens: .*token=second;serial="):
        open_key(uri("object=P-256", token=None), ask)
    with pytest.raises(AmbiguousKeyError, match=r"names \d+ tokens: .*token=akin;serial="):
        open_key(uri("object=nonesuch", token=None), ask)


def test_visible_object_decides_between_tokens(uri: Callable[..., str], hsm: InProcessSoftHSM) -> None:
    with open_key(uri("id=%A7", token=None), "1234") as key:
        assert key.public_key() == hsm.public_key(b"\xa7", token="akin")
    expected = hsm.public_key(b"\x21", token="second")
    with open_key(uri("object=P-256", token=None), "1234", public_key=expected) as key:
        assert key.public_key() == expected


def test_error_lists_the_keys_present_when_none_matches(uri: Callable[..., str]) -> None:
    with pytest.raises(KeyNotFoundError, match="object=nonesuch") as caught:
        open_key(uri("object=nonesuch"), "1234")
    assert "object=P-384" in caught.value.hint


def test_error_lists_a_uri_for_each_of_several_matching_keys(uri: Callable[..., str]) -> None:
    with pytest.raises(AmbiguousKeyError, match="names 2 keys") as caught:
        open_key(uri("object=twin", token="akin"), "1234")
    listed = caught.value.hint.removeprefix("Use one of: ").split(", ")
    publics = set()
    for one in listed:
        with open_key(one, "1234") as key:
            publics.add(key.public_key())
    assert len(publics) == 2


def test_public_key_of_the_certificate_decides_between_keys(uri: Callable[..., str], hsm: InProcessSoftHSM) -> None:
    for key_id in (b"\xa7", b"\x0b"):
        expected = hsm.public_key(key_id, token="akin")
        with open_key(uri("object=twin", token="akin"), "1234", public_key=expected) as key:
            assert key.public_key() == expected
    with pytest.raises(AmbiguousKeyError):
        open_key(uri("object=twin", token="akin"), "1234", public_key=b"of another key")


def test_keys_with_the_same_id_have_their_own_public_keys(uri: Callable[..., str], tmp_path: Path) -> None:
    publics = []
    for label in ("same%20id", "odd%20%25%3B%3F/%C3%BC"):
        with open_key(uri(f"object={label}", token="akin"), "1234") as key:
            publics.append(key.public_key() or b"")
            assert openssl_verifies(tmp_path, publics[-1], key.sign(b"message"), b"message", "sha256")
    assert publics[0] != publics[1]


def test_key_is_found_by_the_uri_of_its_certificate(
    uri: Callable[..., str], hsm: InProcessSoftHSM, certificates: dict[str, bytes]
) -> None:
    for attributes in (
        "object=P-256;type=cert",
        "object=the-leaf;type=cert",
        "object=the-leaf;id=%02",
        "id=%02;type=public",
    ):
        with open_key(uri(attributes), "1234") as key:
            assert key.public_key() == hsm.public_key(b"\x01" if "P-256" in attributes else b"\x02")


def test_key_that_may_not_sign_is_an_error(uri: Callable[..., str], hsm: InProcessSoftHSM) -> None:
    made = {"CLASS": PRIVATE_KEY, "KEY_TYPE": EC, "EC_PARAMS": P256, "VALUE": b"\x01" * 32, "PRIVATE": True}
    create(hsm, hsm.label, {**made, "LABEL": b"deriving", "SIGN": False})
    with pytest.raises(UnsupportedKeyError, match="CKA_SIGN"):
        open_key(uri("object=deriving"), "1234")


def test_error_names_the_kind_of_an_unsupported_key(uri: Callable[..., str], hsm: InProcessSoftHSM) -> None:
    hsm.generate("edwards", b"\x55", "EC:edwards25519")
    with pytest.raises(UnsupportedKeyError, match="EC_EDWARDS"):
        open_key(uri("object=edwards"), "1234")


@pytest.mark.parametrize(("kind", "words"), [("rsa:1024", "RSA of 1024 bits"), ("EC:secp256k1", "EC on another curve")])
def test_error_names_the_size_or_curve_that_the_service_does_not_accept(
    uri: Callable[..., str], hsm: InProcessSoftHSM, kind: str, words: str
) -> None:
    key_id = bytes((0x56, len(kind)))
    hsm.generate(kind, key_id, kind)
    with pytest.raises(UnsupportedKeyError, match=words) as caught:
        open_key(uri(f"id=%56%{len(kind):02X}"), "1234")
    assert "P-256" in caught.value.hint


def test_private_rsa_key_shows_its_public_key_and_an_ec_key_does_not(
    uri: Callable[..., str], hsm: InProcessSoftHSM
) -> None:
    hsm.generate("ec alone", b"\x61", "EC:prime256v1")
    hsm.generate("rsa alone", b"\x62", "rsa:2048")
    expected = hsm.public_key(b"\x62")
    hsm.delete("pubkey", b"\x61")
    hsm.delete("pubkey", b"\x62")
    with open_key(uri("id=%61"), "1234") as bare, open_key(uri("id=%62"), "1234") as rsa:
        assert bare.public_key() is None
        assert rsa.public_key() == expected


def add_certified(hsm: InProcessSoftHSM, label: str, key_id: bytes, token: str = "certified 1") -> bytes:
    """Add an EC key with a certificate and without a public key object; return its SubjectPublicKeyInfo."""
    hsm.generate(label, key_id, "EC:prime256v1", token)
    public_key = hsm.public_key(key_id, token)
    hsm.delete("pubkey", key_id, token)
    hsm.write_certificate(self_made(public_key, label), label, key_id, token)
    return public_key


def test_public_key_is_that_of_the_certificate_when_there_is_no_public_key_object(
    uri: Callable[..., str], hsm: InProcessSoftHSM, tmp_path: Path
) -> None:
    expected = [add_certified(hsm, "two", key_id) for key_id in (b"\x01", b"\x02")]
    expected.append(add_certified(hsm, "two", b"\x01", token="certified 2"))
    for public_key in expected:
        with open_key(uri("object=two", token=None), "1234", public_key=public_key) as key:
            assert key.public_key() == public_key
            assert openssl_verifies(tmp_path, public_key, key.sign(b"message"), b"message", "sha256")
    with open_key(uri("object=two", token="certified 2"), "1234") as key:
        assert key.public_key() == expected[2]
    with pytest.raises(AmbiguousKeyError):
        open_key(uri("object=two", token="certified 1"), "1234", public_key=b"of another key")


def test_public_key_is_unknown_when_two_certificates_have_the_id(
    uri: Callable[..., str], hsm: InProcessSoftHSM
) -> None:
    other = add_certified(hsm, "attested", b"\x11")
    add_certified(hsm, "attesting", b"\x12")
    with open_key(uri("id=%12", token="certified 1"), "1234") as key:
        assert key.public_key()
    hsm.write_certificate(self_made(other, "attestation"), "attestation", b"\x12", "certified 1")
    with open_key(uri("id=%12", token="certified 1"), "1234") as key:
        assert key.public_key() is None


def test_public_key_is_unknown_when_two_keys_have_the_id_of_a_certificate(
    uri: Callable[..., str], hsm: InProcessSoftHSM
) -> None:
    public_key = add_certified(hsm, "same", b"\x21")
    hsm.generate("same", b"\x21", "EC:prime256v1", "certified 1")
    hsm.delete("pubkey", b"\x21", "certified 1")
    with pytest.raises(AmbiguousKeyError):
        open_key(uri("id=%21", token="certified 1"), "1234", public_key=public_key)


def test_key_of_the_certificate_is_found_when_another_has_the_certificate_s_id_and_label(
    uri: Callable[..., str], hsm: InProcessSoftHSM
) -> None:
    for label, key_id in (("misfiled", b"\x41"), ("right", b"\x42")):
        hsm.generate(label, key_id, "EC:prime256v1", "certified 2")
    expected = hsm.public_key(b"\x42", token="certified 2")
    hsm.write_certificate(self_made(expected, "misfiled"), "misfiled", b"\x41", "certified 2")
    with open_key(uri("object=misfiled", token="certified 2"), "1234", public_key=expected) as key:
        assert key.public_key() == expected


def test_public_certificates_are_found_without_a_pin(uri: Callable[..., str], certificates: dict[str, bytes]) -> None:
    assert {found.der for found in find_certificates(uri())} == set(certificates.values())
    assert [found.der for found in find_certificates(uri("object=the-leaf;type=cert", token=None))] == [
        certificates["the-leaf"]
    ]
    assert {found.der for found in find_certificates(uri(token=None))} >= set(certificates.values())


def test_error_names_the_uri_when_it_names_no_certificate(uri: Callable[..., str]) -> None:
    for pin in ("1234", None):
        with pytest.raises(CertificateError, match="object=nonesuch"):
            find_certificates(uri("object=nonesuch"), pin)
    with pytest.raises(CertificateError, match="object=nonesuch"):
        find_certificates(uri("object=nonesuch", token=None), "1234")


@judges.needs_opensc
def test_private_certificate_is_found_after_a_login(uri: Callable[..., str], hsm: InProcessSoftHSM) -> None:
    der = self_made(hsm.public_key(b"\xa7", token="akin"), "hidden")
    path = hsm.folder / "hidden.der"
    path.write_bytes(der)
    tool(hsm, "akin", "--write-object", str(path), "--type", "cert", "--label", "hidden", "--private")
    hidden = uri("object=hidden", token="akin")
    assert [found.der for found in find_certificates(hidden, "1234")] == [der]
    with pytest.raises(CertificateError, match="public certificates only"):
        find_certificates(hidden)


@judges.needs_opensc
def test_private_certificates_are_found_with_a_stored_pin_when_the_uri_names_only_a_token(
    uri: Callable[..., str], hsm: InProcessSoftHSM
) -> None:
    def ask(request: PinRequest) -> str:
        raise AssertionError(f"asked for the {request.kind} of {request.subject}")

    path = hsm.folder / "private.der"
    path.write_bytes(self_made(add_certified(hsm, "shown", b"\x31"), "private"))
    tool(hsm, "certified 1", "--write-object", str(path), "--type", "cert", "--label", "private", "--private")
    everything = uri(token="certified 1")
    public, whole = find_certificates(everything, ask), find_certificates(f"{everything}&pin-value=1234")
    assert [found.der for found in whole if found not in public] == [path.read_bytes()]
    assert find_certificates(everything, "1234") == whole
    assert find_certificates(uri("id=%31", token="certified 1"), "not the PIN") == [
        found for found in public if "id=%31" in found.uri
    ]
