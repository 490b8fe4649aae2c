"""`serve --pods` at the addresses of a node: SDKs as in Pods, with an API server's word and two AWS accounts."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import boto3
import botocore.session
import pytest
from botocore.exceptions import CredentialRetrievalError
from botocore.utils import ContainerMetadataFetcher

from cluster.network import ADDRESSES
from cluster.node import ACCOUNTS, POLICY, Node
from cluster.tokens import CASES, EKS_AUDIENCE
from judges import needs_aws_cli, needs_namespaces
from serving.stage import Process

pytestmark = [pytest.mark.root, needs_namespaces]

URLS = {"IPv4": f"http://{ADDRESSES[0]}/v1/credentials", "IPv6": f"http://[{ADDRESSES[1]}]/v1/credentials"}
WEB = f"arn:aws:sts::{ACCOUNTS['web']}:assumed-role/hwsigner-demo/team-a.web.node1"
BATCH = f"arn:aws:sts::{ACCOUNTS['batch']}:assumed-role/hwsigner-demo/team-b.batch.node1"
# The statuses of what is not a token of a Pod of this node. All others get 401.
FORBIDDEN = ("not bound", "bound to the node", "Pod without a node", "Pod of another node")
UNKNOWN = "another account's other Pod"
# HTTP has it that blanks around a header's value are no part of it: the server never sees this one.
STRIPPED = "blank in front"


@pytest.fixture(scope="module")
def served(node: Node) -> Iterator[Process]:
    """One `serve --pods` for most tests."""
    with node.serving() as process:
        yield process


@pytest.fixture
def environ(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The variables of an application in a Pod of team-a/web, which this process has too."""
    token = tmp_path / "token"
    token.write_text(node.source.tokens["good"])
    environ = {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": URLS["IPv4"],
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token),
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": node.stage.service.url,
        "HOME": str(tmp_path),
        "PATH": os.environ["PATH"],
    }
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return environ


def aws(environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Ask the AWS CLI for its identity."""
    command = ["/usr/bin/aws", "sts", "get-caller-identity", "--query", "Arn", "--output", "text"]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("address", URLS)
@pytest.mark.parametrize(("account", "role"), [("good", WEB), ("another account", BATCH)])
def test_boto3_gets_the_role_of_its_service_account(
    node: Node,
    served: Process,
    environ: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    account: str,
    role: str,
    address: str,
) -> None:
    Path(environ["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"]).write_text(node.source.tokens[account])
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", URLS[address])
    assert boto3.Session().client("sts").get_caller_identity()["Arn"] == role


@pytest.mark.slow
@needs_aws_cli
@pytest.mark.parametrize(("account", "role"), [("good", WEB), ("another account", BATCH)])
def test_aws_cli_gets_the_role_of_its_service_account(
    node: Node, served: Process, environ: dict[str, str], account: str, role: str
) -> None:
    Path(environ["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"]).write_text(node.source.tokens[account])
    done = aws(environ)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, role, "")


@pytest.mark.slow
@needs_aws_cli
def test_aws_cli_shows_how_to_add_an_unknown_account(node: Node, served: Process, environ: dict[str, str]) -> None:
    Path(environ["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"]).write_text(node.source.tokens[UNKNOWN])
    done = aws(environ)
    assert done.returncode != 0
    assert "the service account team-b/web has no profile: add" in done.stderr


def test_boto3_shows_how_to_add_an_unknown_account(
    node: Node, served: Process, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(environ["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"]).write_text(node.source.tokens[UNKNOWN])
    monkeypatch.setattr(ContainerMetadataFetcher, "SLEEP_TIME", 0)
    with pytest.raises(CredentialRetrievalError, match=r"non 200 response 403 .* team-b/web has no profile: add"):
        botocore.session.Session().get_credentials()


def test_boto3_gets_credentials_again_with_the_token_that_is_in_the_file_then(
    node: Node, served: Process, environ: dict[str, str]
) -> None:
    credentials = boto3.Session().get_credentials()
    assert credentials.get_frozen_credentials().token
    Path(environ["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"]).write_text(node.source.tokens["another account"])
    credentials._expiry_time = credentials._time_fetcher()  # It has to be refreshed.
    found = credentials.get_frozen_credentials()
    assert node.role(json.dumps({"AccessKeyId": found.access_key})) == BATCH


@pytest.mark.parametrize("case", [name for name in CASES if "line feed" not in name])
def test_token_gets_credentials_only_if_it_is_of_a_pod_of_this_node(node: Node, served: Process, case: str) -> None:
    status, body = node.ask(node.source.tokens[case])
    is_valid = CASES[case].is_valid or case == STRIPPED
    expected = 403 if case in FORBIDDEN or case == UNKNOWN else 200 if is_valid else 401
    assert status == expected, body
    if status == 200:
        assert node.role(body) == (BATCH if case == "another account" else WEB)


def test_audience_of_eks_is_good_if_the_policy_has_it(node: Node, served: Process) -> None:
    assert node.ask(node.source.tokens["audience of EKS"])[0] == 401
    node.policy.write_text(f'audiences = ["hwsigner", "{EKS_AUDIENCE}"]\n{POLICY}')
    try:
        node.until(200, "audience of EKS")
        node.until(200)
    finally:
        node.policy.write_text(POLICY)
        node.until(401, "audience of EKS")


def test_audit_log_says_which_pod_got_credentials(node: Node, served: Process) -> None:
    body = json.loads(node.ask(node.source.tokens["good"])[1])
    line = [one for one in node.audited() if one["access_key_id"] == body["AccessKeyId"]][-1]
    found = {name: line[name] for name in ("namespace", "service_account", "pod", "node", "profile", "session_arn")}
    assert found == {
        "namespace": "team-a",
        "service_account": "web",
        "pod": "web-1",
        "node": "node1",
        "profile": "web",
        "session_arn": WEB,
    }
