"""The search for a chain: which one is taken, and how much work a statement may cost."""

from __future__ import annotations

import itertools
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import cache
from typing import Any

import pytest
from asn1crypto.core import ObjectIdentifier, OctetBitString
from asn1crypto.core import Sequence as Elements
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

import certs
from attestation.chips import issue
from attestation.test_chain import CA, Certified, read, refusal, trusting
from examples import scaled
from hwsigner import attestation
from hwsigner.attestation import chain as chain_module
from hwsigner.attestation.chain import Trust, VendorCertificate, in_usual_form, verifies
from hwsigner.attestation.documents import new
from hwsigner.attestation.search import MOST_CERTIFICATES, MOST_CHECKS, MOST_SECONDS, Search
from hwsigner.errors import AttestationError


@pytest.fixture(scope="module")
def root() -> Certified:
    return issue("Root", None, CA)


def test_valid_certificate_is_taken_when_an_expired_one_has_its_name_and_key(root: Certified) -> None:
    key, intermediate_key = root[1], ec.generate_private_key(ec.SECP256R1())
    old, new = (issue("Root", None, CA, key=key, days=days) for days in ((-2, -1), (-1, 1)))
    stale, fresh = (issue("Intermediate", new, CA, key=intermediate_key, days=days) for days in ((-2, -1), (-1, 1)))
    leaf = read(issue("Leaf", fresh))
    for roots in ((old, new), (new, old)):
        for others in ((stale, fresh), (fresh, stale)):
            chain = Search(trusting(*roots)).verify(leaf, list(map(read, others)))
            assert chain == (leaf, read(fresh), read(new))


def test_shorter_chain_is_taken_when_a_longer_one_fits_too(root: Certified) -> None:
    again = issue("Root", root, CA, key=root[1])
    leaf = read(issue("Leaf", root))
    assert Search(trusting(root)).verify(leaf, [read(again)]) == (leaf, read(root))


@pytest.mark.parametrize("name", ["root", "  Root", "Root ", "ＲＯＯＴ"])
def test_issuer_is_found_when_its_name_differs_in_case_or_spaces(root: Certified, name: str) -> None:
    again = issue(name, None, CA, key=root[1])
    assert Search(trusting(root)).verify(read(issue("Leaf", again)))
    assert "leads to none of the roots" in refusal(root, issue("Leaf", issue("Roots", None, CA, key=root[1])))


_KEYS = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
_CERTIFICATES = st.tuples(
    st.sampled_from("ab"),  # The subject.
    st.sampled_from("ab"),  # The issuer.
    st.integers(0, 1),  # The key.
    st.integers(0, 1),  # The issuer's key.
    st.sampled_from([None, 0, 1, 2]),  # The path length.
    st.booleans(),  # Whether it is valid.
)


@cache
def _made(subject: str, issuer: str, key: int, by: int, longest: int | None, is_valid: bool) -> VendorCertificate:
    authority = issue(issuer, None, key=_KEYS[by])
    constraints = x509.BasicConstraints(ca=True, path_length=longest)
    return read(issue(subject, authority, constraints, key=_KEYS[key], days=(-1, 1) if is_valid else (-2, -1)))


def _has_chain(trust: Trust, path: tuple[VendorCertificate, ...], others: list[VendorCertificate]) -> bool:
    """Return whether any order of the others leads from a leaf to a root."""
    below = len(path) - 1

    def fits(one: VendorCertificate) -> bool:
        is_issuer = one.is_issuer(path[-1]) and path[-1].is_signed_by(one.public_key)
        return is_issuer and one.longest_path >= below and trust.is_valid(one)

    return any(map(fits, trust.roots)) or any(
        _has_chain(trust, (*path, one), others) for one in others if one not in path and fits(one)
    )


@settings(max_examples=scaled(200))
@given(st.lists(_CERTIFICATES, min_size=1, max_size=2), st.lists(_CERTIFICATES, max_size=4), st.integers(0, 1))
def test_chain_is_found_if_any_order_of_the_certificates_makes_one(roots: Any, others: Any, by: int) -> None:
    trust = Trust(tuple(_made(*one) for one in roots), datetime.now(UTC))
    certificates, leaf = [_made(*one) for one in others], _made("leaf", "a", 0, by, None, True)
    expected = _has_chain(trust, (leaf,), certificates)
    try:
        chain = Search(trust).verify(leaf, certificates)
    except AttestationError:
        assert not expected
    else:
        assert expected
        assert chain[-1] in trust.roots


# The limits


def _spellings(name: str, issuer: Certified, count: int, **options: Any) -> list[VendorCertificate]:
    """Return certificates of names that are the same without regard to case, issued by one of them."""
    cases = (x for x in itertools.product(*((one, one.upper()) for one in name)))
    return [read(issue("".join(case), issuer, CA, **options)) for case in itertools.islice(cases, count)]


