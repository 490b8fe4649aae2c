"""CreateSession: each attempt is dated and signed again, with growing random pauses, within one time limit.

Errors for responses without credentials name the usual cause and the request ID, without control characters.
"""

from __future__ import annotations

import http.client
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

import certs
from emulator.material import DAY, Form, authority, certificate
from hwsigner._aws.create_session import (
    Service,
    SessionRequest,
    build_request,
    create_session,
    find_service,
    is_from_service,
    service_error,
)
from hwsigner._http import defaults
from hwsigner._http.tls import TrustedCAs
from hwsigner._http.transport import Response, TransportOptions
from hwsigner._identity import Identity, IdentitySource, open_identity
from hwsigner._identity.certificate import Certificate, Chain
from hwsigner.emulator import Emulator, Fault, World
from hwsigner.errors import ConfigError, ServiceError, ServiceUnreachableError, UsageError

NOW = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP256R1())
UNTRUSTED, INSUFFICIENT = "Untrusted signing certificate", "Untrusted certificate. Insufficient certificate"
ELSEWHERE = x509.NameConstraints(
    [x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.COUNTRY_NAME, "FR")]))], None
)
EXPIRED = {"begin": -2 * DAY, "end": -DAY}


@dataclass
class FakeClock:
    """A clock that starts at the real time and advances only by sleeping."""

    slept: list[float] = field(default_factory=list)
    start: datetime = field(default_factory=lambda: datetime.now(UTC))

    def now(self) -> datetime:
        return self.start + timedelta(seconds=sum(self.slept))

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def emulator(ca: certs.Authority, clock: FakeClock) -> Iterator[Emulator]:
    with Emulator(World.simple(ca.certificate), clock=clock.now) as emulator:
        yield emulator


@pytest.fixture
def identity(ca: certs.Authority, tmp_path: Path) -> Iterator[Identity]:
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = tmp_path / "leaf.pem"
    leaf.write_bytes(certs.pem(certs.issue(ca, key.public_key())))
    with open_identity(IdentitySource(str(leaf), str(certs.write_key(tmp_path / "key", key)))) as identity:
        yield identity


@pytest.fixture
def request_(emulator: Emulator) -> SessionRequest:
    return SessionRequest(emulator.trust_anchor_arn, emulator.profile_arn, emulator.role_arn)


@pytest.fixture
def service(emulator: Emulator) -> Service:
    return find_service("us-east-1", endpoint=emulator.url, environ={})


def header(emulator: Emulator, name: str) -> list[str]:
    return [dict(record.headers)[name] for record in emulator.requests]


