"""Resident providers: nobody waits once they are warm, for whom they refresh and for whom not, and what they answer."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

import certs
from emulators import InProcessSoftHSM
from hwsigner.aws.create_session import SessionRequest, find_service
from hwsigner.aws.credentials import Credentials
from hwsigner.emulator import Fault
from hwsigner.errors import (
    HwsignerError,
    KeyMismatchError,
    ServiceError,
    SigningKeyError,
    UsageError,
    WrongPinError,
)
from hwsigner.identity import Identity, IdentitySource
from hwsigner.key import open_key
from hwsigner.refresh import renewal
from hwsigner.refresh import reopening as held_identity
from hwsigner.refresh.background import LOOK_SECONDS, ResidentProvider
from hwsigner.refresh.outcome import HeldSession, Setback
from hwsigner.refresh.provider import Provider
from stage import PASSPHRASE, FakeClock, Stage, in_child, in_threads, make_stage

MARGIN = 960
EARLIEST = 2280
HOUR = 3600


@pytest.fixture
def stage(ca: certs.Authority, tmp_path: Path) -> Iterator[Stage]:
    with make_stage(ca, tmp_path) as stage:
        yield stage


def process(credentials: Credentials) -> bytes:
    return credentials.process_json().encode()


def key_id(credentials: Credentials) -> bytes:
    return credentials.access_key_id.encode()


FORMATS = {"process": process, "id": key_id}


@dataclass
class Tried:
    """What on_try was told."""

    outcomes: list[HeldSession | Setback] = field(default_factory=list)
    told: threading.Event = field(default_factory=threading.Event)

    def __call__(self, outcome: HeldSession | Setback) -> None:
        self.outcomes.append(outcome)
        self.told.set()


def made(stage: Stage, *, attended: bool | None = None, on_try: Any = None, **options: Any) -> ResidentProvider:
    return ResidentProvider(stage.provider(**options), formats=FORMATS, attended=attended, on_try=on_try)


def tend_until(resident: ResidentProvider, clock: FakeClock, end: float) -> None:
    """Do what the thread does, which sleeps by a clock that the test advances."""
    while clock.elapsed < end:
        clock.advance(min(resident.tend() + 0.001, end - clock.elapsed))
    resident.tend()


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return what forbids, from its call on, whatever has no place on the path of a request."""

    def forbid() -> None:
        def refuse(*_: object, **__: object) -> Any:
            raise AssertionError("this is not for a request's path")

        monkeypatch.setattr(json, "dumps", refuse)
        monkeypatch.setattr(Identity, "sign", refuse)
        monkeypatch.setattr(renewal, "create_session", refuse)
        monkeypatch.setattr(os, "stat", refuse)

    return forbid


class TestReplies:
    def test_before_anybody_asked(self, stage: Stage) -> None:
        resident = made(stage)
        tend_until(resident, stage.clock, 2 * HOUR)
        assert stage.count == 0
        assert resident.read("process") is None

    def test_are_the_credentials_as_finished_bytes(self, stage: Stage) -> None:
        resident = made(stage)
        reply = resident.reply("process")
        assert json.loads(bytes(reply))["AccessKeyId"].encode() == resident.read("id")
        assert resident.read("process") is reply is resident.reply("process")
        assert resident().process_json().encode() == reply
        assert stage.count == 1

    def test_are_made_once_for_each_session(self, stage: Stage, no_work: Callable[[], None]) -> None:
        resident = made(stage)
        reply = resident.reply("process")
        no_work()
        stage.clock.advance(HOUR - MARGIN - 5)
        assert resident.read("process") is reply
        assert resident.reply("process") is reply

    def test_need_no_lock(self, stage: Stage) -> None:
        resident = made(stage)
        reply = resident.reply("id")
        with resident._renewal._lock:  # Another thread's read gets through.
            assert in_threads(20, lambda: resident.read("id")) == [reply] * 20
            assert in_threads(20, lambda: resident.reply("id")) == [reply] * 20

    def test_a_thousand_who_ask_at_once_cause_one_session(self, stage: Stage) -> None:
        with made(stage) as resident:
            found = in_threads(1000, lambda: resident.read("id") or resident.reply("id"))
        assert {type(reply) for reply in found} == {bytes}
        assert len(set(found)) == 1
        assert stage.count == 1

    def test_one_whose_replies_are_still_being_made(self, stage: Stage) -> None:
        found: list[object] = []

        def render(credentials: Credentials) -> bytes:
            if threading.current_thread() is maker:
                found.append(in_threads(1, lambda: resident.reply("id"))[0])
            return key_id(credentials)

        maker = threading.current_thread()
        resident = ResidentProvider(stage.provider(), formats={"id": render})
        assert found == [resident.reply("id")]
        assert stage.count == 1


