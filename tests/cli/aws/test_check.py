"""`hwsigner aws check` against resources that plain boto3 made: each mistake is planted and must be named, alone."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import boto3
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

import certs
from hwsigner._aws.apis import ServiceClient
from hwsigner.emulator import Emulator, World
from hwsigner.trust_policy.writing import write_trust_policy
from json_output import read
from ports import reserve_port
from scene import Outcome

REGION, ACCOUNT = "us-east-1", "123456789012"
KEYS = {"AWS_ACCESS_KEY_ID": "AKIDADMIN", "AWS_SECRET_ACCESS_KEY": "an-admins-secret"}
OTHER_ID = "11111111-2222-4333-8444-555555555555"
OTHER_CA = certs.make_ca("Other CA")


@dataclass(frozen=True)
class Account:
    """An account with a trust anchor, a profile and a role that fit together, and a certificate for them."""

    emulator: Emulator
    ca: certs.Authority
    folder: Path
    call: Callable[..., Outcome]
    anchor: str
    profile: str
    role: str

    def client(self, service: str) -> Any:
        return _client(self.emulator, service)

    def check(self, *flags: str | Path) -> Outcome:
        """Run the command for the certificate. Flags at the end take precedence."""
        arns = [f"--trust-anchor-arn={self.anchor}", f"--profile-arn={self.profile}", f"--role-arn={self.role}"]
        given = [*arns, "--endpoint", self.emulator.url, "--certificate", self.folder / "leaf.pem"]
        return self.call("aws", "check", *given, *flags)

    def issue(
        self, shape: certs.Shape = certs.LEAF, ca: certs.Authority | None = None, key: Any = None
    ) -> x509.Certificate:
        """Replace the certificate."""
        public_key = key or ec.generate_private_key(ec.SECP256R1()).public_key()
        leaf = certs.issue(ca or self.ca, public_key, shape)
        (self.folder / "leaf.pem").write_bytes(certs.pem(leaf))
        return leaf

    def put_policy(self, document: Any) -> None:
        """Replace the role's trust policy."""
        text = document if isinstance(document, str) else json.dumps(document)
        self.client("iam").update_assume_role_policy(RoleName="web", PolicyDocument=text)

    def import_crl(self, *, enabled: bool, revokes: int = 1, days: float = 7) -> None:
        """Import a list of the CA."""
        revoked = x509.RevokedCertificateBuilder().serial_number(revokes).revocation_date(certs.ago(1)).build()
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.ca.certificate.subject)
        builder = builder.last_update(certs.ago(10)).next_update(certs.ago(-days)).add_revoked_certificate(revoked)
        builder = builder.add_extension(x509.CRLNumber(1), critical=False)
        data = builder.sign(self.ca.key, SHA256()).public_bytes(Encoding.PEM)
        self.client("rolesanywhere").import_crl(
            name="revoked", crlData=data, trustAnchorArn=self.anchor, enabled=enabled
        )


def _client(emulator: Emulator, service: str) -> Any:
    return boto3.client(service, region_name=REGION, endpoint_url=emulator.url)


@pytest.fixture
def account(
    ca: certs.Authority, tmp_path: Path, call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Account]:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with Emulator(World()) as emulator:
        emulator.add_credentials(*KEYS.values())
        plane = _client(emulator, "rolesanywhere")
        source = {"sourceType": "CERTIFICATE_BUNDLE", "sourceData": {"x509CertificateData": ca.pem.decode()}}
        anchor = plane.create_trust_anchor(name="web", source=source, enabled=True)["trustAnchor"]["trustAnchorArn"]
        policy = write_trust_policy({"x509Subject/CN": ["bamboo-01"]}, trust_anchor=anchor)
        created = _client(emulator, "iam").create_role(
            RoleName="web", AssumeRolePolicyDocument=json.dumps(policy), MaxSessionDuration=7200
        )
        role = created["Role"]["Arn"]
        profile = plane.create_profile(name="web", roleArns=[role], durationSeconds=3600, enabled=True)["profile"]
        made = Account(emulator, ca, tmp_path, call, anchor, profile["profileArn"], role)
        made.issue()
        yield made


