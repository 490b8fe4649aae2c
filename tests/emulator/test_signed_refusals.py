"""Requests that are changed after signing, or signed against AWS's rules, are refused with a specific reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from botocore.credentials import Credentials

from emulator.client import Request, send
from emulator.signing import (
    PLAN,
    PRESIGNED,
    SESSION,
    USER,
    Edit,
    Plan,
    add_credentials,
    ask,
    authorization,
    error_code,
    header,
    more,
    query,
    without,
)
from emulator.test_rates import Clock
from hwsigner.emulator import Emulator, World


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(clock: Clock) -> Iterator[Emulator]:
    with Emulator(World(), clock=clock) as running:
        yield add_credentials(running)


def authorization_twice(made: Request) -> Request:
    return replace(made, headers=(*made.headers, ("Authorization", dict(made.headers)["Authorization"])))


def another_second(made: Request) -> Request:
    """Change only the seconds of the date, so that the day stays the same."""
    date = dict(made.headers)["X-Amz-Date"]
    return header("X-Amz-Date", f"{date[:-3]}{(int(date[-3:-1]) + 30) % 60:02}Z")(made)


def scope_date(made: Request) -> Request:
    date = dict(made.headers)["X-Amz-Date"]
    return authorization(f"/{date[:8]}/", "/20200101/")(made)


MISMATCH = ("SignatureDoesNotMatch", "InvalidSignatureException", "not the HMAC of the string to sign")
UNKNOWN = "UnrecognizedClientException"
LACKS = ("AccessDenied", "InvalidSignatureException")
FORM = ("AuthorizationHeaderMalformed", "IncompleteSignatureException")
SCOPE = ("AuthorizationHeaderMalformed", "InvalidSignatureException")
# The change, the error code of S3, that of other services, and words of the reason.
CHANGED: dict[str, tuple[Edit, str, str, str]] = {
    "method": (lambda made: replace(made, method="POST"), *MISMATCH),
    "path": (query("/bucket/key", "/bucket/other"), *MISMATCH),
    "query value": (query("a=b", "a=c"), *MISMATCH),
    "query grown": (query("a=b", "a=b&c="), *MISMATCH),
    "query gone": (query("?a=b", ""), *MISMATCH),
    "header": (header("x-amz-meta-a", "two"), *MISMATCH),
    "header twice": (more("x-amz-meta-a", "one"), *MISMATCH),
    "content type": (header("Content-Type", "text/html"), *MISMATCH),
    "host": (header("Host", "elsewhere"), *MISMATCH),
    "seconds": (another_second, *MISMATCH),
    "region": (authorization("/eu-central-1/", "/eu-central-2/"), *MISMATCH),
    "another host too": (more("Host", "elsewhere"), *LACKS, "Host is missing, or given twice"),
    "no host": (without("Host"), *LACKS, "Host is missing, or given twice"),
    "one more x-amz-": (more("x-amz-acl", "public-read"), *LACKS, "lacks x-amz-acl"),
    "x-amz- not signed": (authorization(";x-amz-meta-a", ""), *LACKS, "lacks x-amz-meta-a"),
    "host not signed": (authorization("host;", ""), *LACKS, "lacks host"),
    "content type not signed": (authorization("content-type;", ""), *LACKS, "lacks content-type"),
    "content-md5 not signed": (more("Content-MD5", "x"), *LACKS, "lacks content-md5"),
    "token not signed": (authorization(";x-amz-security-token", ""), *LACKS, "lacks x-amz-security-token"),
    "header gone": (without("x-amz-meta-a"), *SCOPE, "names x-amz-meta-a, which was not sent"),
    "names out of order": (authorization("content-type;host", "host;content-type"), *SCOPE, "not sorted"),
    "a name twice": (authorization("host;", "host;host;"), *SCOPE, "repeats a name"),
    "a name in capitals": (authorization("content-type", "Content-Type"), *SCOPE, "not lower-case"),
    "no region": (authorization("/eu-central-1/", "/nowhere/"), *SCOPE, "valid region"),
    "date of the scope": (scope_date, *SCOPE, "the scope's date 20200101"),
    "no date": (without("X-Amz-Date"), "AccessDenied", "IncompleteSignatureException", "YYYYMMDDTHHMMSSZ"),
    "another form of date": (
        header("X-Amz-Date", "2025-01-01T00:00:00Z"), "AccessDenied", "IncompleteSignatureException", "X-Amz-Date",
    ),
    "algorithm": (
        authorization("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1"), "InvalidRequest", "InvalidSignatureException",
        "AWS4-HMAC-SHA1 is not AWS4-HMAC-SHA256",
    ),
    "form": (authorization("Credential=", "Cred="), *FORM, "Authorization is not"),
    "scope's end": (authorization("/aws4_request", "/aws4_request/x"), *FORM, "Credential is not"),
    "two authorizations": (authorization_twice, *FORM, "Authorization is not"),
    "both forms": (
        query("a=b", "a=b&X-Amz-Signature=00"), "InvalidArgument", "IncompleteSignatureException", "both in",
    ),
    "key id": (authorization("=ASIDEXAMPLE", "=ASIDEXAMPLES"), "InvalidAccessKeyId", UNKNOWN, "is unknown"),
    "another's key id": (authorization("=ASIDEXAMPLE", "=AKIDEXAMPLE"), "InvalidToken", UNKNOWN, "does not belong to"),
    "token": (header("X-Amz-Security-Token", "other"), "InvalidToken", UNKNOWN, "does not belong to the access key ID"),
    "no token": (without("X-Amz-Security-Token"), "InvalidAccessKeyId", UNKNOWN, "token is missing"),
    "token twice": (more("x-amz-security-token", str(SESSION.token)), "InvalidAccessKeyId", UNKNOWN, "given twice"),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGED)
@pytest.mark.parametrize("service", ["s3", "dynamodb"])
def test_header_signed_request_is_refused_when_changed(server: Emulator, service: str, case: str) -> None:
    edit, s3_code, json_code, words = CHANGED[case]
    reply = send(server, edit(replace(PLAN, service=service).signed(server)))
    record = server.requests[-1]
    assert (record.answer_type, record.status) == error_code(reply)[::-1]
    assert record.answer_type == (s3_code if service == "s3" else json_code)
    assert words in record.reason
    assert record.status in (400, 403)
    assert not record.accepted


@pytest.mark.parametrize(("minutes", "words"), [(6, "Signature expired"), (-6, "not yet current")])
@pytest.mark.parametrize(
    ("service", "code"),
    [("s3", "RequestTimeTooSkewed"), ("dynamodb", "InvalidSignatureException"), ("sts", "SignatureDoesNotMatch")],
)
def test_request_is_refused_when_clocks_differ(
    server: Emulator, clock: Clock, service: str, code: str, minutes: int, words: str
) -> None:
    made = replace(PLAN, service=service).signed(server)
    clock.now += timedelta(minutes=minutes)
    assert error_code(send(server, made)) == (403, code)
    assert words in server.requests[-1].reason


QUERY_ERROR = "AuthorizationQueryParametersError"
LACKS_PARAMETER = (QUERY_ERROR, "IncompleteSignatureException")
CHANGED_URL: dict[str, tuple[Edit, str, str, str]] = {
    "method": (lambda made: replace(made, method="GET"), *MISMATCH),
    "path": (query("/bucket/key", "/bucket/other"), *MISMATCH),
    "query": (query("a=b", "a=c"), *MISMATCH),
    "query grown": (lambda made: replace(made, target=made.target + "&c=d"), *MISMATCH),
    "header": (header("x-amz-meta-a", "two"), *MISMATCH),
    "host": (header("Host", "elsewhere"), *MISMATCH),
    "a longer life": (query("X-Amz-Expires=300", "X-Amz-Expires=301"), *MISMATCH),
    "one more x-amz-": (more("x-amz-acl", "public-read"), *LACKS, "lacks x-amz-acl"),
    "a hash not signed": (more("x-amz-content-sha256", "UNSIGNED-PAYLOAD"), "AccessDenied", SCOPE[1], "content-sha256"),
    "header gone": (without("x-amz-meta-a"), QUERY_ERROR, SCOPE[1], "names x-amz-meta-a, which was not sent"),
    "no life": (query("X-Amz-Expires=300", "X-Amz-Expires=0"), *LACKS_PARAMETER, "from 1 to 604800"),
    "too long a life": (query("X-Amz-Expires=300", "X-Amz-Expires=604801"), *LACKS_PARAMETER, "from 1 to 604800"),
    "a negative life": (query("X-Amz-Expires=300", "X-Amz-Expires=-1"), *LACKS_PARAMETER, "from 1 to 604800"),
    "a life twice": (query("X-Amz-Expires=300", "X-Amz-Expires=300&X-Amz-Expires=300"), *LACKS_PARAMETER, "twice"),
    "no life at all": (query("X-Amz-Expires=300&", ""), *LACKS_PARAMETER, "lacks X-Amz-Expires"),
    "no date": (query("X-Amz-Date", "X-Amz-Day"), *LACKS_PARAMETER, "lacks X-Amz-Date"),
    "another form of date": (query("X-Amz-Date=", "X-Amz-Date=x"), *LACKS_PARAMETER, "X-Amz-Date is not"),
    "no signature": (query("X-Amz-Signature", "x-amz-signature"), *LACKS_PARAMETER, "lacks X-Amz-Signature"),
    "a signature in capitals": (query("X-Amz-Signature=", "X-Amz-Signature=AA"), *LACKS_PARAMETER, "lower-case"),
    "form of the credential": (query("%2Faws4_request", ""), FORM[1], FORM[1], "Credential is not"),
    "algorithm": (
        query("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"), "InvalidRequest", SCOPE[1], "is not AWS4-HMAC",
    ),
    "key id": (query("=ASIDEXAMPLE", "=ASIDEXAMPLES"), "InvalidAccessKeyId", UNKNOWN, "is unknown"),
    "token": (query("X-Amz-Security-Token=", "X-Amz-Security-Token=x"), "InvalidToken", UNKNOWN, "does not belong to"),
    "token gone": (query("X-Amz-Security-Token=", "other="), "InvalidAccessKeyId", UNKNOWN, "token is missing"),
    "token in a header": (
        more("X-Amz-Security-Token", str(SESSION.token)), "InvalidArgument", FORM[1], "session token in the query",
    ),
    "both forms": (
        more("Authorization", "AWS4-HMAC-SHA256 x"), "InvalidArgument", "IncompleteSignatureException", "both in",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGED_URL)
@pytest.mark.parametrize("service", ["s3", "dynamodb"])
def test_presigned_url_is_refused_when_changed(server: Emulator, service: str, case: str) -> None:
    edit, s3_code, json_code, words = CHANGED_URL[case]
    reply = send(server, edit(replace(PRESIGNED, service=service).signed(server)))
    record = server.requests[-1]
    assert (record.answer_type, record.status) == error_code(reply)[::-1]
    assert record.answer_type == (s3_code if service == "s3" else json_code)
    assert words in record.reason
    assert record.status in (400, 403)


@pytest.mark.parametrize("presigned", [False, True])
@pytest.mark.parametrize("service", ["s3", "dynamodb", "sts"])
def test_wrong_secret_is_refused(server: Emulator, service: str, presigned: bool) -> None:
    wrong = Credentials(SESSION.access_key, f"{SESSION.secret_key}x", SESSION.token)
    reply = ask(server, Plan(service, credentials=wrong, presigned=presigned))
    code = "InvalidSignatureException" if service == "dynamodb" else "SignatureDoesNotMatch"
    assert error_code(reply) == (403, code)


@pytest.mark.parametrize(
    ("expires", "offset", "message"),
    [
        (300, 300, ""),
        (300, 301, "Request has expired"),
        (1, 2, "Request has expired"),
        (604800, 604800, ""),
        (604800, 604801, "Request has expired"),
        (300, -300, ""),
        (300, -301, "Request is not yet valid"),
    ],
)
def test_presigned_url_is_accepted_only_within_its_life(
    server: Emulator, clock: Clock, expires: int, offset: int, message: str
) -> None:
    for service in ("s3", "dynamodb"):
        made = replace(PRESIGNED, service=service, expires=expires).signed(server)
        date = made.target.partition("X-Amz-Date=")[2].partition("&")[0]
        clock.now = datetime.strptime(date, "%Y%m%dT%H%M%S%z") + timedelta(seconds=offset)
        reply = send(server, made)
        if not message:
            assert reply.status == 200
        elif service == "s3":
            assert error_code(reply) == (403, "AccessDenied")
            assert message in reply.body.decode()
        else:
            assert error_code(reply) == (403, "InvalidSignatureException")


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        (without("X-Amz-Content-SHA256"), "InvalidRequest"),
        (more("X-Amz-Content-SHA256", "UNSIGNED-PAYLOAD"), "InvalidRequest"),
        (header("X-Amz-Content-SHA256", "e3b0"), "InvalidArgument"),
        (header("X-Amz-Content-SHA256", "UNSIGNED-PAYLOAD"), "SignatureDoesNotMatch"),
        (lambda made: replace(made, body=b"Body"), "XAmzContentSHA256Mismatch"),
        (lambda made: replace(made, body=b""), "XAmzContentSHA256Mismatch"),
    ],
)
def test_s3_requires_a_valid_content_hash(server: Emulator, edit: Edit, code: str) -> None:
    assert error_code(send(server, edit(PLAN.signed(server))))[1] == code


@pytest.mark.parametrize("presigned", [False, True])
def test_session_token_is_refused_when_the_credentials_have_none(server: Emulator, presigned: bool) -> None:
    user = Credentials(USER.access_key, USER.secret_key, "token")
    assert error_code(ask(server, Plan(credentials=user, presigned=presigned))) == (400, "InvalidToken")


def test_basic_authentication_is_refused(server: Emulator) -> None:
    made = Request("GET", "/bucket/key", (("Host", "x"), ("Authorization", "Basic dXNlcjpwYXNz")))
    assert error_code(send(server, made)) == (400, "IncompleteSignatureException")


def test_wrong_content_hash_is_refused_by_other_services(server: Emulator) -> None:
    made = replace(PLAN, service="dynamodb", headers=(("X-Amz-Content-SHA256", "UNSIGNED-PAYLOAD"),)).signed(server)
    assert error_code(send(server, made)) == (403, "InvalidSignatureException")
    assert server.requests[-1].reason == "x-amz-content-sha256 is not the SHA-256 of the body, or is given twice"


def test_plus_in_a_session_token_is_a_space_for_s3_only(server: Emulator) -> None:
    for service, expected in (("s3", (400, "InvalidToken")), ("dynamodb", None)):
        reply = send(server, query("%2B", "+")(replace(PRESIGNED, service=service).signed(server)))
        assert (None if reply.status == 200 else error_code(reply)) == expected
