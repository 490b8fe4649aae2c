"""`hwsigner aws setup` against the emulator's control plane; plain boto3 reads back what it made."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

import certs
from emulator.material import Form, certificate
from hwsigner._aws.apis import ServiceClient
from hwsigner._config import profiles
from hwsigner._control_plane import plan
from hwsigner.emulator import Emulator, Fault, World
from json_output import read
from judges import needs_linux
from scene import Outcome
from terminals import Terminal

REGION = "us-east-1"
MATCH = "CN=bamboo-01,OU=devops"
BOUNDARY = "arn:aws:iam::123456789012:policy/limits"
READ_ONLY = "arn:aws:iam::aws:policy/ReadOnlyAccess"
KEYS = {"AWS_ACCESS_KEY_ID": "AKIDADMIN", "AWS_SECRET_ACCESS_KEY": "an-admins-secret"}
PROGRAM = [sys.executable, "-m", "hwsigner"]
EC2 = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}


FOREIGN = f"arn:aws:rolesanywhere:{REGION}:999999999999:trust-anchor/a1a1a1a1-0000-4000-8000-000000000001"


class Killed(BaseException):
    """The process is killed."""


class Place(NamedTuple):
    """An empty account, a CA and a folder."""

    emulator: Emulator
    ca: certs.Authority
    folder: Path
    call: Callable[..., Outcome]

    def setup(self, *flags: str | Path, match: str = MATCH, yes: bool = True) -> Outcome:
        """Run the command for a role "web"."""
        return self.call(*self.command(match), *(["--yes"] if yes else []), *flags)

    def command(self, match: str = MATCH) -> list[str]:
        """Return the command's name and the flags it needs."""
        given = ["--region", REGION, "--endpoint", self.emulator.url]
        return ["aws", "setup", f"--ca={self.folder / 'ca.pem'}", "--role=web", f"--match={match}", *given]

    def environ(self) -> dict[str, str]:
        """Return the variables for a process of its own."""
        return {**KEYS, "XDG_CONFIG_HOME": str(self.folder), "HOME": str(self.folder)}

    def client(self, service: str) -> Any:
        return boto3.client(service, region_name=REGION, endpoint_url=self.emulator.url)

    def anchors(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client("rolesanywhere").list_trust_anchors()["trustAnchors"]
        return found

    def profiles(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client("rolesanywhere").list_profiles()["profiles"]
        return found

    def role(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client("iam").get_role(RoleName="web")["Role"]
        return found

    def config(self) -> dict[str, Any]:
        found: dict[str, Any] = tomllib.loads((self.folder / "hwsigner" / "config.toml").read_text())["profile"]
        return found

    def identity(self, name: str, ca: certs.Authority | None = None) -> list[str | Path]:
        """Return the flags of a new key with a certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = self.folder / f"{name}.pem"
        leaf.write_bytes(certs.pem(certs.issue(ca or self.ca, key.public_key(), certs.Shape(name))))
        return ["--certificate", leaf, "--private-key", certs.write_key(self.folder / f"{name}.key", key)]

    def credentials(self, name: str, ca: certs.Authority | None = None) -> Outcome:
        """Get credentials with the profile that was written, and a certificate of this name."""
        flags = ["--profile", "web", "--endpoint", self.emulator.url, *self.identity(name, ca)]
        return self.call("credential-process", *flags)


@pytest.fixture
def place(
    ca: certs.Authority, tmp_path: Path, call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "ca.pem").write_bytes(ca.pem)
    with Emulator(World()) as emulator:
        emulator.add_credentials(*KEYS.values())
        yield Place(emulator, ca, tmp_path, call)


def test_setup_makes_what_a_matching_certificate_needs(place: Place) -> None:
    done = place.setup("--policy", READ_ONLY)
    assert (done.status, done.err.count("hwsigner:")) == (0, done.err.count("\n"))
    [anchor], [profile], role = place.anchors(), place.profiles(), place.role()
    assert (anchor["name"], anchor["enabled"]) == ("web", True)
    assert anchor["source"]["sourceData"]["x509CertificateData"] == place.ca.pem.decode()
    assert (profile["roleArns"], profile["durationSeconds"], profile["enabled"]) == ([role["Arn"]], 3600, True)
    attached = place.client("iam").list_attached_role_policies(RoleName="web")["AttachedPolicies"]
    assert [each["PolicyArn"] for each in attached] == [READ_ONLY]
    expected = {
        "trust-anchor-arn": anchor["trustAnchorArn"],
        "role-arn": role["Arn"],
        "profile-arn": profile["profileArn"],
    }
    assert place.config() == {"web": expected}
    assert "Next: hwsigner install-certificate CERTIFICATE KEY-URI --profile web" in done.out
    assert place.credentials("bamboo-01").status == 0
    refused = place.credentials("bamboo-02")
    assert (refused.status, refused.out) == (5, "")


def test_certificate_of_the_flags_goes_into_the_profile(place: Place) -> None:
    done = place.setup(*place.identity("bamboo-01"), match="CN,OU")
    assert "Next: hwsigner credential-process --profile web" in done.out
    assert place.config()["web"]["certificate"] == str(place.folder / "bamboo-01.pem")
    assert "Next: hwsigner credential-process --profile web" in place.setup(match="CN=bamboo-01,OU=devops").out
    assert place.call("credential-process", "--profile", "web", "--endpoint", place.emulator.url).status == 0


def test_second_run_has_nothing_to_do(place: Place) -> None:
    place.setup()
    before = len(place.emulator.requests), place.anchors(), place.profiles(), place.role(), place.config()
    again = place.setup(yes=False)  # It does not ask, as nothing is to be done.
    assert (again.status, again.err) == (0, "")
    assert (place.anchors(), place.profiles(), place.role(), place.config()) == before[1:]
    assert "There is nothing to do" in place.setup("--plan").out


def test_plan_changes_nothing(place: Place) -> None:
    shown = place.setup("--plan")
    assert shown.status == 0
    assert "trust anchor: create 'web', which trusts CN=Example CA" in shown.out
    assert '"Sid": "Hwsigner1"' in shown.out
    assert (place.anchors(), place.profiles()) == ([], [])
    data = read(place.setup("--plan", "--output=json"), "aws setup", alone=True)
    assert [step["call"] for step in data["steps"]] == ["create_trust_anchor", "create_role", "create_profile"]


def test_json_has_the_arns_and_what_was_done(place: Place) -> None:
    data = read(place.setup("--output=json"), "aws setup")
    assert data["done"][0] == "create_trust_anchor"
    assert data["trust-anchor-arn"] == place.anchors()[0]["trustAnchorArn"]
    assert data["next"].startswith("hwsigner ")


@pytest.mark.slow
def test_setup_needs_yes_when_there_is_no_terminal(place: Place) -> None:
    command = [*PROGRAM, *place.command()]
    ran = subprocess.run(command, input=b"yes\n", capture_output=True, start_new_session=True, env=place.environ())
    assert (ran.returncode, ran.stdout) == (2, b"")
    assert b"there is no terminal to ask, so nothing was changed. Add --yes" in ran.stderr
    assert place.anchors() == []


@pytest.mark.slow
def test_typed_yes_carries_the_plan_out(place: Place, terminal: Terminal) -> None:
    process = terminal.start(*PROGRAM, *place.command(), **place.environ())
    shown = terminal.shown_until("Type yes to do this: ")
    assert "trust anchor: create 'web'" in shown
    assert place.anchors() == []
    terminal.type(b"yes\n")
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.count(b"hwsigner: done: ")) == (0, 3)
    assert len(place.anchors()) == 1


@pytest.mark.slow
def test_any_other_answer_changes_nothing(place: Place, terminal: Terminal) -> None:
    process = terminal.start(*PROGRAM, *place.command(), **place.environ())
    terminal.shown_until("Type yes to do this: ")
    terminal.type(b"y\n")
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (1, b"hwsigner: nothing was changed. Type yes to do this\n")
    assert (place.anchors(), place.profiles()) == ([], [])


@pytest.mark.slow
def test_nothing_is_done_when_something_changed_while_the_user_read_the_plan(place: Place, terminal: Terminal) -> None:
    place.setup()
    process = terminal.start(*PROGRAM, *place.command("CN=other"), **place.environ())
    terminal.shown_until("Type yes to do this: ")
    policy = json.dumps({"Version": "2012-10-17", "Statement": [EC2]})
    place.client("iam").update_assume_role_policy(RoleName="web", PolicyDocument=policy)
    terminal.type(b"yes\n")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"changed meanwhile, so nothing was done" in err
    assert place.role()["AssumeRolePolicyDocument"] == json.loads(policy)


@pytest.mark.slow
@pytest.mark.parametrize("last", range(1, 6))
def test_next_run_completes_what_a_killed_one_left(place: Place, last: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    original = ServiceClient._answer

    def counted(client: ServiceClient, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        nonlocal calls
        response = original(client, operation, parameters)
        calls += operation != "get_role"
        if calls == last:
            raise Killed
        return response

    with monkeypatch.context() as patch:
        patch.setattr(ServiceClient, "_answer", counted)
        if last <= 4:
            with pytest.raises(Killed):
                place.setup("--policy", READ_ONLY)
        else:
            assert place.setup("--policy", READ_ONLY).status == 0
    assert place.setup("--policy", READ_ONLY).status == 0
    assert (len(place.anchors()), len(place.profiles())) == (1, 1)
    assert place.setup("--policy", READ_ONLY, yes=False).status == 0
    assert place.credentials("bamboo-01").status == 0


def test_disabled_resources_are_enabled(place: Place) -> None:
    place.setup()
    client = place.client("rolesanywhere")
    client.disable_trust_anchor(trustAnchorId=place.anchors()[0]["trustAnchorId"])
    client.disable_profile(profileId=place.profiles()[0]["profileId"])
    shown = place.setup("--plan").out
    assert shown.count("which is disabled") == 2
    assert place.setup().status == 0
    assert place.credentials("bamboo-01").status == 0


def test_statements_of_others_stay_to_the_letter(place: Place) -> None:
    policy = {"Version": "2012-10-17", "Statement": [{"Sid": "Theirs", **EC2}]}
    place.client("iam").create_role(RoleName="web", AssumeRolePolicyDocument=json.dumps(policy))
    assert "widen the trust policy of 'web'" in place.setup("--plan").out
    assert place.setup().status == 0
    first, second = place.role()["AssumeRolePolicyDocument"]["Statement"]
    assert json.dumps(first) == json.dumps(policy["Statement"][0])
    assert second["Sid"].startswith("Hwsigner")
    assert place.setup(match="CN=bamboo-02").status == 0
    assert place.role()["AssumeRolePolicyDocument"]["Statement"][:2] == [first, second]
    assert (place.credentials("bamboo-01").status, place.credentials("bamboo-02").status) == (0, 0)


def test_second_ca_is_added_for_a_rollover(place: Place) -> None:
    place.setup()
    new = certs.make_ca("New CA")
    assert place.credentials("bamboo-01", new).status == 5
    (place.folder / "ca.pem").write_bytes(new.pem)
    refused = place.setup()
    assert (refused.status, "--add-ca" in refused.err) == (2, True)
    assert place.setup("--add-ca").status == 0
    assert len(place.anchors()) == 1
    assert (place.credentials("bamboo-01", new).status, place.credentials("bamboo-01").status) == (0, 0)


def test_role_gets_the_duration_of_the_profile(place: Place) -> None:
    place.setup("--duration", "7200")
    assert (place.role()["MaxSessionDuration"], place.profiles()[0]["durationSeconds"]) == (7200, 7200)
    place.setup("--duration", "14400")
    assert (place.role()["MaxSessionDuration"], place.profiles()[0]["durationSeconds"]) == (14400, 14400)


@needs_linux
def test_setup_for_the_system_s_agent_writes_its_profile_alone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    file = place.folder / "etc" / "config.toml"
    monkeypatch.setattr(profiles, "SYSTEM_FILE", str(file))
    done = place.setup("--system")
    assert f"{file}: [profile.web]" in done.out
    assert "Next: hwsigner install-certificate CERTIFICATE KEY-URI --profile web --system" in done.out
    assert [*tomllib.loads(file.read_text())["profile"]["web"]] == ["trust-anchor-arn", "role-arn", "profile-arn"]
    assert not (place.folder / "hwsigner").exists()
    done = place.setup("--system", *place.identity("bamboo-01"))
    assert "Next: hwsigner systemd install --system --allow-user USER --profile web" in done.out


def test_callers_may_name_their_sessions_if_a_flag_says_so(place: Place) -> None:
    place.setup()
    assert place.profiles()[0]["acceptRoleSessionName"] is False
    assert "let callers name their sessions" in place.setup("--plan", "--accept-role-session-name").out
    place.setup("--accept-role-session-name")
    assert place.profiles()[0]["acceptRoleSessionName"] is True
    place.setup()
    assert place.profiles()[0]["acceptRoleSessionName"] is True


def test_new_profile_lets_callers_name_their_sessions_if_a_flag_says_so(place: Place) -> None:
    place.setup("--accept-role-session-name")
    assert place.profiles()[0]["acceptRoleSessionName"] is True


def test_other_profile_of_config_toml_stays_and_a_change_is_shown(place: Place) -> None:
    place.call("profile", "add", "web", "--role-arn", "arn:aws:iam::123456789012:role/old")
    place.call("profile", "add", "other", "--region", REGION)
    assert "role-arn = the new one's ARN, not arn:aws:iam::123456789012:role/old" in place.setup("--plan").out
    place.setup()
    assert place.config()["other"] == {"region": REGION}
    assert place.config()["web"]["role-arn"] == place.role()["Arn"]


def test_setup_says_what_was_done_before_the_service_failed(place: Place) -> None:
    place.emulator.deny("iam:AttachRolePolicy")
    failed = place.setup("--policy", READ_ONLY)
    assert failed.status == 5
    assert "iam:AttachRolePolicy" in failed.err
    assert "Already done: trust anchor: create 'web'; role: create 'web'. Run the same command again" in failed.err
    assert not (place.folder / "hwsigner").exists()


def test_key_beside_the_ca_is_not_sent(place: Place) -> None:
    key = certs.write_key(place.folder / "ca.key", place.ca.key).read_bytes()
    (place.folder / "ca.pem").write_bytes(key + place.ca.pem)
    assert place.setup().status == 0
    assert not [record for record in place.emulator.requests if b"PRIVATE" in record.body]


def test_certificate_takes_the_place_of_what_it_excludes(place: Place) -> None:
    place.call(
        "profile", "add", "web", "--cert-selector", "Key=x509Subject,Value=CN=a", "--use-latest-expiring-certificate"
    )
    identity = place.identity("bamboo-01")
    assert "cert-selector = nothing, not Key=x509Subject" in place.setup("--plan", *identity).out
    assert place.setup(*identity).status == 0
    assert not {"cert-selector", "use-latest-expiring-certificate"} & place.config()["web"].keys()
    assert place.call("credential-process", "--profile", "web", "--endpoint", place.emulator.url).status == 0


def test_profile_has_the_full_paths_of_certificate_and_key_also_in_a_key_uri(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.identity("bamboo-01")
    monkeypatch.chdir(place.folder)
    uri = "file:bamboo-01.key?pin-source=env:PIN"
    assert place.setup("--certificate", "bamboo-01.pem", "--private-key", uri).status == 0
    saved = place.config()["web"]
    assert saved["certificate"] == f"{place.folder}/bamboo-01.pem"
    assert saved["private-key"] == f"file:{place.folder}/bamboo-01.key?pin-source=env:PIN"


def test_plan_does_not_show_the_pin_of_a_profile(place: Place) -> None:
    place.identity("bamboo-01")
    place.call("profile", "add", "web", "--private-key=pkcs11:token=a?pin-value=hunter2&module-path=/m.so")
    files = ("--certificate", place.folder / "bamboo-01.pem", "--private-key", place.folder / "bamboo-01.key")
    outcome = place.setup(*files, "--plan", yes=False)
    assert ", not pkcs11:token=a?module-path=/m.so" in outcome.out
    assert "hunter2" not in outcome.out + outcome.err


@pytest.mark.parametrize("flags", [["--plan"], ["--yes", "--json"]])
@pytest.mark.parametrize("flag", ["--certificate", "--private-key"])
def test_pin_in_a_key_uri_is_refused_and_not_printed(place: Place, flag: str, flags: list[str]) -> None:
    place.identity("bamboo-01")
    file = f"file:{place.folder}/bamboo-01.{'pem' if flag == '--certificate' else 'key'}?pin-value=hunter2"
    outcome = place.setup(f"{flag}={file}", *flags, yes=False)
    assert (outcome.status, outcome.out, place.anchors()) == (2, "", [])
    assert f"{flag} has a pin-value" in outcome.err
    assert "hunter2" not in outcome.err


def test_config_toml_that_cannot_be_written_is_an_error_after_which_the_next_run_completes(place: Place) -> None:
    folder = place.folder / "hwsigner"
    folder.write_text("in the way")
    failed = place.setup()
    assert failed.status in (1, 2)
    folder.unlink()
    assert place.setup().status == 0
    assert (len(place.anchors()), len(place.profiles())) == (1, 1)


def check_denied(place: Place, action: str, *flags: str) -> None:
    """Run the command without a permission, which must be named, and then with it, which must complete the set-up."""
    place.emulator.deny(action)
    refused = place.setup(*flags)
    assert (refused.status, refused.out) == (5, "")
    assert f"lacks {action}" in refused.err
    assert f"Ask for a policy that allows {action}" in refused.err
    place.emulator.allow()
    assert place.setup(*flags).status == 0
    assert (len(place.anchors()), len(place.profiles())) == (1, 1)
    assert place.setup(*flags, yes=False).status == 0
    assert place.credentials("bamboo-01").status == 0


def test_boundary_that_does_not_allow_a_call_is_named(place: Place) -> None:
    place.emulator.deny("iam:CreateRole", by="permissions boundary")
    refused = place.setup()
    assert refused.status == 5
    assert "because no permissions boundary allows the iam:CreateRole action" in refused.err
    assert "Ask for a permissions boundary that allows iam:CreateRole" in refused.err


@pytest.mark.slow
def test_statements_and_roles_that_others_add_meanwhile_are_kept(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_to(*services: str) -> str:
        statements = [{**EC2, "Principal": {"Service": f"{each}.amazonaws.com"}} for each in services]
        return json.dumps({"Version": "2012-10-17", "Statement": statements})

    iam, anywhere = place.client("iam"), place.client("rolesanywhere")
    arns = [
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=open_to("ec2"))["Role"]["Arn"] for name in ("web", "db")
    ]
    profile_id = anywhere.create_profile(name="web", roleArns=[], enabled=True)["profile"]["profileId"]
    call = ServiceClient.call

    def meanwhile(operation: str, others: Callable[[], Any]) -> None:
        def slow(self: ServiceClient, called: str, **parameters: Any) -> Any:
            answer = call(self, called, **parameters)
            if called == operation:
                others()
            return answer

        monkeypatch.setattr(ServiceClient, "call", slow)

    meanwhile(
        "create_trust_anchor",
        lambda: iam.update_assume_role_policy(RoleName="web", PolicyDocument=open_to("ec2", "ecs-tasks")),
    )
    first = place.setup()
    assert (first.status, "the role changed since it was read, so it was left alone" in first.err) == (1, True)
    meanwhile("update_assume_role_policy", lambda: anywhere.update_profile(profileId=profile_id, roleArns=arns[1:]))
    second = place.setup()
    assert (second.status, "the Roles Anywhere profile changed since it was read" in second.err) == (1, True)
    assert second.err.count("Run the same command again") == 1
    monkeypatch.setattr(ServiceClient, "call", call)
    assert place.setup(f"--profile-arn={place.profiles()[0]['profileArn']}").status == 0
    assert len(place.role()["AssumeRolePolicyDocument"]["Statement"]) == 3
    assert place.profiles()[0]["roleArns"] == [*arns[1:], arns[0]]


def test_deny_that_keeps_certificates_out_is_a_warning_of_each_run(place: Place) -> None:
    where = {"StringEquals": {"aws:PrincipalTag/x509Subject/OU": "devops"}}
    deny = {"Effect": "Deny", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole", "Condition": where}
    policy = json.dumps({"Version": "2012-10-17", "Statement": deny})
    place.client("iam").create_role(RoleName="web", AssumeRolePolicyDocument=policy)
    for _ in range(2):
        warned = place.setup().err.splitlines()[-1]
        assert warned.startswith("hwsigner: warning: the role will still refuse these certificates: ")
        assert warned.endswith("statement 1 denies it")
    assert place.credentials("bamboo-01").status == 5


def test_name_that_the_profile_does_not_map_is_a_warning_of_each_run(place: Place) -> None:
    assert "warning" not in place.setup().err
    profile_id, rules = place.profiles()[0]["profileId"], [{"specifier": "OU"}]
    change = place.client("rolesanywhere").put_attribute_mapping
    change(profileId=profile_id, certificateField="x509Subject", mappingRules=rules)
    words = "warning: the Roles Anywhere profile does not map x509Subject/CN, so the role will refuse every certificate"
    assert words in place.setup().err
    assert place.credentials("bamboo-01").status == 5
    change(profileId=profile_id, certificateField="x509Subject", mappingRules=[*rules, {"specifier": "CN"}])
    assert place.setup().err == ""
    assert place.credentials("bamboo-01").status == 0


def test_boundary_that_the_organisation_requires_is_asked_for_and_kept(place: Place) -> None:
    place.emulator.world.required_boundary = BOUNDARY
    refused = place.setup()
    assert refused.status == 5
    assert "lacks iam:CreateRole" in refused.err
    assert "If it allows only roles with a permissions boundary, give that with --permissions-boundary" in refused.err
    flag = f"--permissions-boundary={BOUNDARY}"
    made = place.setup(flag)
    assert (made.status, f"with the permissions boundary {BOUNDARY}" in made.err) == (0, True)
    assert place.role()["PermissionsBoundary"]["PermissionsBoundaryArn"] == BOUNDARY
    for flags in ([flag], []):
        assert "There is nothing to do" in place.setup("--plan", *flags).out
    report = place.call("aws", "check", "--profile=web", f"--endpoint={place.emulator.url}")
    assert f"permissions boundary {BOUNDARY}" in " ".join(report.out.split())


def test_boundary_of_a_role_that_has_another_is_replaced_before_its_trust_policy_is_widened(place: Place) -> None:
    policy = json.dumps({"Version": "2012-10-17", "Statement": EC2})
    role = {"RoleName": "web", "AssumeRolePolicyDocument": policy}
    place.client("iam").create_role(**role, PermissionsBoundary=READ_ONLY)
    shown = json.loads(place.setup(f"--permissions-boundary={BOUNDARY}", "--plan", "--json").out)
    calls = ["create_trust_anchor", "put_role_permissions_boundary", "update_assume_role_policy", "create_profile"]
    assert [each["call"] for each in shown["steps"]] == calls
    assert f"becomes {BOUNDARY}, not {READ_ONLY}" in shown["steps"][1]["words"]
    assert place.setup(f"--permissions-boundary={BOUNDARY}").status == 0
    assert place.role()["PermissionsBoundary"]["PermissionsBoundaryArn"] == BOUNDARY


def test_policy_that_does_not_exist_is_named_without_waiting_for_the_role(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.emulator.world.policies = {READ_ONLY: ("*",)}
    monkeypatch.setattr(plan, "sleep", lambda _: pytest.fail("waited"))
    mistyped = place.setup("--policy", "arn:aws:iam::aws:policy/ReadOnlyAcces")
    assert mistyped.status == 5
    assert "NoSuchEntity: Policy arn:aws:iam::aws:policy/ReadOnlyAcces does not exist" in mistyped.err
    assert place.setup("--policy", READ_ONLY).status == 0


MAKING = (
    *("rolesanywhere:ListTrustAnchors", "rolesanywhere:CreateTrustAnchor"),
    *("rolesanywhere:ListProfiles", "rolesanywhere:CreateProfile"),
    *("iam:GetRole", "iam:CreateRole", "iam:AttachRolePolicy", "iam:CreateServiceLinkedRole", "iam:PassRole"),
)
COMPLETING = (
    *("rolesanywhere:UpdateTrustAnchor", "rolesanywhere:EnableTrustAnchor"),
    *("rolesanywhere:UpdateProfile", "rolesanywhere:EnableProfile", "iam:ListAttachedRolePolicies"),
    *("iam:UpdateAssumeRolePolicy", "iam:UpdateRole", "iam:PassRole"),
)


@pytest.mark.slow
@pytest.mark.parametrize("action", MAKING)
def test_missing_permission_is_named_when_all_is_to_be_made(place: Place, action: str) -> None:
    check_denied(place, action, "--policy", READ_ONLY)


@pytest.mark.slow
@pytest.mark.parametrize("action", COMPLETING)
def test_missing_permission_is_named_when_a_set_up_is_completed(place: Place, action: str) -> None:
    client, other = place.client("rolesanywhere"), certs.make_ca("Other CA")
    policy = json.dumps({"Version": "2012-10-17", "Statement": EC2})
    place.client("iam").create_role(RoleName="web", AssumeRolePolicyDocument=policy)
    source = {"sourceType": "CERTIFICATE_BUNDLE", "sourceData": {"x509CertificateData": other.pem.decode()}}
    client.create_trust_anchor(name="web", source=source, enabled=False)
    client.create_profile(name="web", roleArns=[], enabled=False)
    check_denied(place, action, "--policy", READ_ONLY, "--add-ca", "--duration", "7200")


@pytest.mark.slow
@pytest.mark.parametrize("action", MAKING[:-1])
def test_each_throttled_call_is_repeated(place: Place, action: str) -> None:
    place.emulator.misbehave(Fault("throttle", 2), action=action)
    assert place.setup("--policy", READ_ONLY).status == 0
    assert (len(place.anchors()), len(place.profiles())) == (1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["html", "not-json", "redirect", "cut-off", "close", "fail"])
@pytest.mark.parametrize("action", ["rolesanywhere:ListTrustAnchors", "rolesanywhere:CreateProfile", "iam:CreateRole"])
def test_answer_that_is_not_from_aws_is_never_taken_for_an_empty_one(
    place: Place, fault: str, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.setup()
    place.client("iam").delete_role(RoleName="web")
    place.client("rolesanywhere").delete_profile(profileId=place.profiles()[0]["profileId"])
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    place.emulator.misbehave(Fault(fault), action=action)
    done = place.setup()
    if "Create" in action and fault == "close":  # What was made is found.
        assert done.status == 0
    else:
        assert (done.status, done.out) == (6 if fault == "close" else 5, "")
        assert action in done.err
        assert place.setup().status == 0
    assert (len(place.anchors()), len(place.profiles())) == (1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [Fault("close"), Fault("reset"), Fault("cut-off"), Fault("fail", status=502)])
@pytest.mark.parametrize("action", ["rolesanywhere:CreateTrustAnchor", "iam:CreateRole", "rolesanywhere:CreateProfile"])
def test_lost_answer_makes_nothing_twice(place: Place, fault: Fault, action: str) -> None:
    place.emulator.misbehave(fault, action=action)
    done = place.setup()
    # With 502, the emulator makes nothing; half an answer may be any proxy's.
    assert done.status == (0 if fault.name in ("close", "reset") else 5), done
    assert place.setup().status == 0
    assert (len(place.anchors()), len(place.profiles())) == (1, 1)
    assert place.credentials("bamboo-01").status == 0


@pytest.mark.slow
@pytest.mark.parametrize("is_first", [True, False])
def test_of_two_set_ups_at_once_the_later_deletes_what_it_made(
    place: Place, monkeypatch: pytest.MonkeyPatch, is_first: bool
) -> None:
    call, others = ServiceClient._answer, []

    def beside(self: ServiceClient, operation: str, parameters: dict[str, Any]) -> Any:
        twin = place.client("rolesanywhere") if operation in ("create_trust_anchor", "create_profile") else None
        before, after = (None, twin) if is_first else (twin, None)
        if before:
            others.append(getattr(before, operation)(**parameters))
            time.sleep(0.01)  # The emulator's times have milliseconds.
        answer = call(self, operation, parameters)
        if after:
            time.sleep(0.01)
            others.append(getattr(after, operation)(**parameters))
        return answer

    monkeypatch.setattr(ServiceClient, "_answer", beside)
    done = place.setup()
    assert (done.status, len(others)) == (0, 2), done
    made = {one["trustAnchorArn"] for one in place.anchors()} | {one["profileArn"] for one in place.profiles()}
    theirs = {others[0]["trustAnchor"]["trustAnchorArn"], others[1]["profile"]["profileArn"]}
    used = {place.config()["web"][key] for key in ("trust-anchor-arn", "profile-arn")}
    assert made == theirs | used
    assert used.isdisjoint(theirs) == is_first
    assert ("another run made the trust anchor just before: deleting this run's" in done.err) != is_first
    assert place.credentials("bamboo-01").status == 0


def test_ca_that_another_administrator_adds_meanwhile_is_kept(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.setup()
    other, new = certs.make_ca("Other CA"), certs.make_ca("New CA")
    [anchor], call = place.anchors(), ServiceClient.items
    read: list[str] = []

    def add(self: ServiceClient, operation: str, member: str, **parameters: Any) -> Any:
        found = call(self, operation, member, **parameters)
        if operation == "list_profiles" and not read:  # The last that is read before the plan.
            read.append(operation)
            data = {"x509CertificateData": (place.ca.pem + other.pem).decode()}
            source = {"sourceType": "CERTIFICATE_BUNDLE", "sourceData": data}
            place.client("rolesanywhere").update_trust_anchor(trustAnchorId=anchor["trustAnchorId"], source=source)
        return found

    monkeypatch.setattr(ServiceClient, "items", add)
    (place.folder / "ca.pem").write_bytes(new.pem)
    refused = place.setup("--add-ca")
    assert refused.status == 1
    assert "the trust anchor changed since it was read, so it was left alone" in refused.err
    assert place.credentials("bamboo-01", other).status == 0


@pytest.mark.parametrize(
    ("flags", "match", "words"),
    [
        ([], "CN=a&b", "can't have '&'"),
        ([], "CN=", "empty"),
        ([], "CN", "no certificate"),
        (["--name", "a/b"], MATCH, "not a name"),
        (["--duration", "5"], MATCH, "900 to 43200"),
        (["--trust-anchor-arn", "arn:nonsense"], MATCH, "not a trust anchor ARN"),
        (["--profile", "a b"], MATCH, "not a valid profile name"),
        (["--policy", "ReadOnlyAccess"], MATCH, "not a policy's ARN"),
        (
            ["--permissions-boundary", "limits"],
            MATCH,
            "--permissions-boundary is 'limits', which is not a policy's ARN",
        ),
        (["--permissions-boundary", "arn:aws-cn:iam::aws:policy/x"], MATCH, "the region is in the partition aws"),
        (["--policy", "arn:aws-cn:iam::aws:policy/ReadOnlyAccess"], MATCH, "the region is in the partition aws"),
        (["--policy", "arn:aws:iam::999999999999:policy/x"], MATCH, "of another account than the credentials"),
        (["--trust-anchor-arn", FOREIGN], MATCH, "of another account than the credentials"),
        (["--endpoint", "http://[::1"], MATCH, "not an endpoint URL"),
        (["--endpoint", "https://me:secret@example.com"], MATCH, "a user name"),
        (["--region", "nonsense"], MATCH, "not a region"),
        (["--endpoint", "http://192.0.2.1"], MATCH, "http: is for this machine only"),
    ],
)
def test_invalid_arguments_exit_with_status_2(place: Place, flags: list[str], match: str, words: str) -> None:
    refused = place.setup(*flags, match=match)
    assert (refused.status, refused.out) == (2, "")
    assert words in refused.err
    assert place.anchors() == []


def test_leaf_is_not_a_ca(place: Place) -> None:
    place.identity("leaf")
    refused = place.setup("--ca", place.folder / "leaf.pem")
    assert refused.status == 4
    assert "is not a CA certificate" in refused.err


def test_certificate_with_an_empty_subject_is_an_error(place: Place) -> None:
    names = x509.SubjectAlternativeName([x509.DNSName("a.example")])
    leaf = certificate(Form(x509.Name([]), extensions=((names, True),)), certs.make_ca().key.public_key(), place.ca)
    (place.folder / "nameless.pem").write_bytes(certs.pem(leaf))
    refused = place.setup("--certificate", place.folder / "nameless.pem", match="SAN/DNS")
    assert (refused.status, "nameless.pem has an empty subject" in refused.err) == (4, True)
    assert place.anchors() == []


def test_certificate_that_would_be_refused_is_an_error(place: Place) -> None:
    refused = place.setup(*place.identity("bamboo-09"))
    assert (refused.status, "would be refused" in refused.err) == (4, True)
    assert place.anchors() == []
