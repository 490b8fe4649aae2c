"""Each difference changes the answer that it names."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest
from botocore.exceptions import ClientError
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs import Authority, make_ca
from emulator.client import Caller, b64, create_session
from emulator.material import CA_FORM, Form, authority, certificate
from emulator.planes import bundle, client
from emulator.test_control_crls import crl_of
from emulator.test_iam import document
from hwsigner.emulator import Difference, Emulator, World
from hwsigner.errors import UsageError
from hwsigner.trust_policy import TrustPolicy


class Scene(NamedTuple):
    """An emulator, and who asks it."""

    emulator: Emulator
    ca: Authority
    caller: Caller

    def trusting(self, **statement: Any) -> None:
        self.emulator.world.roles[self.emulator.role_arn].trust_policy = TrustPolicy(document(**statement))

    def answer(self, **changes: Any) -> str:
        reply = create_session(self.emulator, self.caller, **changes)
        identity = reply.json["credentialSet"][0]["sourceIdentity"] if reply.status < 300 else reply.json["message"]
        return f"{reply.status} {identity}"

    def arns(self) -> tuple[str, str]:
        found = create_session(self.emulator, self.caller).json
        return found["subjectArn"], found["credentialSet"][0]["assumedRoleUser"]["arn"]

    def with_leaf(self, form: Form, ca: Authority | None = None, key: Any = None) -> Scene:
        key = key or self.caller.key
        return self._replace(caller=Caller(key, certificate(form, key.public_key(), ca or self.ca)))

    def plane(self, service: str = "rolesanywhere") -> Any:
        return client(self.emulator, service=service, check=False)


def named(**names: str) -> Form:
    return Form(x509.Name([x509.NameAttribute(getattr(NameOID, name), value) for name, value in names.items()]))


def alternative(*names: str) -> Form:
    return Form(extensions=((x509.SubjectAlternativeName(list(map(x509.DNSName, names))), False),))


def two_units(scene: Scene) -> str:
    scene.trusting(Condition={"StringEquals": {"aws:PrincipalTag/x509Subject/OU": "a"}})
    units = [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit) for unit in "ab"]
    return scene.with_leaf(Form(x509.Name(units))).answer()


def oid(scene: Scene) -> str:
    scene.trusting(Condition={"Null": {"aws:PrincipalTag/x509Subject/2.5.4.12": "false"}})
    return scene.with_leaf(named(COMMON_NAME="web", TITLE="chief")).answer()


def two_anchors(scene: Scene) -> str:
    other = make_ca("Other CA")
    subjects = {scene.arns()[0]}
    scene.emulator.world.trust_anchors[scene.emulator.trust_anchor_arn].certificates.append(other.certificate)
    name = scene.caller.certificate.subject
    return str(len(subjects | {scene.with_leaf(Form(name), other).arns()[0]}))


def source_identity_in_one_statement(scene: Scene) -> str:
    scene.trusting(Condition={"StringEquals": {"sts:SourceIdentity": "CN=bamboo-01"}})
    return scene.answer()


def for_all_values(scene: Scene) -> str:
    scene.trusting(Condition={"ForAllValues:StringEquals": {"aws:PrincipalTag/x509Subject/UID": "a"}})
    return scene.answer()


def any_arn(scene: Scene) -> str:
    scene.trusting(Condition={"ArnLike": {"aws:SourceArn": "*"}})
    return scene.answer()


def stored(**statement: Any) -> Callable[[Scene], str]:
    def ask(scene: Scene) -> str:
        try:
            policy = document(**statement)
            scene.plane("iam").create_role(RoleName="new", AssumeRolePolicyDocument=policy)
        except ClientError as error:
            return str(error.response["Error"]["Code"])
        return "stored"

    return ask


def chained(*, leaf: bool) -> Callable[[Scene], str]:
    def ask(scene: Scene) -> str:
        return scene.answer(chain_text=b64(scene.caller.certificate if leaf else scene.ca.certificate))

    return ask


def constrained(scene: Scene) -> str:
    limits = x509.NameConstraints([x509.DNSName("example.com")], None)
    ca = authority(replace(CA_FORM, extensions=((limits, True),)))
    scene.emulator.world.trust_anchors[scene.emulator.trust_anchor_arn].certificates = [ca.certificate]
    inside = scene.with_leaf(alternative("web.example.com"), ca).answer()
    assert inside == "201 CN=build-7"
    return scene.with_leaf(alternative("web.example.org"), ca).answer()


def expired_list(scene: Scene) -> str:
    data = crl_of(scene.ca, [scene.caller.certificate.serial_number])
    members = {"trustAnchorArn": scene.emulator.trust_anchor_arn, "enabled": True}
    scene.plane().import_crl(name="c", crlData=data, **members)
    return scene.answer()


def three(scene: Scene) -> str:
    cas = [make_ca(f"CA {number}").pem for number in range(3)]
    try:
        return str(scene.plane().create_trust_anchor(name="a", source=bundle(*cas))["ResponseMetadata"])[:9]
    except ClientError as error:
        return str(error.response["Error"]["Code"])


def disabled(scene: Scene) -> str:
    scene.emulator.world.profiles[scene.emulator.profile_arn].enabled = False
    return scene.answer()


def mappings(scene: Scene) -> str:
    plane, identity = scene.plane(), scene.emulator.profile_arn.rpartition("/")[2]
    rules: list[dict[str, str]] = []
    for name in ("CN", "OU"):
        one = {"certificateField": "x509Subject", "mappingRules": [{"specifier": name}]}
        rules = plane.put_attribute_mapping(profileId=identity, **one)["profile"]["attributeMappings"]
    return json.dumps(rules)


LATER = alternative("web.example.com", "*.example.com")
SERVER = Form(extensions=((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),))
WEAK = rsa.generate_private_key(65537, 1024)
ASKED: dict[Difference, Callable[[Scene], str]] = {
    Difference.FIRST_VALUE: two_units,
    Difference.OID_TAGS: oid,
    Difference.BAD_NAMES_IGNORED: lambda scene: scene.with_leaf(named(COMMON_NAME="web", LOCALITY_NAME="a&b")).answer(),
    Difference.LATER_DNS_IGNORED: lambda scene: scene.with_leaf(LATER).answer(),
    Difference.BARE_SOURCE_IDENTITY: lambda scene: scene.answer(),
    Difference.UPPER_CASE_SERIAL: lambda scene: scene.with_leaf(Form(serial=0xABC)).arns()[1].rpartition("/")[2],
    Difference.SUBJECT_BY_CA: two_anchors,
    Difference.EVERY_KEY: source_identity_in_one_statement,
    Difference.FOR_ALL_NEEDS_KEY: for_all_values,
    Difference.ARN_STAR: any_arn,
    Difference.PRINCIPAL_STAR: stored(Principal="*"),
    Difference.OPERATOR_CASE: stored(Condition={"stringequals": {"aws:PrincipalTag/x509Subject/CN": "web"}}),
    Difference.LEAF_IN_CHAIN: chained(leaf=True),
    Difference.ROOT_IN_CHAIN: chained(leaf=False),
    Difference.CLIENT_AUTH: lambda scene: scene.with_leaf(SERVER).answer(),
    Difference.RSA_1024: lambda scene: scene.with_leaf(Form(), key=WEAK).answer(),
    Difference.EMPTY_SUBJECT: lambda scene: scene.with_leaf(Form(x509.Name([]), serial=0xABC)).answer(),
    Difference.NAME_CONSTRAINTS: constrained,
    Difference.EXPIRED_CRL: expired_list,
    Difference.THREE_CAS: three,
    Difference.LONGER_SKEW: lambda scene: scene.answer(
        date=f"{datetime.now(UTC) - timedelta(minutes=10):%Y%m%dT%H%M%SZ}"
    ),
    Difference.DURATION_REFUSED: lambda scene: scene.answer(body=b'{"durationSeconds":3601}'),
    Difference.DISABLED_NOT_FOUND: disabled,
    Difference.SESSION_NAME_IGNORED: lambda scene: scene.answer(body=b'{"roleSessionName":"web"}'),
    Difference.OTHER_WORDS: lambda scene: scene.with_leaf(Form(usages=())).answer(),
    Difference.STATUS_200: lambda scene: scene.answer(),
    Difference.MAPPINGS_MERGED: mappings,
}


@pytest.mark.parametrize("difference", Difference)
def test_a_difference_changes_the_answer_that_it_names(difference: Difference, ca: Authority, caller: Caller) -> None:
    answers = []
    for differing in (set(), {difference}):
        world = World.simple(ca.pem)
        world.differing = differing
        with Emulator(world) as emulator:
            answers.append(ASKED[difference](Scene(emulator, ca, caller)))
    assert answers[0] != answers[1]


def test_differences_of_trust_policies_change_nothing_else(ca: Authority, caller: Caller) -> None:
    world = World.simple(ca.pem)
    with Emulator(world) as emulator:
        scene = Scene(emulator, ca, caller)
        condition = {
            "ForAllValues:StringEquals": {"aws:PrincipalTag/x509Subject/CN": "bamboo-01"},
            "ArnLike": {"aws:SourceArn": f"{emulator.trust_anchor_arn[:-4]}*"},
        }
        scene.trusting(Condition=condition)
        before = scene.answer()
        world.differing = {Difference.FOR_ALL_NEEDS_KEY, Difference.ARN_STAR}
        assert scene.answer() == before == "201 CN=bamboo-01"


def test_an_unknown_difference_is_refused_with_the_names() -> None:
    with pytest.raises(UsageError, match="unknown difference: firstvalue") as caught:
        Difference.named("firstvalue")
    assert "first-value" in str(caught.value.hint)
    assert Difference.named("first-value") is Difference.FIRST_VALUE
