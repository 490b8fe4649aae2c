"""A certificate that nears its end is in the log: rarely at first, more often and as an error near the end."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

import certs
from hwsigner._identity.certificate import Certificate, load
from hwsigner._refresh.outcome import ExpiryWatch
from hwsigner.key import FoundCertificate

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
CA = certs.make_ca()
KEY = ec.generate_private_key(ec.SECP256R1()).public_key()


def leaf(life: timedelta) -> Certificate:
    issued = certs.issue(CA, KEY, certs.Shape(begin=BEGIN, end=BEGIN + life))
    return load([FoundCertificate(issued.public_bytes(Encoding.DER), "leaf.pem")])[0]


YEAR = leaf(timedelta(days=360))


@pytest.mark.parametrize(
    ("day", "begin"),
    [
        (0, None),
        (269, None),
        (271, "warning: the certificate "),
        (323, "warning: the certificate "),
        (325, "error: the certificate "),
        (361, "error: the certificate "),
    ],
)
def test_first_notice_is_a_warning_from_a_quarter_and_an_error_from_a_tenth(day: int, begin: str | None) -> None:
    notice = ExpiryWatch().notice(YEAR, BEGIN + timedelta(days=day))
    assert notice is None if begin is None else ": ".join(notice or ()).startswith(begin)


@pytest.mark.parametrize(
    ("left", "words"),
    [(timedelta(days=90), "90 days"), (timedelta(hours=47), "47 hours"), (timedelta(seconds=150), "2 minutes")],
)
def test_notice_names_the_certificate_and_the_time_that_is_left(left: timedelta, words: str) -> None:
    _, text = ExpiryWatch().notice(YEAR, BEGIN + timedelta(days=360) - left) or ("", "")
    assert f" CN=bamboo-01,OU=devops,O=Example,C=DE expires in {words}, on 2026-12-27T00:00Z." in text


@given(st.integers(1, 4000), st.integers(60, 3600))
def test_notices_are_few_and_become_more_frequent(days: int, interval: int) -> None:
    life = timedelta(days=days)
    certificate, watch = leaf(life), ExpiryWatch()
    left, seen = life / 4, []
    while left > life / 1000:
        if watch.notice(certificate, BEGIN + life - left):
            seen.append(left)
        left -= max(timedelta(seconds=interval), life / 2000)
    assert seen[0] == life / 4
    assert len(seen) <= 60
    assert all(later <= 0.9 * earlier for earlier, later in itertools.pairwise(seen))


def test_another_certificate_is_noticed_at_once() -> None:
    watch, now = ExpiryWatch(), BEGIN + timedelta(days=350)
    assert watch.notice(YEAR, now)
    assert watch.notice(YEAR, now) is None
    assert watch.notice(leaf(timedelta(days=360)), now)
