"""Certificates and chains: order, preflight, verification. `openssl` judges chains, serial numbers and keys."""

from __future__ import annotations

import base64
import itertools
import re
import subprocess
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from asn1crypto import x509 as asn1
from asn1crypto.keys import RSAPublicKey
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

import certs
from backends.pkcs11.tokens import self_made
from emulator.material import Form, certificate, sha1_signed
from hwsigner._identity.certificate import (
    MAX_INTERMEDIATES,
    Certificate,
    Chain,
    build_chain,
    leaves,
    load,
    load_readable,
    preflight,
)
from hwsigner.backends.pkcs11.der import encode
from hwsigner.errors import CertificateError, CertificateWarning
from hwsigner.key import ECDSA, MLDSA, RSA, FoundCertificate
from hwsigner.key.public_key import verify
from judges import needs_openssl_3_5

YUBICO_FIRMWARE = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.41482.3.3"), b"\x05\x04\x03")
NOW = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)

KEY = ec.generate_private_key(ec.SECP256R1())
KEYS: dict[str, Any] = {
    "P-256": ec.generate_private_key(ec.SECP256R1()),
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "P-521": ec.generate_private_key(ec.SECP521R1()),
    "RSA": rsa.generate_private_key(65537, 2048),
    "ML-DSA-44": mldsa.MLDSA44PrivateKey.generate(),
    "ML-DSA-65": mldsa.MLDSA65PrivateKey.generate(),
    "ML-DSA-87": mldsa.MLDSA87PrivateKey.generate(),
}
ROOT = certs.make_ca("Root")
MIDDLE = certs.make_ca("Middle", ROOT)
LOWER = certs.make_ca("Lower", MIDDLE)
LEAF = certs.issue(LOWER, KEY.public_key())
STRANGER = certs.make_ca("Stranger", certs.make_ca("Elsewhere"))


def read(*certificates: x509.Certificate) -> list[Certificate]:
    """Return certificates as `load` reads them, each with its position as the source."""
    return load([FoundCertificate(c.public_bytes(Encoding.DER), f"file:{i}") for i, c in enumerate(certificates)])


def one(certificate: x509.Certificate) -> Certificate:
    return read(certificate)[0]


def build(certificates: Sequence[x509.Certificate]) -> tuple[Chain, list[Certificate]]:
    """Find the leaf among certificates and build its chain."""
    found = read(*certificates)
    [leaf] = leaves(found)
    return build_chain(leaf, found)


def names(certificates: Sequence[Certificate]) -> list[str]:
    return [c.x509.subject.rfc4514_string().split(",")[0].removeprefix("CN=") for c in certificates]


def key_with(name: str, signer: certs.Authority | None, key: Any, days: int) -> x509.Certificate:
    """Return a CA's certificate with a given key that expires in some days; without a signer, a self-signed one."""
    public, shape = key.public_key(), certs.Shape(name, end=certs.ago(-days), is_ca=True)
    return certs.issue(signer or certs.Authority(certs.make_ca(name, key=key).certificate, key), public, shape)


