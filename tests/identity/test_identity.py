"""Identities: checks before the key is opened, the choice of the leaf, and verified signatures."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
    pkcs12,
)

import certs
from hwsigner import _identity as identity_module
from hwsigner._identity import Identity, IdentitySource, open_identity
from hwsigner._identity.certificate import Chain, load
from hwsigner._pins import PinRequest, PinSource
from hwsigner.backends.pem import elements
from hwsigner.backends.pkcs11.der import encode
from hwsigner.errors import (
    AmbiguousCertificateError,
    CertificateError,
    CertificateWarning,
    KeyMismatchError,
    KeyNotFoundError,
    PinRequiredError,
)
from hwsigner.key import ECDSA, Algorithm, FoundCertificate, HashName, Key, open_key
from hwsigner.key.public_key import verify

ROOT = certs.make_ca("Root")
MIDDLE = certs.make_ca("Middle", ROOT)
KEY, OTHER = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
LEAF = certs.issue(MIDDLE, KEY.public_key())
EXPIRED = certs.Shape("old", begin=certs.ago(9), end=certs.ago(1))


class FakeKey(Key):
    """A P-256 key that counts signatures and closings."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, *, shows_public_key: bool = True) -> None:
        self._key = key
        self._shows_public_key = shows_public_key
        self.signed = 0
        self.closed = 0

    @property
    def algorithm(self) -> Algorithm:
        return ECDSA

    def public_key(self) -> bytes | None:
        public_key = self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return public_key if self._shows_public_key else None

    def sign(self, message: bytes, hash: HashName = "sha256") -> bytes:
        self.signed += 1
        return self._key.sign(message, ec.ECDSA(SHA256()))

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeKey], None]:
    """Let open_identity open a fake key."""

    def use(key: FakeKey) -> None:
        monkeypatch.setattr(identity_module, "open_key", lambda *_, **__: key)

    return use


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return certs.write_key(tmp_path / "key.pem", KEY)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Write certificates into a file and return its path."""

    def to_file(*certificates: x509.Certificate, name: str = "certificates.pem") -> str:
        (tmp_path / name).write_bytes(certs.pem(*certificates))
        return str(tmp_path / name)

    return to_file


def test_identity_has_its_chain_and_signs(write: Callable[..., str], key_file: Path) -> None:
    names = IdentitySource(write(MIDDLE.certificate, LEAF, ROOT.certificate), str(key_file))
    with open_identity(names) as identity:
        assert identity.chain.leaf.x509 == LEAF
        assert [c.x509 for c in identity.chain.intermediates] == [MIDDLE.certificate]
        signature = identity.sign(b"message", "sha512")
        assert verify(identity.chain.leaf.public_key(), b"message", signature=signature, hash="sha512")


def test_unreadable_certificate_does_not_stop_the_leaf(tmp_path: Path, key_file: Path) -> None:
    bad = b"-----BEGIN CERTIFICATE-----\nMAMCAQA=\n-----END CERTIFICATE-----\n"
    both, more = tmp_path / "both.pem", tmp_path / "more.pem"
    both.write_bytes(certs.pem(LEAF) + bad)
    more.write_bytes(bad + certs.pem(MIDDLE.certificate))
    with pytest.warns(CertificateWarning, match="can't be read, so it is left out"):
        identity = open_identity(IdentitySource(str(both), str(key_file), intermediates=str(more)))
    assert [c.x509 for c in identity.chain.intermediates] == [MIDDLE.certificate]
    assert identity.sign(b"message")


@pytest.mark.parametrize("check", [True, False])
def test_unusual_leaf_is_a_warning(tmp_path: Path, key_file: Path, check: bool) -> None:
    der = LEAF.public_bytes(Encoding.DER)
    algorithm, with_null = bytes.fromhex("300a06082a8648ce3d040302"), bytes.fromhex("300c06082a8648ce3d0403020500")
    parts = [element.content for element in elements(next(elements(der)).content)]
    body = encode(0x30, parts[0].replace(algorithm, with_null))
    leaf = tmp_path / "leaf.der"
    leaf.write_bytes(encode(0x30, body + with_null + encode(0x03, parts[2])))
    with pytest.warns(CertificateWarning, match="not in the exact form of RFC 5280"):
        identity = open_identity(IdentitySource(str(leaf), str(key_file), check=check))
    assert identity.sign(b"message")
    assert identity.chain.leaf.der == leaf.read_bytes()


class TestBeforeTheKeyIsOpened:
    """The key does not exist, so an error about it would show that hwsigner tried to open it."""

    MISSING = "/nowhere/key.pem"

    def test_key_is_opened_after_a_good_certificate(self, write: Callable[..., str]) -> None:
        with pytest.raises(KeyNotFoundError, match=self.MISSING):
            open_identity(IdentitySource(write(LEAF), self.MISSING))

    @pytest.mark.parametrize(
        "shape",
        [EXPIRED, certs.Shape(begin=certs.ago(-1)), certs.Shape(is_ca=True), certs.Shape(digital_signature=None)],
        ids=["expired", "not yet valid", "CA", "no digitalSignature"],
    )
    def test_bad_leaf_is_refused_before_the_key_is_opened_unless_unchecked(
        self, shape: certs.Shape, write: Callable[..., str]
    ) -> None:
        certificate = write(certs.issue(MIDDLE, KEY.public_key(), shape))
        with pytest.raises(CertificateError):
            open_identity(IdentitySource(certificate, self.MISSING))
        with pytest.raises(KeyNotFoundError):
            open_identity(IdentitySource(certificate, self.MISSING, check=False))

    def test_validity_is_checked_at_the_given_time(self, write: Callable[..., str]) -> None:
        names = IdentitySource(write(LEAF), self.MISSING)
        with pytest.raises(CertificateError, match="expired"):
            open_identity(names, now=datetime.now(UTC) + timedelta(days=365))

    @pytest.mark.parametrize("content", [b"", b"garbage", certs.pem(LEAF).replace(b"MII", b"AAA", 1)])
    def test_unreadable_intermediates_are_refused_before_the_key_is_opened(
        self, content: bytes, write: Callable[..., str], tmp_path: Path
    ) -> None:
        (tmp_path / "intermediates").write_bytes(content)
        names = IdentitySource(write(LEAF), self.MISSING, intermediates=str(tmp_path / "intermediates"))
        with pytest.raises(CertificateError, match="intermediates"):
            open_identity(names)

    def test_two_certificates_of_one_key_are_ambiguous(self, write: Callable[..., str]) -> None:
        renewed = certs.issue(MIDDLE, KEY.public_key(), certs.Shape("renewed", end=certs.ago(-300)))
        with pytest.raises(AmbiguousCertificateError) as caught:
            open_identity(IdentitySource(write(LEAF, renewed), self.MISSING))
        for certificate, name in ((LEAF, "CN=bamboo-01"), (renewed, "CN=renewed")):
            assert name in caught.value.message
            assert f"{certificate.not_valid_after_utc:%Y-%m-%d}" in caught.value.message
        assert "--use-latest-expiring-certificate" in caught.value.hint


class TestLeaf:
    def test_leaf_is_the_keys_certificate(self, write: Callable[..., str], key_file: Path) -> None:
        other = certs.issue(MIDDLE, OTHER.public_key(), certs.Shape("other"))
        for order in ((LEAF, other), (other, LEAF)):
            with open_identity(IdentitySource(write(*order, MIDDLE.certificate), str(key_file))) as identity:
                assert identity.chain.leaf.x509 == LEAF

    def test_latest_leaf_is_the_keys_last_to_expire(self, write: Callable[..., str], key_file: Path) -> None:
        renewed = certs.issue(MIDDLE, KEY.public_key(), certs.Shape("renewed", end=certs.ago(-300)))
        other = certs.issue(MIDDLE, OTHER.public_key(), certs.Shape("other", end=certs.ago(-900)))
        for order in ((LEAF, renewed), (renewed, LEAF), (other, renewed, LEAF), (LEAF, renewed, other)):
            with open_identity(IdentitySource(write(*order), str(key_file), latest=True)) as identity:
                assert identity.chain.leaf.x509 == renewed

    def test_latest_leaf_is_found_beside_an_expired_one(self, write: Callable[..., str], key_file: Path) -> None:
        expired = certs.issue(MIDDLE, KEY.public_key(), EXPIRED)
        with open_identity(IdentitySource(write(expired, LEAF), str(key_file), latest=True)) as identity:
            assert identity.chain.leaf.x509 == LEAF

    def test_leaf_and_its_renewal_are_not_ambiguous(self, write: Callable[..., str], key_file: Path) -> None:
        renewed = certs.issue(MIDDLE, KEY.public_key(), certs.Shape(end=certs.ago(-900)))
        for order in ((LEAF, renewed), (renewed, LEAF)):
            with open_identity(IdentitySource(write(*order), str(key_file))) as identity:
                assert identity.chain.leaf.x509 == renewed

    def test_leaf_and_its_copy_are_not_ambiguous(self, write: Callable[..., str], key_file: Path) -> None:
        with open_identity(IdentitySource(write(LEAF, LEAF), str(key_file))) as identity:
            assert identity.chain.leaf.x509 == LEAF

    def test_leaf_of_a_key_without_public_key_must_be_the_only_one(
        self, write: Callable[..., str], opened: Callable[[FakeKey], None]
    ) -> None:
        key = FakeKey(KEY, shows_public_key=False)
        opened(key)
        other = certs.issue(MIDDLE, OTHER.public_key(), certs.Shape("other"))
        assert open_identity(IdentitySource(write(LEAF))).chain.leaf.x509 == LEAF
        with pytest.raises(AmbiguousCertificateError):
            open_identity(IdentitySource(write(LEAF, other)))
        assert key.closed == 1


class TestFailuresCloseTheKey:
    def failure(self, key: FakeKey, error: type[Exception], certificate: str, **rest: Any) -> str:
        with pytest.raises(error) as caught:
            open_identity(IdentitySource(certificate, "pkcs11:", **rest))
        assert key.closed == 1
        return str(caught.value)

    def test_key_of_another_certificate_is_closed(
        self, write: Callable[..., str], opened: Callable[[FakeKey], None]
    ) -> None:
        opened(key := FakeKey(OTHER))
        message = self.failure(key, KeyMismatchError, path := write(LEAF))
        assert path in message
        assert "CN=bamboo-01" in message
        assert key.signed == 0

    def test_key_of_an_expired_leaf_is_closed(
        self, write: Callable[..., str], opened: Callable[[FakeKey], None]
    ) -> None:
        opened(key := FakeKey(OTHER))
        expired = certs.issue(MIDDLE, OTHER.public_key(), EXPIRED)
        assert "expired" in self.failure(key, CertificateError, write(LEAF, expired))

    def test_key_is_closed_when_the_chain_is_too_long(
        self, write: Callable[..., str], opened: Callable[[FakeKey], None]
    ) -> None:
        opened(key := FakeKey(KEY))
        ladder = [ROOT]
        for number in range(6):
            ladder.append(certs.make_ca(f"CA {number}", ladder[-1]))
        leaf = certs.issue(ladder[-1], KEY.public_key())
        self.failure(key, CertificateError, write(leaf, *(ca.certificate for ca in ladder)))

    def test_key_is_closed_when_a_warning_is_an_error(
        self, write: Callable[..., str], opened: Callable[[FakeKey], None]
    ) -> None:
        opened(key := FakeKey(KEY))
        stranger = certs.make_ca("Stranger", certs.make_ca("Elsewhere")).certificate
        intermediates = write(stranger, MIDDLE.certificate, ROOT.certificate, name="more.pem")
        with warnings.catch_warnings():
            warnings.simplefilter("error", CertificateWarning)
            message = self.failure(key, CertificateWarning, write(LEAF), intermediates=intermediates)
        assert intermediates in message
        assert "CN=Stranger" in message


class TestIntermediates:
    def test_intermediates_come_from_both_files(self, write: Callable[..., str], key_file: Path) -> None:
        lower = certs.make_ca("Lower", MIDDLE)
        leaf = certs.issue(lower, KEY.public_key())
        names = IdentitySource(
            write(leaf, lower.certificate), str(key_file), write(ROOT.certificate, MIDDLE.certificate, name="more.pem")
        )
        with warnings.catch_warnings(), open_identity(names) as identity:
            warnings.simplefilter("error")
            assert [c.x509 for c in identity.chain.intermediates] == [lower.certificate, MIDDLE.certificate]


class TestPins:
    """The key's PIN is used for the certificate's file only if the key is in it."""

    PASSPHRASE = "the key's own"

    @pytest.fixture
    def container(self, tmp_path: Path) -> str:
        path = tmp_path / "both.p12"
        path.touch(0o600)
        encryption = BestAvailableEncryption(self.PASSPHRASE.encode())
        path.write_bytes(pkcs12.serialize_key_and_certificates(b"x", KEY, LEAF, [MIDDLE.certificate], encryption))
        return str(path)

    @pytest.mark.parametrize("names_key", [False, True])
    def test_pin_opens_certificate_and_key_in_one_file(self, container: str, names_key: bool) -> None:
        names = IdentitySource(container, container if names_key else None, pin=PinSource(self.PASSPHRASE))
        with open_identity(names) as identity:
            assert [c.x509 for c in identity.chain.intermediates] == [MIDDLE.certificate]

    def test_pin_is_not_used_for_the_certificates_file(self, container: str, tmp_path: Path) -> None:
        encrypted = tmp_path / "encrypted.pem"
        encrypted.touch(0o600)
        encryption = BestAvailableEncryption(self.PASSPHRASE.encode())
        encrypted.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
        with pytest.raises(PinRequiredError, match=r"both\.p12"):
            open_identity(IdentitySource(container, str(encrypted), pin=PinSource(self.PASSPHRASE)))

    def test_pin_is_not_used_for_the_intermediates(
        self, container: str, write: Callable[..., str], key_file: Path
    ) -> None:
        names = IdentitySource(write(LEAF), str(key_file), container, pin=PinSource(self.PASSPHRASE))
        with pytest.raises(PinRequiredError, match=r"both\.p12"):
            open_identity(names)

    def test_callable_is_asked_for_each_file(self, container: str, key_file: Path) -> None:
        asked: list[str] = []

        def ask(request: PinRequest) -> str:
            asked.append(request.subject)
            return self.PASSPHRASE

        pins = PinSource("not this one", ask)
        with open_identity(IdentitySource(container, str(key_file), pin=pins)):
            assert [container in subject for subject in asked] == [True]


class TestSignatures:
    def chain(self) -> Chain:
        [leaf] = load([FoundCertificate(LEAF.public_bytes(Encoding.DER), "leaf.pem")])
        return Chain(leaf)

    def test_signature_of_another_key_is_an_error(self) -> None:
        with pytest.raises(KeyMismatchError, match=r"leaf\.pem"):
            Identity(FakeKey(OTHER, shows_public_key=False), self.chain()).sign(b"message")

    def test_signature_of_another_message_is_an_error(self) -> None:
        class Confused(FakeKey):
            def sign(self, message: bytes, hash: HashName = "sha256") -> bytes:
                return super().sign(message + b"!", hash)

        with pytest.raises(KeyMismatchError):
            Identity(Confused(KEY), self.chain()).sign(b"message")

    def test_with_statement_closes_the_key(self) -> None:
        with Identity(key := FakeKey(KEY), self.chain()) as identity:
            identity.sign(b"message")
        assert (key.signed, key.closed) == (1, 1)


def test_certificates_public_key_chooses_the_key(
    write: Callable[..., str], key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[bytes | None] = []

    def recording(*arguments: Any, public_key: bytes | None, allow_modules: bool) -> Key:
        given.append(public_key)
        return open_key(*arguments, public_key=public_key, allow_modules=allow_modules)

    monkeypatch.setattr(identity_module, "open_key", recording)
    open_identity(IdentitySource(write(LEAF, MIDDLE.certificate), str(key_file))).close()
    assert given == [LEAF.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)]
