"""What issuers return: a chain that fits its request is accepted, and every mistake is named."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

import certs
from enrolment.authority import DNS, NOW, URI, Answer, Requested, certified
from hwsigner.enrolment.checking import check_issued
from hwsigner.enrolment.issuers import Issued
from hwsigner.errors import CertificateError


def der(authority: certs.Authority) -> bytes:
    return authority.certificate.public_bytes(Encoding.DER)


@pytest.fixture(scope="module")
def intermediate(ca: certs.Authority) -> certs.Authority:
    return certs.make_ca("Example Intermediate", ca)


@pytest.mark.parametrize("order", [1, -1])
def test_chain_is_ordered_and_without_its_root(
    asked: Requested, ca: certs.Authority, intermediate: certs.Authority, order: int
) -> None:
    leaf = certified(intermediate, asked.request)
    chain = check_issued(asked.request, Issued((leaf, der(intermediate), der(ca))[::order]), NOW)
    assert [one.der for one in (chain.leaf, *chain.intermediates)] == [leaf, der(intermediate)]


def test_leaf_alone_is_accepted(asked: Requested, ca: certs.Authority) -> None:
    leaf = certified(ca, asked.request)
    assert check_issued(asked.request, Issued((leaf,)), NOW).leaf.der == leaf


def test_old_and_new_cas_of_an_issuer_that_changes_are_accepted(asked: Requested, ca: certs.Authority) -> None:
    answer = Issued((certified(ca, asked.request), der(certs.make_ca("Next CA")), der(ca)))
    assert check_issued(asked.request, answer, NOW).intermediates == ()


@pytest.mark.parametrize("subject", ["OU=devops,CN=bamboo-01", "OU=devops+CN=bamboo-01"])
def test_subject_in_another_order_is_accepted(asked: Requested, ca: certs.Authority, subject: str) -> None:
    leaf = certified(ca, asked.request, Answer(subject=subject))
    assert check_issued(asked.request, Issued((leaf,)), NOW).leaf.der == leaf


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"public_key": ec.generate_private_key(ec.SECP256R1()).public_key()}, "is for another key"),
        ({"subject": "CN=bamboo-02,OU=devops"}, "another subject.*lacks CN=bamboo-01 and adds CN=bamboo-02"),
        ({"subject": "CN=bamboo-01,OU=devops,OU=admins"}, "another subject.*: it adds OU=admins"),
        ({"subject": "CN=bamboo-01"}, "another subject.*: it lacks OU=devops"),
        ({"alternatives": ()}, f"another subjectAltName.*lacks DNSName {DNS}, UniformResourceIdentifier {URI}"),
        (
            {"alternatives": (x509.DNSName(DNS), x509.UniformResourceIdentifier(URI), x509.DNSName("other"))},
            "another subjectAltName.*: it adds DNSName other",
        ),
        ({"begin": NOW + timedelta(hours=1)}, "is not valid before"),
        ({"begin": NOW - timedelta(days=2), "end": NOW - timedelta(days=1)}, "expired"),
        ({"is_ca": True}, "is a CA certificate"),
        ({"digital_signature": False}, "has no keyUsage digitalSignature"),
    ],
)
def test_certificate_that_is_not_as_asked_is_an_error(
    asked: Requested, ca: certs.Authority, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(CertificateError, match=message) as caught:
        check_issued(asked.request, Issued((certified(ca, asked.request, Answer(**wrong)), der(ca))), NOW)
    assert caught.value.exit_status == 4
    assert "--no-preflight" not in str(caught.value)


def test_chain_of_another_ca_is_an_error(asked: Requested, ca: certs.Authority) -> None:
    # Its name is the issuer's.
    other = certs.make_ca("Example CA")
    with pytest.raises(CertificateError, match="the chain from the issuer does not fit"):
        check_issued(asked.request, Issued((certified(ca, asked.request), der(other))), NOW)


def test_intermediate_that_expired_is_an_error(asked: Requested, ca: certs.Authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    shape = certs.Shape("Old CA", certs.ago(9), certs.ago(1), is_ca=True)
    old = certs.Authority(certs.issue(ca, key.public_key(), shape), key)
    with pytest.raises(CertificateError, match=r"the CA certificate .*Old CA.* is valid from"):
        check_issued(asked.request, Issued((certified(old, asked.request), der(old))), NOW)


def test_two_certificates_for_the_key_are_an_error(asked: Requested, ca: certs.Authority) -> None:
    answer = Issued((certified(ca, asked.request), certified(ca, asked.request)))
    with pytest.raises(CertificateError, match="returned 2 certificates for the key"):
        check_issued(asked.request, answer, NOW)


def test_bytes_that_are_no_certificate_are_an_error(asked: Requested) -> None:
    with pytest.raises(CertificateError, match="certificate from the issuer can't be read"):
        check_issued(asked.request, Issued((b"0\x03\x02\x01\x01",)), NOW)