def _id(arn: str) -> str:
    return arn.rpartition("/")[2]


def _disable_anchor(account: Account) -> list[str]:
    account.client("rolesanywhere").disable_trust_anchor(trustAnchorId=_id(account.anchor))
    return []


def _disable_profile(account: Account) -> list[str]:
    account.client("rolesanywhere").disable_profile(profileId=_id(account.profile))
    return []


def _unlist_role(account: Account) -> list[str]:
    document = json.dumps(write_trust_policy({"x509Subject/CN": ["x"]}, trust_anchor=account.anchor))
    other = account.client("iam").create_role(RoleName="other", AssumeRolePolicyDocument=document)["Role"]["Arn"]
    account.client("rolesanywhere").update_profile(profileId=_id(account.profile), roleArns=[other])
    return []


def _shorten_role(account: Account) -> list[str]:
    account.client("iam").update_role(RoleName="web", MaxSessionDuration=3600)
    account.client("rolesanywhere").update_profile(profileId=_id(account.profile), durationSeconds=7200)
    return ["--session-duration=7200"]


def _map(account: Account, *specifiers: str) -> None:
    plane, profile = account.client("rolesanywhere"), _id(account.profile)
    plane.delete_attribute_mapping(profileId=profile, certificateField="x509Subject")
    rules = [{"specifier": each} for each in specifiers]
    plane.put_attribute_mapping(profileId=profile, certificateField="x509Subject", mappingRules=rules)


def _unmap_name(account: Account) -> list[str]:
    _map(account, "OU")
    return []


def _propagate_identity(account: Account) -> list[str]:
    tip = {"status": "ENABLED", "subjectSource": "x509SAN/URI"}
    account.client("rolesanywhere").update_profile(profileId=_id(account.profile), tipConfiguration=tip)
    return []


def _revoke(account: Account) -> list[str]:
    account.import_crl(enabled=True, revokes=account.issue().serial_number)
    return []


def _revoke_without_effect(account: Account) -> list[str]:
    account.import_crl(enabled=False, revokes=account.issue().serial_number)
    return []


def _outdated_list(account: Account) -> list[str]:
    account.import_crl(enabled=True, days=-1)
    return []


def _untrusted(account: Account) -> list[str]:
    account.issue(ca=OTHER_CA)
    return []


def _six_intermediates(account: Account) -> list[str]:
    cas = [account.ca]
    for number in range(6):
        cas.append(certs.make_ca(f"CA {number}", cas[-1]))
    account.issue(ca=cas[-1])
    (account.folder / "cas.pem").write_bytes(certs.pem(*(each.certificate for each in cas[1:])))
    return [f"--intermediates={account.folder / 'cas.pem'}"]


def _expired(account: Account) -> list[str]:
    account.issue(certs.Shape(begin=certs.ago(9), end=certs.ago(1)))
    return []


def _ampersand(account: Account) -> list[str]:
    account.issue(certs.Shape("R&D"))
    return []


def _other_name(account: Account) -> list[str]:
    account.issue(certs.Shape("web-01"))
    return []


def _delete_role(account: Account) -> list[str]:
    account.client("iam").delete_role(RoleName="web")
    return []


def _private_ca(account: Account) -> list[str]:
    arn = f"arn:aws:acm-pca:{REGION}:{ACCOUNT}:certificate-authority/{OTHER_ID}"
    source = {"sourceType": "AWS_ACM_PCA", "sourceData": {"acmPcaArn": arn}}
    account.emulator.world.private_cas[arn] = account.ca.certificate
    plane = account.client("rolesanywhere")
    anchor = plane.create_trust_anchor(name="pca", source=source, enabled=True)["trustAnchor"]["trustAnchorArn"]
    account.put_policy(write_trust_policy({"x509Subject/CN": ["bamboo-01"]}, trust_anchor=anchor))
    return [f"--trust-anchor-arn={anchor}"]