class TestChain:
    @pytest.mark.parametrize("order", [*itertools.permutations([LEAF, LOWER.certificate, MIDDLE.certificate])])
    def test_chain_is_ordered_and_leaves_out_the_root(self, order: Sequence[x509.Certificate]) -> None:
        chain, strangers = build(order)
        assert (chain.leaf.x509, names(chain.intermediates), strangers) == (LEAF, ["Lower", "Middle"], [])

    @given(st.data())
    def test_chain_leaves_out_copies_and_strangers(self, data: st.DataObject) -> None:
        known = [LEAF, LOWER.certificate, MIDDLE.certificate, ROOT.certificate]
        copies = data.draw(st.lists(st.sampled_from(known), max_size=4))
        order = data.draw(st.permutations([*known, STRANGER.certificate, *copies]))
        found = read(*order)
        assert [c.x509 for c in leaves(found)] == [LEAF]
        chain, strangers = build_chain(leaves(found)[0], found)
        assert names(chain.intermediates) == ["Lower", "Middle"]
        assert names(strangers) == ["Stranger"]

    def test_openssl_verifies_the_chain_in_the_headers(self, tmp_path: Path) -> None:
        chain, _ = build([MIDDLE.certificate, ROOT.certificate, LEAF, LOWER.certificate])
        sent = [x509.load_der_x509_certificate(base64.b64decode(text)) for text in chain.chain_header.split(",")]
        leaf = x509.load_der_x509_certificate(base64.b64decode(chain.x509_header))
        (tmp_path / "root.pem").write_bytes(ROOT.pem)
        (tmp_path / "sent.pem").write_bytes(certs.pem(*sent))
        (tmp_path / "leaf.pem").write_bytes(certs.pem(leaf))
        command = ["openssl", "verify", "-show_chain", "-CAfile", "root.pem", "-untrusted", "sent.pem", "leaf.pem"]
        shown = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
        depths = [re.findall(r"CN ?= ?([\w-]+)", line)[-1] for line in shown.splitlines() if "depth" in line]
        assert depths == ["bamboo-01", "Lower", "Middle", "Root"]

    def test_chain_header_is_empty_for_a_leaf_alone(self) -> None:
        chain, strangers = build([LEAF])
        assert (chain.intermediates, chain.chain_header, strangers) == ((), "", [])

    def test_issuer_is_chosen_by_its_signature_not_by_its_name(self) -> None:
        impostor = certs.make_ca("Lower", MIDDLE).certificate
        for order in itertools.permutations([LEAF, impostor, LOWER.certificate, MIDDLE.certificate]):
            found = read(*order)
            chain, strangers = build_chain(next(c for c in found if c.x509 == LEAF), found)
            assert [c.x509 for c in chain.intermediates] == [LOWER.certificate, MIDDLE.certificate]
            assert [c.x509 for c in strangers] == [impostor]

    def test_issuer_with_several_certificates_is_the_last_to_expire(self) -> None:
        other = certs.make_ca("Other root")
        old, cross = (key_with("Lower", ca, LOWER.key, days) for ca, days in ((MIDDLE, 5), (other, 90)))
        for order in itertools.permutations([LEAF, old, cross, LOWER.certificate]):
            chain, _ = build_chain(one(LEAF), read(*order))
            assert [c.x509 for c in chain.intermediates] == [cross]

    def test_issuer_s_next_certificate_is_not_used_before_it_is_valid(self) -> None:
        shape = certs.Shape("Lower", is_ca=True, begin=certs.ago(-1), end=certs.ago(-900))
        following = certs.issue(MIDDLE, LOWER.key.public_key(), shape)
        chain, _ = build([LEAF, following, LOWER.certificate])
        assert [c.x509 for c in chain.intermediates] == [LOWER.certificate]
        assert [c.x509 for c in build([LEAF, following])[0].intermediates] == [following]

    def test_root_signed_with_sha_1_is_left_out(self) -> None:
        root = certs.make_ca("Old root")
        old = sha1_signed(Form("Old root", ca=True, usages=("key_cert_sign",)), root.key.public_key(), root)
        chain, strangers = build([certs.issue(root, KEY.public_key()), old])
        assert (chain.intermediates, strangers) == ((), [])

    @pytest.mark.parametrize("days", [5, 900])
    def test_cross_signed_root_is_followed_to_the_other_root(self, days: int) -> None:
        other = certs.make_ca("Other root")
        twin = key_with("Root", other, ROOT.key, days)
        for order in itertools.permutations([twin, ROOT.certificate, MIDDLE.certificate]):
            chain, _ = build_chain(one(certs.issue(MIDDLE, KEY.public_key())), read(*order))
            assert [c.x509 for c in chain.intermediates] == [MIDDLE.certificate, twin]

    def test_cross_signed_root_is_left_out_when_the_chain_would_be_too_long(self) -> None:
        root = certs.make_ca("Top")
        authorities = [root]
        for number in range(MAX_INTERMEDIATES):
            authorities.append(certs.make_ca(f"I{number}", issuer=authorities[-1]))
        twin = key_with("Top", certs.make_ca("Other root"), root.key, 900)
        leaf = certs.issue(authorities[-1], KEY.public_key())
        chain, strangers = build_chain(one(leaf), read(twin, *(a.certificate for a in authorities)))
        assert [c.x509 for c in chain.intermediates] == [a.certificate for a in authorities[:0:-1]]
        assert [c.x509 for c in strangers] == [twin]

    def test_root_signed_by_its_old_key_is_an_intermediate(self) -> None:
        new_key = ec.generate_private_key(ec.SECP256R1())
        new = certs.Authority(key_with("Root", ROOT, new_key, 90), new_key)
        assert new.certificate.subject == new.certificate.issuer
        leaf = certs.issue(new, KEY.public_key())
        for order in itertools.permutations([leaf, new.certificate, ROOT.certificate]):
            chain, strangers = build(order)
            assert ([c.x509 for c in chain.intermediates], strangers) == ([new.certificate], [])

    def test_leaf_with_its_issuers_name_is_not_its_own_issuer(self) -> None:
        leaf = certs.issue(ROOT, KEY.public_key(), certs.Shape("Root"))
        for order in ([leaf, ROOT.certificate], [ROOT.certificate, leaf]):
            chain, _ = build(order)
            assert (chain.leaf.x509, chain.intermediates) == (leaf, ())

    def test_self_signed_leaf_is_a_chain(self) -> None:
        own = certs.Authority(certs.make_ca("bamboo-01", key=KEY).certificate, KEY)
        leaf = certs.issue(own, KEY.public_key())
        chain, strangers = build([leaf])
        assert (chain.leaf.x509, chain.intermediates, strangers) == (leaf, (), [])

    @pytest.mark.parametrize(
        "key", [KEY, pytest.param(KEYS["ML-DSA-65"], marks=needs_openssl_3_5)], ids=["P-256", "ML-DSA"]
    )
    def test_issuer_is_found_when_its_name_is_another_type_of_string(self, tmp_path: Path, key: Any) -> None:
        form = Form(ca=True, usages=("key_cert_sign",))
        root, named = (
            certificate(
                replace(form, name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Root", kind)])),
                key.public_key(),
                None,
                key,
            )
            for kind in (_ASN1Type.UTF8String, _ASN1Type.PrintableString)
        )
        leaf = certs.issue(certs.Authority(named, key), KEY.public_key())
        (tmp_path / "ca.pem").write_bytes(certs.pem(root))
        (tmp_path / "leaf.pem").write_bytes(certs.pem(leaf))
        openssl(tmp_path, "verify", "-trusted", "ca.pem", "leaf.pem")
        assert one(root).issued(one(leaf))
        forged = leaf.public_bytes(Encoding.DER)
        assert not one(root).issued(load([FoundCertificate(forged[:-1] + bytes([forged[-1] ^ 1]), "x")])[0])

    def test_chain_ends_when_two_cas_sign_each_other(self) -> None:
        a, b = certs.make_ca("A"), certs.make_ca("B")
        a_by_b, b_by_a = key_with("A", b, a.key, 30), key_with("B", a, b.key, 30)
        leaf = certs.issue(a, KEY.public_key())
        chain, _ = build_chain(one(leaf), read(a_by_b, b_by_a))
        assert names(chain.intermediates) == ["A", "B"]

    @pytest.mark.parametrize("count", [MAX_INTERMEDIATES, MAX_INTERMEDIATES + 1])
    def test_sixth_intermediate_is_refused(self, count: int) -> None:
        ladder = [certs.make_ca("Top")]
        for number in range(count):
            ladder.append(certs.make_ca(f"CA {number}", ladder[-1]))
        order = [certs.issue(ladder[-1], KEY.public_key()), *(ca.certificate for ca in ladder)]
        if count <= MAX_INTERMEDIATES:
            assert len(build(order)[0].intermediates) == count
        else:
            with pytest.raises(CertificateError, match="file:0 has 6 intermediates and the service accepts 5"):
                build(order)

    @pytest.mark.parametrize("serial", [1, 2**64 - 1, 2**159 - 1])
    def test_serial_number_is_decimal(self, serial: int, tmp_path: Path) -> None:
        leaf = certs.issue(ROOT, KEY.public_key(), certs.Shape(serial=serial))
        (tmp_path / "leaf.pem").write_bytes(certs.pem(leaf))
        shown = openssl(tmp_path, "x509", "-in", "leaf.pem", "-noout", "-serial").decode()
        assert Chain(one(leaf)).serial == str(int(shown.strip().removeprefix("serial="), 16))


class TestLeaves:
    def test_leaves_keep_their_order(self) -> None:
        second = certs.issue(LOWER, KEY.public_key(), certs.Shape("other"))
        for order in ([LEAF, second], [second, LEAF], [LEAF, second, LEAF]):
            found = leaves(read(*order, LOWER.certificate))
            assert [c.x509 for c in found] == list(dict.fromkeys(order))

    def test_copies_of_a_leaf_are_one_leaf(self) -> None:
        assert [c.source for c in leaves(read(LEAF, LOWER.certificate, LEAF))] == ["file:0"]
        assert build_chain(one(LEAF), read(LOWER.certificate, LEAF))[1] == []

    def test_stray_root_is_not_a_leaf(self) -> None:
        assert names(leaves(read(STRANGER.certificate, LEAF, ROOT.certificate))) == ["bamboo-01"]

    def test_ca_certificate_is_the_leaf_when_it_is_alone(self) -> None:
        assert names(leaves(read(ROOT.certificate))) == ["Root"]
        assert names(leaves(read(ROOT.certificate, MIDDLE.certificate))) == ["Middle"]


class TestPreflight:
    BEGIN, END = NOW - timedelta(days=1), NOW + timedelta(days=1)
    GOOD = certs.Shape(begin=BEGIN, end=END)

    def refusal(self, shape: certs.Shape, now: datetime = NOW) -> CertificateError:
        with pytest.raises(CertificateError) as caught:
            preflight(one(certs.issue(ROOT, KEY.public_key(), shape)), now)
        assert "file:0" in caught.value.message
        assert "--no-preflight" in caught.value.hint
        return caught.value

    @pytest.mark.parametrize("now", [BEGIN - timedelta(minutes=5), BEGIN, NOW, END])
    def test_valid_leaf_passes_preflight(self, now: datetime) -> None:
        preflight(one(certs.issue(ROOT, KEY.public_key(), self.GOOD)), now)

    def test_expired_leaf_is_refused_with_its_date(self) -> None:
        message = self.refusal(self.GOOD, self.END + SECOND).message
        assert "expired at 2026-05-05T12:00:00Z (now 2026-05-05T12:00:01Z)" in message

    def test_leaf_that_is_not_yet_valid_is_refused_after_five_minutes_of_tolerance(self) -> None:
        message = self.refusal(self.GOOD, self.BEGIN - timedelta(minutes=5) - SECOND).message
        assert "is not valid before 2026-05-03T12:00:00Z (now 2026-05-03T11:54:59Z)" in message

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"is_ca": True}, "CA:TRUE"),
            ({"digital_signature": False}, "digitalSignature"),
            ({"digital_signature": None}, "digitalSignature"),
        ],
    )
    def test_leaf_that_breaks_a_rule_is_refused(self, change: dict[str, Any], text: str) -> None:
        assert text in self.refusal(certs.Shape(begin=self.BEGIN, end=self.END, **change)).message

    def test_leaf_with_an_empty_subject_is_refused(self) -> None:
        leaf = certificate(Form(x509.Name([])), KEY.public_key(), ROOT)
        with pytest.raises(CertificateError, match="has an empty subject") as caught:
            preflight(one(leaf), datetime.now(UTC))
        assert "such as CN=" in caught.value.hint

    def test_leaf_without_basic_constraints_passes_preflight(self) -> None:
        preflight(one(certs.issue(ROOT, KEY.public_key(), certs.Shape(is_ca=None))), datetime.now(UTC))

    @pytest.mark.parametrize(("digest", "name"), [("-sha1", "SHA1"), ("-md5", "MD5"), ("-sha224", "SHA224")])
    def test_leaf_with_a_weak_signature_is_refused(self, digest: str, name: str, tmp_path: Path) -> None:
        certs.write_key(tmp_path / "key.pem", KEYS["RSA"])
        openssl(tmp_path, "req", "-new", "-key", "key.pem", "-subj", "/CN=x", "-out", "request.pem")
        (tmp_path / "extensions").write_text("keyUsage=digitalSignature")
        signing = ["x509", "-req", "-in", "request.pem", "-signkey", "key.pem", "-extfile", "extensions", digest]
        leaf = x509.load_pem_x509_certificate(openssl(tmp_path, *signing))
        with pytest.raises(CertificateError, match=f"is signed with {name}"):
            preflight(one(leaf), datetime.now(UTC))

    def test_version_1_leaf_is_refused(self) -> None:
        def downgrade(tbs: Any) -> None:
            tbs["version"] = "v1"
            del tbs["extensions"]

        with pytest.raises(CertificateError, match="version 3"):
            preflight(one(edited(LEAF, downgrade)), datetime.now(UTC))

    @pytest.mark.parametrize(
        "key", [ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256K1())], ids=["Ed25519", "K1"]
    )
    def test_leaf_with_an_unsupported_key_is_refused(self, key: Any) -> None:
        leaf = one(certs.issue(ROOT, key.public_key()))
        with pytest.raises(CertificateError, match="kind of key that the service does not accept"):
            preflight(leaf, datetime.now(UTC))

    def test_unknown_signature_algorithm_is_left_to_the_service(self) -> None:
        oid = bytes.fromhex("06082a8648ce3d040302")
        der = LEAF.public_bytes(Encoding.DER).replace(oid, oid[:-1] + b"\x63")
        preflight(load([FoundCertificate(der, "x")])[0], datetime.now(UTC))


