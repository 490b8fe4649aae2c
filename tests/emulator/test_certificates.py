"""CreateSession: certificates and chains that the service does not trust."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa

from certs import Authority, issue, make_ca
from emulator.client import Caller, Reply, b64, create_session
from emulator.material import CA_FORM, DAY, Form, authority, certificate, sha1_signed, version_1
from hwsigner.emulator import Emulator, World

UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")

INSUFFICIENT = {
    "a CA": (Form(ca=True), "is a CA certificate"),
    "no key usage": (Form(usages=None), "digitalSignature"),
    "another key usage": (Form(usages=("key_encipherment",)), "digitalSignature"),
    "not yet valid": (Form(begin=DAY, end=2 * DAY), "and not now"),
    "expired": (Form(begin=-2 * DAY, end=-DAY), "and not now"),
    "signed with SHA-224": (Form(hash=hashes.SHA224), "is not signed with"),
    "with an unknown critical extension": (Form(extensions=((UNKNOWN, True),)), "unknown critical extension 1.2.3.4"),
    "with an empty subject": (Form(x509.Name([])), "has an empty subject"),
}


def assert_insufficient(emulator: Emulator, reply: Reply, words: str) -> None:
    assert (reply.status, reply.headers["x-amzn-errortype"]) == (403, "AccessDeniedException")
    assert reply.json == {"message": "Untrusted certificate. Insufficient certificate"}
    assert words in emulator.requests[-1].reason


def assert_untrusted(emulator: Emulator, reply: Reply, words: str) -> None:
    assert (reply.status, reply.headers["x-amzn-errortype"]) == (403, "AccessDeniedException")
    assert reply.json == {"message": "Untrusted signing certificate"}
    assert words in emulator.requests[-1].reason


@pytest.mark.parametrize("case", INSUFFICIENT)
def test_leaf_is_refused_when_it_is_insufficient(emulator: Emulator, ca: Authority, caller: Caller, case: str) -> None:
    form, words = INSUFFICIENT[case]
    leaf = certificate(form, caller.key.public_key(), ca)
    assert_insufficient(emulator, create_session(emulator, Caller(caller.key, leaf)), words)


@pytest.mark.parametrize(
    "form", [Form(ca=None), Form(extensions=((UNKNOWN, False),)), Form(usages=("digital_signature", "key_agreement"))]
)
def test_leaf_is_accepted_when_it_is_sufficient(emulator: Emulator, ca: Authority, caller: Caller, form: Form) -> None:
    leaf = certificate(form, caller.key.public_key(), ca)
    assert create_session(emulator, Caller(caller.key, leaf)).status == 201


def test_leaf_of_version_1_is_refused(emulator: Emulator, ca: Authority, caller: Caller) -> None:
    leaf = version_1(caller.key.public_key(), ca)
    assert_insufficient(emulator, create_session(emulator, Caller(caller.key, leaf)), "version 3")


def test_leaf_signed_with_sha_1_is_refused(emulator: Emulator, ca: Authority, caller: Caller) -> None:
    leaf = sha1_signed(Form(), caller.key.public_key(), ca)
    assert_insufficient(emulator, create_session(emulator, Caller(caller.key, leaf)), "is not signed with")


def test_certificate_is_valid_through_its_last_second(ca: Authority, caller: Caller) -> None:
    end = caller.certificate.not_valid_after_utc
    for late, status in ((timedelta(), 201), (timedelta(seconds=1), 403)):
        now = end + late
        with Emulator(World.simple(longer_lived(ca)), clock=partial(copy, now)) as emulator:
            assert create_session(emulator, caller, date=f"{now:%Y%m%dT%H%M%SZ}").status == status


def longer_lived(ca: Authority) -> x509.Certificate:
    """Return a new certificate of the CA with the same key and name and a longer life."""
    form = Form(ca.certificate.subject, ca=True, usages=("key_cert_sign",), end=99 * DAY)
    return certificate(form, ca.key.public_key(), None, ca.key)


WEAK: dict[str, Callable[[], Any]] = {
    "RSA-1024": lambda: rsa.generate_private_key(65537, 1024),
    "P-224": lambda: ec.generate_private_key(ec.SECP224R1()),
    "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
}


@pytest.mark.parametrize("kind", WEAK)
def test_leaf_is_refused_when_the_service_does_not_support_its_key(
    emulator: Emulator, ca: Authority, caller: Caller, kind: str
) -> None:
    leaf = certificate(Form(), WEAK[kind]().public_key(), ca)
    assert_insufficient(emulator, create_session(emulator, Caller(caller.key, leaf)), "has a key other than")


def test_leaf_of_another_ca_with_the_same_name_is_untrusted(emulator: Emulator, caller: Caller) -> None:
    leaf = issue(make_ca(), caller.key.public_key())
    assert_untrusted(emulator, create_session(emulator, Caller(caller.key, leaf)), "was not issued by")


def test_self_signed_leaf_is_untrusted(emulator: Emulator, caller: Caller) -> None:
    leaf = certificate(Form(), caller.key.public_key(), None, caller.key)
    assert_untrusted(emulator, create_session(emulator, Caller(caller.key, leaf)), "was not issued by")


ISSUERS = {
    "not a CA": (Form("Issuer", ca=False, usages=("key_cert_sign",)), "is not CA:TRUE"),
    "without basic constraints": (Form("Issuer", ca=None, usages=("key_cert_sign",)), "is not CA:TRUE"),
    "without keyCertSign": (Form("Issuer", ca=True, usages=("crl_sign",)), "keyCertSign"),
    "without key usage": (Form("Issuer", ca=True, usages=None), "keyCertSign"),
    "expired": (Form("Issuer", ca=True, usages=("key_cert_sign",), begin=-2 * DAY, end=-DAY), "and not now"),
    "not yet valid": (Form("Issuer", ca=True, usages=("key_cert_sign",), begin=DAY, end=2 * DAY), "and not now"),
    "with an unknown critical extension": (
        Form("Issuer", ca=True, usages=("key_cert_sign",), extensions=((UNKNOWN, True),)),
        "unknown critical extension",
    ),
}


@pytest.mark.parametrize("case", ISSUERS)
def test_chain_is_untrusted_when_an_intermediate_may_not_issue(
    emulator: Emulator, ca: Authority, caller: Caller, case: str
) -> None:
    form, words = ISSUERS[case]
    middle = authority(form, ca)
    leaf = issue(middle, caller.key.public_key())
    assert_untrusted(emulator, create_session(emulator, Caller(caller.key, leaf, (middle.certificate,))), words)


@pytest.mark.parametrize("case", ISSUERS)
def test_chain_is_untrusted_when_the_trust_anchor_may_not_issue(caller: Caller, case: str) -> None:
    form, words = ISSUERS[case]
    anchor = authority(form)
    leaf = issue(anchor, caller.key.public_key())
    with Emulator(World.simple(anchor.certificate)) as emulator:
        assert_untrusted(emulator, create_session(emulator, Caller(caller.key, leaf)), words)


def test_chain_is_untrusted_when_an_intermediate_is_signed_with_sha_1(
    emulator: Emulator, ca: Authority, caller: Caller
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    middle = Authority(sha1_signed(CA_FORM, key.public_key(), ca), key)
    leaf = issue(middle, caller.key.public_key())
    reply = create_session(emulator, Caller(caller.key, leaf, (middle.certificate,)))
    assert_untrusted(emulator, reply, "is not signed with")


def test_chain_is_untrusted_when_the_trust_anchor_is_signed_with_sha_1(caller: Caller) -> None:
    anchor = authority()
    old = sha1_signed(CA_FORM, anchor.key.public_key(), anchor)
    with Emulator(World.simple(old)) as emulator:
        reply = create_session(emulator, Caller(caller.key, issue(anchor, caller.key.public_key())))
        assert_untrusted(emulator, reply, "is not signed with")


def test_what_is_above_a_trust_anchor_does_not_count(ca: Authority, caller: Caller) -> None:
    expired = Form("Middle", ca=True, usages=("key_cert_sign",), begin=-2 * DAY, end=-DAY)
    middle = authority(expired, ca)
    renewed = certificate(Form("Middle", ca=True, usages=("key_cert_sign",)), middle.key.public_key(), ca)
    workload = Caller(caller.key, issue(middle, caller.key.public_key()), (middle.certificate,))
    for anchor, status in ((renewed, 201), (ca.certificate, 403)):
        with Emulator(World.simple(anchor)) as emulator:
            assert create_session(emulator, workload).status == status


@pytest.mark.parametrize(("length", "status"), [(0, 403), (1, 201)])
def test_path_length_of_an_issuer_is_enforced(ca: Authority, caller: Caller, length: int, status: int) -> None:
    anchor = authority(Form("Anchor", ca=True, usages=("key_cert_sign",), path_length=length))
    middle = authority(issuer=anchor)
    workload = Caller(caller.key, issue(middle, caller.key.public_key()), (middle.certificate,))
    with Emulator(World.simple(anchor.certificate)) as emulator:
        assert create_session(emulator, workload).status == status
        assert ("allows 0 certificates" in emulator.requests[0].reason) == (status == 403)


@pytest.fixture(scope="module")
def line(ca: Authority) -> list[Authority]:
    """Six intermediates, each issued by the one before it."""
    made = [ca]
    for number in range(6):
        made.append(authority(Form(f"Number {number}", ca=True, usages=("key_cert_sign",)), made[-1]))
    return made[1:]


def below(line: list[Authority], caller: Caller, *chain: x509.Certificate) -> Caller:
    return Caller(caller.key, issue(line[-1], caller.key.public_key()), chain)


def test_five_intermediates_are_accepted(emulator: Emulator, line: list[Authority], caller: Caller) -> None:
    chain = [each.certificate for each in reversed(line[:5])]
    assert create_session(emulator, below(line[:5], caller, *chain)).status == 201


def test_chain_of_six_is_refused(emulator: Emulator, line: list[Authority], caller: Caller) -> None:
    chain = [each.certificate for each in reversed(line)]
    reply = create_session(emulator, below(line, caller, *chain))
    assert (reply.status, reply.json["message"]) == (400, "X-Amz-X509-Chain holds 6 certificates, more than 5")


def test_chain_is_untrusted_when_an_intermediate_is_missing(
    emulator: Emulator, line: list[Authority], caller: Caller
) -> None:
    first, second, third = (each.certificate for each in line[:3])
    for chain, words in (
        ((), "was not issued by"),
        ((third, second), "was not issued by"),
        ((third, first), "item 2 of X-Amz-X509-Chain did not issue"),
        ((second, first), "item 1 of X-Amz-X509-Chain did not issue"),
    ):
        assert_untrusted(emulator, create_session(emulator, below(line[:3], caller, *chain)), words)


def test_chain_in_another_order_is_untrusted(emulator: Emulator, line: list[Authority], caller: Caller) -> None:
    first, second = (each.certificate for each in line[:2])
    assert_untrusted(emulator, create_session(emulator, below(line[:2], caller, first, second)), "item 1 of")


def test_chain_with_an_unrelated_certificate_is_untrusted(
    emulator: Emulator, ca: Authority, line: list[Authority], caller: Caller
) -> None:
    workload = below(line[:1], caller, line[0].certificate, authority(issuer=ca).certificate)
    assert_untrusted(emulator, create_session(emulator, workload), "item 2 of")


def test_chain_with_a_root_is_refused(emulator: Emulator, ca: Authority, caller: Caller) -> None:
    reply = create_session(emulator, Caller(caller.key, caller.certificate, (ca.certificate,)))
    assert (reply.status, reply.json["message"]) == (
        400,
        "X-Amz-X509-Chain holds a root, a self-signed certificate",
    )


def test_chain_with_the_leaf_first_is_accepted(emulator: Emulator, line: list[Authority], caller: Caller) -> None:
    for workload in (below(line[:1], caller, line[0].certificate), caller):
        text = ",".join(map(b64, (workload.certificate, *workload.chain)))
        assert create_session(emulator, workload, chain_text=text).status == 201


def test_chain_with_the_leaf_elsewhere_is_refused(emulator: Emulator, line: list[Authority], caller: Caller) -> None:
    workload = below(line[:1], caller)
    leaf, issuer = b64(workload.certificate), b64(line[0].certificate)
    for text in (f"{issuer},{leaf}", f"{leaf},{leaf},{issuer}", f"{leaf},{issuer},{leaf}"):
        reply = create_session(emulator, workload, chain_text=text)
        problem = "X-Amz-X509-Chain holds the certificate of X-Amz-X509 itself, and not as its first"
        assert (reply.status, reply.json["message"]) == (400, problem)


def test_chain_with_the_leaf_first_is_still_checked(emulator: Emulator, line: list[Authority], caller: Caller) -> None:
    workload = below(line[:2], caller)
    text = f"{b64(workload.certificate)},{b64(line[0].certificate)}"
    assert_untrusted(emulator, create_session(emulator, workload, chain_text=text), "item 1 of")


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
