"""CreateSession: what no question says of certificates and chains."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import mldsa, padding, rsa

from certs import Authority, issue, make_ca
from emulator.client import Caller, Reply, b64, create_session
from emulator.material import CA_FORM, DAY, Form, authority, certificate, version_1
from hwsigner.emulator import Emulator, World

UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")


def assert_denied(emulator: Emulator, reply: Reply, message: str, words: str) -> None:
    assert (reply.status, reply.headers["x-amzn-errortype"]) == (403, "AccessDeniedException")
    assert reply.json == {"message": message}
    assert words in emulator.requests[-1].reason


assert_insufficient = partial(assert_denied, message="Untrusted certificate. Insufficient certificate")
assert_untrusted = partial(assert_denied, message="Untrusted signing certificate")


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (Form(usages=("key_encipherment",)), "digitalSignature"),
        (Form(begin=-2 * DAY, end=-DAY), "and not now"),
        (Form(extensions=((UNKNOWN, True),)), "unknown critical extension 1.2.3.4"),
    ],
)
def test_leaf_is_refused_when_it_is_insufficient(
    emulator: Emulator, ca: Authority, caller: Caller, form: Form, words: str
) -> None:
    leaf = certificate(form, caller.key.public_key(), ca)
    assert_insufficient(emulator, create_session(emulator, Caller(caller.key, leaf)), words=words)


def test_leaf_of_version_1_is_refused(emulator: Emulator, ca: Authority, caller: Caller) -> None:
    leaf = version_1(caller.key.public_key(), ca)
    assert_insufficient(emulator, create_session(emulator, Caller(caller.key, leaf)), words="version 3")


def test_certificate_is_valid_through_its_last_second(ca: Authority, caller: Caller) -> None:
    longer_lived = Form(ca.certificate.subject, ca=True, usages=("key_cert_sign",), end=99 * DAY)
    anchor = certificate(longer_lived, ca.key.public_key(), None, ca.key)
    for late, status in ((timedelta(), 201), (timedelta(seconds=1), 403)):
        now = caller.certificate.not_valid_after_utc + late
        with Emulator(World.simple(anchor), clock=partial(copy, now)) as emulator:
            assert create_session(emulator, caller, date=f"{now:%Y%m%dT%H%M%SZ}").status == status


ISSUERS = [
    (replace(CA_FORM, ca=False), "is not CA:TRUE"),
    (replace(CA_FORM, ca=None), "is not CA:TRUE"),
    (replace(CA_FORM, usages=("crl_sign",)), "keyCertSign"),
    (replace(CA_FORM, begin=-2 * DAY, end=-DAY), "and not now"),
    (replace(CA_FORM, extensions=((UNKNOWN, True),)), "unknown critical extension"),
]


@pytest.mark.parametrize(("form", "words"), ISSUERS)
def test_chain_is_untrusted_when_an_intermediate_may_not_issue(
    emulator: Emulator, ca: Authority, caller: Caller, form: Form, words: str
) -> None:
    middle = authority(form, ca)
    workload = Caller(caller.key, issue(middle, caller.key.public_key()), (middle.certificate,))
    assert_untrusted(emulator, create_session(emulator, workload), words=words)


@pytest.mark.parametrize(
    "form", [Form(ca=None), Form(extensions=((UNKNOWN, False),)), Form(usages=("digital_signature", "key_agreement"))]
)
def test_leaf_is_accepted_when_it_is_sufficient(emulator: Emulator, ca: Authority, caller: Caller, form: Form) -> None:
    leaf = certificate(form, caller.key.public_key(), ca)
    assert create_session(emulator, Caller(caller.key, leaf)).status == 201


def test_leaf_of_another_ca_with_the_same_name_is_untrusted(emulator: Emulator, caller: Caller) -> None:
    leaf = issue(make_ca(), caller.key.public_key())
    assert_untrusted(emulator, create_session(emulator, Caller(caller.key, leaf)), words="was not issued by")


@pytest.mark.parametrize(("length", "status"), [(0, 403), (1, 201)])
def test_path_length_of_an_issuer_is_enforced(ca: Authority, caller: Caller, length: int, status: int) -> None:
    anchor = authority(replace(CA_FORM, path_length=length))
    middle = authority(Form("Middle", ca=True, usages=("key_cert_sign",)), anchor)
    workload = Caller(caller.key, issue(middle, caller.key.public_key()), (middle.certificate,))
    with Emulator(World.simple(anchor.certificate)) as emulator:
        assert create_session(emulator, workload).status == status
        assert ("allows 0 certificates" in emulator.requests[0].reason) == (status == 403)


@pytest.fixture(scope="module")
def line(ca: Authority) -> list[Authority]:
    """Five intermediates, each issued by the one before it."""
    made = [ca]
    for number in range(5):
        made.append(authority(Form(f"Number {number}", ca=True, usages=("key_cert_sign",)), made[-1]))
    return made[1:]


def below(line: list[Authority], caller: Caller, *chain: x509.Certificate) -> Caller:
    return Caller(caller.key, issue(line[-1], caller.key.public_key()), chain)


def test_five_intermediates_are_accepted(emulator: Emulator, line: list[Authority], caller: Caller) -> None:
    chain = [each.certificate for each in reversed(line)]
    assert create_session(emulator, below(line, caller, *chain)).status == 201


def test_chain_is_untrusted_when_an_intermediate_is_missing(
    emulator: Emulator, line: list[Authority], caller: Caller
) -> None:
    first, second, third = (each.certificate for each in line[:3])
    for chain, words in (
        ((), "was not issued by"),
        ((third, second), "was not issued by"),
        ((third, first), "item 2 of X-Amz-X509-Chain did not issue"),
        ((second, first), "item 1 of X-Amz-X509-Chain did not issue"),
        ((first, second, third), "item 1 of X-Amz-X509-Chain did not issue"),
    ):
        assert_untrusted(emulator, create_session(emulator, below(line[:3], caller, *chain)), words=words)


def test_chain_with_the_leaf_elsewhere_is_refused(emulator: Emulator, line: list[Authority], caller: Caller) -> None:
    workload = below(line[:1], caller)
    leaf, issuer = b64(workload.certificate), b64(line[0].certificate)
    for text in (f"{issuer},{leaf}", f"{leaf},{leaf},{issuer}", f"{leaf},{issuer},{leaf}"):
        reply = create_session(emulator, workload, chain_text=text)
        problem = "X-Amz-X509-Chain holds the certificate of X-Amz-X509 itself, and not as its first"
        assert (reply.status, reply.json["message"]) == (400, problem)


def test_chain_with_a_repeated_certificate_is_refused(
    emulator: Emulator, line: list[Authority], caller: Caller
) -> None:
    first = line[0].certificate
    reply = create_session(emulator, below(line[:1], caller, first, first))
    assert (reply.status, reply.json["message"]) == (400, "X-Amz-X509-Chain holds a certificate twice")


def test_ca_may_have_an_rsa_or_ml_dsa_key(caller: Caller) -> None:
    for key in (rsa.generate_private_key(65537, 2048), mldsa.MLDSA65PrivateKey.generate()):
        anchor = make_ca("Anchor", key=key)
        with Emulator(World.simple(anchor.certificate)) as emulator:
            leaf = issue(anchor, caller.key.public_key())
            assert create_session(emulator, Caller(caller.key, leaf)).status == 201


def test_rsa_pss_request_signature_is_refused(emulator: Emulator, callers: dict[str, Caller]) -> None:
    class Pss(Caller):
        def sign(self, message: bytes) -> bytes:
            pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
            signature: bytes = self.key.sign(message, pss, hashes.SHA256())
            return signature

    reply = create_session(emulator, Pss(callers["RSA-2048"].key, callers["RSA-2048"].certificate))
    assert (reply.status, reply.json["message"]) == (403, "Invalid signature")
