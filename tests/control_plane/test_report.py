"""The comparison of a session with what AWS has, for what the emulator's control plane never says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

import certs
from hwsigner._aws.create_session import SessionRequest
from hwsigner._control_plane.facts import Facts
from hwsigner._control_plane.report import Report, report
from hwsigner._control_plane.resources import is_mapped
from hwsigner._identity.certificate import Certificate, Chain
from hwsigner._identity.session_tags import session_tags
from hwsigner.emulator.tags import parse_mappings, principal_tags
from hwsigner.trust_policy.writing import write_trust_policy

ACCOUNT = "123456789012"
ANCHOR = f"arn:aws:rolesanywhere:us-east-1:{ACCOUNT}:trust-anchor/11111111-2222-4333-8444-555555555555"
PROFILE = f"arn:aws:rolesanywhere:us-east-1:{ACCOUNT}:profile/11111111-2222-4333-8444-666666666666"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/team/web"
ALIAS = f"arn:aws:rolesanywhere:us-east-1:{ACCOUNT}:alias/trust-anchor/web"
CA, ROOT = certs.make_ca(), certs.make_ca("Root CA")
KEY = ec.generate_private_key(ec.SECP256R1()).public_key()
LEAF = certs.issue(CA, KEY)
NOW = datetime.now(UTC)
REQUEST = SessionRequest(ANCHOR, PROFILE, ROLE)
POLICY = write_trust_policy({"x509Subject/CN": ["bamboo-01"]}, trust_anchor=ANCHOR)


def anchor(*cas: certs.Authority, **more: Any) -> dict[str, Any]:
    bundle = "".join(each.pem.decode() for each in cas or (CA,))
    source = {"sourceType": "CERTIFICATE_BUNDLE", "sourceData": {"x509CertificateData": bundle}}
    return {"trustAnchorArn": ANCHOR, "name": "web", "enabled": True, "source": source, **more}


def facts(**more: Any) -> Facts:
    profile = {"profileArn": PROFILE, "name": "web", "enabled": True, "roleArns": [ROLE], "durationSeconds": 3600}
    role = {"Arn": ROLE, "RoleName": "web", "MaxSessionDuration": 3600, "AssumeRolePolicyDocument": POLICY}
    good = {"anchors": [anchor()], "profiles": [profile], "crls": [], "role": role, "subject": {}, "private_ca": ""}
    return Facts(**{"account": ACCOUNT, **good, **more})


def found(given: Facts, leaf: x509.Certificate | None = LEAF, *intermediates: x509.Certificate, **more: Any) -> Report:
    made = [Certificate(each, "web.pem") for each in intermediates]
    chain = Chain(Certificate(leaf, "web.pem"), tuple(made)) if leaf else None
    return report(given, REQUEST._replace(**more), chain, NOW)


def ids(*arguments: Any, **more: Any) -> set[str]:
    return {each.id for each in found(*arguments, **more).findings}


def crl(data: bytes, **more: Any) -> dict[str, Any]:
    return {"crlId": "1", "name": "list", "enabled": True, "trustAnchorArn": ANCHOR, "crlData": data, **more}


def test_good_facts_have_no_findings() -> None:
    assert found(facts()).findings == []
    assert found(facts(), None).findings == []


def test_chain_is_trusted_through_its_intermediates() -> None:
    middle = certs.make_ca("Middle CA", ROOT)
    leaf = certs.issue(middle, KEY)
    of_root = facts(anchors=[anchor(ROOT)])
    assert ids(of_root, leaf, middle.certificate) == set()
    assert ids(of_root, leaf) == {"chain-untrusted"}
    assert ids(facts(anchors=[anchor(middle)]), leaf) == set()
    assert ids(facts(anchors=[anchor(CA, middle)]), leaf) == {"cas-several"}


def test_certificate_of_a_ca_with_the_same_name_is_untrusted() -> None:
    assert ids(facts(anchors=[anchor(certs.make_ca())])) == {"chain-untrusted"}


def test_private_ca_is_judged_by_its_certificate() -> None:
    source = {"sourceType": "AWS_ACM_PCA", "sourceData": {"acmPcaArn": "arn:…"}}
    assert ids(facts(anchors=[anchor(source=source)], private_ca=f"{CA.pem.decode()}\n")) == set()
    assert ids(facts(anchors=[anchor(source=source)], private_ca=ROOT.pem.decode())) == {"chain-untrusted"}
    assert ids(facts(anchors=[anchor(source=source)], private_ca=None)) == {"anchor-not-judged"}


def test_expired_ca_is_named() -> None:
    shape = certs.Shape("Old CA", is_ca=True, begin=certs.ago(9), end=certs.ago(1))
    key = ec.generate_private_key(ec.SECP256R1())
    self_signed = certs.Authority(certs.issue(certs.make_ca("Old CA", key=key), key.public_key(), shape), key)
    assert ids(facts(anchors=[anchor(self_signed)]), certs.issue(self_signed, KEY)) == {"anchor-ca-expired"}


@pytest.mark.parametrize("data", [b"", b"-----BEGIN X509 CRL-----\n-----END X509 CRL-----", b"\x30\x00"])
def test_broken_list_is_named(data: bytes) -> None:
    assert ids(facts(crls=[crl(data)])) == {"crl-not-judged"}


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
def test_list_revokes_certificates_of_its_issuer_only(encoding: Encoding) -> None:
    entry = x509.RevokedCertificateBuilder().serial_number(LEAF.serial_number).revocation_date(NOW).build()
    for ca, expected in ((CA, {"certificate-revoked"}), (ROOT, {"crl-other-ca"})):
        builder = x509.CertificateRevocationListBuilder().issuer_name(ca.certificate.subject).last_update(NOW)
        signed = builder.next_update(NOW + timedelta(1)).add_revoked_certificate(entry).sign(ca.key, SHA256())
        assert ids(facts(crls=[crl(signed.public_bytes(encoding))])) == expected
        assert ids(facts(crls=[crl(b"", trustAnchorArn=ANCHOR.replace("5555", "6666"))])) == set()


def signed_list(ca: certs.Authority = CA, *extensions: x509.ExtensionType, begin: datetime = NOW) -> dict[str, Any]:
    builder = x509.CertificateRevocationListBuilder().issuer_name(ca.certificate.subject)
    builder = builder.last_update(begin).next_update(NOW + timedelta(2))
    for each in extensions:
        builder = builder.add_extension(each, critical=True)
    return crl(builder.sign(ca.key, SHA256()).public_bytes(Encoding.DER))


def scope(**limits: Any) -> x509.IssuingDistributionPoint:
    kinds = ("only_contains_user_certs", "only_contains_ca_certs", "only_contains_attribute_certs", "indirect_crl")
    given = {
        **dict.fromkeys(kinds, False),
        **dict.fromkeys(("full_name", "relative_name", "only_some_reasons")),
        **limits,
    }
    return x509.IssuingDistributionPoint(**given)


def test_list_of_another_ca_is_open_unless_the_chain_has_that_ca() -> None:
    middle = certs.make_ca("Middle CA", ROOT)
    leaf = certs.issue(middle, KEY)
    of_middle = facts(anchors=[anchor(ROOT)], crls=[signed_list(middle)])
    assert ids(of_middle, leaf, middle.certificate) == set()
    assert ids(of_middle, None) == {"crl-other-ca"}
    assert ids(facts(crls=[signed_list(ROOT)]), None) == {"crl-other-ca"}
    assert ids(facts(crls=[signed_list()]), None) == set()


@pytest.mark.parametrize(
    "extension",
    [
        scope(only_contains_ca_certs=True),
        scope(only_contains_attribute_certs=True),
        scope(only_some_reasons=frozenset({x509.ReasonFlags.key_compromise})),
        scope(indirect_crl=True),
        x509.DeltaCRLIndicator(1),
    ],
    ids=repr,
)
def test_list_that_leaves_certificates_out_is_doubtful(extension: x509.ExtensionType) -> None:
    assert ids(facts(crls=[signed_list(CA, extension)])) == {"crl-doubtful"}


def test_list_for_user_certificates_only_is_fine() -> None:
    assert ids(facts(crls=[signed_list(CA, scope(only_contains_user_certs=True))])) == set()


def test_list_that_is_not_valid_yet_is_doubtful() -> None:
    assert ids(facts(crls=[signed_list(begin=NOW + timedelta(1))])) == {"crl-doubtful"}


def test_variable_of_a_tag_that_is_not_mapped_is_found_without_a_certificate() -> None:
    policy = write_trust_policy({"x509Subject/CN": ["web-${aws:PrincipalTag/x509Subject/OU}"]}, trust_anchor=ANCHOR)
    rules = [{"certificateField": "x509Subject", "mappingRules": [{"specifier": "CN"}]}]
    given = facts()
    assert given.role
    assert given.profiles
    given.role["AssumeRolePolicyDocument"] = policy  # type: ignore[index]
    given.profiles[0]["attributeMappings"] = rules  # type: ignore[index]
    report = found(given, None)
    assert [each.found for each in report.findings if each.id == "tag-unmapped"] == [
        "the trust policy compares x509Subject/OU, which the Roles Anywhere profile does not map"
    ]


def test_several_cas_beside_a_policy_that_compares_none_of_them_are_remarked() -> None:
    both = facts(anchors=[anchor(CA, ROOT)])
    assert ids(both, None) == {"cas-several"}
    named = write_trust_policy({"x509Subject/CN": ["bamboo-01"], "x509Issuer/CN": ["Example CA"]}, trust_anchor=ANCHOR)
    role = {**(both.role or {}), "AssumeRolePolicyDocument": named}
    assert ids(facts(anchors=[anchor(CA, ROOT)], role=role), None) == set()


@pytest.mark.parametrize("form", ["{}", "{:x}", "{:X}", "0{:x}", "0x{:x}"])
def test_failed_request_is_found_by_the_serial_number(form: str) -> None:
    seen = [{"serialNumber": form.format(LEAF.serial_number), "seenAt": NOW, "failed": True}]
    report = found(facts(subject={"enabled": True, "lastSeenAt": NOW, "credentials": seen}))
    assert [each.id for each in report.findings] == ["certificate-failed"]
    assert f"at {NOW:%Y-%m-%dT%H:%M:%SZ}, failed" in report.findings[0].found


def test_last_request_counts_when_an_earlier_one_failed() -> None:
    serial = str(LEAF.serial_number)
    earlier = {"serialNumber": serial, "seenAt": NOW - timedelta(1), "failed": True}
    later = {"serialNumber": serial, "seenAt": NOW, "failed": False}
    assert ids(facts(subject={"credentials": [later, earlier]})) == set()


def test_disabled_subject_is_named() -> None:
    assert ids(facts(subject={"enabled": False, "x509Subject": "CN=bamboo-01"})) == {"subject-disabled"}


def test_alias_of_a_trust_anchor_stands_for_it() -> None:
    assert ids(facts(anchors=[anchor(aliasArn=ALIAS)]), trust_anchor_arn=ALIAS) == set()


def test_nothing_is_said_of_what_could_not_be_read() -> None:
    unread = facts(account=None, anchors=None, profiles=None, crls=None, role=None, subject=None, private_ca=None)
    assert found(unread).findings == []
    assert found(unread).decisions == []


@pytest.mark.parametrize("document", ["not JSON", [], None])
def test_trust_policy_that_is_not_an_object_lets_no_one_in(document: Any) -> None:
    role = {"Arn": ROLE, "RoleName": "web", "AssumeRolePolicyDocument": document}
    assert "principal-wrong" in ids(facts(role=role))


def test_role_of_the_same_name_under_another_path_is_not_the_role() -> None:
    role = {**(facts().role or {}), "Arn": ROLE.replace("team/", "")}
    [missing] = found(facts(role=role)).findings
    assert missing.id == "role-missing"
    assert missing.found.endswith(f"the role of that name is {role['Arn']}")


@pytest.mark.parametrize(
    ("requested", "of_profile", "of_role", "expected"),
    [
        (3600, 3600, 3600, set()),
        (3600, 43200, 3600, set()),
        (7200, 3600, 3600, {"duration-shortened"}),
        (7200, 7200, 3600, {"duration-over-role"}),
        (43200, 7200, 3600, {"duration-shortened", "duration-over-role"}),
        (900, 900, 3600, set()),
    ],
)
def test_duration_is_compared_with_profile_and_role(
    requested: int, of_profile: int, of_role: int, expected: set[str]
) -> None:
    given = facts()
    profile = {**(given.profiles or [{}])[0], "durationSeconds": of_profile}
    role = {**(given.role or {}), "MaxSessionDuration": of_role}
    assert ids(facts(profiles=[profile], role=role), duration=requested) == expected


_SPECIFIERS = {
    "x509Subject": ["*", "CN", "OU", "O"],
    "x509Issuer": ["*", "CN", "O"],
    "x509SAN": ["DNS", "URI", "Name/*", "Name/CN", "Name"],
}
_mappings = st.fixed_dictionaries(
    {}, optional={field: st.lists(st.sampled_from(each), unique=True) for field, each in _SPECIFIERS.items()}
)


@given(_mappings)
def test_mapping_keeps_the_tags_that_the_emulator_maps(mappings: dict[str, list[str]]) -> None:
    names = [x509.DNSName("a.example"), x509.UniformResourceIdentifier("spiffe://a/b")]
    alternatives = x509.SubjectAlternativeName([*names, x509.DirectoryName(certs.subject("inner"))])
    builder = x509.CertificateBuilder().subject_name(LEAF.subject).issuer_name(LEAF.issuer).public_key(KEY)
    builder = builder.serial_number(1).not_valid_before(certs.ago(1)).not_valid_after(certs.ago(-1))
    leaf = builder.add_extension(alternatives, critical=False).sign(CA.key, SHA256())
    rules = [
        {"certificateField": field, "mappingRules": [{"specifier": each} for each in specifiers]}
        for field, specifiers in mappings.items()
    ]
    kept = {tag for tag in session_tags(Certificate(leaf, "")) if is_mapped(tag, {"attributeMappings": rules})}
    assert kept == set(principal_tags(leaf, ROLE, parse_mappings(mappings)))