def _open_policy(account: Account) -> list[str]:
    account.put_policy(write_trust_policy({"x509Subject/CN": ["bamboo-01"]}, trust_anchor=None))
    return []


def _for_all_values(account: Account) -> list[str]:
    policy = write_trust_policy({"x509Subject/CN": ["bamboo-01"]}, trust_anchor=account.anchor)
    text = json.dumps(policy).replace("StringEquals", "ForAllValues:StringEquals")
    account.put_policy(text)
    return []


def _nothing(*flags: str) -> Callable[[Account], list[str]]:
    """Return a plant that changes nothing but the flags."""
    return lambda account: [flag.format(account=account) for flag in flags]


PLANTS: dict[str, tuple[Callable[[Account], list[str]], set[str]]] = {
    "the trust anchor is disabled": (_disable_anchor, {"anchor-disabled"}),
    "there is no such trust anchor": (
        _nothing(f"--trust-anchor-arn=arn:aws:rolesanywhere:{REGION}:{ACCOUNT}:trust-anchor/{OTHER_ID}"),
        {"anchor-missing", "source-arn-other", "role-refuses"},
    ),
    "the trust anchor is a private CA that can't be read": (_private_ca, {"anchor-not-judged", "call-failed"}),
    "the profile is disabled": (_disable_profile, {"profile-disabled"}),
    "there is no such profile": (
        _nothing(f"--profile-arn=arn:aws:rolesanywhere:{REGION}:{ACCOUNT}:profile/{OTHER_ID}"),
        {"profile-missing"},
    ),
    "the profile does not list the role": (_unlist_role, {"profile-without-role"}),
    "the profile's sessions are shorter": (_nothing("--session-duration=7200"), {"duration-shortened"}),
    "the role's sessions are shorter": (_shorten_role, {"duration-over-role"}),
    "session names are not accepted": (_nothing("--role-session-name=web"), {"session-name-refused"}),
    "the CN is not mapped": (_unmap_name, {"tag-unmapped", "role-refuses"}),
    "a name has an ampersand": (_ampersand, {"tag-refused", "role-refuses"}),
    "identity propagation has no subject": (_propagate_identity, {"origin-missing"}),
    "the certificate is revoked": (_revoke, {"certificate-revoked"}),
    "the list with the certificate is not enabled": (_revoke_without_effect, {"crl-disabled"}),
    "the list is past its nextUpdate": (_outdated_list, {"crl-outdated"}),
    "the certificate is from another CA": (_untrusted, {"chain-untrusted"}),
    "there are six intermediates": (_six_intermediates, {"chain-too-long"}),
    "the certificate expired": (_expired, {"certificate-refused"}),
    "the certificate has another name": (_other_name, {"role-refuses"}),
    "there is no such role": (_delete_role, {"role-missing"}),
    "the role is of another account": (
        _nothing("--role-arn=arn:aws:iam::210987654321:role/web"),
        {"account-other", "profile-without-role"},
    ),
    "the policy has no trust anchor": (_open_policy, {"source-arn-none"}),
    "the policy has ForAllValues": (_for_all_values, {"for-all-values"}),
}


@pytest.mark.slow
@pytest.mark.parametrize(("plant", "expected"), PLANTS.values(), ids=list(PLANTS))
def test_check_names_the_planted_mistake_and_no_other(
    account: Account, plant: Callable[[Account], list[str]], expected: set[str]
) -> None:
    flags = plant(account)
    data = read(account.check(*flags, "--output=json"), "aws check", status=1)
    assert {each["id"] for each in data["findings"]} == expected


