"""moto as the judge: AWS services on loopback, with authentication enabled."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import requests

from auth.servers import Key
from hwsigner.auth import SigV4Auth

pytestmark = pytest.mark.slow

REGION = "us-east-1"
# The first three actions create the user. All requests after them are verified.
MOTO = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(*server.get_host_and_port(), flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Moto:
    url: str
    key: Key

    def auth(self, service: str) -> SigV4Auth:
        return SigV4Auth(self.key, REGION, service)

    def wrong(self, service: str) -> SigV4Auth:
        return SigV4Auth(replace(self.key, secret_access_key="wrong"), REGION, service)


def iam(url: str, action: str, **parameters: str) -> str:
    form = {"Action": action, "Version": "2010-05-08", "UserName": "u", **parameters}
    answer = requests.post(url, data=form, auth=SigV4Auth(Key("AKIA", "any", ""), REGION, "iam"), timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.text


@pytest.fixture(scope="session")
def moto() -> Iterator[Moto]:
    environment = {"PATH": "/usr/bin:/bin", "INITIAL_NO_AUTH_ACTION_COUNT": "3", "AWS_DEFAULT_REGION": REGION}
    command = [sys.executable, "-c", MOTO]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        host, port = process.stdout.readline().split()
        url = f"http://{host}:{port}"
        iam(url, "CreateUser")
        policy = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}'
        iam(url, "PutUserPolicy", PolicyName="p", PolicyDocument=policy)
        made = iam(url, "CreateAccessKey")
        found = re.search("<AccessKeyId>(.*)</AccessKeyId>.*<SecretAccessKey>(.*)</SecretAccessKey>", made, re.DOTALL)
        assert found
        yield Moto(url, Key(found[1], found[2], ""))
        process.stdin.close()


def test_s3_requests_are_accepted_by_moto(moto: Moto) -> None:
    with requests.Session() as session:
        session.auth = moto.auth("s3")
        assert session.put(f"{moto.url}/bucket", timeout=60).status_code == 200
        key = f"{moto.url}/bucket/folder/a b(é)!"
        body = io.BytesIO(b"0123456789" * 100)
        assert session.put(key, data=body, headers={"x-amz-meta-a": "b  c"}, timeout=60).status_code == 200
        found = session.get(key, headers={"Range": "bytes=10-19"}, timeout=60)
        assert (found.status_code, found.content) == (206, b"0123456789")
        listed = session.get(f"{moto.url}/bucket", params={"list-type": "2", "prefix": "folder/a b"}, timeout=60)
        assert "<Key>folder/a b(é)!</Key>" in listed.text
    for method, url in (("GET", key), ("PUT", key), ("DELETE", key), ("GET", f"{moto.url}/bucket")):
        refused = requests.request(method, url, auth=moto.wrong("s3"), timeout=60)
        assert (refused.status_code, "SignatureDoesNotMatch" in refused.text) == (403, True)
    assert requests.delete(key, auth=moto.auth("s3"), timeout=60).status_code == 204


def test_dynamodb_requests_are_accepted_by_moto(moto: Moto) -> None:
    headers = {"X-Amz-Target": "DynamoDB_20120810.ListTables", "Content-Type": "application/x-amz-json-1.0"}
    answer = requests.post(moto.url, data="{}", headers=headers, auth=moto.auth("dynamodb"), timeout=60)
    assert answer.json() == {"TableNames": []}
    refused = requests.post(moto.url, data="{}", headers=headers, auth=moto.wrong("dynamodb"), timeout=60)
    assert refused.status_code in (400, 401, 403)


def test_sts_requests_are_accepted_by_moto(moto: Moto) -> None:
    form = {"Action": "GetCallerIdentity", "Version": "2011-06-15"}
    answer = requests.post(moto.url, data=form, auth=moto.auth("sts"), timeout=60)
    assert "<Arn>arn:aws:iam::123456789012:user/u</Arn>" in answer.text
    assert requests.post(moto.url, data=form, auth=moto.wrong("sts"), timeout=60).status_code == 403
