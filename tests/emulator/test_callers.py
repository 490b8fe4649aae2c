"""sts:GetCallerIdentity, called by botocore and the AWS CLI."""

from __future__ import annotations

import os
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from certs import Authority
from emulator.client import Caller, Reply, Request, create_session, send
from hwsigner.emulator import Emulator, World

FORM = "application/x-www-form-urlencoded; charset=utf-8"
BODY = b"Action=GetCallerIdentity&Version=2011-06-15"
NAMESPACE = "{https://sts.amazonaws.com/doc/2011-06-15/}"


@pytest.fixture
def vended(emulator: Emulator, caller: Caller) -> Credentials:
    return credentials_of(create_session(emulator, caller))


def credentials_of(reply: Reply) -> Credentials:
    found = reply.credentials
    return Credentials(found["accessKeyId"], found["secretAccessKey"], found["sessionToken"])


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


def aws(emulator: Emulator, vended: Credentials) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ["HOME"],
        "AWS_ACCESS_KEY_ID": vended.access_key,
        "AWS_SECRET_ACCESS_KEY": vended.secret_key,
        "AWS_SESSION_TOKEN": vended.token,
        "AWS_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }
    command = ["/usr/bin/aws", "sts", "get-caller-identity", "--output", "text", "--endpoint-url", emulator.url]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.slow
def test_aws_cli_gets_its_caller_identity(emulator: Emulator, vended: Credentials) -> None:
    done = aws(emulator, vended)
    assert (done.returncode, done.stderr) == (0, "")
    assert "assumed-role/hwsigner-demo/" in done.stdout


@pytest.mark.slow
def test_aws_cli_is_refused_when_its_secret_is_wrong(emulator: Emulator, vended: Credentials) -> None:
    vended.secret_key = vended.secret_key[:-1] + ("A" if vended.secret_key[-1] != "A" else "B")
    done = aws(emulator, vended)
    assert done.returncode != 0
    assert done.stdout == ""
    assert "SignatureDoesNotMatch" in done.stderr


def other_token(made: Request) -> Request:
    token = dict(made.headers)["X-Amz-Security-Token"]
    return made.with_header("X-Amz-Security-Token", token[:-4] + "AAAA")


def authorization(old: str, new: str) -> Callable[[Request], Request]:
    return lambda made: made.with_header("Authorization", dict(made.headers)["Authorization"].replace(old, new))


def another_second(made: Request) -> Request:
    """Change only the seconds of the date, so that the day stays the same."""
    date = dict(made.headers)["X-Amz-Date"]
    return made.with_header("X-Amz-Date", f"{date[:-3]}{(int(date[-3:-1]) + 30) % 60:02}Z")


MISMATCH, INVALID_TOKEN = "SignatureDoesNotMatch", "InvalidClientTokenId"
CHANGED: dict[str, tuple[Callable[[Request], Request], int, str, str]] = {
    "no Authorization": (lambda made: made.without("Authorization"), 403, "MissingAuthenticationToken", "missing"),
    "another form": (authorization("Credential", "Cred"), 400, "IncompleteSignature", "Authorization is not"),
    "another key id": (authorization("=ASIA", "=ASIAX"), 403, INVALID_TOKEN, "invalid"),
    "another token": (other_token, 403, INVALID_TOKEN, "invalid"),
    "no token": (lambda made: made.without("X-Amz-Security-Token"), 403, INVALID_TOKEN, "invalid"),
    "another algorithm": (authorization("AWS4-HMAC", "AWS4-ECDSA"), 403, MISMATCH, "AWS4-HMAC-SHA256"),
    "another region": (authorization("/eu-west-1/", "/us-east-1/"), 403, MISMATCH, "we calculated"),
    "no region at all": (authorization("/eu-west-1/", "/nowhere/"), 403, MISMATCH, "valid region"),
    "another date": (another_second, 403, MISMATCH, "we calculated"),
    "host not signed": (authorization("host;", ""), 403, MISMATCH, "lacks host"),
    "date not signed": (authorization("x-amz-date;", ""), 403, MISMATCH, "lacks x-amz-date"),
    "token not signed": (authorization(";x-amz-security-token", ""), 403, MISMATCH, "lacks x-amz-security-token"),
    "a body grown": (lambda made: replace(made, body=made.body + b"&x=1"), 403, MISMATCH, "we calculated"),
    "another host": (lambda made: made.with_header("Host", "elsewhere"), 403, MISMATCH, "we calculated"),
}


@pytest.mark.parametrize("case", CHANGED)
def test_request_is_refused_when_changed_after_signing(emulator: Emulator, vended: Credentials, case: str) -> None:
    edit, status, code, words = CHANGED[case]
    found = error(send(emulator, edit(signed(emulator, vended))))
    assert found[:2] == (status, code)
    assert words in found[2]


@pytest.mark.parametrize(("minutes", "words"), [(6, "Signature expired"), (-6, "not yet current")])
def test_request_is_refused_when_clocks_differ_by_more_than_five_minutes(
    ca: Authority, caller: Caller, minutes: int, words: str
) -> None:
    offset = [timedelta()]
    with Emulator(World.simple(ca.pem), clock=lambda: datetime.now(UTC) + offset[0]) as emulator:
        vended = credentials_of(create_session(emulator, caller))
        offset[0] = timedelta(minutes=minutes)
        found = error(send(emulator, signed(emulator, vended)))
    assert found[:2] == (403, MISMATCH)
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


def test_expired_credentials_are_refused(ca: Authority, caller: Caller) -> None:
    now = [datetime.now(UTC) - timedelta(seconds=901)]
    with Emulator(World.simple(ca.pem), clock=lambda: now[0]) as emulator:
        date = f"{now[0]:%Y%m%dT%H%M%SZ}"
        reply = create_session(emulator, caller, body=b'{"durationSeconds":900}', date=date)
        vended = credentials_of(reply)
        now[0] = datetime.now(UTC)
        assert error(send(emulator, signed(emulator, vended)))[:2] == (403, "ExpiredToken")


def test_credentials_of_another_emulator_are_refused(emulator: Emulator, ca: Authority, vended: Credentials) -> None:
    with Emulator(World.simple(ca.pem)) as other:
        assert error(send(other, signed(other, vended)))[:2] == (403, INVALID_TOKEN)