class TestBrokenCertificates:
    @given(st.data())
    def test_mutated_certificate_raises_only_certificate_errors(self, data: st.DataObject) -> None:
        der = bytearray(LEAF.public_bytes(Encoding.DER))
        for _ in range(data.draw(st.integers(1, 3))):
            der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
        use_all(bytes(der))

    @given(st.binary(max_size=300))
    def test_garbage_is_a_certificate_error(self, garbage: bytes) -> None:
        with pytest.raises(CertificateError, match="certificate the/path can't be read"):
            load([FoundCertificate(garbage, "the/path")])

    def test_unknown_version_is_a_certificate_error(self) -> None:
        der = LEAF.public_bytes(Encoding.DER).replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020126"), 1)
        with pytest.raises(CertificateError):
            load([FoundCertificate(der, "x")])

    def test_repeated_extension_is_a_certificate_error(self) -> None:
        def double(tbs: Any) -> None:
            tbs["extensions"].append(tbs["extensions"][0])

        with pytest.raises(CertificateError, match="file:0 can't be read"):
            one(edited(LEAF, double))

    @pytest.mark.parametrize("serial", [0, -1, -(2**70), 2**400])
    def test_invalid_serial_number_is_accepted_or_a_certificate_error(self, serial: int) -> None:
        leaf = edited(LEAF, lambda tbs: tbs.__setitem__("serial_number", serial))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert Chain(one(leaf)).serial == str(serial)

    def test_unknown_curve_is_a_certificate_error(self) -> None:
        p256, nowhere = bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a8648ce3d030163")
        der = LEAF.public_bytes(Encoding.DER).replace(p256, nowhere)
        with pytest.raises(CertificateError):
            load([FoundCertificate(der, "x")])