class TestAttempts:
    def test_session_gives_credentials_for_the_role(
        self, identity: Identity, request_: SessionRequest, service: Service, emulator: Emulator
    ) -> None:
        credentials = create_session(identity, request_, service)
        assert credentials.role_arn == emulator.role_arn
        assert ":assumed-role/hwsigner-demo/" in credentials.assumed_role_arn
        assert credentials.secret_access_key not in repr(credentials)

    def test_each_attempt_is_dated_and_signed_again(
        self, identity: Identity, request_: SessionRequest, service: Service, emulator: Emulator, clock: FakeClock
    ) -> None:
        emulator.misbehave(Fault("throttle", 2, retry_after="7"))
        create_session(identity, request_, service, now=clock.now, sleep=clock.sleep)
        dates = [datetime.strptime(date, "%Y%m%dT%H%M%S%z") for date in header(emulator, "X-Amz-Date")]
        assert [later - earlier for earlier, later in itertools.pairwise(dates)] == [timedelta(seconds=7)] * 2
        assert all(record.accepted for record in emulator.requests)
        assert len(set(header(emulator, "Authorization"))) == 3

    @pytest.mark.slow
    def test_pauses_are_random_below_a_growing_limit(
        self, identity: Identity, request_: SessionRequest, service: Service, emulator: Emulator
    ) -> None:
        emulator.misbehave(Fault("fail", None))
        patient = service._replace(max_attempts=6)
        pauses: list[list[float]] = []
        for _ in range(30):
            clock = FakeClock()
            with pytest.raises(ServiceError):
                create_session(identity, request_, patient, sleep=clock.sleep)
            pauses.append(clock.slept)
        for number, column in enumerate(zip(*pauses, strict=True)):
            bound = min(8.0, 0.5 * 2**number)
            assert all(0 <= pause <= bound for pause in column)
            # Spread over the whole range: the chance that 30 draws miss a half is 1 in 10^8.
            assert min(column) < bound / 2 < max(column)

    def test_retry_waits_as_long_as_the_service_asks(
        self, identity: Identity, request_: SessionRequest, service: Service, emulator: Emulator, clock: FakeClock
    ) -> None:
        emulator.misbehave(Fault("throttle", retry_after="9"))
        create_session(identity, request_, service, now=clock.now, sleep=clock.sleep)
        assert clock.slept == [9.0]

    def test_no_retry_when_the_service_asks_to_wait_past_the_time_limit(
        self, identity: Identity, request_: SessionRequest, service: Service, emulator: Emulator, clock: FakeClock
    ) -> None:
        emulator.misbehave(Fault("throttle", None, retry_after="61"))
        with pytest.raises(ServiceError, match="ThrottlingException"):
            create_session(identity, request_, service, sleep=clock.sleep)
        assert clock.slept == []
        assert len(emulator.requests) == 1

    @pytest.mark.parametrize("attempts", [1, 2, 5])
    def test_number_of_attempts_is_limited(
        self, identity: Identity, request_: SessionRequest, service: Service, emulator: Emulator, attempts: int
    ) -> None:
        emulator.misbehave(Fault("close", None))
        with pytest.raises(ServiceUnreachableError):
            create_session(identity, request_, service._replace(max_attempts=attempts), sleep=lambda seconds: None)
        assert len(emulator.requests) == attempts

    def test_unreadable_ca_file_is_reported_before_the_key_signs(
        self, identity: Identity, request_: SessionRequest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def sign(*arguments: object) -> bytes:
            raise AssertionError("the key was used")

        monkeypatch.setattr(identity, "sign", sign)
        service = find_service("us-east-1", environ={"AWS_CA_BUNDLE": "/nonexistent.pem"})
        with pytest.raises(ConfigError, match="/nonexistent"):
            create_session(identity, request_, service)


class TestService:
    def test_defaults_are_those_of_the_flags(self) -> None:
        service = find_service("eu-central-1", environ={})
        assert service.endpoint.url == "https://rolesanywhere.eu-central-1.amazonaws.com/sessions"
        assert (service.timeout, service.max_attempts) == (defaults.TIMEOUT, defaults.MAX_ATTEMPTS)
        assert vars(service.transport) == vars(TransportOptions(cas=service.transport.cas))
        assert isinstance(service.transport.cas, TrustedCAs)

    @pytest.mark.parametrize(("text", "attempts"), [("", 3), ("1", 1), (" 7 ", 7), ("999999", 999_999)])
    def test_max_attempts_comes_from_the_environment(self, text: str, attempts: int) -> None:
        assert find_service("us-east-1", environ={"AWS_MAX_ATTEMPTS": text}).max_attempts == attempts

    @pytest.mark.parametrize("text", ["0", "-1", "three", "1.5", "٣", "9" * 5000])
    def test_invalid_max_attempts_is_a_usage_error(self, text: str) -> None:
        with pytest.raises(UsageError, match="AWS_MAX_ATTEMPTS"):
            find_service("us-east-1", environ={"AWS_MAX_ATTEMPTS": text})


def test_request_is_as_the_service_documents_it() -> None:
    endpoint = find_service("us-east-1", environ={}).endpoint
    request = build_request(SessionRequest("arn:ta", "arn:p", "arn:r/x", 900, "name", {"k": "v"}), endpoint)
    assert request.method == "POST"
    assert request.target == "/sessions?profileArn=arn%3Ap&roleArn=arn%3Ar%2Fx&trustAnchorArn=arn%3Ata"
    assert request.body == b'{"durationSeconds":900,"roleSessionName":"name","instanceProperties":{"k":"v"}}'
    headers = dict(request.headers)
    assert headers["Host"] == "rolesanywhere.us-east-1.amazonaws.com"
    assert headers["Content-Type"] == "application/json"


def response(status: int = 403, body: object = b"", **headers: str) -> Response:
    """Return a response. Underscores in the names of headers stand for dashes."""
    message = http.client.HTTPMessage()
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    return Response(status, message, body if isinstance(body, bytes) else json.dumps(body).encode())


def error_for(status: int = 403, body: object = b"", **headers: str) -> ServiceError:
    return service_error(response(status, body, **headers), NOW)


class TestCauses:
    @pytest.mark.parametrize(
        ("message", "cause"),
        [
            ("Untrusted certificate. Insufficient certificate", "digitalSignature"),
            ("Untrusted signing certificate", "intermediates"),
            ("Certificate revoked", "CRL"),
            ("Invalid signature", "clock"),
            ("Not authorized to set roleSessionName", "acceptRoleSessionName"),
            ("UNTRUSTED SIGNING CERTIFICATE.", "intermediates"),
            (
                "The following certificate attributes failed to be mapped into session tags: x509Issuer/CN",
                "attribute mappings",
            ),
            ("Specified Trust Anchor wasn't found.", "trust anchor's ARN"),
            ("Invalid or empty profile provided.", "ARN of the Roles Anywhere profile"),
            ("Requested Role isn't one of those listed in the Profile.", "Add the role to the Roles Anywhere profile"),
            ("The requested DurationSeconds exceeds the MaxSessionDuration set for this role.", "--session-duration"),
            ("Something else", "trust policy"),
        ],
    )
    def test_hint_names_the_usual_cause_of_a_message(self, message: str, cause: str) -> None:
        error = error_for(403, {"message": message}, x_amzn_ErrorType="AccessDeniedException", x_amzn_RequestId="id-1")
        assert error.exit_status == 5
        assert cause in error.hint
        for part in ("AccessDeniedException", "403", message.rstrip("."), "id-1"):
            assert part in error.message
        assert str(error).count(". ") <= 1 + message.count(". ")

    @pytest.mark.parametrize(
        ("message", "form", "above", "hint"),
        [
            (UNTRUSTED, {}, EXPIRED, "The intermediate CN=Middle,OU=devops,O=Example,C=DE expired on "),
            (UNTRUSTED, {}, {"usages": ("crl_sign",)}, "lacks the keyUsage keyCertSign: get the CA's current one"),
            (UNTRUSTED, {}, {"extensions": ((ELSEWHERE, True),)}, "(nameConstraints): reissue the certificate"),
            (UNTRUSTED, EXPIRED, EXPIRED, "The intermediate"),
            (UNTRUSTED, EXPIRED, {}, "The certificate expired at "),
            (UNTRUSTED, {}, {}, "check for missing intermediates"),
            (INSUFFICIENT, EXPIRED, EXPIRED, "The certificate expired at "),
            (INSUFFICIENT, {"name": x509.Name([])}, {}, "The certificate has an empty subject: reissue it"),
            (INSUFFICIENT, {}, {}, "The leaf lacks keyUsage"),
            ("Some attributes failed to be mapped", {"name": "R&D"}, {}, "x509Subject/CN is 'R&D'"),
            ("Some attributes failed to be mapped", {}, {}, "Use only letters"),
            ("Something else", EXPIRED, EXPIRED, "trust policy"),
        ],
    )
    def test_hint_names_what_is_wrong_with_the_certificates(
        self, message: str, form: dict[str, Any], above: dict[str, Any], hint: str
    ) -> None:
        middle = authority(Form("Middle", **{"ca": True, "usages": ("key_cert_sign",), **above}), authority())
        leaf = certificate(Form(**form), KEY.public_key(), middle)
        chain = Chain(Certificate(leaf, "leaf.pem"), (Certificate(middle.certificate, "leaf.pem"),))
        refused = response(403, {"message": message, "__type": "AccessDeniedException"})
        assert hint in service_error(refused, datetime.now(UTC), chain).hint

    @pytest.mark.parametrize(
        ("status", "kind", "cause"),
        [
            (404, "ResourceNotFoundException", "ARNs"),
            (400, "ValidationException", "value"),
            (429, "ThrottlingException", "ten CreateSession"),
            (500, "InternalServerException", ""),
        ],
    )
    def test_hint_names_the_usual_cause_of_an_error_type(self, status: int, kind: str, cause: str) -> None:
        assert cause in error_for(status, {"message": "m"}, x_amzn_ErrorType=kind).hint

    @pytest.mark.parametrize("name", ["__type", "code", "header"])
    @pytest.mark.parametrize("form", ["{}", "{}:http://internal.amazon.com/", "com.amazon.coral#{}", "a#{}:b#c"])
    def test_error_type_is_found_in_header_and_body(self, name: str, form: str) -> None:
        text = form.format("ValidationException")
        error = (
            error_for(400, {"message": "m"}, x_amzn_ErrorType=text)
            if name == "header"
            else error_for(400, {name: text})
        )
        assert "refused: ValidationException (400)" in error.message

    def test_header_names_match_in_any_case(self) -> None:
        error = error_for(403, {"message": "m"}, X_AMZN_errortype="AccessDeniedException", X_Amzn_Requestid="id-1")
        assert "AccessDeniedException" in error.message
        assert "hwsigner aws check" in error.hint
        assert "id-1" in error.message

    def test_message_may_be_capitalized_or_missing(self) -> None:
        assert "mind" in error_for(400, {"Message": "mind"}).message
        assert error_for(400, {"__type": "ValidationException"}).message.endswith(
            "ValidationException (400): no message"
        )
        assert error_for(400, {"message": "m"}).message == "the service refused: status 400: m"


class TestUnexpectedResponses:
    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (b"<html>\n <h1>Access  denied</h1>", "<html> <h1>Access denied</h1>"),
            (b"", "an empty body"),
            (b"  \n", "an empty body"),
            (b"[1]", "unexpected JSON"),
            (b'{"secretAccessKey": "hush', "unexpected JSON"),
            (b'\xef\xbb\xbf {"secretAccessKey": "hush', "unexpected JSON"),
            (b'"x"', '"x"'),
            (b'while(1);{"secretAccessKey": "hush"', "while(1);"),
            (b'"{\\"secretAccessKey\\": \\"hush', '"'),
            (b"\xff\xfe", "\ufffd\ufffd"),
        ],
    )
    def test_message_has_the_first_words_but_no_json(self, body: bytes, words: str) -> None:
        error = error_for(502, body)
        assert f"the response (502) is not from the service: {words}" in error.message
        assert "proxy" in error.hint

    def test_long_text_is_cut(self) -> None:
        assert len(error_for(502, b"<p>" + b"word " * 10_000).message) < 200

    def test_first_character_tells_html_from_json(self) -> None:
        assert not is_from_service(response(200, b"\r\n <!DOCTYPE html>"))
        assert is_from_service(response(200, b'{"a": "<"}'))

    @pytest.mark.parametrize("status", [300, 301, 302, 307, 308])
    def test_redirect_names_its_target(self, status: int) -> None:
        error = error_for(status, b"<html>", Location="http://portal.example/login")
        assert f"redirects ({status}) to http://portal.example/login" in error.message
        assert "--endpoint" in error.hint
        assert "nowhere" in error_for(status).message


