"""When certificates are renewed, and how failures are remembered."""

from __future__ import annotations

import itertools
import math
import os
import random
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

import certs
from hwsigner._identity.certificate import Certificate, load
from hwsigner._refresh.schedule import RENEWAL_TIMING, renewal_pause
from hwsigner.enrolment.pace import step_of_timer
from hwsigner.enrolment.renewal import Failures, due_at
from hwsigner.errors import ServiceError, ServiceUnreachableError
from hwsigner.key import FoundCertificate

CA = certs.make_ca()
KEY = ec.generate_private_key(ec.SECP256R1()).public_key()
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
LONG = 30 * 86400.0


def leaf(life: timedelta) -> Certificate:
    issued = certs.issue(CA, KEY, certs.Shape(begin=BEGIN, end=BEGIN + life))
    return load([FoundCertificate(issued.public_bytes(Encoding.DER), "leaf.pem")])[0]


@given(st.integers(3600, 10 * 365 * 86400))
def test_certificate_is_due_between_two_thirds_and_three_quarters_of_its_life(seconds: int) -> None:
    life = timedelta(seconds=seconds)
    certificate = leaf(life)
    assert life * 2 / 3 <= due_at(certificate) - BEGIN + timedelta(seconds=1)
    assert due_at(certificate) - BEGIN <= life * 3 / 4
    assert due_at(certificate) == due_at(certificate)


def test_certificates_that_begin_together_are_due_apart() -> None:
    due = sorted(due_at(leaf(timedelta(days=12))) for _ in range(200))
    assert due[-1] - due[0] > timedelta(hours=18)  # Of 24.
    assert max(later - earlier for earlier, later in itertools.pairwise(due)) < timedelta(hours=4)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    yield opened
    os.close(opened)


def test_pause_doubles_with_each_failure_up_to_an_hour(file: int) -> None:
    pauses = []
    for _ in range(8):
        Failures(file).add(ServiceUnreachableError("down"), 1000.0, LONG)
        pauses.append(Failures(file).pause_left(1000.0))
    for number, pause in enumerate(pauses):
        longest = min(3600, 300 * 2**number)
        assert longest / 2 - 1 <= pause <= longest + 1
    assert Failures(file).pause_left(1000.0 + 3601) == 0


def test_issuer_s_own_time_is_added(file: int) -> None:
    Failures(file).add(ServiceError("busy", retry_after=7200.0), 0.0, LONG)
    assert 7200 + 149 <= Failures(file).pause_left(0.0) <= 7200 + 301


def test_cause_of_a_failure_is_kept_for_doctor_without_words_of_unknown_errors(file: int) -> None:
    Failures(file).add(ServiceUnreachableError("down", "Look at the registrar"), 1000.0, LONG)
    assert os.pread(file, 2000, 0).endswith(b"\ndown. Look at the registrar\n")
    Failures(file).add(ValueError("secret"), 1000.0, LONG)
    assert os.pread(file, 2000, 0).endswith(b"\nValueError\n")
    assert Failures(file).pause_left(1000.0) > 300


def test_success_is_the_end_of_the_pause(file: int) -> None:
    Failures(file).add(ServiceUnreachableError("down"), 0.0, LONG)
    Failures(file).forget()
    assert Failures(file).pause_left(0.0) == 0


@pytest.mark.parametrize("jump", [3600.0, 10 * 365 * 86400.0])
def test_clock_that_was_ahead_at_a_failure_holds_nothing_up(jump: float, file: int) -> None:
    Failures(file).add(ServiceError("busy", retry_after=7200.0), 1.8e9 + jump, LONG)
    assert Failures(file).pause_left(1.8e9) == 0


@pytest.mark.parametrize("left", [8 * 3600.0, 600.0, -86400.0])
def test_issuer_s_own_time_does_not_outlast_the_certificate(left: float, file: int) -> None:
    Failures(file).add(ServiceError("busy", retry_after=7 * 86400.0), 0.0, left)
    assert Failures(file).pause_left(0.0) <= abs(left) / 8 + 1


@pytest.mark.parametrize(("left", "longest"), [(200.0, 25.0), (40.0, 10.0), (1.0, 10.0), (-600.0, 75.0)])
def test_several_attempts_fit_into_what_is_left_of_a_certificate(left: float, longest: float, file: int) -> None:
    for _ in range(5):
        Failures(file).add(ServiceUnreachableError("down"), 0.0, left)
        assert 9 <= Failures(file).pause_left(0.0) <= longest + 1


def test_failure_that_can_not_be_noted_is_no_failure_of_its_own() -> None:
    full = os.open("/dev/full", os.O_RDWR)
    try:
        Failures(full).add(ServiceUnreachableError("down"), 0.0, LONG)
    finally:
        os.close(full)


@given(st.binary(max_size=40))
def test_damaged_file_holds_nothing_up_for_long(data: bytes) -> None:
    with tempfile.TemporaryFile() as file:
        opened = file.fileno()
        os.write(opened, data)
        assert 0 <= Failures(opened).pause_left(1.8e9) <= 3600 + 86400
        Failures(opened).add(ServiceUnreachableError("down"), 1.8e9, LONG)


@pytest.mark.parametrize("minutes", [10, 12, 15, 20, 30, 45, 60, 180, 599])
def test_certificate_does_not_expire_in_an_outage_of_a_fifth_of_its_life(minutes: int) -> None:
    chance = random.Random(minutes)
    assert not [number for number in range(2000) if not _is_renewed(minutes * 60.0, chance)]


def _is_renewed(life: float, chance: random.Random) -> bool:
    """Return whether a certificate is renewed before it expires, if its issuer fails for a fifth of its life.

    The outage begins when the renewal is due, or before. A failed attempt takes up to 5 s; a look takes 1 s.
    """
    due = life - RENEWAL_TIMING.lifetime(0.0, life, chance.random).ahead
    begin = due - chance.choice((0.0, chance.random())) * life / 5
    step = step_of_timer(life) or math.inf
    now, next_try, failures = due - step * chance.random(), 0.0, 0
    while now < life:
        now += 1
        if now >= due and now >= next_try:
            if not begin <= now < begin + life / 5:
                return True
            now, failures = now + 5 * chance.random(), failures + 1
            asked = chance.choice((0.0, 3600.0))
            pause = RENEWAL_TIMING.pause(failures, chance.random, asked=asked)
            next_try = now + renewal_pause(pause, life - now)
        now += step * (1 + chance.random()) / 2
    return False
