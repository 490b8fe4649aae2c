"""Requests that botocore signs for any service are accepted; the rules of S3 and of other services apply."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from certs import Authority
from emulator.client import Caller, Request, connect, create_session, read_reply, send
from emulator.signing import EMPTY_HASH, SESSION, USER, Plan, add_credentials, ask, credentials_of, error_code
from examples import scaled
from hwsigner.emulator import Emulator, World
from hwsigner.errors import UsageError

CHARACTERS = "abZ09-._~ +()!*'%?#&=:,;@$/\\\"é日\U0001f511\x00\n"
KEYS = st.text(CHARACTERS, max_size=12) | st.sampled_from(["..", "a//b", "./a", "a/../b/", "a b/(c)"])
NAMES = st.text(CHARACTERS, min_size=1, max_size=5).filter(lambda name: not name.startswith("X-Amz-"))
QUERIES = st.dictionaries(NAMES, st.text(CHARACTERS, max_size=6), max_size=4)
VALUES = st.text("ab \t,;=~é", max_size=10).map(str.strip)
METADATA = st.dictionaries(st.sampled_from(["x-amz-meta-a", "X-Amz-Meta-B", "x-amz-acl", "Content-Type"]), VALUES)
PLANS = st.builds(
    Plan,
    service=st.sampled_from(["s3", "dynamodb", "execute-api"]),
    method=st.sampled_from(["GET", "PUT", "POST", "DELETE"]),
    target=st.builds(
        lambda key, query: f"/{quote(key, safe='/~')}?{'&'.join(map('='.join, query))}".rstrip("?"),
        KEYS,
        QUERIES.map(lambda pairs: [(quote(n, safe="~"), quote(v, safe="~")) for n, v in pairs.items()]),
    ),
    headers=METADATA.map(lambda headers: tuple(headers.items())),
    body=st.binary(max_size=20),
    credentials=st.sampled_from([USER, SESSION]),
)


@pytest.fixture(scope="module")
def server() -> Iterator[Emulator]:
    with Emulator(World()) as running:
        yield add_credentials(running)


@pytest.mark.slow
@settings(max_examples=scaled(300))
@given(plan=PLANS, presigned=st.booleans())
def test_request_signed_by_botocore_is_accepted(server: Emulator, plan: Plan, presigned: bool) -> None:
    if presigned:
        # Only S3 accepts a body that was not known when the URL was signed.
        plan = replace(plan, presigned=True, body=plan.body if plan.service == "s3" else b"")
    reply = ask(server, plan)
    assert reply.status == 200, server.requests[-1].reason
    sent = hashlib.sha256(plan.body).hexdigest()
    assert reply.json == {
        "arn": f"arn:aws:iam::123456789012:user/{plan.credentials.access_key}",
        "account": "123456789012",
        "accessKeyId": plan.credentials.access_key,
        "service": plan.service,
        "region": "eu-central-1",
        "method": plan.method,
        "path": plan.target.partition("?")[0],
        "presigned": presigned,
        "payload": "UNSIGNED-PAYLOAD" if presigned and plan.service == "s3" else sent,
        "bodySha256": sent,
    }
    record = server.requests[-1]
    assert (record.status, record.accepted, record.answer_type, record.reason) == (200, True, "Success", "")


@settings(max_examples=scaled(150))
@given(plan=PLANS, presigned=st.booleans(), position=st.integers(0), bit=st.integers(0, 255))
def test_request_with_another_signature_is_refused(
    server: Emulator, plan: Plan, presigned: bool, position: int, bit: int
) -> None:
    made = replace(plan, presigned=presigned, body=b"").signed(server)
    text = (made.target if presigned else dict(made.headers)["Authorization"]).rpartition("ignature=")[2]
    digits = list(text)
    digits[position % 64] = "0123456789abcdef"[(int(digits[position % 64], 16) + 1 + bit % 15) % 16]
    other = "".join(digits)
    assert text != other
    if presigned:
        made = replace(made, target=made.target.replace(text, other))
    else:
        made = made.with_header("Authorization", dict(made.headers)["Authorization"].replace(text, other))
    reply = send(server, made)
    code = "SignatureDoesNotMatch" if plan.service == "s3" else "InvalidSignatureException"
    assert error_code(reply) == (403, code)


SIGNED_AND_SENT = [
    # service, signed target, sent target, accepted
    ("s3", "/a%28b%29", "/a(b)", True),
    ("s3", "/a(b)", "/a(b)", False),
    ("s3", "/a(b)", "/a%28b%29", False),
    ("s3", "/%c3%a9", "/%c3%a9", False),
    ("s3", "/%C3%A9", "/%c3%a9", True),
    ("s3", "/a/b", "/a%2Fb", True),
    ("s3", "/a%2Fb", "/a%2Fb", False),
    ("s3", "/a//b/../c", "/a//b/../c", True),
    ("s3", "/a/c", "/a//b/../c", False),
    ("s3", "/a%2520b", "/a%20b", False),
    ("s3", "/a+b", "/a+b", False),
    ("s3", "/a%2Bb", "/a+b", True),
    ("s3", "/?a=b%20c", "/?a=b+c", True),
    ("s3", "/?a=b%2Bc", "/?a=b+c", False),
    ("s3", "/?a=b+c", "/?a=b+c", False),
    ("s3", "/?list-type=", "/?list-type", True),
    ("s3", "/?a=b%2Fc", "/?a=b/c", True),
    ("s3", "/?a=b/c", "/?a=b/c", False),
    ("s3", "/?b=&a=", "/?a=&b=", True),
    ("dynamodb", "/a/c", "/a//b/../c", True),
    ("dynamodb", "/a//b/../c", "/a/c", True),
    ("dynamodb", "/a(b)", "/a(b)", True),
    ("dynamodb", "/a%28b%29", "/a(b)", False),
    ("dynamodb", "/?a=b%2Bc", "/?a=b+c", True),
    ("dynamodb", "/?a=b%20c", "/?a=b+c", False),
    ("s3-outposts", "/a/c", "/a//b/../c", False),
]


@pytest.mark.parametrize(("service", "signed", "sent", "accepted"), SIGNED_AND_SENT)
def test_signed_target_must_match_the_sent_target_by_the_rules_of_the_service(
    server: Emulator, service: str, signed: str, sent: str, accepted: bool
) -> None:
    plan = Plan(service, target=signed, headers=(("x-amz-content-sha256", EMPTY_HASH),))
    assert send(server, replace(plan.signed(server), target=sent)).status == (200 if accepted else 403)


def payload(word: str, **changes: Any) -> Plan:
    """Return a request with a given content hash header, which botocore signs."""
    return replace(Plan(headers=(("X-Amz-Content-SHA256", word),), presigned=True, body=b"x"), **changes)


X = hashlib.sha256(b"x").hexdigest()


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (payload(X), (200, X)),
        (payload("UNSIGNED-PAYLOAD"), (200, "UNSIGNED-PAYLOAD")),
        (payload(EMPTY_HASH), (400, "XAmzContentSHA256Mismatch")),
        (payload(X.upper()), (400, "InvalidArgument")),
        (payload("unsigned-payload"), (400, "InvalidArgument")),
        (payload("STREAMING-AWS4-HMAC-SHA256-PAYLOAD"), (501, "NotImplemented")),
        (payload("STREAMING-UNSIGNED-PAYLOAD-TRAILER"), (501, "NotImplemented")),
        (payload(X, service="sqs", presigned=False), (200, X)),
        (payload("UNSIGNED-PAYLOAD", service="sqs", presigned=False), (403, "InvalidSignatureException")),
        (payload(EMPTY_HASH, service="sqs", presigned=False), (403, "InvalidSignatureException")),
        (payload(X, service="sqs", presigned=True), (200, X)),
        (Plan("sqs", body=b"x", presigned=True), (403, "InvalidSignatureException")),
        (Plan("s3", body=b"x", presigned=True), (200, "UNSIGNED-PAYLOAD")),
    ],
)
def test_content_hash_header_is_checked_against_the_body(
    server: Emulator, plan: Plan, expected: tuple[int, str]
) -> None:
    reply = ask(server, plan)
    assert ((200, reply.json["payload"]) if reply.status == 200 else error_code(reply)) == expected


def test_unsigned_payload_is_accepted_in_the_header_form(server: Emulator) -> None:
    # Unless the service is named s3, botocore keeps an existing header.
    plan = Plan("s3-outposts", headers=(("X-Amz-Content-SHA256", "UNSIGNED-PAYLOAD"),))
    made = plan.signed(server)
    assert send(server, replace(made, body=b"anything")).json["payload"] == "UNSIGNED-PAYLOAD"


def test_head_request_gets_no_body(server: Emulator) -> None:
    text = Plan(method="HEAD").signed(server).to_bytes()
    with connect(server) as connection:
        connection.sendall(text + text.replace(b"HEAD", b"POST"))
        received = b""
        while received.count(b"HTTP/1.1") < 2 or b"</Error>" not in received:
            received += connection.recv(65536)
    first, _, rest = received.partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 200 OK\r\n")
    assert rest.startswith(b"HTTP/1.1 403 Forbidden\r\n")


def chunked(made: Request) -> bytes:
    head = "".join(f"{name}: {value}\r\n" for name, value in made.headers)
    body = b"".join(b"1\r\n%c\r\n" % byte for byte in made.body) + b"0\r\n\r\n"
    return f"{made.method} {made.target} HTTP/1.1\r\n{head}Transfer-Encoding: chunked\r\n\r\n".encode() + body


def test_chunked_body_is_hashed(server: Emulator) -> None:
    plan = Plan("execute-api", body=b"hello")
    assert send(server, chunked(plan.signed(server))).json["bodySha256"] == hashlib.sha256(b"hello").hexdigest()
    assert send(server, chunked(replace(plan.signed(server), body=b"hallo"))).status == 403


def test_s3_refuses_chunked_bodies(server: Emulator) -> None:
    reply = send(server, chunked(Plan(body=b"hello").signed(server)))
    assert error_code(reply) == (501, "NotImplemented")
    assert b"Transfer-Encoding" in reply.body


@pytest.mark.parametrize("presigned", [False, True])
@pytest.mark.parametrize("service", ["s3", "kms"])
def test_credentials_of_create_session_are_accepted(
    emulator: Emulator, caller: Caller, service: str, presigned: bool
) -> None:
    reply = ask(
        emulator, Plan(service, credentials=credentials_of(create_session(emulator, caller)), presigned=presigned)
    )
    assert ":assumed-role/hwsigner-demo/" in reply.json["arn"]


@pytest.mark.parametrize(
    ("service", "expected"),
    [("s3", (400, "ExpiredToken")), ("kms", (403, "ExpiredTokenException")), ("sts", (403, "ExpiredToken"))],
)
def test_credentials_of_create_session_expire(
    ca: Authority, caller: Caller, service: str, expected: tuple[int, str]
) -> None:
    now = [datetime.now(UTC) - timedelta(seconds=901)]
    with Emulator(World.simple(ca.pem), clock=lambda: now[0]) as emulator:
        reply = create_session(emulator, caller, body=b'{"durationSeconds":900}', date=f"{now[0]:%Y%m%dT%H%M%SZ}")
        now[0] = datetime.now(UTC)
        assert error_code(ask(emulator, Plan(service, credentials=credentials_of(reply)))) == expected


def test_added_credentials_replace_those_with_the_same_id(server: Emulator) -> None:
    server.add_credentials("REPLACED", "first", "token")
    server.add_credentials("REPLACED", "second")
    assert ask(server, Plan(credentials=Credentials("REPLACED", "second"))).status == 200
    assert error_code(ask(server, Plan(credentials=Credentials("REPLACED", "first")))) == (403, "SignatureDoesNotMatch")


@pytest.mark.parametrize(
    "given",
    [
        ("", "secret"),
        ("A/B", "secret"),
        ("A" * 129, "secret"),
        ("A", ""),
        ("A", "a b"),
        ("A", "s", ""),
        ("A", "s", "é"),
    ],
)
def test_added_credentials_are_refused_when_no_request_can_carry_them(server: Emulator, given: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        server.add_credentials(*given)
    assert "secret" not in caught.value.message.replace("the secret or", "")


def test_get_caller_identity_knows_added_credentials(server: Emulator) -> None:
    form = (("Content-Type", "application/x-www-form-urlencoded"),)
    body = b"Action=GetCallerIdentity&Version=2011-06-15"
    reply = ask(server, Plan("sts", "POST", "/", form, body, USER))
    assert b"<Arn>arn:aws:iam::123456789012:user/AKIDEXAMPLE</Arn>" in reply.body
    with connect(server) as connection:
        connection.sendall(Plan("sns", "POST", "/", form, b"Action=ListTopics", USER).signed(server).to_bytes())
        assert read_reply(connection).json["service"] == "sns"