class TestRefresh:
    def test_is_never_on_the_path_of_who_asks(self, stage: Stage) -> None:
        resident, elapsed = made(stage), []
        resident.reply("id")
        for step in range(1, 721):  # Twelve hours, asked each minute.
            tend_until(resident, stage.clock, step * 60)
            count = stage.count
            assert resident.read("id") is not None
            assert resident().expiration - stage.clock.true() > timedelta(seconds=MARGIN)
            assert stage.count == count
            elapsed.append(count)
        assert 12 * HOUR / (HOUR - MARGIN) - 1 <= elapsed[-1] <= 12 * HOUR / (HOUR - EARLIEST) + 2

    @pytest.mark.parametrize(("duration", "earliest"), [(900, 600), (3600, EARLIEST)])
    @pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
    def test_comes_when_chance_says(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch, duration: int, earliest: int, chance: float
    ) -> None:
        monkeypatch.setattr("random.random", lambda: chance)
        resident = made(stage, duration=duration)
        resident.reply("id")
        margin = min(MARGIN, duration / 3)
        due = duration - margin - (earliest - margin) * chance
        tend_until(resident, stage.clock, due - 5)
        assert stage.count == 1
        tend_until(resident, stage.clock, due + 1)
        assert stage.count == 2

    def test_does_nothing_for_a_session_that_nobody_was_given(self, stage: Stage) -> None:
        resident = made(stage)
        resident.reply("id")
        tend_until(resident, stage.clock, 10 * HOUR)
        assert stage.count == 2
        assert resident.read("id") is None
        resident.reply("id")
        assert stage.count == 3

    def test_comes_late_for_one_who_asks_late(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("random.random", lambda: 0.999)
        resident = made(stage)
        resident.refresh()
        tend_until(resident, stage.clock, HOUR - MARGIN - LOOK_SECONDS - 10)
        assert stage.count == 1
        assert resident.read("id")
        stage.clock.advance(LOOK_SECONDS)
        resident.tend()
        assert stage.count == 2

    def test_for_what_its_listener_takes(self, stage: Stage) -> None:
        written: list[str] = []
        resident: ResidentProvider = made(stage, on_try=lambda _: written.append(resident().access_key_id))
        resident.refresh()
        tend_until(resident, stage.clock, 10 * HOUR)
        assert len(set(written)) == len(written) == stage.count > 10

    def test_under_way_elsewhere_is_not_waited_for(self, stage: Stage) -> None:
        resident = made(stage)
        reply = resident.reply("id")
        stage.clock.advance(HOUR - 100)
        waits = []
        stage.emulator.on_record = lambda _: waits.append((resident.tend(), resident.read("id")))
        assert resident.reply("id") != reply
        assert waits == [(LOOK_SECONDS, reply)]
        assert stage.count == 2

    def test_under_way_after_a_failure(self, stage: Stage) -> None:
        resident = made(stage)
        reply = resident.reply("id")
        stage.emulator.misbehave(Fault("fail"))
        stage.clock.advance(HOUR - 500)
        assert resident.reply("id") is reply
        stage.clock.advance(2)
        reads: list[object] = []
        stage.emulator.on_record = lambda _: reads.append(resident.read("id"))
        assert resident.reply("id") is not reply
        assert reads == [reply]

    def test_by_hand(self, stage: Stage) -> None:
        tried = Tried()
        resident = made(stage, on_try=tried)
        first = resident.reply("id")
        resident.refresh()
        assert resident.read("id") not in (first, None)
        stage.emulator.misbehave(Fault("fail"))
        last = resident.read("id")
        with pytest.raises(ServiceError):
            resident.refresh()
        assert resident.read("id") == last
        assert [type(outcome) for outcome in tried.outcomes] == [HeldSession, HeldSession, Setback]
        resident.refresh()
        assert stage.count == 4
        assert resident.failure is None


class TestPersons:
    """A key that needs somebody is used when somebody asks, and not by itself."""

    @pytest.mark.parametrize("seconds", [1.9, 2.1])
    def test_who_take_their_time_to_touch_it(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch, seconds: float
    ) -> None:
        sign = Identity.sign

        def touched(*arguments: Any) -> bytes:
            stage.clock.advance(seconds)
            return sign(*arguments)

        monkeypatch.setattr(Identity, "sign", touched)
        resident = made(stage)
        resident.reply("id")
        tend_until(resident, stage.clock, HOUR - 100)
        assert stage.count == (1 if seconds > 2 else 2)
        assert resident.status().needs_person == (seconds > 2)
        if seconds > 2:
            assert resident.read("id") is None
            resident.reply("id")
            assert stage.count == 2

    def test_who_were_quick_once_and_are_away_now(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        def untouched(*_: object) -> bytes:
            stage.clock.advance(15)
            raise SigningKeyError("nobody touched it in time")

        resident = made(stage)
        resident.reply("id")
        monkeypatch.setattr(Identity, "sign", untouched)
        tend_until(resident, stage.clock, HOUR - 100)
        assert isinstance(resident.failure, SigningKeyError)
        assert resident._renewal.setback is not None
        assert resident._renewal.setback.number == 1
        assert resident.read("id") is None  # Who asks may try.

    @pytest.mark.parametrize("attended", [True, False])
    def test_of_whom_it_is_told(self, stage: Stage, attended: bool) -> None:
        resident = made(stage, attended=attended)
        resident.reply("id")
        tend_until(resident, stage.clock, HOUR - 100)
        assert stage.count == (1 if attended else 2)

    def test_who_type_a_pin_when_it_is_opened_anew(self, stage: Stage) -> None:
        stage.encrypt_key()

        def ask(_: object) -> str:
            stage.clock.advance(20)
            return PASSPHRASE

        resident = made(stage, source=IdentitySource(str(stage.leaf), str(stage.key), pin=ask))
        resident.reply("id")
        tend_until(resident, stage.clock, HOUR)
        resident.reply("id")
        count = stage.count
        assert count == 2  # The key is open, and nobody was asked for the second one.
        stage.encrypt_key()
        tend_until(resident, stage.clock, 2 * HOUR)
        assert stage.count == count
        assert resident.status().needs_person
        resident.reply("id")
        assert stage.count == count + 1

    def test_whose_pin_was_wrong(self, stage: Stage) -> None:
        stage.encrypt_key()
        answers = ["of yesterday", PASSPHRASE]
        asked = []

        def ask(request: object) -> str:
            asked.append(request)
            return answers.pop(0)

        resident = made(stage, source=IdentitySource(str(stage.leaf), str(stage.key), pin=ask))
        for _ in range(3):
            with pytest.raises(WrongPinError):
                resident.reply("id")
            assert resident.read("id") is None
            tend_until(resident, stage.clock, stage.clock.elapsed + HOUR)
            with pytest.raises(WrongPinError):
                resident.refresh()
        assert len(asked) == 1
        resident.refresh(mended=True)
        assert resident.read("id")
        assert (len(asked), stage.count) == (2, 1)


class TestFailures:
    def test_the_last_reply_is_given_while_it_lives(self, stage: Stage) -> None:
        tried = Tried()
        resident = made(stage, on_try=tried)
        reply = resident.reply("id")
        stage.emulator.misbehave(Fault("fail", None))
        for step in range(1, HOUR // 60):
            tend_until(resident, stage.clock, step * 60)
            assert resident.read("id") is reply
        count = stage.count
        assert count > 10
        tend_until(resident, stage.clock, HOUR + 1)
        assert resident.read("id") is None
        with pytest.raises(ServiceError, match="500"):
            resident.reply("id")
        stage.emulator.behave()
        tend_until(resident, stage.clock, stage.clock.elapsed + 121)
        assert resident.read("id") not in (reply, None)
        assert {type(outcome) for outcome in tried.outcomes[1:-1]} == {Setback}

    def test_the_thread_looks_again_after_the_pause(self, stage: Stage) -> None:
        resident = made(stage)
        resident.reply("id")
        stage.emulator.misbehave(Fault("fail", None))
        stage.clock.advance(HOUR - 500)
        for longest in (1, 2, 4, 8):
            wait = resident.tend()
            assert longest / 2 <= wait <= longest
            stage.clock.advance(wait + 0.001)
        assert stage.count == 5

    def test_a_lone_one_is_mended_long_before_the_end(self, stage: Stage) -> None:
        resident = made(stage)
        reply = resident.reply("id")
        stage.emulator.misbehave(Fault("fail"))
        tend_until(resident, stage.clock, HOUR - MARGIN + 2)
        assert resident.failure is None
        assert resident.read("id") not in (reply, None)
        assert stage.count == 3

    def test_patience_ends_with_a_clock_that_is_set(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("random.random", lambda: 0.999)
        resident = made(stage)
        reply = resident.reply("id")
        stage.emulator.misbehave(Fault("fail"))
        tend_until(resident, stage.clock, HOUR - EARLIEST + 3)
        assert stage.count == 2
        assert resident.status().until_refresh > 300
        stage.clock.advance(HOUR)
        stage.clock.paused = HOUR  # The virtual machine stood still, and so did the clock that nobody sets.
        resident.read("id")
        resident.tend()
        assert stage.count == 3
        assert resident.read("id") not in (reply, None)

    def test_who_asks_makes_no_try_that_the_thread_makes(self, stage: Stage, no_work: Callable[[], None]) -> None:
        resident = made(stage)
        reply = resident.reply("id")
        stage.emulator.misbehave(Fault("fail", None))
        tend_until(resident, stage.clock, HOUR - 600)
        stage.clock.advance(500)  # It is past time for the next try.
        no_work()
        assert resident.read("id") is reply

    def test_who_asks_makes_them_where_no_thread_does(self, stage: Stage) -> None:
        resident = made(stage)
        reply = resident.reply("id")
        stage.emulator.misbehave(Fault("fail"))
        stage.clock.advance(HOUR - 500)
        assert resident.reply("id") is reply
        assert resident.read("id") is reply
        stage.clock.advance(1)
        assert resident.read("id") is None
        assert resident.reply("id") is not reply
        assert stage.count == 3

    def test_without_credentials_each_try_is_for_one_who_asks(self, stage: Stage) -> None:
        resident = made(stage)
        stage.emulator.misbehave(Fault("fail", None))
        with pytest.raises(ServiceError):
            resident.reply("id")
        tend_until(resident, stage.clock, HOUR)
        assert stage.count == 2
        assert resident.read("id") is None
        tend_until(resident, stage.clock, 2 * HOUR)
        assert stage.count == 3

    def test_a_new_certificate_comes_before_its_key(self, stage: Stage) -> None:
        resident = made(stage)
        reply = resident.reply("id")
        key = ec.generate_private_key(ec.SECP256R1())
        stage.write_leaf(key, certs.Shape(serial=0xBEEF))
        for step in range(1, HOUR // 60):
            tend_until(resident, stage.clock, step * 60)
            assert resident.read("id") is reply
        assert isinstance(resident.failure, SigningKeyError)
        assert stage.count == 1  # Nothing was signed with one of them for the other.
        certs.write_key(stage.key, key)
        tend_until(resident, stage.clock, stage.clock.elapsed + 121)
        assert resident.read("id") is None or stage.count == 2
        resident.reply("id")
        assert stage.count == 2
        assert stage.leaf_of_last_request().serial_number == 0xBEEF

    @pytest.mark.parametrize("is_replaced_between", [False, True])
    def test_a_key_comes_before_its_certificate(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch, is_replaced_between: bool
    ) -> None:
        resident = made(stage)
        reply = resident.reply("id")
        key = ec.generate_private_key(ec.SECP256R1())

        def open_replaced(*arguments: Any, **options: Any) -> Any:
            stage.write_leaf(key)  # The old one was read already.
            certs.write_key(stage.key, key)
            return open_key(*arguments, **options)

        if is_replaced_between:
            stage.leaf.touch()
            monkeypatch.setattr("hwsigner.identity.open_key", open_replaced)
        else:
            certs.write_key(stage.key, key)
        tend_until(resident, stage.clock, HOUR - MARGIN - 600)
        tend_until(resident, stage.clock, HOUR - 600)
        if not is_replaced_between:
            assert isinstance(resident.failure, KeyMismatchError)
            assert resident.read("id") is reply
            stage.write_leaf(key)
            tend_until(resident, stage.clock, HOUR - 400)
        assert resident.failure is None
        assert resident.read("id") not in (reply, None)
        assert stage.count == 2

    def test_a_token_that_is_away_and_comes_back(self, stage: Stage, softhsm: InProcessSoftHSM) -> None:
        softhsm.generate("lost", b"\x61", "EC:prime256v1")
        stage.leaf.write_bytes(certs.pem(certs.issue(stage.ca, softhsm.public_key(b"\x61"))))
        source = IdentitySource(str(stage.leaf), softhsm.uri("lost"), pin=softhsm.pin)
        resident = made(stage, source=source)
        reply = resident.reply("id")
        softhsm.delete("privkey", b"\x61")
        tend_until(resident, stage.clock, HOUR - MARGIN)
        assert resident.failure is not None
        assert resident.read("id") is reply
        softhsm.generate("lost", b"\x62", "EC:prime256v1")
        softhsm.delete("pubkey", b"\x61")
        stage.leaf.write_bytes(certs.pem(certs.issue(stage.ca, softhsm.public_key(b"\x62"))))
        tend_until(resident, stage.clock, HOUR - MARGIN + 121)
        assert resident.read("id") not in (reply, None)
        resident.close()


class TestClocks:
    def test_a_machine_that_was_suspended(self, stage: Stage) -> None:
        resident = made(stage)
        reply = resident.reply("id")
        wait = resident.tend()
        assert wait == LOOK_SECONDS
        stage.clock.advance(8 * HOUR)
        assert resident.read("id") is None
        resident.tend()
        assert resident.read("id") not in (reply, None)

    def test_a_virtual_machine_that_stood_still(self, stage: Stage) -> None:
        resident = made(stage)
        reply = resident.reply("id")
        stage.clock.advance(HOUR - 300)
        stage.clock.paused = HOUR - 300
        resident.tend()
        assert resident.read("id") not in (reply, None)

    def test_a_wall_clock_that_is_set_and_set_right(self, stage: Stage) -> None:
        resident = made(stage)
        reply = resident.reply("id")
        stage.clock.off = 2 * HOUR
        resident.tend()
        assert resident.read("id") is None
        assert isinstance(resident.failure, ServiceError)
        stage.clock.off = 0
        assert resident.read("id") is reply

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
    def test_whatever_happens(self, duration: int, steps: list[tuple[float, str]]) -> None:
        world = _World(duration)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(renewal, "create_session", world.create)
            patch.setattr(held_identity.HeldIdentity, "get", lambda *_: None)
            for pause, event in steps:
                world.happen(pause, event)


class _World:
    """A service that may fail, clocks that may be off, and what must hold whatever happens."""

    def __init__(self, duration: int) -> None:
        self.clock = FakeClock()
        self.is_up = True
        self.tries: list[tuple[float, bool]] = []
        request, service = SessionRequest("ta", "p", "r", duration), find_service("us-east-1", environ={})
        provider = Provider(IdentitySource("x"), request, service, now=self.clock.now, monotonic=self.clock.monotonic)
        self.resident = ResidentProvider(provider, formats={"end": lambda c: c.expiration.isoformat().encode()})
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
        wait = self.resident.tend()
        assert 0 < wait <= LOOK_SECONDS
        assert len(self.tries) <= before + 1
        self.resident.tend()
        assert len(self.tries) <= before + 1  # One after the other without a pause is a storm.
        if event == "ask":
            self.ask()

    def ask(self) -> None:
        before = len(self.tries)
        reply = self.resident.read("end")
        assert len(self.tries) == before
        if reply is None:
            try:
                reply = self.resident.reply("end")
            except HwsignerError:
                assert not self.tries[-1][1]
                return
        left = (datetime.fromisoformat(bytes(reply).decode()) - self.clock.true()).total_seconds()
        assert left > 0
        margin = min(MARGIN, self.duration / 3)
        assert left > margin or not self.tries[-1][1] or self.clock.off


@pytest.mark.timeout(60)
class TestThread:
    """The thread itself. It is woken by what a try tells, and here by the test, as nobody waits for its next look."""

    def test_refreshes_by_itself(self, stage: Stage) -> None:
        tried = Tried()
        with made(stage, on_try=tried) as resident:
            first = resident.reply("id")
            tried.told.clear()
            stage.clock.advance(HOUR - MARGIN)
            resident._wakes.put(None)
            assert tried.told.wait(20)
            assert resident.read("id") not in (first, None)
        assert stage.count == 2

    def test_tries_again_by_itself(self, stage: Stage) -> None:
        outcomes: SimpleQueue[HeldSession | Setback] = SimpleQueue()

        def on_try(outcome: HeldSession | Setback) -> None:
            stage.clock.advance(2)  # More than a first or a second pause.
            outcomes.put(outcome)

        stage.emulator.misbehave(Fault("fail", 2))
        with made(stage, on_try=on_try) as resident:
            with pytest.raises(ServiceError):
                resident.reply("id")
            assert isinstance(outcomes.get(timeout=20), Setback)
            assert isinstance(outcomes.get(timeout=20), Setback)
            assert resident.read("id") is None
            resident._wakes.put(None)
            assert isinstance(outcomes.get(timeout=20), HeldSession)
            assert resident.read("id") is not None
        assert stage.count == 3

    def test_readers_get_the_last_reply_while_it_works(self, stage: Stage) -> None:
        asked, answer = threading.Event(), threading.Event()

        def hold(_: object) -> None:
            asked.set()
            assert answer.wait(20)

        with made(stage) as resident:
            reply = resident.reply("id")
            stage.emulator.on_record = hold
            stage.clock.advance(HOUR - 100)
            resident._wakes.put(None)
            try:
                assert asked.wait(20)
                assert in_threads(50, lambda: resident.read("id")) == [reply] * 50
                assert in_threads(50, lambda: resident.reply("id")) == [reply] * 50
            finally:
                answer.set()
        assert stage.count == 2

    def test_ends_when_it_is_closed(self, stage: Stage) -> None:
        resident = made(stage)
        resident.start()
        thread = resident._thread
        assert thread is not None
        resident.start()
        assert resident._thread is thread
        assert thread.is_alive()
        assert not thread.daemon
        resident.reply("id")
        resident.close()
        resident.close()
        assert not thread.is_alive()
        assert resident.read("id") is None
        with pytest.raises(UsageError, match="closed"):
            resident.reply("id")

    def test_gives_nothing_that_came_while_it_was_closed(self, stage: Stage) -> None:
        resident = made(stage)
        asked, answer = threading.Event(), threading.Event()

        def hold(_: object) -> None:
            asked.set()
            assert answer.wait(20)

        stage.emulator.on_record = hold
        with ThreadPoolExecutor(2) as pool:
            replied = pool.submit(resident.reply, "id")
            assert asked.wait(20)
            closed = pool.submit(resident.close)
            while not resident._is_closed:
                time.sleep(0.001)
            answer.set()
            closed.result(20)
            with suppress(UsageError):
                replied.result(20)
        assert resident.read("id") is None
        assert resident._held is None

    def test_a_provider_has_one(self, stage: Stage) -> None:
        resident = made(stage)
        with pytest.raises(UsageError, match="has a resident already"):
            ResidentProvider(resident._provider)

    def test_is_closed_by_its_listener(self, stage: Stage) -> None:
        def on_try(_: object) -> None:
            if stage.count == 2:
                resident.close()

        resident = made(stage, on_try=on_try)
        resident.start()
        thread = resident._thread
        assert thread is not None
        resident.reply("id")
        stage.clock.advance(HOUR - MARGIN)
        resident._wakes.put(None)
        thread.join(20)
        assert not thread.is_alive()
        assert resident.read("id") is None

    def test_is_closed_by_a_signal_amid_a_refresh(self, stage: Stage) -> None:
        resident = made(stage)
        resident.start()
        main, done = threading.get_ident(), threading.Event()

        def handle(*_: object) -> None:
            resident.close()
            done.set()

        def interrupt(_: object) -> None:
            signal.pthread_kill(main, signal.SIGUSR1)
            assert done.wait(20)

        before = signal.signal(signal.SIGUSR1, handle)
        try:
            stage.emulator.on_record = interrupt
            with pytest.raises(UsageError, match="closed"):
                resident.reply("id")
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert done.is_set()

    def test_a_child_has_none(self, stage: Stage) -> None:
        def child() -> object:
            is_alone = resident._thread is None and resident.read("id") is None
            new = resident.reply("id") != reply
            resident.start()
            resident.close()
            return is_alone, new, resident._held is None

        with made(stage, attended=True) as resident:
            reply = resident.reply("id")
            stage.clock.advance(HOUR - 100)
            assert in_child(child) == "(True, True, True)"
            assert resident.reply("id") != reply

    def test_a_child_whose_tries_no_thread_makes(self, stage: Stage) -> None:
        resident = made(stage)
        reply = resident.reply("id")
        stage.emulator.misbehave(Fault("fail", None))
        stage.clock.advance(HOUR - 500)
        resident.tend()
        stage.clock.advance(2)
        assert resident.read("id") is reply
        assert in_child(lambda: resident.read("id")) == "None"

    def test_ends_with_its_statement(self, stage: Stage) -> None:
        with made(stage) as resident:
            thread = resident._thread
        assert thread is not None
        assert not thread.is_alive()

    def test_a_child_that_is_forked_amid_its_work(self, stage: Stage) -> None:
        asked, answer = threading.Event(), threading.Event()

        def hold(_: object) -> None:
            asked.set()
            assert stage.count > 2 or answer.wait(20)

        with made(stage) as resident:
            reply = resident.reply("id")
            stage.emulator.on_record = hold
            stage.clock.advance(HOUR - 100)
            resident._wakes.put(None)
            try:
                assert asked.wait(20)
                assert in_child(lambda: resident.reply("id") != reply) == "True"
            finally:
                answer.set()


def test_a_process_that_forgets_to_close_ends() -> None:
    program = """
from hwsigner import IdentitySource, Provider, SessionRequest, find_service
from hwsigner.refresh import background as resident
resident.LOOK_SECONDS = 0.05
provider = Provider(IdentitySource("x"), SessionRequest("t", "p", "r"), find_service("us-east-1"))
resident.ResidentProvider(provider).start()
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0


class TestStatus:
    def test_through_its_life(self, stage: Stage) -> None:
        resident = made(stage)
        assert resident.status() == (None, 0, math.inf, None, False, False)
        resident.reply("id")
        resident.tend()
        status = resident.status()
        assert status.expiration == resident().expiration
        assert HOUR - 5 < status.left <= HOUR
        assert HOUR - EARLIEST - 5 < status.until_refresh <= HOUR - MARGIN
        assert status.is_wanted
        stage.clock.advance(2 * HOUR)
        assert resident.status().left == 0

    def test_nothing_secret_is_in_a_repr(self, stage: Stage) -> None:
        resident = made(stage)
        credentials = resident()
        for part in (resident, resident.status(), resident._held):
            assert credentials.secret_access_key not in repr(part)
            assert credentials.session_token not in repr(part)
        assert stage.emulator.role_arn in repr(resident)
