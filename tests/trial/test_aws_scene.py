"""What questions to AWS are asked with."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hwsigner._aws.apis import ServiceClients
from hwsigner._aws.create_session import find_service
from hwsigner.emulator import Emulator
from hwsigner.trial import NotAskedError
from trial.aws_trials import FakeTime
from trial_aws.authority import TrialCA
from trial_aws.calls import TrialPace
from trial_aws.making import make_all
from trial_aws.plan import needing, plan_of
from trial_aws.questions import QUESTIONS
from trial_aws.scene import AWSScene
from trial_aws.sessions import AskedSession
from trial_aws.wanted import WantedRole, statement, trusting

pytestmark = pytest.mark.slow

REGION = "eu-central-1"
OU = "aws:PrincipalTag/x509Subject/OU"


@pytest.fixture
def scene(emulator: Emulator, pace: TrialPace) -> AWSScene:
    """A scene with the role "ou", which wants the OU "a"."""
    clients = ServiceClients(REGION, endpoint=emulator.url, before_send=pace)
    scene = AWSScene(clients, find_service(REGION, endpoint=emulator.url), ca=TrialCA(), pace=pace)
    make_all(
        scene,
        plan_of(
            [
                replace(
                    QUESTIONS[0], ask=needing(str, WantedRole("ou", trusting(statement({"StringEquals": {OU: "a"}}))))
                )
            ]
        ),
    )
    return scene


@pytest.mark.parametrize(
    ("service", "operation", "parameters"),
    [
        ("iam", "create_role", {"RoleName": "web", "AssumeRolePolicyDocument": "{}"}),
        ("iam", "delete_role", {"RoleName": "web"}),
        ("iam", "update_assume_role_policy", {"RoleName": "web", "PolicyDocument": "{}"}),
        ("rolesanywhere", "create_profile", {"name": "web", "roleArns": []}),
        ("rolesanywhere", "delete_profile", {"profileId": "11111111-1111-4111-8111-111111111111"}),
        ("rolesanywhere", "disable_crl", {"crlId": "11111111-1111-4111-8111-111111111111"}),
        (
            "rolesanywhere",
            "import_crl",
            {"name": "(prefix)-a", "crlData": b"", "trustAnchorArn": "arn:aws:rolesanywhere:x:1:trust-anchor/1-1"},
        ),
        ("rolesanywhere", "tag_resource", {"resourceArn": "arn:aws:rolesanywhere:x:1:profile/1-1", "tags": []}),
        ("iam", "put_account_settings", {}),
    ],
)
def test_call_about_something_else_is_not_sent(
    scene: AWSScene, emulator: Emulator, service: str, operation: str, parameters: dict[str, object]
) -> None:
    if "name" in parameters:
        parameters = {**parameters, "name": str(parameters["name"]).replace("(prefix)", scene.prefix)}
    sent = len(emulator.requests)
    with pytest.raises(NotAskedError, match="of this trial"):
        scene.calls.call(service, operation, **parameters)
    assert len(emulator.requests) == sent


def test_refusal_has_no_arn_account_or_prefix(scene: AWSScene, emulator: Emulator) -> None:
    found = scene.calls.call("iam", "get_role", RoleName=scene.named("missing"))
    assert str(found) == "NoSuchEntity: The role with name (prefix)-missing cannot be found."


def test_session_shows_no_secret_in_its_repr(scene: AWSScene) -> None:
    session = scene.session(scene.leaf())
    assert str(session) == "session"
    assert session.lifetime == 3600
    assert all(session.credentials)
    assert [each for each in session.credentials if each in repr(session)] == []


def test_credentials_of_a_session_are_used_for_further_calls(scene: AWSScene) -> None:
    session = scene.session(scene.leaf())
    found = scene.follow_up(session, "get_caller_identity")
    assert found.response["Arn"].endswith(f"/{session.session_name}")
    assert scene.clients.account == found.response["Account"]


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (AskedSession(clock=timedelta(minutes=10)), "Invalid signature"),
        (AskedSession(spoil=lambda request: request._replace(body=b"{} ")), "Invalid signature"),
        (AskedSession(change=lambda request: request._replace(body=b"{}")), "session"),
        (AskedSession(duration=10), "ValidationException"),
    ],
)
def test_part_of_the_request_is_sent_as_asked(scene: AWSScene, asked: AskedSession, answer: str) -> None:
    assert answer in str(scene.session(scene.leaf(), asked))


def test_requests_are_a_second_apart(emulator: Emulator, scene: AWSScene, fake_time: FakeTime) -> None:
    times: list[float] = []
    emulator.on_record = lambda _: times.append(fake_time.passed)
    for _ in range(3):
        session = scene.session(scene.leaf())
        scene.follow_up(session, "get_caller_identity")
        scene.calls.call("iam", "get_role", RoleName=scene.named("missing"))
    assert [later - earlier for earlier, later in pairwise(times)] == [1.0] * 8


def test_openssl_accepts_the_chain_of_the_trial_s_ca(tmp_path: Path) -> None:
    ca = TrialCA()
    files = {"root": ca.root.certificate, "middle": ca.intermediate.certificate, "leaf": ca.leaf().certificate}
    for name, certificate in files.items():
        (tmp_path / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", "root.pem"]
    subprocess.run([*command, "-untrusted", "middle.pem", "leaf.pem"], cwd=tmp_path, check=True, capture_output=True)
    constraints = ca.intermediate.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert constraints.path_length == 0