def unusual(*extensions: bytes, algorithm: str = "300a06082a8648ce3d040302") -> bytes:
    """Return LEAF's certificate with other extensions, issued by LOWER."""
    body = asn1.Certificate.load(LEAF.public_bytes(Encoding.DER))["tbs_certificate"]
    before = b"".join(body[name].dump() for name in ("version", "serial_number"))
    after = b"".join(body[name].dump() for name in ("issuer", "validity", "subject", "subject_public_key_info"))
    method = bytes.fromhex(algorithm)
    tbs = encode(0x30, before + method + after + encode(0xA3, encode(0x30, b"".join(extensions))))
    return encode(0x30, tbs + method + encode(0x03, b"\0" + LOWER.key.sign(tbs, ec.ECDSA(SHA256()))))


def extension(oid: str, value: str, critical: str = "0101ff") -> bytes:
    return encode(0x30, bytes.fromhex(oid + critical) + encode(0x04, bytes.fromhex(value)))


USAGE = extension("0603551d0f", "03020780")
UNUSUAL = {
    "path length without CA": unusual(USAGE, extension("0603551d13", "3003020100")),
    "encoded CA:FALSE": unusual(USAGE, extension("0603551d13", "3003010100")),
    "encoded CA:FALSE and path length": unusual(USAGE, extension("0603551d13", "3006010100020100")),
    "encoded critical=FALSE": unusual(extension("0603551d0f", "03020780", critical="010100")),
    "parameters of ECDSA": unusual(USAGE, algorithm="300c06082a8648ce3d0403020500"),
    "alternative names that are not DER": unusual(USAGE, extension("0603551d11", "30ff", critical="")),
}


