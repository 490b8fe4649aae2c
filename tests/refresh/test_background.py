"""Background providers: when they refresh and when not, and that no caller waits once they are warm."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from queue import SimpleQueue
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

import certs
from emulators import InProcessSoftHSM
from hwsigner._aws.create_session import SessionRequest, find_service
from hwsigner._aws.credentials import Credentials
from hwsigner._identity import Identity, IdentitySource
from hwsigner._refresh import reopening
from hwsigner._refresh import timer as module
from hwsigner._refresh.outcome import Failure
from hwsigner._refresh.provider import BackgroundProvider, Provider
from hwsigner._refresh.timer import LOOK_SECONDS
from hwsigner.emulator import Fault
from hwsigner.errors import HwsignerError, KeyMismatchError, ServiceError, SigningKeyError, UsageError, WrongPinError
from hwsigner.key import open_key
from stage import PASSPHRASE, FakeClock, Stage, in_child, in_threads

MARGIN = 960
EARLIEST = 2280
HOUR = 3600


def process(credentials: Credentials) -> bytes:
    return credentials.process_json().encode()


def key_id(credentials: Credentials) -> bytes:
    return credentials.access_key_id.encode()


FORMATS = {"process": process, "id": key_id}


@dataclass
class Tried:
    """The outcomes that on_try was called with."""

    outcomes: list[Credentials | Failure] = field(default_factory=list)
    told: threading.Event = field(default_factory=threading.Event)

    def __call__(self, outcome: Credentials | Failure) -> None:
        self.outcomes.append(outcome)
        self.told.set()


def made(stage: Stage, *, attended: bool | None = None, on_try: Any = None, **options: Any) -> BackgroundProvider:
    return BackgroundProvider(stage.provider(**options), formats=FORMATS, attended=attended, on_try=on_try)


def tend_until(background: BackgroundProvider, clock: FakeClock, end: float) -> None:
    """Do what the timer and its workers do, by a clock that the test advances."""
    while clock.elapsed < end:
        clock.advance(min(background._refresher.refresh_ahead() + 0.001, end - clock.elapsed))
    background._refresher.refresh_ahead()


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that forbids everything that must not happen during a request."""

    def forbid() -> None:
        def refuse(*_: object, **__: object) -> Any:
            raise AssertionError("this is not for a request's path")

        monkeypatch.setattr(json, "dumps", refuse)
        monkeypatch.setattr(Identity, "sign", refuse)
        monkeypatch.setattr("hwsigner._refresh.attempts.create_session", refuse)
        monkeypatch.setattr(os, "stat", refuse)

    return forbid


def settle() -> None:
    """Wait until the timer has seen what it was told before, and no worker is left."""
    with made_of_nothing() as last:
        wait_until(lambda: last._refresher in module._timer._due and not module._timer._at_work)


def made_of_nothing() -> BackgroundProvider:
    request, service = SessionRequest("ta", "p", "r"), find_service("us-east-1", environ={})
    return BackgroundProvider(Provider(IdentitySource("x"), request, service))


