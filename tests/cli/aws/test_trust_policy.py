"""`hwsigner aws trust-policy` prints a policy that lets in its certificates, and says which others it lets in."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID
from hypothesis import assume, given
from hypothesis import strategies as st

import certs
from hwsigner._control_plane.policies import checked_policy, compared_tags
from hwsigner._identity.certificate import Certificate
from hwsigner.emulator.tags import principal_tags
from hwsigner.errors import CertificateError, HwsignerWarning
from hwsigner.findings.policies import GROUP_ONLY
from hwsigner.trust_policy import TrustPolicy, request_context
from hwsigner.trust_policy.review import review
from scene import Outcome, Scene

Call = Callable[..., Outcome]
ANCHOR = "arn:aws:rolesanywhere:eu-central-1:123456789012:trust-anchor/0e5a7c1e-2b9d-4c3f-8a64-51d0f7b3c9aa"
KEY = ec.generate_private_key(ec.SECP256R1())
TYPES = {
    "CN": NameOID.COMMON_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "L": NameOID.LOCALITY_NAME,
    "ST": NameOID.STATE_OR_PROVINCE_NAME,
}


def certificate(*subject: tuple[str, str], issuer: str = "Example CA", dns: str = "") -> Certificate:
    """Make a certificate with these names, which no CA signed."""
    issuing = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(
            x509.Name([x509.NameAttribute(TYPES[name], value, _validate=bool(value)) for name, value in subject])
        )
        .issuer_name(issuing)
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2027, 1, 1, tzinfo=UTC))
    )
    if dns:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(dns)]), critical=False)
    return Certificate(builder.sign(KEY, SHA256()), "web.pem")


def refusal(policy: dict[str, Any], one: Certificate, trust_anchor: str = ANCHOR) -> str:
    """Judge a certificate by the emulator's own reading of its tags."""
    request = request_context(
        trust_anchor=trust_anchor,
        tags=principal_tags(one.x509, "arn:aws:iam::123456789012:role/web"),
        session_name="01",
        source_identity="CN=any",
        now=datetime.now(UTC),
    )
    return TrustPolicy(json.dumps(policy)).refusal(request)


@pytest.fixture
def issue(scene: Scene) -> Callable[[str, Certificate], str]:
    """Write a certificate and return its path."""

    def written(name: str, one: Certificate) -> str:
        return str(scene.write(name, certs.pem(one.x509)))

    return written


def is_group(names: Collection[str]) -> bool:
    """Return whether a CA may give these names to all its certificates."""
    return {"O", "L", "ST"}.issuperset(names)


def warned_of_a_group(names: Collection[str]) -> AbstractContextManager[object]:
    """Expect a warning of these names, if a CA may give them to all its certificates."""
    return pytest.warns(HwsignerWarning, match="names certificates only by") if is_group(names) else nullcontext()


VALUES = st.text(st.sampled_from("aZ9 _.:/=+-@äλ"), min_size=1, max_size=12)
SUBJECTS = st.dictionaries(st.sampled_from(sorted(TYPES)), VALUES, min_size=1)


@given(SUBJECTS, VALUES, st.data())
def test_policy_lets_in_its_certificate_and_refuses_one_that_differs_in_a_compared_name(
    subject: dict[str, str], issuer: str, data: st.DataObject
) -> None:
    names = data.draw(st.lists(st.sampled_from(sorted(subject)), min_size=1, unique=True))
    name, value = data.draw(st.sampled_from(names)), data.draw(VALUES)
    assume(value != subject[name])
    one = certificate(*subject.items(), issuer=issuer)
    with warned_of_a_group(names):
        policy = checked_policy(compared_tags(",".join([*names, "Issuer/CN"]), [one]), [one], ANCHOR)
    assert refusal(policy, one) == ""
    assert [found.mistake for found in review(policy, trust_anchor=ANCHOR)] == [GROUP_ONLY] * is_group(names)
    differing = certificate(*{**subject, name: value}.items(), issuer=issuer)
    assert f"aws:PrincipalTag/x509Subject/{name}" in refusal(policy, differing)
    assert "x509Issuer/CN" in refusal(policy, certificate(*subject.items(), issuer=f"{issuer}x"))
    without = [item for item in subject.items() if item[0] != name]
    assert "does not have it" in refusal(policy, certificate(*without, issuer=issuer))
    assert "aws:SourceArn" in refusal(policy, one, ANCHOR.replace("0e5a", "1e5a"))


