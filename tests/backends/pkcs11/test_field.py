"""Tokens found in practice: shared and misleading ids, empty names, broken objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import certs
import judges
from backends.contract import openssl_verifies
from backends.pkcs11.tokens import (
    EC,
    P256,
    PUBLIC_KEY,
    certificate_object,
    create,
    key_uri,
    remove_tokens,
    self_made,
    tool,
)
from emulators import InProcessSoftHSM
from hwsigner._identity import IdentitySource, open_identity
from hwsigner._pins import PinRequest
from hwsigner.errors import (
    AmbiguousCertificateError,
    AmbiguousKeyError,
    CertificateError,
    HwsignerWarning,
    KeyNotFoundError,
    UsageError,
)
from hwsigner.key import find_certificates, open_key
from hwsigner.key.listing import list_tokens

CA = certs.make_ca()
YUBICO_FIRMWARE = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.41482.3.3"), b"\x05\x04\x03")


@pytest.fixture(scope="module")
def hsm(softhsm: InProcessSoftHSM) -> Iterator[InProcessSoftHSM]:
    """A token with two keys, and empty ones for the tests."""
    token, others = softhsm.label, ("misled", "crowded", "chained", "reused", "twin 1", "twin 2")
    for label in others:
        softhsm.add_token(label)
    softhsm.label = token
    softhsm.generate("P-256", b"\x01", "EC:prime256v1")
    softhsm.generate("P-384", b"\x02", "EC:secp384r1")
    yield softhsm
    remove_tokens(softhsm, token, *others)


@pytest.fixture
def uri(hsm: InProcessSoftHSM) -> Callable[..., str]:
    """Return a function that makes a URI on the first token, or on another or none with `token=`."""
    return partial(key_uri, hsm.module, token=hsm.label)


def new_key(hsm: InProcessSoftHSM, token: str, label: str, key_id: bytes, *, public: bool = True) -> bytes:
    """Generate a key and return its SubjectPublicKeyInfo; `public` keeps its public key object."""
    hsm.generate(label, key_id, "EC:prime256v1", token)
    public_key = hsm.public_key(key_id, token)
    if not public:
        hsm.delete("pubkey", key_id, token)
    return public_key


def issued(public_key: bytes, name: str) -> bytes:
    return certs.issue(CA, public_key, certs.Shape(name)).public_bytes(Encoding.DER)


def test_certificate_with_the_id_of_no_key_leads_to_the_key_with_its_public_key(
    uri: Callable[..., str], hsm: InProcessSoftHSM
) -> None:
    wanted = new_key(hsm, "misled", "away", b"\x01")
    new_key(hsm, "misled", "another", b"\x02")
    hsm.write_certificate(issued(wanted, "away"), "astray", b"\x99", "misled")
    for attributes in ("object=astray", "object=astray;type=cert", "id=%99"):
        for public_key in (wanted, None):
            with open_key(uri(attributes, token="misled"), "1234", public_key=public_key) as key:
                assert key.public_key() == wanted


def test_certificate_with_the_id_of_another_key_leads_to_its_own_key(
    uri: Callable[..., str], hsm: InProcessSoftHSM, tmp_path: Path
) -> None:
    wanted = new_key(hsm, "misled", "mine", b"\x03")
    new_key(hsm, "misled", "not mine", b"\x04")
    hsm.write_certificate(issued(wanted, "swapped"), "swapped", b"\x04", "misled")
    for attributes in ("object=swapped", "id=%04;type=cert", "id=%04"):
        with open_key(uri(attributes, token="misled"), "1234", public_key=wanted) as key:
            assert openssl_verifies(tmp_path, wanted, key.sign(b"message"), b"message", "sha256")
    with open_identity(IdentitySource(uri("object=swapped", token="misled"), pin="1234")) as identity:
        assert identity.sign(b"message")


def test_named_key_is_opened_even_if_the_certificate_has_another(
    uri: Callable[..., str], hsm: InProcessSoftHSM
) -> None:
    wanted = hsm.public_key(b"\x01")
    with open_key(uri("object=P-384;type=private"), "1234", public_key=wanted) as key:
        assert key.public_key() == hsm.public_key(b"\x02")
    with pytest.raises(KeyNotFoundError, match="object=nonesuch"):
        open_key(uri("object=nonesuch"), "1234", public_key=wanted)


def test_key_without_a_public_key_is_opened_for_a_certificate(
    uri: Callable[..., str], hsm: InProcessSoftHSM, tmp_path: Path
) -> None:
    bare = new_key(hsm, "misled", "bare", b"\x05", public=False)
    with open_key(uri("", token="misled"), "1234", public_key=bare) as key:
        assert key.public_key() is None
        assert openssl_verifies(tmp_path, bare, key.sign(b"message"), b"message", "sha256")
    hsm.write_certificate(issued(bare, "bare"), "of the bare key", b"\x98", "misled")
    with open_identity(IdentitySource(uri("object=of%20the%20bare%20key", token="misled"), pin="1234")) as identity:
        assert identity.sign(b"message")


def test_empty_label_in_a_uri_names_the_object_without_a_label(uri: Callable[..., str], hsm: InProcessSoftHSM) -> None:
    publics = [new_key(hsm, "crowded", label, key_id) for label, key_id in (("", b"\x01"), ("named", b"\x02"))]
    hsm.write_certificate(self_made(publics[0], "nameless"), "", b"\x01", "crowded")
    hsm.write_certificate(self_made(publics[0], "named"), "named", b"\x01", "crowded")
    with open_key(uri("object=", token="crowded"), "1234") as key:
        assert key.public_key() == publics[0]
    found = find_certificates(uri("id=%01", token="crowded"))
    assert sorted("object=;" in one.uri for one in found) == [False, True]
    for one in found:
        assert find_certificates(one.uri) == [one]


def test_key_without_a_public_key_is_opened_when_another_pair_has_its_id(
    uri: Callable[..., str], hsm: InProcessSoftHSM, tmp_path: Path
) -> None:
    bare = new_key(hsm, "reused", "bare", b"\x21", public=False)
    other = new_key(hsm, "reused", "other", b"\x21")
    leaf = tmp_path / "leaf.der"
    leaf.write_bytes(issued(bare, "bare"))
    for attributes in ("object=bare", "id=%21"):
        source = IdentitySource(str(leaf), uri(attributes, token="reused"), pin="1234")
        with open_identity(source) as identity:
            assert openssl_verifies(tmp_path, bare, identity.sign(b"message"), b"message", "sha256")
    with open_key(uri("object=other", token="reused"), "1234") as key:
        assert key.public_key() == other


@pytest.mark.parametrize("attributes", ["slot-id=12x", "slot-id=-1", "slot-id="])
def test_slot_id_that_is_not_a_number_is_a_usage_error(uri: Callable[..., str], attributes: str) -> None:
    with pytest.raises(UsageError, match="a slot-id that is not a number"):
        open_key(uri(attributes), "1234")


@pytest.mark.parametrize("version", ["23.", ".2", "2.3.4", "v2", "-1", "2,3", "", "2 ", "٣"])
def test_library_version_that_is_not_a_version_is_a_usage_error(uri: Callable[..., str], version: str) -> None:
    named = uri(f"object=P-256;library-version={quote(version)}")
    for use in (lambda: open_key(named, "1234"), lambda: find_certificates(named), lambda: list(list_tokens(named))):
        with pytest.raises(UsageError, match="a library-version that is not a version"):
            use()


def test_vendors_attribute_is_ignored_with_a_warning(uri: Callable[..., str]) -> None:
    """RFC 7512, 3, has such a URI."""
    named = uri("object=P-256;vendor-aaa=value-a") + "&vendor-bbb=value-b&x-c=1"
    with pytest.warns(HwsignerWarning, match="is ignored") as caught, open_key(named, "1234") as key:
        assert key.sign(b"message")
    assert [str(one.message).split()[0] for one in caught] == ["'vendor-aaa'", "'vendor-bbb'", "'x-c'"]


@pytest.mark.parametrize("attribute", ["label=web", "slot_id=1", "slot-ids=1", "librar-version=1"])
def test_misspelt_attribute_is_a_usage_error(uri: Callable[..., str], attribute: str) -> None:
    with pytest.raises(UsageError, match="no attribute"):
        open_key(uri(f"object=P-256;{attribute}"), "1234")


def test_broken_certificates_on_a_token_are_skipped(uri: Callable[..., str], hsm: InProcessSoftHSM) -> None:
    public_key = new_key(hsm, "crowded", "good", b"\x10")
    good = issued(public_key, "good")
    junk = [
        certificate_object(value, b"junk", b"\x10") for value in (b"\x00", b"no DER at all", good[:50], b"\x30\x84")
    ]
    padded = certificate_object(good + bytes(300), b"good", b"\x10", SUBJECT=b"")
    link = certificate_object(
        b"", b"a link", b"\x10", URL=b"https://example.com/leaf.der", HASH_OF_SUBJECT_PUBLIC_KEY=b"x" * 20
    )
    create(hsm, "crowded", *junk, padded, link)
    with open_identity(IdentitySource(uri("id=%10", token="crowded"), pin="1234")) as identity:
        assert identity.chain.leaf.der == good
        assert identity.sign(b"message")
    with pytest.raises(CertificateError, match="object=junk"):
        open_identity(IdentitySource(uri("object=junk", token="crowded"), pin="1234"))


@pytest.mark.parametrize("size", [65, 0, 1, 20])
def test_key_signs_whatever_point_its_public_key_object_has(
    uri: Callable[..., str], hsm: InProcessSoftHSM, size: int
) -> None:
    key_id = bytes((0x80 + size,))
    wanted = new_key(hsm, "crowded", f"point of {size} bytes", key_id, public=False)
    point = wanted[-65:][:size]
    shown = {"CLASS": PUBLIC_KEY, "KEY_TYPE": EC, "EC_PARAMS": P256, "EC_POINT": point, "ID": key_id, "PRIVATE": False}
    create(hsm, "crowded", shown)
    with open_key(uri(f"id=%{key_id.hex()}", token="crowded"), "1234") as key:
        assert (key.public_key() == wanted) is (size == 65)
        assert key.sign(b"message")


def test_attestation_certificate_is_not_the_leaf(uri: Callable[..., str], hsm: InProcessSoftHSM) -> None:
    public_key = new_key(hsm, "crowded", "attested", b"\x30")
    attestation, own = self_made(public_key, "attestation", YUBICO_FIRMWARE), issued(public_key, "own")
    hsm.write_certificate(attestation, "X.509 Certificate for PIV Attestation 9a", b"\x30", "crowded")
    hsm.write_certificate(own, "X.509 Certificate for PIV Authentication", b"\x30", "crowded")
    with open_identity(IdentitySource(uri("id=%30", token="crowded"), pin="1234")) as identity:
        assert identity.chain.leaf.der == own
        assert identity.chain.intermediates == ()


def test_chain_on_a_token_is_ordered_and_has_no_unrelated_certificates(
    uri: Callable[..., str], hsm: InProcessSoftHSM
) -> None:
    public_key = new_key(hsm, "chained", "leaf", b"\x01")
    root = certs.make_ca("root")
    upper = certs.make_ca("upper", root)
    lower = certs.make_ca("lower", upper)
    stranger, leaf = certs.make_ca("stranger"), certs.issue(lower, public_key)
    neighbour = certs.issue(upper, ec.generate_private_key(ec.SECP256R1()).public_key())
    shuffled = [stranger.certificate, upper.certificate, leaf, neighbour, root.certificate, lower.certificate]
    for number, one in enumerate(shuffled):
        key_id = b"\x01" if one is leaf else bytes((0x60 + number,))
        hsm.write_certificate(one.public_bytes(Encoding.DER), f"certificate {number}", key_id, "chained")
    create(hsm, "chained", certificate_object(b"junk", b"junk", b"\x7f"))
    for attributes in ("id=%01", "object=certificate%202", "object=certificate%202;type=cert;id=%01"):
        with open_identity(IdentitySource(uri(attributes, token="chained"), pin="1234")) as identity:
            assert identity.chain.leaf.x509 == leaf
            assert [one.x509 for one in identity.chain.intermediates] == [lower.certificate, upper.certificate]


def test_two_leaves_of_one_key_are_listed_with_a_uri_for_each(uri: Callable[..., str], hsm: InProcessSoftHSM) -> None:
    public_key = new_key(hsm, "crowded", "renewed", b"\x40")
    ca = certs.make_ca()
    for name, end in (("old", certs.ago(-3)), ("new", certs.ago(-9))):
        der = certs.issue(ca, public_key, certs.Shape(name, end=end)).public_bytes(Encoding.DER)
        hsm.write_certificate(der, name, b"\x40", "crowded")
    source = uri("id=%40", token="crowded")
    with pytest.raises(AmbiguousCertificateError, match="2 certificates may be the leaf") as caught:
        open_identity(IdentitySource(source, pin="1234"))
    for name in ("old", "new"):
        assert f"id=%40;object={name};type=cert" in caught.value.message
    with open_identity(IdentitySource(source, pin="1234", latest=True)) as identity:
        assert "object=new" in identity.chain.leaf.source


def test_tokens_with_the_same_key_are_listed_with_a_uri_for_each(
    uri: Callable[..., str], hsm: InProcessSoftHSM
) -> None:
    def ask(request: PinRequest) -> str:
        raise AssertionError(f"asked for the {request.kind} of {request.subject}")

    spki = ec.generate_private_key(ec.SECP256R1()).public_key()
    der = self_made(spki.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), "backup")
    for token in ("twin 1", "twin 2"):
        hsm.write_certificate(der, "backup", b"\x01", token)
    with pytest.raises(AmbiguousKeyError, match="names 2 tokens") as caught:
        open_key(uri("object=backup", token=None), ask)
    listed = caught.value.message.partition(" tokens: ")[2].split(", ")
    assert len(listed) == 2
    for one, token in zip(sorted(listed), ("twin 1", "twin 2"), strict=True):
        (found,) = find_certificates(f"{one.partition('?')[0]};object=backup?module-path={hsm.module}", ask)
        assert f"token={token.replace(' ', '%20')};serial=" in found.uri


def test_uri_type_other_than_key_or_certificate_is_an_error(uri: Callable[..., str]) -> None:
    for kind in ("secret-key", "data", "key", ""):
        for find in (open_key, find_certificates):
            with pytest.raises(UsageError, match="type"):
                find(uri(f"object=P-256;type={kind}"), "1234")


@judges.needs_opensc
def test_id_as_pkcs11_tool_writes_it_finds_the_key(uri: Callable[..., str], hsm: InProcessSoftHSM) -> None:
    wanted = new_key(hsm, "crowded", "long id", b"\x99\x0a\xff\x3b")
    (line,) = [
        line
        for line in tool(hsm, "crowded", "--list-objects", "--type", "privkey", "--id", "990aff3b").splitlines()
        if "uri:" in line
    ]
    with open_key(f"{line.partition('uri:')[2].strip()}?module-path={hsm.module}", "1234") as key:
        assert key.public_key() == wanted
    with open_key(uri("id=%99%0A%FF%3B", token="crowded"), "1234") as key:
        assert key.public_key() == wanted


def test_error_asks_for_other_names_when_keys_have_the_same_label_and_id(
    uri: Callable[..., str], hsm: InProcessSoftHSM
) -> None:
    publics = []
    for _ in range(2):
        hsm.generate("alike", b"\x50", "EC:prime256v1", "crowded")
        publics.append(hsm.public_key(b"\x50", "crowded"))
        hsm.delete("pubkey", b"\x50", "crowded")
    with pytest.raises(AmbiguousKeyError, match="names 2 keys") as caught:
        open_key(uri("object=alike", token="crowded"), "1234", public_key=publics[0])
    assert caught.value.hint.startswith("Give each a label or id of its own: ")