def _count_checks(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return a list of the keys that signatures are verified with."""
    keys: list[bytes] = []

    def counted(public_key: bytes, *arguments: Any) -> bool:
        keys.append(public_key)
        return verifies(public_key, *arguments)

    monkeypatch.setattr(chain_module, "verifies", counted)
    return keys


def test_certificates_of_one_key_cost_one_check_each_whatever_their_names_are(
    root: Certified, monkeypatch: pytest.MonkeyPatch
) -> None:
    forger = issue("abcdefg")
    others = _spellings("abcdefg", forger, 8, key=forger[1])
    keys = _count_checks(monkeypatch)
    with pytest.raises(AttestationError, match="leads to none of the roots"):
        Search(trusting(root)).verify(read(issue("Leaf", forger)), others)
    assert len(keys) <= 1 + len(others)


def test_search_ends_when_too_many_signatures_would_have_to_be_verified(
    root: Certified, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Certificates of one name, each issued by the next: all of those left are tried for each."""
    issued = [issue("abcdefg")]
    for _ in range(14):
        issued.append(issue("abcdefg", issued[-1], CA))
    keys = _count_checks(monkeypatch)
    with pytest.raises(AttestationError, match=f"more than {MOST_CHECKS} signatures"):
        Search(trusting(root)).verify(read(issue("Leaf", issued[-1])), list(map(read, issued)))
    assert len(keys) == MOST_CHECKS


def test_search_ends_when_it_takes_too_much_processor_time(root: Certified, monkeypatch: pytest.MonkeyPatch) -> None:
    spent = itertools.count()
    monkeypatch.setattr(time, "thread_time", lambda: next(spent) * MOST_SECONDS)
    search, leaf = Search(trusting(root)), read(issue("Leaf", root))
    search.read(leaf.der, "a certificate")
    with pytest.raises(AttestationError, match=r"more than 0\.2 s of processor time"):
        search.read(leaf.der, "a certificate")
    with pytest.raises(AttestationError, match=r"more than 0\.2 s of processor time"):
        search.verify(leaf)


def test_statement_is_refused_when_it_has_many_or_long_certificates(root: Certified) -> None:
    der, search = root[0].public_bytes(Encoding.DER), Search(trusting(root))
    for _ in range(MOST_CERTIFICATES):
        search.read(der, "a certificate")
    with pytest.raises(AttestationError, match=f"there are more than {MOST_CERTIFICATES} certificates"):
        search.read(der, "a certificate")
    with pytest.raises(AttestationError, match="a certificate has more than 8192 bytes"):
        Search(trusting(root)).read(der + bytes(8192), "a certificate")
    search = Search(trusting(root))
    for _ in range(3):
        search.read(der + bytes(7000), "a certificate")
    with pytest.raises(AttestationError, match="the certificates have more than 24576 bytes"):
        search.read(der + bytes(7000), "a certificate")


@pytest.mark.parametrize("oid", ["2.5.29.15", "2.5.29.17", "2.5.29.19", "2.5.29.37"])
def test_certificate_is_refused_when_an_extension_or_a_name_takes_long_to_parse(oid: str, root: Certified) -> None:
    """A request for 24 KiB of alternative names took 0.1 s."""
    long = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), bytes(1025))
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x" * 60)] * 20)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, certs.ago(1), certs.ago(-1))
    for certificate in (issue("Leaf", root, long)[0], builder.sign(key, SHA256())):
        with pytest.raises(AttestationError, match="can't be read as a certificate"):
            Search(trusting(root)).read(certificate.public_bytes(Encoding.DER), "a certificate")
    other = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.31"), b"\x30\x82\4\0" + b"\x30\0" * 512)
    assert Search(trusting(root)).read(issue("Leaf", root, other)[0].public_bytes(Encoding.DER), "a certificate").der


def _rsa(bits: int, exponent: int) -> Any:
    """Return an RSA public key. Nobody has its private key."""
    return rsa.RSAPublicNumbers(exponent, (1 << bits - 1) + 12345).public_key()


@pytest.mark.parametrize(
    ("key", "is_refused"),
    [
        (_rsa(2048, 3), False),
        (_rsa(4096, 65537), False),
        (_rsa(8192, 2**32 - 1), False),
        (_rsa(2048, 2**32 + 1), True),
        (_rsa(3072, 2**3071 + 1), True),
        (_rsa(8193, 65537), True),
        (_rsa(16384, 65537), True),
        (ec.generate_private_key(ec.SECP521R1()).public_key(), False),
    ],
)
def test_certificate_is_refused_before_any_check_when_its_key_is_slow(
    key: Any, is_refused: bool, root: Certified, monkeypatch: pytest.MonkeyPatch
) -> None:
    der = issue("Slow", root, CA, public_key=key)[0].public_bytes(Encoding.DER)
    keys = _count_checks(monkeypatch)
    with (
        pytest.raises(AttestationError, match="a key of an unusual kind, size or exponent")
        if is_refused
        else nullcontext()
    ):
        Search(trusting(root)).read(der, "a certificate")
    assert not keys


@pytest.mark.parametrize("kind", ["1.2.840.113549.1.3.1", "1.2.840.10046.2.1", "1.2.840.10040.4.1"])
def test_key_that_is_slow_to_load_is_not_loaded(kind: str, root: Certified, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSL checks a Diffie-Hellman key when it loads it, which takes a second for one of 10,000 bits."""
    algorithm = Elements(contents=ObjectIdentifier(kind).dump()).dump()
    key = Elements(contents=algorithm + OctetBitString(b"\2\1\5").dump()).dump()
    monkeypatch.setattr(chain_module, "load_der_public_key", lambda _: pytest.fail("it was loaded"))
    assert in_usual_form(key) == b""
    claim = new("statement", "pkcs11", {"keyPublic": key, "token": "alpha"})
    with pytest.raises(AttestationError, match="of an unusual kind or size"):
        attestation.examine(claim, trusting(root))


@pytest.mark.parametrize(
    ("key", "is_usual"),
    [
        *((ec.generate_private_key(curve()), True) for curve in (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)),
        *((ec.generate_private_key(curve()), False) for curve in (ec.SECP256K1, ec.BrainpoolP256R1)),
        (rsa.generate_private_key(3, 2048), True),
        (rsa.generate_private_key(65537, 1024), False),
    ],
)
def test_chain_is_verified_with_the_keys_that_vendors_use(key: Any, is_usual: bool) -> None:
    root = issue("Root", None, CA, key=key)
    leaf = issue("Leaf", root)
    if is_usual:
        assert Search(trusting(root)).verify(read(leaf))
    else:
        assert "leads to none of the roots" in refusal(root, leaf)
