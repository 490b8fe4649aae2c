"""What issuers over HTTPS have in common."""

from __future__ import annotations

from http.client import HTTPMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner._http.transport import Response
from hwsigner.enrolment.issuers.web import retry_after

WEEK = 7 * 86400.0


def asked(text: str) -> float:
    headers = HTTPMessage()
    headers["Retry-After"] = text
    return retry_after(Response(503, headers, b""))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("999999999", WEEK),
        ("Fri, 31 Dec 9999 23:59:59 GMT", WEEK),
        ("Sat, 01 Jan 2000 00:00:00 GMT", 0.0),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", 0.0),
        ("Mon, 01 Jan 2099 00:00:00 +99999999999999", 0.0),
        ("Mon, 01 Jan 2099 99999999999:00:00 GMT", 0.0),
    ],
)
def test_time_to_wait_is_read_as_seconds_or_a_date(text: str, seconds: float) -> None:
    assert asked(text) == seconds


@given(st.text(st.characters(exclude_categories=["C"])))
def test_any_other_text_asks_for_no_wait_or_a_short_one(text: str) -> None:
    assert 0 <= asked(text) <= WEEK