class TestUnusualForms:
    """Certificates that openssl reads and cryptography refuses."""

    @pytest.mark.parametrize("form", UNUSUAL)
    def test_unusual_leaf_is_read_and_sent_as_it_is(self, form: str) -> None:
        der = UNUSUAL[form]
        subprocess.run(["openssl", "x509", "-inform", "DER", "-noout"], input=der, check=True)
        found = [FoundCertificate(der, "x"), *(FoundCertificate(a.der, "y") for a in read(LOWER.certificate))]
        [leaf] = leaves(load(found))
        chain, strangers = build_chain(leaf, load(found))
        assert (names(chain.intermediates), strangers) == (["Lower"], [])
        assert base64.b64decode(chain.x509_header) == der
        assert leaf.public_key() == one(LEAF).public_key()
        preflight(leaf, datetime.now(UTC))

    def test_signature_of_an_unusual_certificate_is_verified(self) -> None:
        der = UNUSUAL["encoded CA:FALSE"]
        [forged] = load([FoundCertificate(der[:-1] + bytes([der[-1] ^ 1]), "x")])
        assert not one(LOWER.certificate).issued(forged)

    @pytest.mark.parametrize(
        ("value", "words"), [("3006010101020100", "CA:TRUE"), ("30060101ff020100", "CA:TRUE")], ids=["1", "255"]
    )
    def test_unusual_ca_is_still_refused(self, value: str, words: str) -> None:
        der = unusual(USAGE, extension("0603551d13", value), extension("0603551d11", "30ff", critical=""))
        with pytest.raises(CertificateError, match=words):
            preflight(load([FoundCertificate(der, "x")])[0], datetime.now(UTC))

    @pytest.mark.parametrize("exponent", [0, 1, 2, 65536])
    def test_impossible_rsa_exponent_is_named(self, exponent: int) -> None:
        parsed = asn1.Certificate.load(certs.issue(ROOT, KEYS["RSA"].public_key()).public_bytes(Encoding.DER))
        numbers = {"modulus": KEYS["RSA"].public_key().public_numbers().n, "public_exponent": exponent}
        parsed["tbs_certificate"]["subject_public_key_info"]["public_key"] = RSAPublicKey(numbers)
        with pytest.raises(CertificateError, match=f"the/path has an RSA key with the public exponent {exponent}"):
            load([FoundCertificate(parsed.dump(), "the/path")])

    def test_unreadable_certificate_is_left_out_with_a_warning(self) -> None:
        found = [FoundCertificate(b"garbage", "the/path"), FoundCertificate(UNUSUAL["parameters of ECDSA"], "x")]
        with pytest.warns(CertificateWarning, match="certificate the/path can't be read, so it is left out"):
            assert len(load(found)) == 1