def test_check_finds_nothing_wrong_in_a_good_set_up(account: Account) -> None:
    outcome = account.check()
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.endswith("Nothing is wrong\n")
    for words in (
        "CA CN=Example CA",
        "may do sts:AssumeRole, sts:TagSession, sts:SetSourceIdentity",
        "x509Subject/CN is 'bamboo-01'",
        f"Roles Anywhere profile web ({_id(account.profile)})",
        "the service has not seen this subject",
    ):
        assert words in outcome.out


def test_decision_of_the_check_is_that_of_create_session(account: Account) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    session = ["--endpoint", account.emulator.url, "--private-key", certs.write_key(account.folder / "leaf.key", key)]
    arns = [f"--trust-anchor-arn={account.anchor}", f"--profile-arn={account.profile}", f"--role-arn={account.role}"]
    for name, status in (("bamboo-01", 0), ("bamboo-02", 5)):
        account.issue(certs.Shape(name), key=key.public_key())
        created = account.call("credential-process", *arns, *session, "--certificate", account.folder / "leaf.pem")
        assert created.status == status
        decisions = json.loads(account.check("--json").out)["decisions"]
        assert all(each["allowed"] for each in decisions) is (status == 0)
    assert re.search(r"the service last saw this subject at [-\d]+T[:\d]+Z\n", account.check().out)


def test_check_names_every_enabled_way_to_the_role(account: Account) -> None:
    plane = account.client("rolesanywhere")
    source = {"sourceType": "CERTIFICATE_BUNDLE", "sourceData": {"x509CertificateData": OTHER_CA.pem.decode()}}
    for name, enabled in (("second", True), ("third", False)):
        plane.create_trust_anchor(name=name, source=source, enabled=enabled)
        plane.create_profile(name=f"{name}-profile", roleArns=[account.role], enabled=enabled)
    ways = json.loads(account.check("--json").out)["facts"]["ways to the role"]
    assert [each.partition(" (")[0] for each in ways] == [
        "trust anchor web",
        "Roles Anywhere profile second-profile",
        "Roles Anywhere profile web",
    ]
    _open_policy(account)
    ways = json.loads(account.check("--json").out)["facts"]["ways to the role"]
    assert "trust anchor second" in {each.partition(" (")[0] for each in ways}
    assert not any("third" in each for each in ways)


def test_output_fits_into_80_columns_except_for_long_words(account: Account) -> None:
    _open_policy(account)
    outcome = account.check("--role-session-name=web", "--session-duration=43200")
    lines = outcome.out.splitlines()
    assert [line for line in lines if len(line) > 80 and " " in line.strip()] == []


def test_control_characters_of_names_are_escaped(account: Account) -> None:
    account.issue(certs.Shape("a\x1b[31m\nb"))
    outcome = account.check()
    assert "\x1b" not in outcome.out
    assert "\\x1b[31m\\nb" in outcome.out


def test_profile_of_config_toml_gives_arns_and_certificate(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = account.folder / "hwsigner"
    folder.mkdir()
    values = {"trust-anchor-arn": account.anchor, "profile-arn": account.profile, "role-arn": account.role}
    lines = [f'{name} = "{value}"' for name, value in (*values.items(), ("certificate", account.folder / "leaf.pem"))]
    (folder / "config.toml").write_text("\n".join(["[profile.web]", *lines]))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(account.folder))
    outcome = account.call("aws", "check", "--profile", "web", "--endpoint", account.emulator.url)
    assert (outcome.status, outcome.err) == (0, "")


def test_account_is_checked_without_a_certificate(account: Account) -> None:
    outcome = account.check("--certificate=")
    assert outcome.status == 0
    assert "none was given" in outcome.out


