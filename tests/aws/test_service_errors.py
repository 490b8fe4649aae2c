"""What is said of an answer without credentials: the usual cause, the request's id, and nothing that moves a cursor."""

from __future__ import annotations

import http.client
import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner.aws.service_errors import is_foreign, is_passing, refusal, retry_after
from hwsigner.errors import ServiceError
from hwsigner.http.transport import Answer

NOW = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)


def answer(status: int = 403, body: object = b"", **headers: str) -> Answer:
    """Return an answer; underscores in the names of headers stand for dashes."""
    message = http.client.HTTPMessage()
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    return Answer(status, message, body if isinstance(body, bytes) else json.dumps(body).encode())


def refuse(status: int = 403, body: object = b"", **headers: str) -> ServiceError:
    return refusal(answer(status, body, **headers), NOW)


class TestCauses:
    @pytest.mark.parametrize(
        ("message", "cause"),
        [
            ("Untrusted certificate. Insufficient certificate", "digitalSignature"),
            ("Untrusted Signing Certificate", "intermediates"),
            ("Invalid signature", "clock"),
            ("Not authorized to set roleSessionName", "acceptRoleSessionName"),
            ("UNTRUSTED SIGNING CERTIFICATE.", "intermediates"),
            ("Something else", "trust policy"),
        ],
    )
    def test_by_message(self, message: str, cause: str) -> None:
        error = refuse(403, {"message": message}, x_amzn_ErrorType="AccessDeniedException", x_amzn_RequestId="id-1")
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
    def test_by_type(self, status: int, kind: str, cause: str) -> None:
        assert cause in refuse(status, {"message": "m"}, x_amzn_ErrorType=kind).hint

    @pytest.mark.parametrize("name", ["__type", "code", "header"])
    @pytest.mark.parametrize("form", ["{}", "{}:http://internal.amazon.com/", "com.amazon.coral#{}", "a#{}:b#c"])
    def test_places_and_forms_of_the_type(self, name: str, form: str) -> None:
        text = form.format("ValidationException")
        error = refuse(400, {"message": "m"}, x_amzn_ErrorType=text) if name == "header" else refuse(400, {name: text})
        assert "refused: ValidationException (400)" in error.message

    def test_header_names_have_no_case(self) -> None:
        error = refuse(403, {"message": "m"}, X_AMZN_errortype="AccessDeniedException", X_Amzn_Requestid="id-1")
        assert "AccessDeniedException" in error.message
        assert "id-1" in error.message

    def test_message_in_other_case_and_none(self) -> None:
        assert "mind" in refuse(400, {"Message": "mind"}).message
        assert refuse(400, {"__type": "ValidationException"}).message.endswith("ValidationException (400): no message")
        assert refuse(400, {"message": "m"}).message == "the service refused: status 400: m"


class TestForeignAnswers:
    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (b"<html>\n <h1>Access  denied</h1>", "<html> <h1>Access denied</h1>"),
            (b"", "an empty body"),
            (b"  \n", "an empty body"),
            (b"[1]", "no JSON that it sends"),
            (b'{"secretAccessKey": "hush', "no JSON that it sends"),
            (b'\xef\xbb\xbf {"secretAccessKey": "hush', "no JSON that it sends"),
            (b'"x"', '"x"'),
            (b'while(1);{"secretAccessKey": "hush"', "while(1);"),
            (b'"{\\"secretAccessKey\\": \\"hush', '"'),
            (b"\xff\xfe", "\ufffd\ufffd"),
        ],
    )
    def test_show_their_first_words(self, body: bytes, words: str) -> None:
        error = refuse(502, body)
        assert f"the answer (502) is not the service's: {words}" in error.message
        assert "proxy" in error.hint

    def test_are_cut(self) -> None:
        assert len(refuse(502, b"<p>" + b"word " * 10_000).message) < 200

    def test_html_is_known_by_its_first_character(self) -> None:
        assert is_foreign(answer(200, b"\r\n <!DOCTYPE html>"))
        assert not is_foreign(answer(200, b'{"a": "<"}'))

    @pytest.mark.parametrize("status", [300, 301, 302, 307, 308])
    def test_a_redirect_names_its_target(self, status: int) -> None:
        error = refuse(status, b"<html>", Location="http://portal.example/login")
        assert f"redirects ({status}) to http://portal.example/login" in error.message
        assert "--endpoint" in error.hint
        assert "nowhere" in refuse(status).message


