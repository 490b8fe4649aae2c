"""Requests for any AWS service, signed by botocore in the Authorization header or in the query."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth, SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from emulator.client import Headers, Reply, Request, send
from hwsigner.emulator import Emulator

Edit = Callable[[Request], Request]
USER = Credentials("AKIDEXAMPLE", "secret/of+a=user")
SESSION = Credentials("ASIDEXAMPLE", "secret/of+a=session", "token/of+a=session")
EMPTY_HASH = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@dataclass(frozen=True)
class Plan:
    """A request to sign: the target as it is sent; headers without Host and those that signing adds."""

    service: str = "s3"
    method: str = "PUT"
    target: str = "/bucket/key"
    headers: Headers = ()
    body: bytes = b""
    credentials: Credentials = SESSION
    region: str = "eu-central-1"
    presigned: bool = False
    expires: int = 300

    def signed(self, emulator: Emulator) -> Request:
        """Return the request, signed by botocore. A presigned one is signed without its body."""
        made = AWSRequest(self.method, f"{emulator.url}{self.target}")
        made.data = b"" if self.presigned else self.body
        for name, value in self.headers:
            made.headers.add_header(name, value)
        self._auth().add_auth(made)
        host = ("Host", urlsplit(emulator.url).netloc)
        headers = [(name, value.encode().decode("latin-1")) for name, value in made.headers.items()]
        return Request(self.method, made.url.removeprefix(emulator.url), (host, *headers), self.body)

    def _auth(self) -> Any:
        where = (self.credentials, self.service, self.region)
        if self.presigned:
            return (S3SigV4QueryAuth if self.service == "s3" else SigV4QueryAuth)(*where, expires=self.expires)
        return (S3SigV4Auth if self.service == "s3" else SigV4Auth)(*where)


def add_credentials(emulator: Emulator) -> Emulator:
    """Add USER and SESSION to an emulator."""
    for each in (USER, SESSION):
        emulator.add_credentials(each.access_key, each.secret_key, each.token)
    return emulator


def ask(emulator: Emulator, plan: Plan, **changes: Any) -> Reply:
    """Sign, send, and read the answer."""
    return send(emulator, replace(plan, **changes).signed(emulator))


def credentials_of(reply: Reply) -> Credentials:
    """Return what CreateSession gave out."""
    found = reply.credentials
    return Credentials(found["accessKeyId"], found["secretAccessKey"], found["sessionToken"])


def error_code(reply: Reply) -> tuple[int, str]:
    """Return the status and code of an S3, STS or JSON error."""
    if reply.headers["content-type"] == "application/json":
        return reply.status, reply.headers["x-amzn-errortype"]
    root = ET.fromstring(reply.body)
    return reply.status, next(each.text or "" for each in root.iter() if each.tag.endswith("Code"))


PLAN = Plan(target="/bucket/key?a=b", headers=(("Content-Type", "text/plain"), ("x-amz-meta-a", "one")), body=b"body")
PRESIGNED = replace(PLAN, presigned=True, body=b"")


def header(name: str, value: str) -> Edit:
    return lambda made: made.with_header(name, value)


def without(name: str) -> Edit:
    return lambda made: made.without(name)


def more(name: str, value: str) -> Edit:
    return lambda made: replace(made, headers=(*made.headers, (name, value)))


def authorization(old: str, new: str) -> Edit:
    def edit(made: Request) -> Request:
        text = dict(made.headers)["Authorization"]
        assert old in text
        return made.with_header("Authorization", text.replace(old, new))

    return edit


def query(old: str, new: str) -> Edit:
    def edit(made: Request) -> Request:
        assert old in made.target
        return replace(made, target=made.target.replace(old, new))

    return edit