class TestAlgorithms:
    @pytest.mark.parametrize("kind", KEYS)
    def test_algorithm_is_that_of_the_leafs_key(self, kind: str) -> None:
        certificate = one(certs.issue(ROOT, KEYS[kind].public_key()))
        assert certificate.algorithm == {"P": ECDSA, "R": RSA, "M": MLDSA}[kind[0]]

    @pytest.mark.parametrize("kind", ["ML-DSA-44", "ML-DSA-65", "ML-DSA-87", "RSA", "P-521"])
    def test_chain_of_any_algorithm_is_built(self, kind: str) -> None:
        root = certs.make_ca("Root", key=KEYS[kind])
        middle = certs.make_ca("Middle", root)
        leaf = certs.issue(middle, KEYS[kind].public_key())
        chain, strangers = build([root.certificate, leaf, middle.certificate])
        assert (names(chain.intermediates), strangers) == (["Middle"], [])
        preflight(chain.leaf, datetime.now(UTC))


class TestLeavesOfOneKey:
    """Which certificate is the leaf, among those with one CKA_ID on a token."""

    def test_attestation_certificate_is_not_a_leaf_beside_another(self) -> None:
        attestation = x509.load_der_x509_certificate(self_made(public_key(KEY), "attestation", YUBICO_FIRMWARE))
        for order in ([attestation, LEAF], [LEAF, attestation]):
            assert [c.x509 for c in leaves(read(*order))] == [LEAF]
        assert [c.x509 for c in leaves(read(attestation))] == [attestation]

    def test_certificate_that_forbids_signing_is_not_a_leaf_beside_another(self) -> None:
        encryption = certs.issue(LOWER, KEY.public_key(), certs.Shape("encryption", digital_signature=False))
        assert [c.x509 for c in leaves(read(encryption, LEAF))] == [LEAF]
        assert [c.x509 for c in leaves(read(encryption))] == [encryption]