class TestClock:
    @pytest.mark.parametrize(
        ("off", "text"),
        [
            (timedelta(minutes=7), "7 minutes ahead of"),
            (timedelta(minutes=-7), "7 minutes behind"),
            (timedelta(seconds=90), "90 seconds ahead of"),
            (timedelta(days=-1), "1440 minutes behind"),
        ],
    )
    def test_by_how_much_and_which_way(self, off: timedelta, text: str) -> None:
        date = format_datetime(NOW - off, usegmt=True)
        error = refuse(403, {"message": "Invalid signature"}, Date=date)
        assert f"This machine's clock is {text} the service's" in error.hint

    @pytest.mark.parametrize("seconds", [-59, 0, 59])
    def test_a_right_clock_is_not_blamed(self, seconds: int) -> None:
        date = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
        assert "clock is" not in refuse(403, {"message": "Invalid signature"}, Date=date).hint.replace(
            "clock is right", ""
        )

    def test_only_signatures_depend_on_it(self) -> None:
        date = format_datetime(NOW - timedelta(hours=1), usegmt=True)
        assert "machine" not in refuse(400, {"message": "m", "__type": "ValidationException"}, Date=date).hint
        assert "60 minutes ahead" in refuse(400, {"message": "Signature expired"}, Date=date).hint

    def test_a_small_difference_matters_to_signatures_alone(self) -> None:
        date = format_datetime(NOW - timedelta(seconds=100), usegmt=True)
        assert "machine" in refuse(403, {"message": "Invalid signature"}, Date=date).hint
        assert "intermediates" in refuse(403, {"message": "Untrusted Signing Certificate"}, Date=date).hint

    @pytest.mark.parametrize(
        "date", ["", "today", "Mon, 99 May 2026 12:00:00 GMT", "9" * 5000, "Mon, 4 May 2026 1:0:0 +99999999999999"]
    )
    def test_a_bad_date_says_nothing(self, date: str) -> None:
        assert "machine" not in refuse(403, {"message": "Invalid signature"}, Date=date).hint


class TestRetries:
    @pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
    def test_passing_by_status(self, status: int) -> None:
        assert is_passing(answer(status, b"<html>"))

    @pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 407, 501])
    def test_not_passing(self, status: int) -> None:
        assert not is_passing(answer(status, {"__type": "AccessDeniedException"}))

    @pytest.mark.parametrize(
        "kind", ["ThrottlingException", "x#TooManyRequestsException", "ServiceUnavailableException:"]
    )
    def test_passing_by_type(self, kind: str) -> None:
        assert is_passing(answer(400, {"message": "m"}, x_amzn_ErrorType=kind))

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [("0", 0), ("7", 7), ("", 0), ("-1", 0), ("1.5", 0), ("٣", 0), ("9" * 400, 999_999_999), ("nan", 0)],
    )
    def test_retry_after(self, text: str, seconds: float) -> None:
        assert retry_after(answer(429, b"", Retry_After=text), NOW) == seconds
        assert retry_after(answer(429), NOW) == 0
        for body in ({"message": "m"}, b"<html>", b""):
            assert refusal(answer(503, body, Retry_After=text), NOW).retry_after == seconds

    def test_retry_after_as_a_date(self) -> None:
        later, earlier = (format_datetime(NOW + timedelta(seconds=s), usegmt=True) for s in (30, -30))
        assert retry_after(answer(503, b"", Retry_After=later), NOW) == 30
        assert retry_after(answer(503, b"", Retry_After=earlier), NOW) == 0


TEXT = st.text(st.characters(codec="utf-8"))
LINE = st.text(st.characters(codec="latin-1", exclude_characters="\r\n"))
JSON = st.recursive(
    st.none() | st.booleans() | TEXT | st.integers() | st.floats(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["message", "Message", "__type", "code"]), inner),
)


@given(status=st.integers(300, 599), body=JSON | st.binary(), headers=st.lists(LINE, min_size=5, max_size=5))
def test_whatever_comes_is_one_short_printable_line(status: int, body: object, headers: list[str]) -> None:
    names = ("Date", "Location", "x_amzn_ErrorType", "x_amzn_RequestId", "Retry_After")
    came = answer(status, body, **dict(zip(names, headers, strict=True)))
    error = refusal(came, NOW)
    assert str(error).isprintable()
    assert len(str(error)) < 10_000
    is_passing(came)
    retry_after(came, NOW)


@pytest.mark.parametrize("place", ["message", "type", "id", "location", "html"])
def test_control_characters_are_escaped(place: str) -> None:
    evil = "a\x1b[2Jb\u202ec\x07d"
    errors = {
        "message": refuse(403, {"message": evil}),
        "type": refuse(403, {"__type": evil}),
        "id": refuse(403, {"message": "m"}, x_amzn_RequestId=evil),
        "location": refuse(302, Location=evil),
        "html": refuse(502, f"<p>{evil}".encode()),
    }
    assert errors[place].message.isprintable()
    assert r"a\x1b[2Jb\u202ec\x07d" in errors[place].message