@pytest.mark.usefixtures("user_file")
def test_profile_that_the_policy_of_serve_pods_names_must_accept_session_names(account: Account) -> None:
    arns = [f"--trust-anchor-arn={account.anchor}", f"--profile-arn={account.profile}", f"--role-arn={account.role}"]
    account.call("profile", "add", "web", *arns)
    policy = account.folder / "pods.toml"
    policy.write_text('[accounts]\n"team-a/web" = "web"\n')
    command = ["aws", "check", "--profile", "web", "--endpoint", account.emulator.url, "--pods", str(policy), "--json"]
    [found] = json.loads(account.call(*command).out)["findings"]
    assert (found["id"], "team-a.web.node" in found["found"]) == ("session-name-refused", True)
    account.client("rolesanywhere").update_profile(profileId=_id(account.profile), acceptRoleSessionName=True)
    assert json.loads(account.call(*command).out)["findings"] == []


@pytest.mark.parametrize(
    ("action", "kept"),
    [
        ("rolesanywhere:ListTrustAnchors", "who may assume it"),
        ("rolesanywhere:ListProfiles", "trust anchor"),
        ("rolesanywhere:ListCrls", "profile"),
        ("rolesanywhere:ListSubjects", "role"),
        ("iam:GetRole", "profile"),
    ],
)
def test_missing_permission_is_named_and_the_rest_is_checked(account: Account, action: str, kept: str) -> None:
    account.emulator.deny(action)
    outcome = account.check("--json", "--role-session-name=web")
    report = json.loads(outcome.out)
    assert (outcome.status, kept in report["facts"]) == (1, True)
    [failed] = [each for each in report["findings"] if each["id"] == "call-failed"]
    assert action in failed["found"] + failed["instead"]
    assert "session-name-refused" in {each["id"] for each in report["findings"]}


def test_check_fails_when_every_call_is_denied(account: Account) -> None:
    account.emulator.deny("rolesanywhere:*", "iam:*")
    outcome = account.check()
    assert (outcome.status, outcome.out, outcome.err.count("\n")) == (5, "", 1)