def test_unreadable_certificates_become_errors() -> None:
    good = FoundCertificate(LEAF.public_bytes(Encoding.DER), "good")
    found, errors = load_readable([FoundCertificate(b"junk", "bad"), good, FoundCertificate(b"", "empty")])
    assert [c.x509 for c in found] == [LEAF]
    assert ["bad" in errors[0].message, "empty" in errors[1].message] == [True, True]


def public_key(key: Any) -> bytes:
    der: bytes = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return der


def use_all(der: bytes) -> None:
    """Use a certificate as a command does. Only a CertificateError may result."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            [certificate] = load([FoundCertificate(der, "x")])
            others = [certificate, *read(LOWER.certificate, ROOT.certificate)]
            leaves(others)
            chain, _ = build_chain(certificate, others)
            assert chain.serial
            assert chain.x509_header
            assert isinstance(certificate.subject, str)
            verify(certificate.public_key(), b"message", signature=b"signature")
            preflight(certificate, datetime.now(UTC))
        except CertificateError:
            pass


def edited(certificate: x509.Certificate, change: Callable[[Any], object]) -> x509.Certificate:
    """Return a certificate with another content and the same, now wrong, signature."""
    parsed = asn1.Certificate.load(certificate.public_bytes(Encoding.DER))
    change(parsed["tbs_certificate"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return x509.load_der_x509_certificate(parsed.dump(force=True))


def openssl(folder: Path, *arguments: str) -> bytes:
    return subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True).stdout
