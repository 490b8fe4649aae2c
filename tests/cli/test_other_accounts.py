"""`profile add --then-role`: on to a role of another account, with botocore, boto3, `exec` and `console`."""

from __future__ import annotations

import configparser
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs

import boto3
import pytest
from botocore.exceptions import ClientError

from federation import Federation, federation
from hwsigner._config import profiles
from hwsigner.emulator import Role
from hwsigner.emulator.iam_policies import read_policy
from judges import needs_client_in_c
from pages import blocks
from scene import PROGRAM, Outcome, Scene

OTHER = "arn:aws:iam::210987654321:role/teams/deploy"
SECTION = "web-210987654321-deploy"
ASSUMED = "arn:aws:sts::210987654321:assumed-role/deploy/"
BOTH = ("sts:AssumeRole", "sts:SetSourceIdentity")

Add = Callable[..., Outcome]


@pytest.fixture
def config(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The SDKs' config file, which does not exist; and a role of another account, which trusts the scene's."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(profiles, "SYSTEM_FILE", str(tmp_path / "none"))
    monkeypatch.setattr(sys, "argv", [str(Path(sys.executable).with_name("hwsigner"))])
    for name, value in {
        "AWS_CONFIG_FILE": str(tmp_path / "aws"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "AWS_ENDPOINT_URL_STS": scene.emulator.url,
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    trust(scene, scene.emulator.role_arn)
    yield tmp_path / "aws"
    del scene.emulator.world.roles[OTHER]


def trust(scene: Scene, principal: str, actions: Sequence[str] = BOTH) -> None:
    statement = {"Effect": "Allow", "Principal": {"AWS": principal}, "Action": list(actions)}
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    scene.emulator.world.roles[OTHER] = Role(OTHER, trust_policy=read_policy(document))


def add(scene: Scene, *flags: str) -> Outcome:
    return scene.call("profile", "add", "web", *scene.flags(), *flags)


def caller(profile: str) -> str:
    return str(boto3.Session(profile_name=profile).client("sts").get_caller_identity()["Arn"])


def sign_in(scene: Scene, endpoint: Federation, *flags: str) -> Outcome:
    return scene.call("console", *scene.flags(), f"--federation-endpoint={endpoint.url}", *flags)


def sections(config: Path) -> dict[str, dict[str, str]]:
    parser = configparser.RawConfigParser()
    parser.read(config)
    return {name: dict(parser[name]) for name in parser.sections()}


@needs_client_in_c
class TestSdks:
    @pytest.mark.slow
    def test_boto3_assumes_the_role_with_the_session_of_the_profile(self, scene: Scene, config: Path) -> None:
        outcome = add(scene, f"--then-role={OTHER}")
        assert (outcome.status, outcome.err) == (0, "")
        assert outcome.out.splitlines()[1] == f"{config}: [profile {SECTION}] assumes {OTHER}"
        assert caller(SECTION).startswith(ASSUMED)
        assert caller("web").startswith(
            scene.emulator.role_arn.replace(":iam:", ":sts:").replace("role/", "assumed-role/")
        )

    def test_role_that_does_not_allow_the_source_identity_is_refused(self, scene: Scene, config: Path) -> None:
        add(scene, f"--then-role={OTHER}")
        trust(scene, scene.emulator.role_arn, ["sts:AssumeRole"])
        with pytest.raises(ClientError, match="not authorized to perform: sts:SetSourceIdentity"):
            caller(SECTION)

    @pytest.mark.slow
    def test_trust_policy_of_the_page_lets_in_the_certificate_that_it_names(self, scene: Scene, config: Path) -> None:
        add(scene, f"--then-role={OTHER}")
        (block,) = [each for each in blocks("docs/how-to/aws.md") if "aws:SourceIdentity" in each.text]
        for name, is_let_in in (("bamboo-01", True), ("bamboo-02", False)):
            statement = json.loads(block.text.replace("bamboo-01", name))
            statement["Principal"] = {"AWS": scene.emulator.role_arn}
            document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
            scene.emulator.world.roles[OTHER] = Role(OTHER, trust_policy=read_policy(document))
            if is_let_in:
                assert caller(SECTION).startswith(ASSUMED)
            else:
                with pytest.raises(ClientError, match="not authorized to perform: sts:AssumeRole"):
                    caller(SECTION)

    @pytest.mark.slow
    def test_program_of_exec_assumes_the_role(self, scene: Scene, config: Path) -> None:
        """The program's profile names the container endpoint, or leads on from the profile of config.toml."""
        add(scene, f"--then-role={OTHER}")
        region = sections(config)[f"profile {SECTION}"]["region"]
        with config.open("a") as file:
            file.write(f"[profile here]\nrole_arn = {OTHER}\ncredential_source = EcsContainer\nregion = {region}\n")
        for name in ("here", SECTION):
            code = (
                f"import boto3; print(boto3.Session(profile_name={name!r}).client('sts').get_caller_identity()['Arn'])"
            )
            words = [sys.argv[0], "exec", "web", "--", sys.executable, "-c", code]
            done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
            assert done.stdout.startswith(ASSUMED), done.stderr


class TestConsole:
    """`hwsigner console --then-role` signs in to the role of the other account."""

    @pytest.fixture
    def endpoint(self, scene: Scene, config: Path) -> Iterator[Federation]:
        with federation(scene.emulator) as found:
            yield found

    def test_console_is_that_of_the_role_for_an_hour_and_no_duration_is_asked_for(
        self, scene: Scene, endpoint: Federation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # More than an hour is allowed, but not in a chain.
        monkeypatch.setattr(scene.emulator.world.roles[OTHER], "max_session_duration", 43200)
        outcome = sign_in(scene, endpoint, f"--then-role={OTHER}")
        assert outcome.status == 0, outcome.err
        (session,) = endpoint.sessions
        assert "SessionDuration" not in session
        signed_in = scene.emulator._service.vault.find(session["sessionId"])
        assert signed_in is not None
        assert signed_in.expiration is not None
        assert signed_in.arn == f"{ASSUMED}hwsigner"
        assert 3540 < (signed_in.expiration - datetime.now(UTC)).total_seconds() <= 3600
        assert f"{signed_in.expiration:%Y-%m-%dT%H:%M:%SZ}" in outcome.err
        assert signed_in.source_identity == "CN=bamboo-01"
        asked = [parse_qs(one.body.decode()) for one in scene.emulator.requests if b"AssumeRole" in one.body]
        assert [sorted(one) for one in asked] == [["Action", "RoleArn", "RoleSessionName", "Version"]]

    def test_session_name_is_the_given_one(self, scene: Scene, endpoint: Federation) -> None:
        emulator = scene.emulator
        emulator.world.profiles[emulator.profile_arn].accept_role_session_name = True
        assert sign_in(scene, endpoint, f"--then-role={OTHER}", "--role-session-name=alice").status == 0
        signed_in = emulator._service.vault.find(endpoint.sessions[0]["sessionId"])
        assert signed_in is not None
        assert signed_in.arn == f"{ASSUMED}alice"

    def test_role_that_does_not_trust_the_first_one_is_an_error_that_names_what_is_missing(
        self, scene: Scene, endpoint: Federation
    ) -> None:
        trust(scene, scene.emulator.role_arn, ["sts:AssumeRole"])
        outcome = sign_in(scene, endpoint, f"--then-role={OTHER}")
        assert (outcome.status, outcome.out, endpoint.sessions) == (5, "", [])
        assert "lacks sts:SetSourceIdentity" in outcome.err

    @pytest.mark.parametrize("arn", ["deploy", "arn:aws-cn:iam::210987654321:role/a"])
    def test_arn_of_no_role_that_can_be_assumed_is_an_error_before_a_session_is_created(
        self, scene: Scene, endpoint: Federation, arn: str
    ) -> None:
        outcome = sign_in(scene, endpoint, f"--then-role={arn}")
        assert (outcome.status, outcome.out, scene.emulator.requests) == (2, "", [])
        assert "--then-role is" in outcome.err


class TestFile:
    def test_sections_and_their_region_are_written_and_config_toml_has_no_trace(
        self, scene: Scene, config: Path, tmp_path: Path
    ) -> None:
        config.write_text("[default]\noutput = json\n")
        outcome = add(scene, f"--then-role={OTHER}", "--then-role=arn:aws:iam::210987654321:role/a+b", "--json")
        region = scene.emulator.trust_anchor_arn.split(":")[3]
        found = sections(config)
        command = found["profile web"].pop("credential_process")
        assert command.endswith(f"/{PROGRAM} --profile web")
        other = {"source_profile": "web", "region": region}
        assert found == {
            "default": {"output": "json"},
            "profile web": {"region": region},
            f"profile {SECTION}": {"role_arn": OTHER, **other},
            "profile web-210987654321-a-b": {"role_arn": "arn:aws:iam::210987654321:role/a+b", **other},
        }
        data = json.loads(outcome.out)
        assert data["awsConfig"] == str(config)
        assert data["roles"][SECTION] == OTHER
        assert "then-role" not in tomllib.loads((tmp_path / "xdg/hwsigner/config.toml").read_text())["profile"]["web"]

    def test_edit_adds_a_role_and_again_changes_nothing(self, scene: Scene, config: Path) -> None:
        assert add(scene).status == 0
        assert not config.exists()
        assert scene.call("profile", "edit", "web", f"--then-role={OTHER}").status == 0
        written = config.read_bytes()
        assert scene.call("profile", "edit", "web", f"--then-role={OTHER}").status == 0
        assert config.read_bytes() == written

    @pytest.mark.parametrize(
        "there",
        [
            f"[profile {SECTION}]\nrole_arn = arn:aws:iam::210987654321:role/another\nsource_profile = web\n",
            f"[profile {SECTION}]\nrole_arn = {OTHER}\nsource_profile = web\naws_access_key_id = AKID\n",
            f"[profile {SECTION}]\nrole_arn = {OTHER}\ncredential_source = EcsContainer\n",
            "[profile web]\nrole_arn = arn:aws:iam::1:role/x\n",
        ],
    )
    def test_section_with_other_credentials_is_an_error_before_anything_changes(
        self, scene: Scene, config: Path, tmp_path: Path, there: str
    ) -> None:
        config.write_text(there)
        outcome = add(scene, f"--then-role={OTHER}")
        assert (outcome.status, outcome.out, outcome.err.count("\n")) == (2, "", 1)
        assert str(config) in outcome.err
        assert config.read_text() == there
        assert not (tmp_path / "xdg").exists()

    @pytest.mark.parametrize(
        ("arn", "part"),
        [
            ("deploy", "--then-role is 'deploy', which is not a role ARN"),
            ("arn:aws:iam::210987654321:user/a", "not a role ARN"),
            ("arn:aws-cn:iam::210987654321:role/a", "another partition"),
        ],
    )
    def test_arn_of_no_role_that_can_be_assumed_is_an_error(
        self, scene: Scene, config: Path, arn: str, part: str
    ) -> None:
        outcome = add(scene, f"--then-role={arn}")
        assert (outcome.status, outcome.out) == (2, "")
        assert part in outcome.err
        assert not config.exists()

    def test_region_that_is_none_is_an_error_and_becomes_no_setting(self, scene: Scene, config: Path) -> None:
        config.write_text("[profile web]\ncredential_process = hwsigner credential-process --profile web\n")
        outcome = add(scene, "--region=us-east-1\ncredential_process = other", f"--then-role={OTHER}")
        assert (outcome.status, outcome.out) == (2, "")
        assert "other" not in config.read_text()
        assert "not a region" in outcome.err

    def test_region_that_is_removed_is_not_written(self, scene: Scene, config: Path) -> None:
        assert add(scene, "--region=eu-west-3").status == 0
        assert scene.call("profile", "edit", "web", "--unset=--region", f"--then-role={OTHER}").status == 0
        region = scene.emulator.trust_anchor_arn.split(":")[3]
        assert {name: each["region"] for name, each in sections(config).items()} == {
            "profile web": region,
            f"profile {SECTION}": region,
        }

    def test_other_actions_take_no_role(self, scene: Scene, config: Path) -> None:
        assert scene.call("profile", "remove", "web", f"--then-role={OTHER}").status == 2
        assert os.path.exists(scene.key)