class TestClock:
    @pytest.mark.parametrize(
        ("off", "text"),
        [
            (timedelta(minutes=7), "7 minutes ahead of"),
            (timedelta(minutes=-7), "7 minutes behind"),
            (timedelta(seconds=90), "90 seconds ahead of"),
            (timedelta(days=-1), "24 hours behind"),
            (timedelta(days=3650), "3650 days ahead of"),
        ],
    )
    def test_hint_says_how_far_the_clock_is_off(self, off: timedelta, text: str) -> None:
        date = format_datetime(NOW - off, usegmt=True)
        error = error_for(403, {"message": "Invalid signature"}, Date=date)
        assert f"This machine's clock is {text} the service's" in error.hint

    @pytest.mark.parametrize("seconds", [-59, 0, 59])
    def test_clock_that_agrees_is_not_blamed(self, seconds: int) -> None:
        date = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
        assert "clock is" not in error_for(403, {"message": "Invalid signature"}, Date=date).hint

    def test_clock_is_not_blamed_for_validation_errors(self) -> None:
        date = format_datetime(NOW - timedelta(hours=1), usegmt=True)
        assert "machine" not in error_for(400, {"message": "m", "__type": "ValidationException"}, Date=date).hint
        assert "60 minutes ahead" in error_for(400, {"message": "Signature expired"}, Date=date).hint

    def test_small_difference_is_blamed_only_for_signatures(self) -> None:
        date = format_datetime(NOW - timedelta(seconds=100), usegmt=True)
        assert "machine" in error_for(403, {"message": "Invalid signature"}, Date=date).hint
        assert "intermediates" in error_for(403, {"message": "Untrusted signing certificate"}, Date=date).hint

    @pytest.mark.parametrize(
        "date", ["", "today", "Mon, 99 May 2026 12:00:00 GMT", "9" * 5000, "Mon, 4 May 2026 1:0:0 +99999999999999"]
    )
    def test_clock_is_not_blamed_when_the_date_is_invalid(self, date: str) -> None:
        assert "machine" not in error_for(403, {"message": "Invalid signature"}, Date=date).hint


