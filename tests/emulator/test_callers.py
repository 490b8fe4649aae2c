"""sts:GetCallerIdentity, called by botocore and the AWS CLI."""

from __future__ import annotations

import os
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from emulator.client import Caller, Reply, Request, create_session, send
from emulator.signing import Edit, authorization, credentials_of, without
from hwsigner.emulator import Emulator

FORM = "application/x-www-form-urlencoded; charset=utf-8"
BODY = b"Action=GetCallerIdentity&Version=2011-06-15"
NAMESPACE = "{https://sts.amazonaws.com/doc/2011-06-15/}"


@pytest.fixture
def vended(emulator: Emulator, caller: Caller) -> Credentials:
    return credentials_of(create_session(emulator, caller))


def signed(emulator: Emulator, vended: Credentials, *, body: bytes = BODY, service: str = "sts") -> Request:
    """Return a request signed by botocore."""
    made = AWSRequest("POST", f"{emulator.url}/", data=body, headers={"Content-Type": FORM})
    SigV4Auth(vended, service, "eu-west-1").add_auth(made)
    host = ("Host", emulator.url.removeprefix("http://"))
    return Request("POST", "/", (host, *((name, value) for name, value in made.headers.items())), body)


def error(reply: Reply) -> tuple[int, str, str]:
    root = ET.fromstring(reply.body)
    assert root.tag == f"{NAMESPACE}ErrorResponse"
    assert root.findtext(f"{NAMESPACE}RequestId") == reply.headers["x-amzn-requestid"]
    fields = [root.findtext(f"{NAMESPACE}Error/{NAMESPACE}{name}") or "" for name in ("Type", "Code", "Message")]
    assert fields[0] == "Sender"
    return reply.status, fields[1], fields[2]


def test_get_caller_identity_names_the_caller(emulator: Emulator, caller: Caller) -> None:
    session = create_session(emulator, caller)
    reply = send(emulator, signed(emulator, credentials_of(session)))
    result = ET.fromstring(reply.body).find(f"{NAMESPACE}GetCallerIdentityResult")
    assert (reply.status, reply.headers["content-type"]) == (200, "text/xml")
    assert result is not None
    user = session.json["credentialSet"][0]["assumedRoleUser"]
    assert [each.text for each in result] == [user["arn"], user["assumedRoleId"], "123456789012"]


@pytest.mark.slow
def test_aws_cli_gets_its_caller_identity(emulator: Emulator, vended: Credentials) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ["HOME"],
        "AWS_ACCESS_KEY_ID": vended.access_key,
        "AWS_SECRET_ACCESS_KEY": vended.secret_key,
        "AWS_SESSION_TOKEN": vended.token,
        "AWS_REGION": "us-east-1",
    }
    command = ["/usr/bin/aws", "sts", "get-caller-identity", "--output", "text", "--endpoint-url", emulator.url]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "assumed-role/hwsigner-demo/" in done.stdout


def other_token(made: Request) -> Request:
    token = dict(made.headers)["X-Amz-Security-Token"]
    return made.with_header("X-Amz-Security-Token", token[:-4] + "AAAA")


MISMATCH, INVALID_TOKEN = "SignatureDoesNotMatch", "InvalidClientTokenId"
CHANGED: dict[str, tuple[Edit, int, str, str]] = {
    "no Authorization": (without("Authorization"), 403, "MissingAuthenticationToken", "missing"),
    "another form": (authorization("Credential", "Cred"), 400, "IncompleteSignature", "Authorization is not"),
    "another key id": (authorization("=ASIA", "=ASIAX"), 403, INVALID_TOKEN, "invalid"),
    "another token": (other_token, 403, INVALID_TOKEN, "invalid"),
    "another algorithm": (authorization("AWS4-HMAC", "AWS4-ECDSA"), 403, MISMATCH, "AWS4-HMAC-SHA256"),
    "no region at all": (authorization("/eu-west-1/", "/nowhere/"), 403, MISMATCH, "valid region"),
    "host not signed": (authorization("host;", ""), 403, MISMATCH, "lacks host"),
    "a body grown": (lambda made: replace(made, body=made.body + b"&x=1"), 403, MISMATCH, "we calculated"),
}


@pytest.mark.parametrize("case", CHANGED)
def test_request_is_refused_when_changed_after_signing(emulator: Emulator, vended: Credentials, case: str) -> None:
    edit, status, code, words = CHANGED[case]
    found = error(send(emulator, edit(signed(emulator, vended))))
    assert found[:2] == (status, code)
    assert words in found[2]


def test_request_is_refused_when_signed_for_another_service(emulator: Emulator, vended: Credentials) -> None:
    found = error(send(emulator, signed(emulator, vended, service="s3")))
    assert found[:2] == (403, MISMATCH)
    assert "service sts" in found[2]


@pytest.mark.parametrize(
    "body", [b"", b"Action=GetSessionToken&Version=2011-06-15", b"Action=GetCallerIdentity&Version=2012-01-01"]
)
def test_other_actions_are_refused(emulator: Emulator, vended: Credentials, body: bytes) -> None:
    assert error(send(emulator, signed(emulator, vended, body=body)))[:2] == (400, "InvalidAction")


def test_other_content_types_are_refused(emulator: Emulator, vended: Credentials) -> None:
    made = signed(emulator, vended).with_header("Content-Type", "application/json")
    assert error(send(emulator, made))[:2] == (400, "InvalidAction")