@given(st.lists(SUBJECTS, min_size=1, max_size=4), st.data())
def test_policy_of_several_certificates_lets_in_each(subjects: list[dict[str, str]], data: st.DataObject) -> None:
    shared = sorted(set.intersection(*map(set, subjects)))
    assume(shared)
    names = data.draw(st.lists(st.sampled_from(shared), min_size=1, unique=True))
    several = [certificate(*subject.items()) for subject in subjects]
    with warned_of_a_group(names):
        policy = checked_policy(compared_tags(",".join(names), several), several, ANCHOR)
    assert [refusal(policy, one) for one in several] == [""] * len(several)


def test_default_compares_the_cn_of_the_only_trust_anchor(scene: Scene) -> None:
    outcome = scene.call("aws", "trust-policy", str(scene.leaf), "--trust-anchor-arn", ANCHOR)
    assert outcome.status == 0
    [statement] = json.loads(outcome.out)["Statement"]
    assert statement["Condition"] == {
        "StringEquals": {"aws:PrincipalTag/x509Subject/CN": "bamboo-01"},
        "ArnEquals": {"aws:SourceArn": ANCHOR},
    }
    assert outcome.err.splitlines() == [
        "hwsigner: this policy lets in every certificate of the trust anchor with x509Subject/CN 'bamboo-01'",
        "hwsigner: this policy compares only these names: a certificate may differ in all others, and in its key, "
        "and come from any CA below the anchor",
    ]


def test_without_a_trust_anchor_a_warning_says_that_any_would_do(scene: Scene) -> None:
    outcome = scene.call("aws", "trust-policy", str(scene.leaf))
    assert outcome.status == 0
    assert "ArnEquals" not in outcome.out
    assert outcome.err.startswith("hwsigner: warning: any trust anchor of the account can reach this role")
    assert "aws:SourceAccount alone" in outcome.err
    assert "every certificate of any trust anchor of the account" in outcome.err
    assert scene.call("aws", "trust-policy", "--strict", str(scene.leaf)).out == ""


@pytest.mark.parametrize(
    ("match", "condition"),
    [
        ("CN,OU", {"StringEquals": {"Subject/CN": "bamboo-01", "Subject/OU": "devops"}}),
        ("cn=bamboo-*,ou=devops", {"StringLike": {"Subject/CN": "bamboo-*"}, "StringEquals": {"Subject/OU": "devops"}}),
        ("CN=web, CN=bamboo-0?", {"StringLike": {"Subject/CN": ["web", "bamboo-0?"]}}),
        ("Issuer/CN,x509Subject/O", {"StringEquals": {"Issuer/CN": "Example CA", "Subject/O": "Example"}}),
    ],
)
def test_match_says_which_names_are_compared(scene: Scene, match: str, condition: dict[str, Any]) -> None:
    outcome = scene.call("aws", "trust-policy", str(scene.leaf), "--match", match, "--trust-anchor-arn", ANCHOR)
    assert outcome.status == 0, outcome.err
    [statement] = json.loads(outcome.out)["Statement"]
    del statement["Condition"]["ArnEquals"]
    assert statement["Condition"] == {
        operator: {f"aws:PrincipalTag/x509{name}": value for name, value in keys.items()}
        for operator, keys in condition.items()
    }


def test_values_alone_need_no_certificate(call: Call) -> None:
    outcome = call("aws", "trust-policy", "--match=SAN/DNS=*.example.com,SAN/Name/CN=web", "--trust-anchor-arn", ANCHOR)
    assert outcome.status == 0, outcome.err
    assert '"aws:PrincipalTag/x509SAN/DNS": "*.example.com"' in outcome.out
    assert "x509SAN/DNS like '*.example.com' and x509SAN/Name/CN 'web'" in outcome.err