class TestRetries:
    @pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
    def test_error_is_retryable_by_its_status(self, status: int) -> None:
        assert error_for(status, b"<html>").retryable

    @pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 407, 501])
    def test_other_errors_are_not_retryable(self, status: int) -> None:
        assert not error_for(status, {"__type": "AccessDeniedException"}).retryable

    @pytest.mark.parametrize(
        "kind", ["ThrottlingException", "x#TooManyRequestsException", "ServiceUnavailableException:"]
    )
    def test_error_is_retryable_by_its_type(self, kind: str) -> None:
        assert error_for(400, {"message": "m"}, x_amzn_ErrorType=kind).retryable

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [("0", 0), ("7", 7), ("", 0), ("-1", 0), ("1.5", 0), ("٣", 0), ("9" * 400, 999_999_999), ("nan", 0)],
    )
    def test_retry_after_is_read_as_seconds(self, text: str, seconds: float) -> None:
        assert error_for(429).retry_after == 0
        for body in ({"message": "m"}, b"<html>", b""):
            assert error_for(429, body, Retry_After=text).retry_after == seconds

    def test_retry_after_is_read_as_a_date(self) -> None:
        later, earlier = (format_datetime(NOW + timedelta(seconds=s), usegmt=True) for s in (30, -30))
        assert error_for(503, Retry_After=later).retry_after == 30
        assert error_for(503, Retry_After=earlier).retry_after == 0


