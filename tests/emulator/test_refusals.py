"""CreateSession: each request has one error that no question has, and is refused for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from certs import Authority, issue
from emulator.client import Caller, Draft, Request, create_session, draft, send
from emulator.material import authority
from hwsigner.emulator import Emulator

REGION = "us-east-1"
PREFIX = f"arn:aws:rolesanywhere:{REGION}:123456789012"
NO_ID = "99999999-9999-4999-8999-999999999999"


def body(**members: Any) -> Callable[[Draft], Draft]:
    return lambda made: replace(made, body=json.dumps(members).encode())


def raw(text: bytes) -> Callable[[Draft], Draft]:
    return lambda made: replace(made, body=text)


def change(**fields: Any) -> Callable[[Draft], Draft]:
    return lambda made: replace(made, **fields)


def arn(name: str, value: str | None) -> Callable[[Draft], Draft]:
    def edit(made: Draft) -> Draft:
        arns = {key: text for key, text in made.arns.items() if key != name}
        return replace(made, arns=arns if value is None else {**arns, name: value})

    return edit


def query(edit: Callable[[str], str]) -> Callable[[Draft], Draft]:
    return lambda made: replace(made, query=edit(made.target.partition("?")[2]))


def at(offset: timedelta, fmt: str = "%Y%m%dT%H%M%SZ") -> Callable[[Draft], Draft]:
    return lambda made: replace(made, date=(datetime.now(UTC) + offset).strftime(fmt))


INVALID = {
    "another content type": (change(content_type="text/plain"), "Content-Type"),
    "an empty body": (raw(b""), "body is empty"),
    "a body that is no JSON": (raw(b"{"), "not JSON"),
    "a member named twice": (raw(b'{"durationSeconds":900,"durationSeconds":901}'), "twice"),
    "a body that is a list": (raw(b"[1]"), "not a JSON object"),
    "a body nested too deep": (raw(b"[" * 100000), "not JSON"),
    "a duration below the least": (body(durationSeconds=899), "durationSeconds"),
    "a duration above the most": (body(durationSeconds=43201), "durationSeconds"),
    "a duration that is a fraction": (body(durationSeconds=3600.0), "durationSeconds"),
    "a duration that is true": (body(durationSeconds=True), "durationSeconds"),
    "a duration that is null": (body(durationSeconds=None), "durationSeconds"),
    "a session name too long": (body(roleSessionName="a" * 65), "roleSessionName"),
    "a session name with a space": (body(roleSessionName="a b"), "roleSessionName"),
    "a session name with an umlaut": (body(roleSessionName="zwölf"), "roleSessionName"),
    "a session name with a newline": (body(roleSessionName="ab\n"), "roleSessionName"),
    "a session name that is a number": (body(roleSessionName=12), "roleSessionName"),
    "properties that are a list": (body(instanceProperties=[]), "instanceProperties"),
    "51 properties": (body(instanceProperties={str(n): "v" for n in range(51)}), "more than 50"),
    "a property without a name": (body(instanceProperties={"": "v"}), "1 to 200"),
    "a property with a long value": (body(instanceProperties={"a": "v" * 201}), "1 to 200"),
    "a property that is a number": (body(instanceProperties={"a": 1}), "1 to 200"),
    "an ARN that is a number": (
        lambda made: body(roleArn=1)(arn("roleArn", None)(made)),
        "roleArn is not a string",
    ),
    "no role": (arn("roleArn", None), "roleArn is missing"),
    "a malformed trust anchor": (arn("trustAnchorArn", f"{PREFIX}:trust-anchor/x"), "trustAnchorArn is not"),
    "a profile for a trust anchor": (arn("trustAnchorArn", f"{PREFIX}:profile/{NO_ID}"), "trustAnchorArn is not"),
    "a user for a role": (arn("roleArn", "arn:aws:iam::123456789012:user/x"), "roleArn is not"),
    "a role with a region": (arn("roleArn", "arn:aws:iam:us-east-1:123456789012:role/x"), "roleArn is not"),
    "a role with a newline": (arn("roleArn", "arn:aws:iam::123456789012:role/x\n"), "roleArn is not"),
    "an account too short": (arn("roleArn", "arn:aws:iam::12345678901:role/x"), "roleArn is not"),
    "another service": (arn("profileArn", f"arn:aws:iam:us-east-1:123456789012:profile/{NO_ID}"), "profileArn is not"),
    "a role of another partition": (arn("roleArn", "arn:aws-cn:iam::123456789012:role/x"), "partition"),
    "a profile of another region": (
        arn("profileArn", f"arn:aws:rolesanywhere:eu-west-1:123456789012:profile/{NO_ID}"),
        "region",
    ),
    "ARNs not percent-encoded": (query(lambda text: text.replace("%3A", ":")), "percent-encoded"),
    "an ARN given twice": (query(lambda text: f"{text}&{text}"), "twice"),
    "an ARN that differs in the body": (body(roleArn="arn:aws:iam::123456789012:role/x"), "differs"),
    "a certificate that is not base64": (change(certificate_text="*"), "X-Amz-X509 is not"),
    "a certificate that is not DER": (change(certificate_text="AAAA"), "X-Amz-X509 is not"),
    "a chain that is not base64": (change(chain_text="AAA*"), "X-Amz-X509-Chain is not"),
    "a chain with an empty item": (change(chain_text=","), "X-Amz-X509-Chain is not"),
}


@pytest.mark.parametrize("case", INVALID)
def test_malformed_request_is_refused(emulator: Emulator, caller: Caller, case: str) -> None:
    edit, words = INVALID[case]
    reply = send(emulator, edit(draft(emulator, caller)).signed())
    assert (reply.status, reply.headers["x-amzn-errortype"]) == (400, "ValidationException")
    assert words in reply.json["message"]
    assert not emulator.requests[0].accepted


INVALID_SIGNATURES: dict[str, tuple[Callable[[Draft], Draft], str]] = {
    "an unknown algorithm": (change(algorithm="AWS4-X509-ED25519"), "is not one of"),
    "another service in the scope": (change(service="sts"), "service is sts"),
    "another region in the scope": (change(region="eu-west-1"), "region is eu-west-1"),
    "a date that does not exist": (change(date="20251301T000000Z"), "YYYYMMDDTHHMMSSZ"),
    "headers out of order": (change(names=lambda names: names[::-1]), "not sorted"),
    "a signature cut short": (change(signature=lambda text: text[:-2]), "does not verify"),
    "a signature with a byte too many": (change(signature=lambda text: text + "00"), "does not verify"),
}


@pytest.mark.parametrize("case", INVALID_SIGNATURES)
@pytest.mark.parametrize("kind", ["P-256", "RSA-2048", "ML-DSA-44"])
def test_wrong_signature_is_refused_with_its_reason(
    emulator: Emulator, callers: dict[str, Caller], case: str, kind: str
) -> None:
    edit, words = INVALID_SIGNATURES[case]
    reply = send(emulator, edit(draft(emulator, callers[kind])).signed())
    assert_invalid_signature(emulator, reply, words)


def assert_invalid_signature(emulator: Emulator, reply: Any, words: str) -> None:
    assert (reply.status, reply.headers["x-amzn-errortype"]) == (403, "AccessDeniedException")
    assert reply.json == {"message": "Invalid signature"}
    assert words in emulator.requests[0].reason


@pytest.mark.parametrize(
    "header", ["host", "content-type", "x-amz-date", "x-amz-x509", "x-amz-x509-chain", "x-amz-new"]
)
def test_request_is_refused_when_a_required_header_is_not_signed(
    emulator: Emulator, ca: Authority, caller: Caller, header: str
) -> None:
    below = below_intermediate(ca, caller)
    made = draft(emulator, below, unsigned=frozenset({header}), extra=(("X-Amz-New", "1"),))
    reply = send(emulator, made.signed())
    assert_invalid_signature(emulator, reply, f"lacks {header}")
    assert emulator.requests[0].findings == [f"missingSignedHeaders: {header}"]


def below_intermediate(ca: Authority, caller: Caller) -> Caller:
    middle = authority(issuer=ca)
    return Caller(caller.key, issue(middle, caller.key.public_key()), (middle.certificate,))


def another_second(date: str) -> str:
    """Change only the seconds of a date, so that the day stays the same."""
    return f"{date[:-3]}{(int(date[-3:-1]) + 9) % 60:02}Z"


TAMPERED: dict[str, Callable[[Request], Request]] = {
    "body": lambda made: replace(made, body=b'{"durationSeconds":3601}'),
    "query": lambda made: replace(made, target=made.target + "&x=1"),
    "host": lambda made: made.with_header("Host", "elsewhere"),
    "content type": lambda made: made.with_header("Content-Type", "application/json; charset=utf-8"),
    "date": lambda made: made.with_header("X-Amz-Date", another_second(dict(made.headers)["X-Amz-Date"])),
}


@pytest.mark.parametrize("case", TAMPERED)
@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521", "RSA-2048", "ML-DSA-44", "ML-DSA-65", "ML-DSA-87"])
def test_request_is_refused_when_changed_after_signing(
    emulator: Emulator, callers: dict[str, Caller], case: str, kind: str
) -> None:
    reply = send(emulator, TAMPERED[case](draft(emulator, callers[kind]).signed()))
    assert_invalid_signature(emulator, reply, "does not verify")
    assert emulator.requests[0].canonical_request


@pytest.mark.parametrize("kind", ["P-256", "RSA-2048", "ML-DSA-44"])
def test_request_is_refused_when_the_algorithm_does_not_fit_the_key(
    emulator: Emulator, callers: dict[str, Caller], kind: str
) -> None:
    wrong = "AWS4-X509-RSA-SHA256" if kind != "RSA-2048" else "AWS4-X509-ECDSA-SHA256"
    reply = create_session(emulator, callers[kind], algorithm=wrong)
    assert_invalid_signature(emulator, reply, "not the algorithm of the certificate's key")
    assert emulator.requests[0].findings == ["algorithmMismatch"]


def test_request_without_authorization_is_refused(emulator: Emulator, caller: Caller) -> None:
    reply = send(emulator, draft(emulator, caller).signed().without("Authorization"))
    assert (reply.status, reply.headers["x-amzn-errortype"]) == (403, "MissingAuthenticationTokenException")


@pytest.mark.parametrize("header", ["X-Amz-X509", "X-Amz-X509-Chain"])
def test_request_is_refused_when_the_certificate_header_is_repeated(
    emulator: Emulator, ca: Authority, caller: Caller, header: str
) -> None:
    made = draft(emulator, below_intermediate(ca, caller))
    text = dict(made.headers())[header]
    reply = send(emulator, replace(made, extra=((header, text),)).signed())
    assert reply.status == 400
    assert f"{header} is" in reply.json["message"]


def test_request_without_a_certificate_is_refused(emulator: Emulator, caller: Caller) -> None:
    reply = send(emulator, draft(emulator, caller).signed().without("X-Amz-X509"))
    assert (reply.status, reply.json["message"]) == (400, "X-Amz-X509 is missing, or given twice")


def test_empty_body_is_recorded_as_a_finding(emulator: Emulator, caller: Caller) -> None:
    create_session(emulator, caller, body=b"")
    assert emulator.requests[0].findings == ["postEmptyBody"]


@pytest.mark.parametrize("target", ["/", "/sessions/", "//sessions", "/%73essions", "/other", "http://h/sessions"])
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_other_paths_and_methods_are_refused(emulator: Emulator, target: str, method: str) -> None:
    reply = send(emulator, Request(method, target, (("Host", "x"),)))
    assert (reply.status, reply.headers["x-amzn-errortype"]) == (404, "UnknownOperationException")