def test_unlike_certificates_become_alternatives(scene: Scene, issue: Callable[..., str]) -> None:
    paths = [
        issue("one.pem", certificate(("CN", "one"), ("OU", "devops"), ("L", "Bonn"))),
        issue("two.pem", certificate(("CN", "two"), ("OU", "ops"), ("L", "Bonn"))),
    ]
    outcome = scene.call("aws", "trust-policy", *paths, "--match=CN,OU", "--trust-anchor-arn", ANCHOR)
    [statement] = json.loads(outcome.out)["Statement"]
    assert statement["Condition"]["StringEquals"] == {
        "aws:PrincipalTag/x509Subject/CN": ["one", "two"],
        "aws:PrincipalTag/x509Subject/OU": ["devops", "ops"],
    }
    assert "x509Subject/CN 'one' or 'two' and x509Subject/OU 'devops' or 'ops'" in outcome.err
    assert "does not pair the values: a certificate may have one of each, in any combination" in outcome.err
    assert "also share x509Subject/L 'Bonn', x509Issuer/CN 'Example CA'; --match can compare these" in outcome.err
    mixed = certificate(("CN", "one"), ("OU", "ops"))
    assert refusal(json.loads(outcome.out), mixed) == ""


REFUSED = {
    "CN twice": (certificate(("CN", "one"), ("CN", "two")), "several values of x509Subject/CN, which AWS joins"),
    "no CN": (certificate(("OU", "devops")), "has no x509Subject/CN"),
    "ampersand": (certificate(("CN", "R&D")), "x509Subject/CN is 'R&D', and a session tag can't have '&'"),
    "parentheses": (certificate(("CN", "web (1)")), "a session tag can't have '(' ')'"),
    "wildcard": (certificate(("CN", "*.example.com")), "a session tag can't have '*'"),
    "variable": (certificate(("CN", "${*}")), "a session tag can't have"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_name_that_cannot_be_compared_is_an_error(scene: Scene, issue: Callable[..., str], name: str) -> None:
    one, words = REFUSED[name]
    outcome = scene.call("aws", "trust-policy", issue("odd.pem", one), "--trust-anchor-arn", ANCHOR)
    assert (outcome.status, outcome.out) == (4, "")
    assert words in outcome.err
    assert "odd.pem" in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.filterwarnings("ignore:Attribute's length")
def test_empty_name_is_an_error() -> None:
    with pytest.raises(CertificateError, match="empty x509Subject/CN"):
        compared_tags("CN", [certificate(("CN", ""))])


def test_name_of_the_subject_alternative_name_is_compared() -> None:
    one = certificate(("CN", "web"), dns="web.example.com")
    policy = checked_policy(compared_tags("SAN/DNS", [one]), [one], ANCHOR)
    assert refusal(policy, one) == ""
    assert "x509SAN/DNS" in refusal(policy, certificate(("CN", "web"), dns="db.example.com"))


@pytest.mark.parametrize(
    ("match", "words"),
    [
        ("CNN", "--match has 'CNN', which is not a name of a certificate"),
        ("", "--match is CN: CN has no value, and there is no certificate"),
        ("CN=web,", "--match has ''"),
        ("CN=", "CN of --match is empty"),
        ("CN=R&D", "CN of --match is 'R&D', and a session tag can't have '&'"),
        ("CN=${aws:PrincipalTag/x}", "a session tag can't have '$' '{' '}'"),
        ("CN=" + "a" * 257, "has 257 characters, and a session tag has 256 at most"),
        ("OU", "--match is OU: OU has no value, and there is no certificate"),
        (",".join(f"CN={number:0100}" for number in range(80)), "characters, and IAM accepts 8192"),
    ],
)
def test_invalid_match_is_a_usage_error(call: Call, match: str, words: str) -> None:
    outcome = call("aws", "trust-policy", f"--match={match}", "--trust-anchor-arn", ANCHOR)
    assert (outcome.status, outcome.out) == (2, "")
    assert words in outcome.err
    assert outcome.err.count("\n") == 1


def test_policy_over_the_default_limit_is_a_warning(call: Call) -> None:
    match = ",".join(f"CN={number:0100}" for number in range(20))
    outcome = call("aws", "trust-policy", f"--match={match}", "--trust-anchor-arn", ANCHOR)
    assert outcome.status == 0
    assert "IAM accepts 2,048 characters, or up to 8,192" in outcome.err


@pytest.mark.parametrize(
    ("match", "joined"), [("CN=web-*", "web-1/admin"), ("CN=*.example.org", "admin/a.example.org")]
)
def test_pattern_says_that_it_fits_a_name_with_several_values(
    call: Callable[..., Outcome], match: str, joined: str
) -> None:
    outcome = call("aws", "trust-policy", f"--match={match}", "--trust-anchor-arn", ANCHOR)
    context = request_context(
        trust_anchor=ANCHOR,
        tags={"x509Subject/CN": joined},
        session_name="0",
        source_identity="CN=any",
        now=datetime.now(UTC),
    )
    assert TrustPolicy(outcome.out).refusal(context) == ""
    assert "also fits names with several values, which AWS joins with slashes" in outcome.err
    assert "several values" not in call("aws", "trust-policy", "--match=CN=web-1", "--trust-anchor-arn", ANCHOR).err


def test_certificate_that_the_values_exclude_is_an_error(scene: Scene) -> None:
    outcome = scene.call("aws", "trust-policy", str(scene.leaf), "--match=CN=web-*", "--trust-anchor-arn", ANCHOR)
    assert (outcome.status, outcome.out) == (4, "")
    assert "would be refused: the trust policy does not allow" in outcome.err
    assert "'web-*', but it is 'bamboo-01'" in outcome.err


@pytest.mark.parametrize(
    "arn",
    [
        *(ANCHOR.replace("trust-anchor", "profile"), "web", ANCHOR[:-1] + "*"),
        "arn:aws:rolesanywhere:eu-central-1:123456789012:alias/trust-anchor/web",
    ],
)
def test_invalid_trust_anchor_is_a_usage_error(scene: Scene, arn: str) -> None:
    outcome = scene.call("aws", "trust-policy", str(scene.leaf), "--trust-anchor-arn", arn)
    assert (outcome.status, outcome.out) == (2, "")
    assert "--trust-anchor-arn" in outcome.err


def test_pattern_that_every_name_meets_is_a_warning(call: Call) -> None:
    outcome = call("aws", "trust-policy", "--match=CN=*", "--trust-anchor-arn", ANCHOR)
    assert outcome.status == 0
    assert outcome.err.startswith("hwsigner: warning: statement 1 has StringLike aws:PrincipalTag/x509Subject/CN '*'.")


def test_file_with_two_leaves_is_an_error(scene: Scene, tmp_path: Path) -> None:
    two = tmp_path / "two.pem"
    other = certs.issue(scene.ca, KEY.public_key(), replace(certs.LEAF, common_name="bamboo-02"))
    two.write_bytes(scene.leaf.read_bytes() + certs.pem(other))
    outcome = scene.call("aws", "trust-policy", str(two), "--trust-anchor-arn", ANCHOR)
    assert (outcome.status, outcome.out) == (4, "")
    assert "has 2 leaf certificates" in outcome.err


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (certs.Shape(is_ca=True), "is a CA certificate"),
        (certs.Shape(begin=certs.ago(3), end=certs.ago(1)), "expired at"),
    ],
)
def test_certificate_that_the_service_refuses_is_a_warning(scene: Scene, shape: certs.Shape, words: str) -> None:
    path = scene.issue(KEY.public_key(), shape)
    outcome = scene.call("aws", "trust-policy", path, "--trust-anchor-arn", ANCHOR)
    assert outcome.status == 0
    assert outcome.err.startswith(f"hwsigner: warning: certificate {path} {words}")
    assert "--no-preflight" not in outcome.err
