"""Errors for responses without credentials: the usual cause, the request ID, and no control characters."""

from __future__ import annotations

import http.client
import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner.aws.service_errors import is_from_service, service_error
from hwsigner.errors import ServiceError
from hwsigner.http.transport import Response

NOW = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)


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
            ("Untrusted Signing Certificate", "intermediates"),
            ("Certificate revoked", "CRL"),
            ("Invalid signature", "clock"),
            ("Not authorized to set roleSessionName", "acceptRoleSessionName"),
            ("UNTRUSTED SIGNING CERTIFICATE.", "intermediates"),
            (
                "The following certificate attributes failed to be mapped into session tags: x509Issuer/CN",
                "attribute mappings",
            ),
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
        assert "intermediates" in error_for(403, {"message": "Untrusted Signing Certificate"}, Date=date).hint

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