TEXT = st.text(st.characters(codec="utf-8"))
LINE = st.text(st.characters(codec="latin-1", exclude_characters="\r\n"))
JSON = st.recursive(
    st.none() | st.booleans() | TEXT | st.integers() | st.floats(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["message", "Message", "__type", "code"]), inner),
)


@pytest.mark.slow
@given(status=st.integers(300, 599), body=JSON | st.binary(), headers=st.lists(LINE, min_size=5, max_size=5))
def test_any_response_gives_one_short_printable_line(status: int, body: object, headers: list[str]) -> None:
    names = ("Date", "Location", "x_amzn_ErrorType", "x_amzn_RequestId", "Retry_After")
    error = error_for(status, body, **dict(zip(names, headers, strict=True)))
    assert str(error).isprintable()
    assert len(str(error)) < 10_000
    assert error.retry_after >= 0


@pytest.mark.parametrize("place", ["message", "type", "id", "location", "html"])
def test_control_characters_are_escaped(place: str) -> None:
    evil = "a\x1b[2Jb\u202ec\x07d"
    errors = {
        "message": error_for(403, {"message": evil}),
        "type": error_for(403, {"__type": evil}),
        "id": error_for(403, {"message": "m"}, x_amzn_RequestId=evil),
        "location": error_for(302, Location=evil),
        "html": error_for(502, f"<p>{evil}".encode()),
    }
    assert errors[place].message.isprintable()
    assert r"a\x1b[2Jb\u202ec\x07d" in errors[place].message
