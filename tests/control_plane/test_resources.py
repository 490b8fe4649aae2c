"""Trust anchors, roles and Roles Anywhere profiles: what describes them, and what a set-up may be made of."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

import certs
from control_plane import setups
from control_plane.setups import ANCHOR_ARN, CA, PROFILE_ARN, ROLE_ARN, TAGS, setup
from emulator.material import Form, sha1_signed
from hwsigner._control_plane.policies import with_statement
from hwsigner._control_plane.resources import Role, RolesAnywhereProfile, TrustAnchor, check_ca, choose_anchor
from hwsigner._identity.certificate import Certificate
from hwsigner.errors import CertificateError, ServiceError, UsageError

ANCHOR = {"trustAnchorArn": ANCHOR_ARN, "name": "web"}
PROFILE = {"profileArn": PROFILE_ARN, "name": "web"}
ROLE = {"Arn": ROLE_ARN, "RoleName": "web", "AssumeRolePolicyDocument": {}}


@pytest.mark.parametrize(
    ("kind", "whole", "member"),
    [
        *((TrustAnchor, ANCHOR, member) for member in ANCHOR),
        *((RolesAnywhereProfile, PROFILE, member) for member in PROFILE),
        *((Role, ROLE, member) for member in ROLE),
    ],
)
def test_description_without_a_member_is_an_error_of_the_service(kind: Any, whole: dict[str, Any], member: str) -> None:
    kind.of(whole)
    with pytest.raises(ServiceError):
        kind.of({name: value for name, value in whole.items() if name != member})


@pytest.mark.parametrize("document", ["not JSON", [], None])
def test_trust_policy_that_is_not_an_object_is_an_error_of_the_service(document: Any) -> None:
    with pytest.raises(ServiceError, match=r"role .* has a trust policy that can't be read"):
        Role.of({**ROLE, "AssumeRolePolicyDocument": document})


def test_statement_is_added_beside_odd_ones() -> None:
    odd: list[Any] = [1, None, {"Sid": ["a"], "Condition": []}, {"Sid": {}}]
    after = with_statement({"Statement": odd}, TAGS, ANCHOR_ARN)
    assert after["Statement"][:-1] == odd
    assert after["Statement"][-1]["Sid"] == "Hwsigner1"


def issued(shape: certs.Shape) -> Certificate:
    return Certificate(certs.issue(CA, ec.generate_private_key(ec.SECP256R1()).public_key(), shape), "ca.pem")


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (certs.Shape("Old", is_ca=True, begin=certs.ago(9), end=certs.ago(1)), "expired on"),
        (certs.Shape("New", is_ca=True, begin=certs.ago(-1)), "is not valid before"),
        (certs.LEAF, "is not a CA certificate"),
        (certs.Shape("Bare", is_ca=None), "is not a CA certificate"),
    ],
)
def test_certificate_that_cannot_be_a_trust_anchor_is_refused(shape: certs.Shape, words: str) -> None:
    with pytest.raises(CertificateError, match=words):
        check_ca([Certificate(CA.certificate, "ca.pem"), issued(shape)], datetime.now(UTC))


def test_ca_without_key_usage_is_refused() -> None:
    check_ca([issued(certs.Shape("Sub CA", is_ca=True))], datetime.now(UTC))
    with pytest.raises(CertificateError, match="has no keyUsage, and AWS requires keyCertSign"):
        check_ca([issued(certs.Shape("Sub CA", is_ca=True, digital_signature=None))], datetime.now(UTC))


def test_ca_signed_with_sha_1_is_refused() -> None:
    form = Form("Old CA", ca=True, usages=("key_cert_sign",))
    old = Certificate(sha1_signed(form, CA.key.public_key(), CA), "ca.pem")
    with pytest.raises(CertificateError, match="is signed with SHA1, and AWS's guide forbids that"):
        check_ca([old], datetime.now(UTC))


def test_third_ca_is_refused() -> None:
    three = [Certificate(certs.make_ca(name).certificate, "ca.pem") for name in ("A", "B", "C")]
    check_ca(three[:2], datetime.now(UTC))
    with pytest.raises(CertificateError, match="has 3 CA certificates, and a trust anchor has 2 at most"):
        check_ca(three, datetime.now(UTC))


def test_third_ca_is_refused_before_it_is_added() -> None:
    other = certs.make_ca("Other CA")
    third = setup(certs.make_ca("Third CA"), add_ca=True)
    assert choose_anchor([setups.anchor(CA)], third)
    with pytest.raises(UsageError, match="may have 2 CAs at most"):
        choose_anchor([setups.anchor(CA, other)], third)


@pytest.mark.parametrize("more", [{"role": "a b"}, {"role": ""}, {"name": "a/b"}, {"policies": ("ReadOnly",)}])
def test_invalid_names_are_usage_errors(more: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        setup(**more)


def test_accounts_are_those_of_given_arns_without_policies_of_aws() -> None:
    policies = ("arn:aws:iam::aws:policy/ReadOnlyAccess", "arn:aws:iam::210987654321:policy/x")
    found = setup(policies=policies, trust_anchor_arn=ANCHOR_ARN).accounts
    assert found == {ANCHOR_ARN: "123456789012", policies[1]: "210987654321"}


def test_trust_anchor_with_a_broken_bundle_is_named() -> None:
    source = {"sourceType": "CERTIFICATE_BUNDLE", "sourceData": {"x509CertificateData": "nonsense"}}
    with pytest.raises(CertificateError, match=ANCHOR_ARN):
        TrustAnchor.of({"trustAnchorArn": ANCHOR_ARN, "name": "web", "source": source, "enabled": True})