def test_unreachable_service_exits_with_status_6(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    outcome = account.check("--endpoint", f"http://127.0.0.1:{reserve_port()}")
    assert (outcome.status, outcome.out, outcome.err.count("\n")) == (6, "", 1)


def test_error_of_the_first_call_is_reported_when_none_succeeds(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDUNKNOWN")
    outcome = account.check()
    assert (outcome.status, outcome.out) == (5, "")
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    "flags", [["--role-arn=web"], ["--region=eu-west-1"], ["--trust-anchor-arn="], ["--policy=missing.json"]]
)
def test_invalid_arguments_exit_with_status_2(account: Account, flags: list[str]) -> None:
    outcome = account.check(*flags)
    assert (outcome.status, outcome.out, outcome.err.count("\n")) == (2, "", 1)


ANCHOR = f"arn:aws:rolesanywhere:{REGION}:{ACCOUNT}:trust-anchor/{OTHER_ID}"


def test_policy_file_is_reviewed_without_aws(tmp_path: Path, call: Callable[..., Outcome]) -> None:
    file = tmp_path / "policy.json"
    file.write_text(json.dumps(write_trust_policy({"x509Subject/CN": ["bamboo-01"]}, trust_anchor=ANCHOR)))
    outcome = call("aws", "check", "--policy", file)
    assert (outcome.status, outcome.err) == (0, "")
    assert "if x509Subject/CN is 'bamboo-01' and the trust anchor is" in " ".join(outcome.out.split())
    other = call("aws", "check", "--policy", file, f"--trust-anchor-arn={ANCHOR.replace('us-', 'eu-')}", "--json")
    assert [each["id"] for each in json.loads(other.out)["findings"]] == ["source-arn-other"]


def test_policy_file_is_reviewed_without_boto3(
    tmp_path: Path, call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("boto3", "botocore"):
        monkeypatch.setitem(sys.modules, library, None)
    file = tmp_path / "policy.json"
    file.write_text(json.dumps(write_trust_policy({"x509Subject/CN": ["bamboo-01"]}, trust_anchor=ANCHOR)))
    assert call("aws", "check", "--policy", file).status == 0


def test_policy_file_is_judged_for_a_certificate(scene: Any) -> None:
    policy = write_trust_policy({"x509Subject/CN": ["bamboo-02"]}, trust_anchor=ANCHOR)
    file = scene.write("policy.json", json.dumps(policy).encode())
    outcome = scene.call("aws", "check", "--policy", file, "--certificate", scene.leaf)
    assert outcome.status == 1
    assert "may not do sts:AssumeRole, sts:TagSession, sts:SetSourceIdentity: statement 1 requires" in " ".join(
        outcome.out.split()
    )
    assert "but it is 'bamboo-01'" in " ".join(outcome.out.split())


def test_policy_file_over_the_limit_of_iam_is_named(tmp_path: Path, call: Callable[..., Outcome]) -> None:
    file = tmp_path / "policy.json"
    names = [f"bamboo-{number:04}" for number in range(200)]
    file.write_text(json.dumps(write_trust_policy({"x509Subject/CN": names}, trust_anchor=ANCHOR)))
    outcome = call("aws", "check", "--policy", file, "--json")
    assert [each["id"] for each in json.loads(outcome.out)["findings"]] == ["policy-too-large"]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"Statement": 1}', "\x00", "[" * 100_000])
def test_file_that_is_not_a_policy_is_explained(text: str, tmp_path: Path, call: Callable[..., Outcome]) -> None:
    file = tmp_path / "policy.json"
    file.write_text(text)
    outcome = call("aws", "check", "--policy", file)
    assert (outcome.status, outcome.err) == (1, "")
    assert "not-a-policy" in outcome.out


def test_long_lists_are_read_to_the_last_page(account: Account) -> None:
    plane = account.client("rolesanywhere")
    for number in range(30):
        plane.create_profile(name=f"many-{number}", roleArns=[account.role], enabled=True)
    ways = json.loads(account.check("--json").out)["facts"]["ways to the role"]
    assert sum("many-" in each for each in ways) == 30


_ODD: tuple[Any, ...] = (None, 1, "x", "\ud800", [], {}, ["x"], [{}])


def _places(value: Any, *place: Any) -> Iterator[tuple[Any, ...]]:
    """Yield where an answer has something, as keys and indices."""
    if place:
        yield place
    for key, each in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if key != "ResponseMetadata":
            yield from _places(each, *place, key)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["check", "setup"])
def test_odd_value_in_an_answer_is_no_internal_error(
    command: str, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    account.import_crl(enabled=True)
    (account.folder / "ca.pem").write_bytes(account.ca.pem)
    check, answers = ServiceClient._check, dict[str, Any]()
    planted: list[tuple[str, tuple[Any, ...], Any]] = []

    def plant(client: ServiceClient, operation: str, answer: Any) -> None:
        answers.setdefault(operation, deepcopy(answer))
        for _, place, odd in (each for each in planted[-1:] if each[0] == operation):
            part = reduce(getitem, place[:-1], answer)
            if odd is _ODD:
                del part[place[-1]]
            else:
                part[place[-1]] = odd
        check(client, operation, answer)

    def run() -> Outcome:
        if command == "check":
            return account.check()
        flags = ("--ca", account.folder / "ca.pem", "--role=web", "--match=CN=bamboo-01", "--region", REGION)
        more = ("--policy=arn:aws:iam::aws:policy/ReadOnlyAccess", "--endpoint", account.emulator.url)
        return account.call("aws", "setup", "--plan", *flags, *more)

    monkeypatch.setattr(ServiceClient, "_check", plant)
    assert run().status in (0, 1)
    for operation, answer in [*answers.items()]:
        for number, place in enumerate([*_places(answer)][::3]):
            planted.append((operation, place, (*_ODD, _ODD)[number % 9]))
            assert "internal error" not in run().err, planted[-1]