def wait_until(is_done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_done():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class TestReplies:
    def test_provider_does_nothing_before_it_is_asked(self, stage: Stage) -> None:
        background = made(stage)
        tend_until(background, stage.clock, 2 * HOUR)
        assert stage.count == 0
        assert background.read("process") is None

    def test_replies_are_the_credentials_as_finished_bytes(self, stage: Stage) -> None:
        background = made(stage)
        reply = background.reply("process")
        assert json.loads(bytes(reply))["AccessKeyId"].encode() == background.read("id")
        assert background.read("process") is reply is background.reply("process")
        assert background().process_json().encode() == reply
        assert stage.count == 1

    def test_replies_are_made_once_for_each_session(self, stage: Stage, no_work: Callable[[], None]) -> None:
        background = made(stage)
        reply = background.reply("process")
        no_work()
        stage.clock.advance(HOUR - MARGIN - 5)
        assert background.read("process") is reply
        assert background.reply("process") is reply

    def test_replies_are_read_without_a_lock(self, stage: Stage) -> None:
        background = made(stage)
        reply = background.reply("id")
        with background._refresher._lock:  # A read by another thread does not wait for it.
            assert in_threads(20, lambda: background.read("id")) == [reply] * 20
            assert in_threads(20, lambda: background.reply("id")) == [reply] * 20

    @pytest.mark.slow
    def test_thousand_callers_at_once_cause_one_session(self, stage: Stage) -> None:
        with made(stage) as background:
            found = in_threads(1000, lambda: background.read("id") or background.reply("id"))
        assert {type(reply) for reply in found} == {bytes}
        assert len(set(found)) == 1
        assert stage.count == 1

    def test_caller_gets_a_reply_while_replies_are_being_made(self, stage: Stage) -> None:
        found: list[object] = []

        def render(credentials: Credentials) -> bytes:
            if threading.current_thread() is maker:
                found.append(in_threads(1, lambda: background.reply("id"))[0])
            return key_id(credentials)

        maker = threading.current_thread()
        background = BackgroundProvider(stage.provider(), formats={"id": render})
        assert found == [background.reply("id")]
        assert stage.count == 1


class TestRefresh:
    def test_refresh_never_happens_in_a_caller_s_read(self, stage: Stage) -> None:
        background, elapsed = made(stage), []
        background.reply("id")
        for step in range(1, 721):  # Twelve hours, asked each minute.
            tend_until(background, stage.clock, step * 60)
            count = stage.count
            assert background.read("id") is not None
            assert background().expiration - stage.clock.true() > timedelta(seconds=MARGIN)
            assert stage.count == count
            elapsed.append(count)
        assert 12 * HOUR / (HOUR - MARGIN) - 1 <= elapsed[-1] <= 12 * HOUR / (HOUR - EARLIEST) + 2

    @pytest.mark.parametrize(("duration", "earliest"), [(900, 600), (3600, EARLIEST)])
    @pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
    def test_refresh_happens_at_the_moment_that_chance_picks(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch, duration: int, earliest: int, chance: float
    ) -> None:
        monkeypatch.setattr("random.random", lambda: chance)
        background = made(stage, duration=duration)
        background.reply("id")
        margin = min(MARGIN, duration / 3)
        due = duration - margin - (earliest - margin) * chance
        tend_until(background, stage.clock, due - 5)
        assert stage.count == 1
        tend_until(background, stage.clock, due + 1)
        assert stage.count == 2

    def test_session_that_no_caller_was_given_is_not_replaced(self, stage: Stage) -> None:
        background = made(stage)
        background.reply("id")
        tend_until(background, stage.clock, 10 * HOUR)
        assert stage.count == 2
        assert background.read("id") is None
        background.reply("id")
        assert stage.count == 3

    def test_refresh_happens_within_a_minute_of_a_late_caller(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("random.random", lambda: 0.999)
        background = made(stage)
        background.refresh()
        tend_until(background, stage.clock, HOUR - MARGIN - LOOK_SECONDS - 10)
        assert stage.count == 1
        assert background.read("id")
        stage.clock.advance(LOOK_SECONDS)
        background._refresher.refresh_ahead()
        assert stage.count == 2

    def test_session_that_the_listener_takes_is_replaced(self, stage: Stage) -> None:
        written: list[str] = []
        background: BackgroundProvider = made(stage, on_try=lambda _: written.append(background().access_key_id))
        background.refresh()
        tend_until(background, stage.clock, 10 * HOUR)
        assert len(set(written)) == len(written) == stage.count > 10

    def test_refresh_by_another_thread_is_not_waited_for(self, stage: Stage) -> None:
        background = made(stage)
        reply = background.reply("id")
        stage.clock.advance(HOUR - 100)
        waits = []
        stage.emulator.on_record = lambda _: waits.append(
            (background._refresher.refresh_ahead(), background.read("id"))
        )
        assert background.reply("id") != reply
        assert waits == [(LOOK_SECONDS, reply)]
        assert stage.count == 2

    def test_last_reply_is_read_during_a_refresh_after_a_failure(self, stage: Stage) -> None:
        background = made(stage)
        reply = background.reply("id")
        stage.emulator.misbehave(Fault("fail"))
        stage.clock.advance(HOUR - 500)
        assert background.reply("id") is reply
        stage.clock.advance(2)
        reads: list[object] = []
        stage.emulator.on_record = lambda _: reads.append(background.read("id"))
        assert background.reply("id") is not reply
        assert reads == [reply]

    def test_refresh_on_request_creates_a_session_and_a_failure_keeps_the_last(self, stage: Stage) -> None:
        tried = Tried()
        background = made(stage, on_try=tried)
        first = background.reply("id")
        background.refresh()
        assert background.read("id") not in (first, None)
        stage.emulator.misbehave(Fault("fail"))
        last = background.read("id")
        with pytest.raises(ServiceError):
            background.refresh()
        assert background.read("id") == last
        assert [type(outcome) for outcome in tried.outcomes] == [Credentials, Credentials, Failure]
        background.refresh()
        assert stage.count == 4
        assert background.failure is None


class TestAttendedKeys:
    """A key that needs a person is used only when a caller asks."""

    @pytest.mark.parametrize("seconds", [1.9, 2.1])
    def test_key_that_takes_over_two_seconds_is_not_used_in_the_background(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch, seconds: float
    ) -> None:
        sign = Identity.sign

        def touched(*arguments: Any) -> bytes:
            stage.clock.advance(seconds)
            return sign(*arguments)

        monkeypatch.setattr(Identity, "sign", touched)
        background = made(stage)
        background.reply("id")
        tend_until(background, stage.clock, HOUR - 100)
        assert stage.count == (1 if seconds > 2 else 2)
        assert background.status().needs_person == (seconds > 2)
        if seconds > 2:
            assert background.read("id") is None
            background.reply("id")
            assert stage.count == 2

    def test_key_whose_person_is_away_is_tried_once(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        def untouched(*_: object) -> bytes:
            stage.clock.advance(15)
            raise SigningKeyError("nobody touched it in time")

        background = made(stage)
        background.reply("id")
        monkeypatch.setattr(Identity, "sign", untouched)
        tend_until(background, stage.clock, HOUR - 100)
        assert isinstance(background.failure, SigningKeyError)
        assert background._refresher._failure is not None
        assert background._refresher._failure.number == 1
        assert background.read("id") is None  # A caller may try.

    @pytest.mark.parametrize("attended", [True, False])
    def test_attended_overrides_the_stopwatch(self, stage: Stage, attended: bool) -> None:
        background = made(stage, attended=attended)
        background.reply("id")
        tend_until(background, stage.clock, HOUR - 100)
        assert stage.count == (1 if attended else 2)

    def test_pin_is_not_asked_for_in_the_background_when_the_key_must_be_reopened(self, stage: Stage) -> None:
        stage.encrypt_key()

        def ask(_: object) -> str:
            stage.clock.advance(20)
            return PASSPHRASE

        background = made(stage, source=IdentitySource(str(stage.leaf), str(stage.key), pin=ask))
        background.reply("id")
        tend_until(background, stage.clock, HOUR)
        background.reply("id")
        count = stage.count
        assert count == 2  # The key is open, so no PIN was asked for the second one.
        stage.encrypt_key()
        tend_until(background, stage.clock, 2 * HOUR)
        assert stage.count == count
        assert background.status().needs_person
        background.reply("id")
        assert stage.count == count + 1

    def test_wrong_pin_is_sent_once_until_it_is_fixed(self, stage: Stage) -> None:
        stage.encrypt_key()
        answers = ["of yesterday", PASSPHRASE]
        asked = []

        def ask(request: object) -> str:
            asked.append(request)
            return answers.pop(0)

        background = made(stage, source=IdentitySource(str(stage.leaf), str(stage.key), pin=ask))
        for _ in range(3):
            with pytest.raises(WrongPinError):
                background.reply("id")
            assert background.read("id") is None
            tend_until(background, stage.clock, stage.clock.elapsed + HOUR)
            with pytest.raises(WrongPinError):
                background.refresh()
        assert len(asked) == 1
        background.refresh(fixed=True)
        assert background.read("id")
        assert (len(asked), stage.count) == (2, 1)


class TestFailures:
    def test_last_reply_is_given_while_it_lives(self, stage: Stage) -> None:
        tried = Tried()
        background = made(stage, on_try=tried)
        reply = background.reply("id")
        stage.emulator.misbehave(Fault("fail", None))
        for step in range(1, HOUR // 60):
            tend_until(background, stage.clock, step * 60)
            assert background.read("id") is reply
        count = stage.count
        assert count > 10
        tend_until(background, stage.clock, HOUR + 1)
        assert background.read("id") is None
        with pytest.raises(ServiceError, match="500"):
            background.reply("id")
        stage.emulator.clear_faults()
        tend_until(background, stage.clock, stage.clock.elapsed + 121)
        assert background.read("id") not in (reply, None)
        assert {type(outcome) for outcome in tried.outcomes[1:-1]} == {Failure}

    def test_attempts_follow_after_the_pauses(self, stage: Stage) -> None:
        background = made(stage)
        background.reply("id")
        stage.emulator.misbehave(Fault("fail", None))
        stage.clock.advance(HOUR - 500)
        for longest in (1, 2, 4, 8):
            wait = background._refresher.refresh_ahead()
            assert longest / 2 <= wait <= longest
            stage.clock.advance(wait + 0.001)
        assert stage.count == 5

    def test_single_failure_is_fixed_long_before_the_session_expires(self, stage: Stage) -> None:
        background = made(stage)
        reply = background.reply("id")
        stage.emulator.misbehave(Fault("fail"))
        tend_until(background, stage.clock, HOUR - MARGIN + 2)
        assert background.failure is None
        assert background.read("id") not in (reply, None)
        assert stage.count == 3

    def test_patience_ends_when_the_clock_is_set(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("random.random", lambda: 0.999)
        background = made(stage)
        reply = background.reply("id")
        stage.emulator.misbehave(Fault("fail"))
        tend_until(background, stage.clock, HOUR - EARLIEST + 3)
        assert stage.count == 2
        assert background.status().until_refresh > 300
        stage.clock.advance(HOUR)
        stage.clock.paused = HOUR  # The virtual machine stood still, and so did the monotonic clock.
        background.read("id")
        background._refresher.refresh_ahead()
        assert stage.count == 3
        assert background.read("id") not in (reply, None)

    def test_caller_makes_no_attempt_that_the_background_makes(self, stage: Stage, no_work: Callable[[], None]) -> None:
        background = made(stage)
        reply = background.reply("id")
        stage.emulator.misbehave(Fault("fail", None))
        tend_until(background, stage.clock, HOUR - 600)
        stage.clock.advance(500)  # The next attempt is overdue.
        no_work()
        assert background.read("id") is reply

    def test_caller_makes_the_attempts_when_the_background_does_not(self, stage: Stage) -> None:
        background = made(stage)
        reply = background.reply("id")
        stage.emulator.misbehave(Fault("fail"))
        stage.clock.advance(HOUR - 500)
        assert background.reply("id") is reply
        assert background.read("id") is reply
        stage.clock.advance(1)
        assert background.read("id") is None
        assert background.reply("id") is not reply
        assert stage.count == 3

    def test_attempt_without_credentials_is_made_once_for_each_caller(self, stage: Stage) -> None:
        background = made(stage)
        stage.emulator.misbehave(Fault("fail", None))
        with pytest.raises(ServiceError):
            background.reply("id")
        tend_until(background, stage.clock, HOUR)
        assert stage.count == 2
        assert background.read("id") is None
        tend_until(background, stage.clock, 2 * HOUR)
        assert stage.count == 3

    def test_new_certificate_before_its_key_keeps_the_last_reply(self, stage: Stage) -> None:
        background = made(stage)
        reply = background.reply("id")
        key = ec.generate_private_key(ec.SECP256R1())
        stage.write_leaf(key, certs.Shape(serial=0xBEEF))
        for step in range(1, HOUR // 60):
            tend_until(background, stage.clock, step * 60)
            assert background.read("id") is reply
        assert isinstance(background.failure, SigningKeyError)
        assert stage.count == 1  # Nothing was signed with a pair that does not match.
        certs.write_key(stage.key, key)
        tend_until(background, stage.clock, stage.clock.elapsed + 121)
        assert background.read("id") is None or stage.count == 2
        background.reply("id")
        assert stage.count == 2
        assert stage.leaf_of_last_request().serial_number == 0xBEEF

    @pytest.mark.parametrize("is_replaced_between", [False, True])
    def test_new_key_before_its_certificate_keeps_the_last_reply(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch, is_replaced_between: bool
    ) -> None:
        background = made(stage)
        reply = background.reply("id")
        key = ec.generate_private_key(ec.SECP256R1())

        def open_replaced(*arguments: Any, **options: Any) -> Any:
            stage.write_leaf(key)  # The old one has been read already.
            certs.write_key(stage.key, key)
            return open_key(*arguments, **options)

        if is_replaced_between:
            stage.leaf.touch()
            monkeypatch.setattr("hwsigner._identity.open_key", open_replaced)
        else:
            certs.write_key(stage.key, key)
        tend_until(background, stage.clock, HOUR - MARGIN - 600)
        tend_until(background, stage.clock, HOUR - 600)
        if not is_replaced_between:
            assert isinstance(background.failure, KeyMismatchError)
            assert background.read("id") is reply
            stage.write_leaf(key)
            tend_until(background, stage.clock, HOUR - 400)
        assert background.failure is None
        assert background.read("id") not in (reply, None)
        assert stage.count == 2

    def test_token_that_returns_is_used_again(self, stage: Stage, softhsm: InProcessSoftHSM) -> None:
        softhsm.generate("lost", b"\x61", "EC:prime256v1")
        stage.leaf.write_bytes(certs.pem(certs.issue(stage.ca, softhsm.public_key(b"\x61"))))
        source = IdentitySource(str(stage.leaf), softhsm.uri("lost"), pin=softhsm.pin)
        background = made(stage, source=source)
        reply = background.reply("id")
        softhsm.delete("privkey", b"\x61")
        tend_until(background, stage.clock, HOUR - MARGIN)
        assert background.failure is not None
        assert background.read("id") is reply
        softhsm.generate("lost", b"\x62", "EC:prime256v1")
        softhsm.delete("pubkey", b"\x61")
        stage.leaf.write_bytes(certs.pem(certs.issue(stage.ca, softhsm.public_key(b"\x62"))))
        tend_until(background, stage.clock, HOUR - MARGIN + 121)
        assert background.read("id") not in (reply, None)
        background.close()


class TestClocks:
    def test_session_is_replaced_after_a_suspension(self, stage: Stage) -> None:
        background = made(stage)
        reply = background.reply("id")
        wait = background._refresher.refresh_ahead()
        assert wait == LOOK_SECONDS
        stage.clock.advance(8 * HOUR)
        assert background.read("id") is None
        background._refresher.refresh_ahead()
        assert background.read("id") not in (reply, None)

    def test_session_is_replaced_when_a_virtual_machine_stood_still(self, stage: Stage) -> None:
        background = made(stage)
        reply = background.reply("id")
        stage.clock.advance(HOUR - 300)
        stage.clock.paused = HOUR - 300
        background._refresher.refresh_ahead()
        assert background.read("id") not in (reply, None)

    def test_wall_clock_that_is_set_and_set_right_keeps_the_last_reply(self, stage: Stage) -> None:
        background = made(stage)
        reply = background.reply("id")
        stage.clock.off = 2 * HOUR
        background._refresher.refresh_ahead()
        assert background.read("id") is None
        assert isinstance(background.failure, ServiceError)
        stage.clock.off = 0
        assert background.read("id") is reply

    @given(
        duration=st.sampled_from([900, 3600, 43200]),
        steps=st.lists(
            st.tuples(
                st.sampled_from([0.0, 0.5, 7.0, 60.0, 250.0, 900.0, 5000.0]),
                st.sampled_from(["ask", "rest", "fail", "mend", "ahead", "back", "right"]),
            ),
            max_size=40,
        ),
    )
    def test_replies_are_live_and_attempts_paced_in_any_order_of_events(
        self, duration: int, steps: list[tuple[float, str]]
    ) -> None:
        world = _World(duration)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("hwsigner._refresh.attempts.create_session", world.create)
            patch.setattr(reopening.ReopeningIdentity, "get", lambda *_: None)
            for pause, event in steps:
                world.happen(pause, event)


class _World:
    """A service that may fail, clocks that may be off, and what must always hold."""

    def __init__(self, duration: int) -> None:
        self.clock = FakeClock()
        self.is_up = True
        self.tries: list[tuple[float, bool]] = []
        request, service = SessionRequest("ta", "p", "r", duration), find_service("us-east-1", environ={})
        provider = Provider(IdentitySource("x"), request, service, now=self.clock.now, monotonic=self.clock.monotonic)
        self.background = BackgroundProvider(provider, formats={"end": lambda c: c.expiration.isoformat().encode()})
        self.duration = duration

    def create(self, *_: object, **__: object) -> Credentials:
        is_good = self.is_up and abs(self.clock.off) < 300
        self.tries.append((self.clock.elapsed, is_good))
        if not is_good:
            raise ServiceError("the service is down, or this clock is off")
        end = self.clock.true() + timedelta(seconds=self.duration)
        return Credentials("AKIA", "secret", "token", end, "role", "assumed")

    def happen(self, pause: float, event: str) -> None:
        self.is_up = {"fail": False, "mend": True}.get(event, self.is_up)
        self.clock.off = {"ahead": 7200.0, "back": -7200.0, "right": 0.0}.get(event, self.clock.off)
        self.clock.advance(pause)
        before = len(self.tries)
        wait = self.background._refresher.refresh_ahead()
        assert 0 < wait <= LOOK_SECONDS
        assert len(self.tries) <= before + 1
        self.background._refresher.refresh_ahead()
        assert len(self.tries) <= before + 1  # There must be a pause between two attempts.
        if event == "ask":
            self.ask()

    def ask(self) -> None:
        before = len(self.tries)
        reply = self.background.read("end")
        assert len(self.tries) == before
        if reply is None:
            try:
                reply = self.background.reply("end")
            except HwsignerError:
                assert not self.tries[-1][1]
                return
        left = (datetime.fromisoformat(bytes(reply).decode()) - self.clock.true()).total_seconds()
        assert left > 0
        margin = min(MARGIN, self.duration / 3)
        assert left > margin or not self.tries[-1][1] or self.clock.off


@pytest.mark.timeout(60)
class TestBackground:
    """After `start`. Attempts tell the timer of changes, and the tests tell it that they have advanced the clock."""

    def test_session_is_refreshed_in_the_background(self, stage: Stage) -> None:
        tried = Tried()
        with made(stage, on_try=tried) as background:
            first = background.reply("id")
            tried.told.clear()
            stage.clock.advance(HOUR - MARGIN)
            background._refresher._report_change()
            assert tried.told.wait(20)
            assert background.read("id") not in (first, None)
        assert stage.count == 2

    def test_attempts_are_repeated_in_the_background(self, stage: Stage) -> None:
        outcomes: SimpleQueue[Credentials | Failure] = SimpleQueue()

        def on_try(outcome: Credentials | Failure) -> None:
            stage.clock.advance(2)  # More than a first or a second pause.
            outcomes.put(outcome)

        stage.emulator.misbehave(Fault("fail", 2))
        with made(stage, on_try=on_try) as background:
            with pytest.raises(ServiceError):
                background.reply("id")
            background._refresher._report_change()  # The attempt told the timer before its pause was over.
            assert isinstance(outcomes.get(timeout=20), Failure)
            assert isinstance(outcomes.get(timeout=20), Failure)
            assert background.read("id") is None
            background._refresher._report_change()
            assert isinstance(outcomes.get(timeout=20), Credentials)
            assert background.read("id") is not None
        assert stage.count == 3

    def test_last_reply_is_read_during_a_background_refresh(self, stage: Stage) -> None:
        asked, answer = threading.Event(), threading.Event()

        def hold(_: object) -> None:
            asked.set()
            assert answer.wait(20)

        with made(stage) as background:
            reply = background.reply("id")
            stage.emulator.on_record = hold
            stage.clock.advance(HOUR - 100)
            background._refresher._report_change()
            try:
                assert asked.wait(20)
                assert in_threads(50, lambda: background.read("id")) == [reply] * 50
                assert in_threads(50, lambda: background.reply("id")) == [reply] * 50
            finally:
                answer.set()
        assert stage.count == 2

    def test_closed_provider_refreshes_no_more(self, stage: Stage) -> None:
        background = made(stage)
        background.start()
        background.start()
        background.reply("id")
        background.close()
        background.close()
        stage.clock.advance(HOUR - 100)
        background._refresher._report_change()
        settle()
        assert background._refresher not in module._timer._due
        assert stage.count == 1
        assert background.read("id") is None
        with pytest.raises(UsageError, match="closed"):
            background.reply("id")

    @pytest.mark.slow
    def test_many_providers_share_a_timer_and_leave_no_workers(self, stage: Stage) -> None:
        outcomes: SimpleQueue[object] = SimpleQueue()
        backgrounds = [made(stage, on_try=outcomes.put) for _ in range(20)]
        before = set(threading.enumerate()) - {module._timer._thread}
        for background in backgrounds:
            background.start()
            background.reply("id")
        stage.clock.advance(HOUR - MARGIN)
        for background in backgrounds:
            background._refresher._report_change()
        for _ in range(40):
            assert isinstance(outcomes.get(timeout=20), Credentials)
        wait_until(lambda: set(threading.enumerate()) - before == {module._timer._thread})
        for background in backgrounds:
            background.close()
        assert stage.count == 40

    @pytest.mark.slow
    def test_key_that_hangs_delays_no_other_refresh(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        release, tried = threading.Event(), Tried()
        hanging = [made(stage) for _ in range(40)]
        other = made(stage, on_try=tried)
        for background in (*hanging, other):
            background.start()
            background.reply("id")
        tried.told.clear()
        for background in hanging:
            monkeypatch.setattr(background._refresher, "_renew_ahead", lambda: release.wait(20))
        stage.clock.advance(HOUR - MARGIN)
        try:
            for background in (*hanging, other):
                background._refresher._report_change()
            assert tried.told.wait(15)
        finally:
            release.set()
            for background in (*hanging, other):
                background.close()

    def test_change_during_a_refresh_is_seen(self, stage: Stage) -> None:
        """A caller wants the credentials after their worker has looked, and before it reports."""
        background, timer, now = made(stage), module.Timer(), time.monotonic()
        background.reply("id")
        background._refresher.refresh_ahead()
        timer._plan(background._refresher, None)
        assert timer._due[background._refresher] > now + 100
        timer._at_work[background._refresher] = False
        stage.clock.advance(HOUR - MARGIN)
        timer._plan(background._refresher, None)
        assert timer._due[background._refresher] > now + 100
        timer._plan(background._refresher, LOOK_SECONDS)
        assert timer._due[background._refresher] < now + 20

    def test_reply_that_came_during_close_is_not_given(self, stage: Stage) -> None:
        background = made(stage)
        asked, answer = threading.Event(), threading.Event()

        def hold(_: object) -> None:
            asked.set()
            assert answer.wait(20)

        stage.emulator.on_record = hold
        with ThreadPoolExecutor(2) as pool:
            replied = pool.submit(background.reply, "id")
            assert asked.wait(20)
            closed = pool.submit(background.close)
            while not background._refresher.is_stopped:
                time.sleep(0.001)
            answer.set()
            closed.result(20)
            with suppress(UsageError):
                replied.result(20)
        assert background.read("id") is None
        assert background._refresher._last is None

    def test_provider_can_have_only_one_background_provider(self, stage: Stage) -> None:
        background = made(stage)
        with pytest.raises(UsageError, match="has a background provider already"):
            BackgroundProvider(background._provider)

    def test_listener_can_close_the_provider(self, stage: Stage) -> None:
        def on_try(_: object) -> None:
            if stage.count == 2:
                background.close()

        background = made(stage, on_try=on_try)
        background.start()
        background.reply("id")
        stage.clock.advance(HOUR - MARGIN)
        background._refresher._report_change()
        wait_until(lambda: background._refresher._is_closed and not background._refresher._is_refreshing)
        assert background.read("id") is None
        assert background._refresher._session is None

    def test_signal_handler_can_close_the_provider_during_a_refresh(self, stage: Stage) -> None:
        background = made(stage)
        background.start()
        main, done = threading.get_ident(), threading.Event()

        def handle(*_: object) -> None:
            background.close()
            done.set()

        def interrupt(_: object) -> None:
            signal.pthread_kill(main, signal.SIGUSR1)
            assert done.wait(20)

        before = signal.signal(signal.SIGUSR1, handle)
        try:
            stage.emulator.on_record = interrupt
            with pytest.raises(UsageError, match="closed"):
                background.reply("id")
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert done.is_set()

    def test_child_process_refreshes_nothing_until_it_starts(self, stage: Stage) -> None:
        def child() -> object:
            is_alone = module._timer._thread is None and background.read("id") is None
            new = background.reply("id") != reply
            background.start()
            background.close()
            return is_alone, new, background._refresher._last is None

        with made(stage, attended=True) as background:
            reply = background.reply("id")
            stage.clock.advance(HOUR - 100)
            assert in_child(child) == "(True, True, True)"
            assert background.reply("id") != reply

    def test_child_process_makes_its_own_attempts(self, stage: Stage) -> None:
        background = made(stage)
        reply = background.reply("id")
        stage.emulator.misbehave(Fault("fail", None))
        stage.clock.advance(HOUR - 500)
        background._refresher.refresh_ahead()
        stage.clock.advance(2)
        assert background.read("id") is reply
        assert in_child(lambda: background.read("id")) == "None"

    def test_with_statement_starts_and_closes(self, stage: Stage) -> None:
        with made(stage) as background:
            settle()
            assert background._refresher in module._timer._due
        settle()
        assert background._refresher not in module._timer._due

    def test_child_process_forked_during_a_refresh_gets_a_session(self, stage: Stage) -> None:
        asked, answer = threading.Event(), threading.Event()

        def hold(_: object) -> None:
            asked.set()
            assert stage.count > 2 or answer.wait(20)

        with made(stage) as background:
            reply = background.reply("id")
            stage.emulator.on_record = hold
            stage.clock.advance(HOUR - 100)
            background._refresher._report_change()
            try:
                assert asked.wait(20)
                assert in_child(lambda: background.reply("id") != reply) == "True"
            finally:
                answer.set()


def test_process_that_does_not_close_ends() -> None:
    program = """
from hwsigner import IdentitySource, Provider, SessionRequest, find_service
from hwsigner import BackgroundProvider
provider = Provider(IdentitySource("x"), SessionRequest("t", "p", "r"), find_service("us-east-1"))
BackgroundProvider(provider).start()
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


class TestStatus:
    def test_status_follows_the_session(self, stage: Stage) -> None:
        background = made(stage)
        assert background.status() == (None, 0, math.inf, None, False, False)
        background.reply("id")
        background._refresher.refresh_ahead()
        status = background.status()
        assert status.expiration == background().expiration
        assert HOUR - 5 < status.left <= HOUR
        assert HOUR - EARLIEST - 5 < status.until_refresh <= HOUR - MARGIN
        assert status.is_wanted
        stage.clock.advance(2 * HOUR)
        assert background.status().left == 0

    def test_repr_shows_no_secret(self, stage: Stage) -> None:
        background = made(stage)
        credentials = background()
        for part in (background, background.status(), background._refresher._last):
            assert credentials.secret_access_key not in repr(part)
            assert credentials.session_token not in repr(part)
        assert stage.emulator.role_arn in repr(background)
