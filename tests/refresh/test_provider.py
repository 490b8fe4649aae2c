"""Providers: one session for all threads, refreshed in time; the last good one while it lives; no PIN sent twice."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.credentials import RefreshableCredentials
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

import certs
from emulators import InProcessSoftHSM
from hwsigner._aws.create_session import SessionRequest, find_service
from hwsigner._aws.credentials import Credentials
from hwsigner._cli import main
from hwsigner._config import profiles as config
from hwsigner._identity import IdentitySource, open_identity
from hwsigner._pins import PinRequest
from hwsigner._refresh import attempts as module
from hwsigner._refresh import reopening
from hwsigner._refresh.provider import Provider
from hwsigner._system.clocks import boot_time
from hwsigner._uri import KeyURI
from hwsigner.emulator import Fault
from hwsigner.errors import (
    CertificateError,
    ConfigError,
    HwsignerError,
    HwsignerWarning,
    KeyMismatchError,
    KeyNotFoundError,
    PinError,
    PinRequiredError,
    ServiceError,
    ServiceUnreachableError,
    SigningKeyError,
    UsageError,
    WrongPinError,
)
from judges import needs_proc
from softhsm.token import PIN
from stage import PASSPHRASE, FakeClock, Stage, in_child, in_threads

MARGIN = 960


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The identities that providers have opened; None for each failure."""
    opened: list[object] = []

    def open_and_count(*arguments: Any) -> Any:
        opened.append(None)
        opened[-1] = open_identity(*arguments)
        return opened[-1]

    monkeypatch.setattr(reopening, "open_identity", open_and_count)
    return opened


class TestRefresh:
    def test_nothing_is_done_before_the_first_call(self, stage: Stage) -> None:
        def source() -> IdentitySource:
            raise AssertionError("it was asked for")

        stage.provider(source)
        stage.provider(IdentitySource("/nonexistent", "handle:0x81000001"))
        assert stage.count == 0

    @pytest.mark.parametrize(
        ("duration", "margin"), [(900, 300), (1800, 600), (2880, MARGIN), (3600, MARGIN), (43200, MARGIN)]
    )
    def test_session_is_replaced_when_its_margin_is_left(
        self, stage: Stage, opened: list[object], duration: int, margin: int
    ) -> None:
        stage.emulator.world.profiles[stage.emulator.profile_arn].duration_seconds = 43200
        stage.emulator.world.roles[stage.emulator.role_arn].max_session_duration = 43200
        with stage.provider(duration=duration) as provider:
            for number in range(1, 4):
                credentials = provider()
                assert duration - 2 <= (credentials.expiration - stage.clock.true()).total_seconds() <= duration
                stage.clock.advance(duration - margin - 3)
                assert provider() is credentials
                assert stage.count == number
                stage.clock.advance(4)
        assert len(opened) == 1  # The card's session stays open.

    def test_token_key_is_kept_open_and_reopened_after_it_failed(
        self, stage: Stage, softhsm: InProcessSoftHSM, opened: list[object]
    ) -> None:
        softhsm.generate("kept", b"\x21", "EC:prime256v1")
        stage.leaf.write_bytes(certs.pem(certs.issue(stage.ca, softhsm.public_key(b"\x21"))))
        source = IdentitySource(str(stage.leaf), softhsm.uri("kept"), pin=softhsm.pin)
        with stage.provider(source) as provider:
            provider()
            stage.clock.advance(3000)
            provider()
            assert (stage.count, len(opened)) == (2, 1)
            softhsm.delete("privkey", b"\x21")
            stage.clock.advance(3000)
            provider()
            assert isinstance(provider.failure, HwsignerError)
            stage.clock.advance(1000)
            with pytest.raises(KeyNotFoundError):
                provider()
            softhsm.generate("kept", b"\x22", "EC:prime256v1")
            softhsm.delete("pubkey", b"\x21")
            stage.leaf.write_bytes(certs.pem(certs.issue(stage.ca, softhsm.public_key(b"\x22"))))
            stage.clock.advance(120)
            assert provider().expiration > stage.clock.true()
            assert provider.failure is None

    def test_key_that_failed_is_reopened(
        self, stage: Stage, opened: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def sign(*_: object) -> bytes:
            raise SigningKeyError("the token is gone")

        provider = stage.provider()
        last = provider()
        monkeypatch.setattr(opened[0], "sign", sign)
        stage.clock.advance(3000)
        assert provider() is last
        assert isinstance(provider.failure, SigningKeyError)
        stage.clock.advance(1)
        assert provider() is not last
        assert len(opened) == 2

    @pytest.mark.parametrize("fault", ["fail", "close"])
    def test_failure_of_the_service_does_not_close_the_key(
        self, stage: Stage, opened: list[object], fault: str
    ) -> None:
        stage.emulator.misbehave(Fault(fault))
        provider = stage.provider()
        with pytest.raises((ServiceError, ServiceUnreachableError)):
            provider()
        stage.clock.advance(1)
        provider()
        assert len(opened) == 1

    def test_session_that_the_service_shortens_is_replaced_in_time(self, stage: Stage) -> None:
        stage.emulator.world.profiles[stage.emulator.profile_arn].duration_seconds = 900
        provider = stage.provider()
        credentials = provider()
        stage.clock.advance(590)
        assert provider() is credentials
        stage.clock.advance(15)
        assert provider() is not credentials

    @pytest.mark.parametrize("duration", [2880, 3600])
    def test_botocore_does_not_refresh_credentials_given_just_before_the_margin(
        self, stage: Stage, duration: int
    ) -> None:
        provider = stage.provider(duration=duration)
        credentials = provider()
        stage.clock.advance(duration - MARGIN - 2)
        assert provider() is credentials

        def metadata() -> dict[str, str]:
            found = provider()
            names = {"access_key": found.access_key_id, "secret_key": found.secret_access_key}
            return {**names, "token": found.session_token, "expiry_time": found.expiration.isoformat()}

        taken = RefreshableCredentials.create_from_metadata(metadata(), metadata, "hwsigner")
        taken._time_fetcher = stage.clock.now
        assert taken.get_frozen_credentials().token == credentials.session_token
        assert not taken.refresh_needed()
        stage.clock.advance(120)
        assert taken.refresh_needed()
        assert taken.get_frozen_credentials().token == provider().session_token != credentials.session_token


class TestThreads:
    @pytest.mark.slow
    def test_cold_start_of_many_threads_opens_once_and_requests_once(self, stage: Stage, opened: list[object]) -> None:
        provider = stage.provider()
        found = in_threads(1000, provider)
        assert isinstance(found[0], Credentials)
        assert len({id(credentials) for credentials in found}) == 1
        assert (stage.count, len(opened)) == (1, 1)

    def test_failed_cold_start_of_many_threads_opens_once_and_requests_once(
        self, stage: Stage, opened: list[object]
    ) -> None:
        stage.emulator.misbehave(Fault("fail", None))
        errors = in_threads(64, stage.provider())
        assert {type(error) for error in errors} == {ServiceError}
        assert len({str(error) for error in errors}) == 1
        assert len({id(error) for error in errors}) == 64
        assert (stage.count, len(opened)) == (1, 1)

    def test_expired_session_is_replaced_once_for_many_threads(self, stage: Stage) -> None:
        provider = stage.provider()
        provider()
        stage.clock.advance(4000)
        found = in_threads(64, provider)
        assert len({id(credentials) for credentials in found}) == 1
        assert found[0].expiration > stage.clock.true()
        assert stage.count == 2

    def test_caller_with_live_credentials_does_not_wait_for_a_refresh(self, stage: Stage) -> None:
        provider = stage.provider()
        last = provider()
        stage.clock.advance(3000)
        asked, answer = threading.Event(), threading.Event()

        def hold(_: object) -> None:
            asked.set()
            assert answer.wait(20)

        stage.emulator.on_record = hold
        with ThreadPoolExecutor(1) as pool:
            refresh = pool.submit(provider)
            try:
                assert asked.wait(20)
                found = in_threads(50, provider)
            finally:
                answer.set()
            new = refresh.result(20)
        assert all(credentials is last for credentials in found)
        assert new is not last
        assert provider() is new
        assert stage.count == 2

    def test_interrupted_refresh_leaves_no_lock(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        provider = stage.provider()
        with monkeypatch.context() as patch:
            patch.setattr("hwsigner._refresh.attempts.create_session", interrupted)
            with pytest.raises(KeyboardInterrupt):
                provider()
        assert provider().expiration > stage.clock.true()


def interrupted(*_: object, **__: object) -> Credentials:
    raise KeyboardInterrupt


class Waiting:
    """A lock that replaces another one, and reports that a thread waits for it."""

    def __init__(self, lock: Any) -> None:
        self.lock = lock
        self.begun = threading.Event()

    def __enter__(self) -> None:
        self.begun.set()
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    # A child of a later test's fork uses it too, if its provider is still there.
    def acquire(self, *, blocking: bool = True) -> bool:
        return bool(self.lock.acquire(blocking=blocking))

    def release(self) -> None:
        self.lock.release()


class TestRefreshOnRequest:
    def test_refresh_is_made_whatever_time_is_left(self, stage: Stage) -> None:
        provider = stage.provider()
        first = provider()
        second = provider.refresh()
        assert second is not first
        assert provider() is second
        assert stage.count == 2

    def test_refresh_is_made_however_recently_one_failed(self, stage: Stage) -> None:
        provider = stage.provider()
        stage.emulator.misbehave(Fault("fail", 2))
        for _ in range(2):
            with pytest.raises(ServiceError):
                provider.refresh()
        assert stage.count == 2
        assert provider.refresh() is provider()
        assert (stage.count, provider.failure) == (3, None)

    def test_failed_refresh_keeps_the_last_credentials(self, stage: Stage) -> None:
        provider = stage.provider()
        last = provider()
        stage.emulator.misbehave(Fault("fail"))
        with pytest.raises(ServiceError):
            provider.refresh()
        assert provider() is last
        assert isinstance(provider.failure, ServiceError)

    def test_caller_that_waited_for_a_refresh_gets_its_session(self, stage: Stage) -> None:
        provider = stage.provider()
        asked, answer = threading.Event(), threading.Event()

        def hold(_: object) -> None:
            asked.set()
            assert answer.wait(20)

        stage.emulator.on_record = hold
        with ThreadPoolExecutor(4) as pool:
            found = [pool.submit(provider.refresh)]
            assert asked.wait(20)
            found += [pool.submit(provider) for _ in range(3)]
            answer.set()
            assert len({id(future.result(20)) for future in found}) == 1
        assert stage.count == 1

    def test_caller_that_waited_for_a_failed_refresh_tries_again(self, stage: Stage) -> None:
        provider = stage.provider()
        last = provider()
        asked, lock = threading.Event(), provider._refresher._lock
        waiting = Waiting(lock)

        def hold(_: object) -> None:
            asked.set()
            assert waiting.begun.wait(20)

        stage.emulator.on_record = hold
        stage.emulator.misbehave(Fault("fail"))
        with ThreadPoolExecutor(2) as pool:
            failed = pool.submit(provider.refresh)
            assert asked.wait(20)
            provider._refresher._lock = waiting  # type: ignore[assignment]
            after = pool.submit(provider.refresh)
            with pytest.raises(ServiceError):
                failed.result(20)
            assert after.result(20) is not last
        assert stage.count == 3

    def test_two_refreshes_at_once_are_one(self, stage: Stage) -> None:
        provider = stage.provider()
        asked, lock = threading.Event(), provider._refresher._lock
        waiting = Waiting(lock)

        def hold(_: object) -> None:
            asked.set()
            assert waiting.begun.wait(20)

        stage.emulator.on_record = hold
        with ThreadPoolExecutor(2) as pool:
            one = pool.submit(provider.refresh)
            assert asked.wait(20)
            provider._refresher._lock = waiting  # type: ignore[assignment]
            other = pool.submit(provider.refresh)
            assert one.result(20) is other.result(20)
        assert stage.count == 1

    @pytest.mark.parametrize("is_warm", [False, True])
    def test_refresh_sends_a_wrong_pin_again_only_when_it_is_fixed(self, stage: Stage, is_warm: bool) -> None:
        stage.encrypt_key()
        answers = [*([PASSPHRASE] if is_warm else []), "wrong", PASSPHRASE]
        provider = stage.provider(IdentitySource(str(stage.leaf), str(stage.key), pin=lambda _: answers.pop(0)))
        if is_warm:
            provider()
            stage.encrypt_key()
        for _ in range(3):
            with pytest.raises(WrongPinError):
                provider.refresh()
            stage.clock.advance(300)
        assert answers == [PASSPHRASE]
        assert provider.refresh(fixed=True) is provider()
        assert answers == []

    def test_refresh_within_a_refresh_is_an_error(self, stage: Stage) -> None:
        def source() -> IdentitySource:
            with pytest.raises(UsageError, match="by its own refresh"):
                provider.refresh()
            return IdentitySource(str(stage.leaf), str(stage.key))

        provider = stage.provider(source)
        provider()
        assert stage.count == 1

    def test_refresh_of_a_closed_provider_is_an_error(self, stage: Stage) -> None:
        provider = stage.provider()
        provider.close()
        with pytest.raises(UsageError, match="closed"):
            provider.refresh()


class TestFailures:
    def test_last_credentials_are_given_while_they_live(self, stage: Stage) -> None:
        provider = stage.provider()
        last = provider()
        stage.emulator.misbehave(Fault("fail", None))
        stage.clock.advance(3600 - MARGIN + 1)
        for _ in range(9):
            assert provider() is last
        assert stage.count == 2
        assert isinstance(provider.failure, ServiceError)
        stage.clock.advance(MARGIN - 5)
        assert provider() is last
        assert stage.count == 3
        stage.clock.advance(5)
        with pytest.raises(ServiceError, match="500"):
            provider()
        stage.emulator.clear_faults()
        stage.clock.advance(120)
        assert provider() is not last
        assert provider.failure is None

    def test_pauses_between_attempts_double_to_two_minutes(self, stage: Stage) -> None:
        provider = stage.provider()
        stage.emulator.misbehave(Fault("close", None))
        for number in range(15):
            with pytest.raises(ServiceUnreachableError):
                provider()
            assert stage.count == number + 1
            pause = min(120.0, 2.0**number)
            stage.clock.advance(pause * 0.49)
            with pytest.raises(ServiceUnreachableError):
                provider()
            assert stage.count == number + 1
            stage.clock.advance(pause * 0.52)

    def test_retry_after_is_waited_for_before_the_next_attempt(self, stage: Stage) -> None:
        provider = stage.provider()
        stage.emulator.misbehave(Fault("throttle", None, retry_after="50"))
        with pytest.raises(ServiceError, match="Throttling"):
            provider()
        first = stage.count
        stage.clock.advance(50)
        with pytest.raises(ServiceError, match="Throttling"):
            provider()
        assert stage.count == first
        stage.clock.advance(1.01)
        stage.emulator.clear_faults()
        assert provider().access_key_id
        assert stage.count == first + 1

    @pytest.mark.slow
    def test_pauses_have_jitter(self, stage: Stage) -> None:
        stage.emulator.misbehave(Fault("fail", None))
        for _ in range(40):
            provider = stage.provider()
            for pause in (0.75, 0):
                with pytest.raises(ServiceError):
                    provider()
                stage.clock.advance(pause)
        # After three quarters of a pause some retry and some do not. The chance that all do the same is one in 10^12.
        assert 40 < stage.count < 80

    def test_month_of_failures_raises_the_same_error(self, stage: Stage) -> None:
        def source() -> IdentitySource:
            raise CertificateError("there is none yet")

        provider = stage.provider(source)
        for _ in range(1100):
            with pytest.raises(CertificateError):
                provider()
            stage.clock.advance(2400)

    def test_attempts_after_a_failure_send_one_request(self, stage: Stage) -> None:
        provider = stage.provider(attempts=3)
        stage.emulator.misbehave(Fault("fail", None))
        for number in range(3):
            with pytest.raises(ServiceError):
                provider()
            assert stage.count == 3 + number
            stage.clock.advance(120)
        stage.emulator.clear_faults()
        provider()
        stage.emulator.misbehave(Fault("fail", 2))
        stage.clock.advance(3000)
        provider()
        assert (stage.count, provider.failure) == (9, None)

    def test_success_resets_the_count_of_failures(self, stage: Stage) -> None:
        provider = stage.provider()
        stage.emulator.misbehave(Fault("fail", 6))
        for _ in range(6):
            with pytest.raises(ServiceError):
                provider()
            stage.clock.advance(120)
        provider()
        stage.emulator.misbehave(Fault("fail", 1))
        stage.clock.advance(4000)
        with pytest.raises(ServiceError):
            provider()
        stage.clock.advance(1)
        assert provider().expiration > stage.clock.true()

    def test_failure_that_is_raised_repeatedly_does_not_grow(self, stage: Stage) -> None:
        stage.emulator.misbehave(Fault("fail", None))
        provider = stage.provider()
        lengths = set()
        for _ in range(5):
            with pytest.raises(ServiceError) as caught:
                provider()
            lengths.add(len(caught.traceback))
        assert max(lengths - {max(lengths)}) <= 5
        assert provider.failure is not None
        assert provider.failure.__traceback__ is None
        assert provider.failure.__context__ is None

    def test_other_exceptions_count_as_failures(self, stage: Stage) -> None:
        calls = itertools.count()

        def source() -> IdentitySource:
            next(calls)
            raise ValueError(PASSPHRASE)

        provider = stage.provider(source)
        with pytest.raises(ValueError, match=PASSPHRASE):
            provider()
        with pytest.raises(HwsignerError, match="ValueError") as caught:
            provider()
        assert PASSPHRASE not in f"{caught.value} {caught.value.__cause__} {caught.value.__context__}"
        assert next(calls) == 1

    @pytest.mark.filterwarnings("error::hwsigner.errors.HwsignerWarning")
    def test_warning_that_is_an_error_is_a_failure(self, stage: Stage, opened: list[object]) -> None:
        stage.key.chmod(0o644)
        provider = stage.provider()
        for _ in range(2):
            with pytest.raises(HwsignerWarning, match="0644"):
                provider()
        assert len(opened) == 1
        stage.key.chmod(0o600)
        stage.clock.advance(1)
        assert provider().expiration > stage.clock.true()

    @given(steps=st.lists(st.tuples(st.sampled_from([0.0, 0.3, 1.0, 60.0, 900.0, 2000.0]), st.booleans()), max_size=40))
    def test_credentials_are_live_and_attempts_paced_in_any_order_of_events(
        self, steps: list[tuple[float, bool]]
    ) -> None:
        clock, tries, good = FakeClock(), [], [True]

        def create(*_: object, **__: object) -> Credentials:
            tries.append((clock.elapsed, good[0]))
            if not good[0]:
                raise ServiceError("the service is down")
            return Credentials("AKIA", "secret", "token", clock.true() + timedelta(hours=1), "role", "assumed")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("hwsigner._refresh.attempts.create_session", create)
            patch.setattr(reopening.ReopeningIdentity, "get", lambda *_: None)
            request, service = SessionRequest("ta", "p", "r"), find_service("us-east-1", environ={})
            provider = Provider(IdentitySource("x"), request, service, now=clock.now, monotonic=clock.monotonic)
            for pause, good[0] in steps:
                clock.advance(pause)
                check_answer(provider, clock, tries)


def check_answer(provider: Provider, clock: FakeClock, tries: list[tuple[float, bool]]) -> None:
    """Call a provider and check its answer against the attempts that it has made."""
    before = len(tries)
    successes = [time for time, is_good in tries if is_good]
    left = successes[-1] + 3600 - clock.elapsed if successes else 0
    failures = len(list(itertools.takewhile(lambda entry: not entry[1], reversed(tries))))
    try:
        credentials = provider()
    except ServiceError:
        assert left <= 0
        assert not tries[-1][1]
    else:
        life = (credentials.expiration - clock.true()).total_seconds()
        assert life > 0
        assert life > MARGIN or not tries[-1][1]
    assert len(tries) - before <= (left <= MARGIN)
    if failures and left <= MARGIN:
        pause, since = min(120.0, 2.0 ** (failures - 1)), clock.elapsed - tries[before - 1][0]
        assert len(tries) > before or since < pause
        assert len(tries) == before or since >= pause / 2


class TestPins:
    @pytest.mark.parametrize("answer", ["wrong", None])
    def test_wrong_pin_is_sent_once(self, stage: Stage, opened: list[object], answer: str | None) -> None:
        stage.encrypt_key()
        asked: list[PinRequest] = []

        def ask(request: PinRequest) -> str | None:
            asked.append(request)
            return answer

        provider = stage.provider(IdentitySource(str(stage.leaf), str(stage.key), pin=ask))
        for _ in range(5):
            with pytest.raises(PinRequiredError if answer is None else WrongPinError):
                provider()
            stage.clock.advance(1e6)
        in_threads(20, provider)
        assert (len(asked), len(opened), stage.count) == (1, 1, 0)

    def test_wrong_pin_is_sent_to_a_token_once(
        self, stage: Stage, softhsm: InProcessSoftHSM, opened: list[object]
    ) -> None:
        softhsm.generate("shut", b"\x31", "EC:prime256v1")
        stage.leaf.write_bytes(certs.pem(certs.issue(stage.ca, softhsm.public_key(b"\x31"))))
        provider = stage.provider(IdentitySource(str(stage.leaf), softhsm.uri("shut"), pin="9999"))
        assert {type(error) for error in in_threads(20, provider)} == {WrongPinError}
        stage.clock.advance(1e6)
        with pytest.raises(WrongPinError):
            provider()
        assert len(opened) == 1
        typed = IdentitySource(str(stage.leaf), softhsm.uri("shut"), pin=lambda _: PIN)
        with stage.provider(typed) as other:
            other()  # Now the token counts no wrong PIN.

    def test_pin_that_becomes_wrong_keeps_the_last_credentials_until_they_expire(
        self, stage: Stage, opened: list[object]
    ) -> None:
        stage.encrypt_key()
        answers = iter([PASSPHRASE, "of the old key"])
        provider = stage.provider(IdentitySource(str(stage.leaf), str(stage.key), pin=lambda _: next(answers)))
        last = provider()
        stage.encrypt_key()
        stage.clock.advance(3000)
        assert provider() is last
        assert isinstance(provider.failure, WrongPinError)
        stage.clock.advance(599)
        assert provider() is last
        stage.clock.advance(1)
        with pytest.raises(WrongPinError):
            provider()
        assert (len(opened), stage.count) == (2, 1)

    def test_repr_shows_no_pin(self, stage: Stage) -> None:
        stage.encrypt_key()
        uri = KeyURI.parse(f"file:{stage.key}?pin-value={PASSPHRASE}")
        with stage.provider(IdentitySource(str(stage.leaf), uri, pin=PASSPHRASE)) as provider:
            credentials = provider()
            for part in (provider, *vars(provider).values()):
                assert PASSPHRASE not in repr(part)
                assert credentials.secret_access_key not in repr(part)
                assert credentials.session_token not in repr(part)


class MyPinError(PinRequiredError):
    """A caller's own class, with other parameters."""

    def __init__(self, user: str) -> None:
        super().__init__(f"no PIN for {user}", "Ask them")
        self.user = user


class TestFailureIsKept:
    """Whatever else fails, the failure is kept and no PIN is sent twice."""

    @pytest.mark.parametrize("failure", [RuntimeError("close"), SigningKeyError("close")])
    def test_failure_is_kept_when_the_key_can_t_be_closed(
        self, stage: Stage, opened: list[Any], monkeypatch: pytest.MonkeyPatch, failure: Exception
    ) -> None:
        tries: list[None] = []

        def sign(*_: object) -> bytes:
            tries.append(None)
            raise WrongPinError("wrong")

        def close() -> None:
            raise failure

        def create(identity: Any, *_: object, **__: object) -> Credentials:
            monkeypatch.setattr(identity, "close", close)
            monkeypatch.setattr(identity, "sign", sign)
            identity.sign(b"")
            raise AssertionError

        monkeypatch.setattr("hwsigner._refresh.attempts.create_session", create)
        provider = stage.provider()
        for _ in range(3):
            with pytest.raises(WrongPinError, match="wrong"):
                provider()
            stage.clock.advance(1e6)
        assert isinstance(provider.failure, WrongPinError)
        assert (len(tries), len(opened)) == (1, 1)

    def test_failure_is_kept_when_its_error_can_t_be_copied(self, stage: Stage) -> None:
        tries = []

        def ask(request: PinRequest) -> str:
            tries.append(request)
            raise MyPinError("ada")

        stage.encrypt_key()
        provider = stage.provider(IdentitySource(str(stage.leaf), str(stage.key), pin=ask))
        for _ in range(3):
            with pytest.raises(MyPinError, match=r"no PIN for ada\. Ask them") as caught:
                provider()
            assert caught.value.user == "ada"
            stage.clock.advance(1e6)
        assert isinstance(provider.failure, MyPinError)
        assert len(tries) == 1


@pytest.mark.timeout(20)
class TestCallsWithinARefresh:
    """A refresh whose own thread calls the provider does not wait for itself."""

    @pytest.fixture
    def alarm(self) -> Iterator[Callable[[Callable[[], object]], Callable[[object], None]]]:
        """Return a function that interrupts the main thread by a signal whose handler makes a call."""
        before = signal.getsignal(signal.SIGUSR1)
        main_thread = threading.get_ident()

        def interrupt_with(call: Callable[[], object]) -> Callable[[object], None]:
            done = threading.Event()

            def handle(*_: object) -> None:
                try:
                    call()
                finally:
                    done.set()

            def interrupt(_: object) -> None:
                signal.pthread_kill(main_thread, signal.SIGUSR1)
                done.wait(60)

            signal.signal(signal.SIGUSR1, handle)
            return interrupt

        yield interrupt_with
        signal.signal(signal.SIGUSR1, before)

    def test_source_that_calls_the_provider_gets_an_error(self, stage: Stage) -> None:
        def source() -> IdentitySource:
            provider()
            raise AssertionError

        provider = stage.provider(source)
        for _ in range(3):
            with pytest.raises(UsageError, match="by its own refresh"):
                provider()
        assert stage.count == 0

    def test_pin_callable_gets_the_last_credentials(self, stage: Stage) -> None:
        stage.encrypt_key()
        found: list[Credentials] = []

        def ask(_: PinRequest) -> str:
            if stage.count:
                found.append(provider())
            return PASSPHRASE

        provider = stage.provider(IdentitySource(str(stage.leaf), str(stage.key), pin=ask))
        last = provider()
        stage.encrypt_key()
        stage.clock.advance(3000)
        assert provider() is not last
        assert found == [last]
        assert stage.count == 2

    def test_source_can_close_the_provider(self, stage: Stage, opened: list[Any]) -> None:
        def source() -> IdentitySource:
            provider.close()
            with pytest.raises(UsageError, match="closed"):
                provider()
            return IdentitySource(str(stage.leaf), str(stage.key))

        provider = stage.provider(source)
        for _ in range(2):
            with pytest.raises(UsageError, match="closed"):
                provider()
        check_closed(provider, opened)
        assert stage.count == 1

    def test_source_can_close_the_provider_and_fail(self, stage: Stage) -> None:
        def source() -> IdentitySource:
            provider.close()
            raise KeyNotFoundError("gone")

        provider = stage.provider(source)
        with pytest.raises(KeyNotFoundError):
            provider()
        with pytest.raises(UsageError, match="closed"):
            provider()

    def test_signal_handler_can_close_the_provider(self, stage: Stage, opened: list[Any], alarm: Any) -> None:
        provider = stage.provider()
        provider()
        stage.emulator.on_record = alarm(provider.close)
        stage.clock.advance(3000)
        with pytest.raises(UsageError, match="closed"):
            provider()
        check_closed(provider, opened)

    def test_signal_handler_gets_the_last_credentials(self, stage: Stage, alarm: Any) -> None:
        provider = stage.provider()
        found = []
        last = provider()
        stage.emulator.on_record = alarm(lambda: found.append(provider()))
        stage.clock.advance(3000)
        assert provider() is not last
        assert found == [last]

    def test_log_handler_that_calls_the_provider_gets_an_error(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                assert "0644" in record.getMessage()
                provider()

        provider = stage.provider()
        stage.key.chmod(0o644)
        logger, handler = logging.getLogger("py.warnings"), Handler()
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        logger.addHandler(handler)
        logging.captureWarnings(True)
        try:
            with warnings.catch_warnings(action="always"), pytest.raises(UsageError, match="by its own refresh"):
                provider()
        finally:
            logging.captureWarnings(False)
            logger.removeHandler(handler)
        assert isinstance(provider.failure, UsageError)


def check_closed(provider: Provider, opened: list[Any]) -> None:
    """Check that a provider has closed the only key that it opened, and keeps no credentials."""
    assert len(opened) == 1
    with pytest.raises(SigningKeyError, match="closed"):
        opened[0].sign(b"")
    assert provider._refresher._session is None
    with pytest.raises(UsageError, match="closed"):
        provider()


@pytest.mark.timeout(60)
class TestForks:
    def test_child_process_forked_during_a_refresh_makes_its_own(self, stage: Stage, opened: list[Any]) -> None:
        provider = stage.provider()
        asked, answer = threading.Event(), threading.Event()

        def hold(_: object) -> None:
            asked.set()
            assert stage.count > 1 or answer.wait(20)

        stage.emulator.on_record = hold
        with ThreadPoolExecutor(1) as pool:
            refresh = pool.submit(provider)
            try:
                assert asked.wait(20)
                found = in_child(lambda: (provider().access_key_id, len(opened)))
            finally:
                answer.set()
            last = refresh.result(20)
        assert stage.count == 2
        assert found.endswith(", 2)")
        assert last.access_key_id not in found
        assert provider() is last
        assert len(opened) == 1

    def test_child_process_has_the_last_credentials_and_reopens_the_key(self, stage: Stage, opened: list[Any]) -> None:
        provider = stage.provider()
        last = provider()

        def child() -> object:
            is_new = provider() is not last
            provider.close()
            opened[0].sign(b"")  # It is the parent's and stays open.
            return is_new, len(opened), provider.failure

        assert in_child(lambda: (provider() is last, len(opened))) == "(True, 1)"
        stage.clock.advance(3000)
        assert in_child(child) == "(True, 2, None)"
        assert (stage.count, len(opened)) == (2, 1)
        assert provider() is not last
        assert len(opened) == 1

    def test_child_process_reopens_a_token_key(self, stage: Stage, softhsm: InProcessSoftHSM) -> None:
        softhsm.generate("forked", b"\x51", "EC:prime256v1")
        stage.leaf.write_bytes(certs.pem(certs.issue(stage.ca, softhsm.public_key(b"\x51"))))
        source = IdentitySource(str(stage.leaf), softhsm.uri("forked"), pin=softhsm.pin)
        with stage.provider(source) as provider:
            last = provider()

            def child() -> object:
                with provider:
                    return provider() is not last, provider.failure

            stage.clock.advance(3000)
            assert [in_child(child), in_child(child)] == ["(True, None)"] * 2
            assert provider() is not last
        assert stage.count == 4

    def test_threads_of_a_child_process_share_a_session(self, stage: Stage) -> None:
        provider = stage.provider()
        assert in_child(lambda: len({found.access_key_id for found in in_threads(4, provider)})) == "1"

    def test_child_process_forked_within_a_refresh_gets_an_error(self, stage: Stage) -> None:
        found = []

        def source() -> IdentitySource:
            found.append(in_child(lambda: provider()))
            return IdentitySource(str(stage.leaf), str(stage.key))

        provider = stage.provider(source)
        provider()
        assert "UsageError: a provider was called by its own refresh" in found[0]
        assert stage.count == 1

    def test_child_process_sends_no_wrong_pin_again(self, stage: Stage, opened: list[object]) -> None:
        stage.encrypt_key()
        provider = stage.provider(IdentitySource(str(stage.leaf), str(stage.key), pin="wrong"))
        with pytest.raises(WrongPinError):
            provider()
        assert "WrongPinError" in in_child(provider)
        assert in_child(lambda: len(opened)) == "1"

    def test_provider_that_is_dropped_is_forgotten(self, stage: Stage) -> None:
        provider = stage.provider()
        assert provider._refresher in module._all
        before = len(module._all)
        del provider
        assert len(module._all) == before - 1


class TestFiles:
    def test_new_certificate_and_key_are_read(self, stage: Stage, opened: list[Any]) -> None:
        provider = stage.provider()
        provider()
        key = ec.generate_private_key(ec.SECP256R1())
        stage.write_leaf(key, certs.Shape(serial=0xBEEF))
        stage.clock.advance(3000)
        last = provider()
        assert isinstance(provider.failure, KeyMismatchError)
        assert stage.count == 1
        with pytest.raises(SigningKeyError, match="closed"):
            opened[0].key.sign(b"")
        certs.write_key(stage.key, key)
        stage.clock.advance(1)
        assert provider() is not last
        assert stage.leaf_of_last_request().serial_number == 0xBEEF
        assert len(opened) == 3

    def test_former_key_is_closed_when_its_files_change(self, stage: Stage, opened: list[Any]) -> None:
        provider = stage.provider()
        provider()
        stage.leaf.touch()
        stage.clock.advance(3000)
        provider()
        assert (len(opened), provider.failure) == (2, None)
        with pytest.raises(SigningKeyError, match="closed"):
            opened[0].sign(b"")

    def test_certificate_of_the_same_size_and_time_is_read(self, stage: Stage) -> None:
        provider = stage.provider()
        provider()
        serials = {stage.leaf_of_last_request().serial_number}
        key = ec.generate_private_key(ec.SECP256R1())
        certs.write_key(stage.key, key)
        for serial in range(7, 10):
            new = stage.folder / "new"
            new.write_bytes(certs.pem(certs.issue(stage.ca, key.public_key(), certs.Shape(serial=serial))))
            new.replace(stage.leaf)
            stage.clock.advance(3000)
            provider()
            serials.add(stage.leaf_of_last_request().serial_number)
        assert serials >= {7, 8, 9}

    def test_expired_leaf_is_read_again(self, stage: Stage, opened: list[object]) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        certs.write_key(stage.key, key)
        stage.write_leaf(key, certs.Shape(end=stage.clock.true() + timedelta(hours=2)))
        provider = stage.provider()
        provider()
        stage.clock.advance(7300)
        with pytest.raises(CertificateError, match="expired"):
            provider()
        assert (len(opened), stage.count) == (2, 1)

    def test_pipe_is_read_once(self, stage: Stage, tmp_path: Path, opened: list[object]) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        writer = threading.Thread(target=lambda: pipe.write_bytes(stage.leaf.read_bytes()))
        writer.start()
        provider = stage.provider(IdentitySource(str(pipe), str(stage.key)))
        provider()
        writer.join(20)
        stage.clock.advance(3000)
        provider()
        assert (provider.failure, len(opened), stage.count) == (None, 1, 2)


class TestClocks:
    def test_clock_that_is_set_back_keeps_no_session_alive(self, stage: Stage) -> None:
        provider = stage.provider()
        last = provider()
        stage.clock.off = -240
        stage.clock.advance(3600 - MARGIN + 10)
        assert provider() is not last
        stage.clock.off = -86400
        stage.clock.advance(3600)
        with pytest.raises(ServiceError, match="behind"):
            provider()

    def test_clock_that_jumps_ahead_and_back_keeps_the_session(self, stage: Stage) -> None:
        provider = stage.provider()
        last = provider()
        stage.clock.off = 7200
        for _ in range(3):
            with pytest.raises(ServiceError, match="2 hours ahead"):
                provider()
        assert stage.count == 2
        stage.clock.off = 0
        assert provider() is last
        assert stage.count == 2

    def test_session_is_replaced_when_a_virtual_machine_stood_still(self, stage: Stage) -> None:
        provider = stage.provider()
        last = provider()
        stage.clock.advance(3000)
        stage.clock.paused = 3000
        assert provider() is not last

    @needs_proc
    def test_monotonic_clock_counts_from_the_start_of_the_machine(self) -> None:
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        assert abs(boot_time() - uptime) < 10
        assert boot_time() <= boot_time()


class TestClose:
    def test_close_closes_the_key_and_forgets_the_credentials(self, stage: Stage, opened: list[Any]) -> None:
        with stage.provider() as provider:
            provider()
            opened[0].sign(b"")
        provider.close()
        with pytest.raises(HwsignerError, match="closed"):
            opened[0].sign(b"")
        with pytest.raises(UsageError, match="closed"):
            provider()
        assert stage.count == 1

    def test_close_before_the_first_call_is_allowed(self, stage: Stage) -> None:
        provider = stage.provider()
        provider.close()
        with pytest.raises(UsageError, match="closed"):
            provider()


class TestFromProfile:
    @pytest.fixture(autouse=True)
    def system_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(config, "SYSTEM_FILE", str(tmp_path / "none.toml"))
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))

    @pytest.fixture
    def write(self, stage: Stage) -> Callable[..., Path]:
        """Write the profile `bamboo`; arguments replace its keys, or drop them if None."""

        def write(**instead: Any) -> Path:
            emulator = stage.emulator
            values = {
                "certificate": str(stage.leaf),
                "private_key": str(stage.key),
                "trust_anchor_arn": emulator.trust_anchor_arn,
                "profile_arn": emulator.profile_arn,
                "role_arn": emulator.role_arn,
                "endpoint": emulator.url,
            }
            lines = [f"{k.replace('_', '-')} = {v!r}" for k, v in {**values, **instead}.items() if v is not None]
            path = stage.folder / "xdg" / "hwsigner" / "config.toml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(0o600)
            path.write_text("\n".join(["[profile.bamboo]", *lines]) + "\n")
            return path

        return write

    def test_profile_gives_credentials(self, stage: Stage, write: Callable[..., Path]) -> None:
        write(session_duration=900)
        with Provider.from_profile("bamboo") as provider:
            assert stage.count == 0
            credentials = provider()
            assert provider() is credentials
        assert credentials.role_arn == stage.emulator.role_arn
        assert (credentials.expiration - datetime.now(UTC)).total_seconds() <= 900

    @pytest.mark.parametrize(
        "instead",
        [
            {"certificate": None},
            {"trust_anchor_arn": None},
            {"role_arn": "arn:aws:iam::1:user/x"},
            {"session_duration": 60},
            {"regoin": "us-east-1"},
            {"cert_selector": "Key=x509Subject,Value=CN=a"},
            {"private_key": "pkcs11:token=a;pin-value=1"},
            {"role_session_name": "a b"},
            {"endpoint": "ftp://x"},
            {"region": "nowhere at all"},
        ],
    )
    def test_invalid_profile_raises_the_error_that_the_command_prints(
        self, write: Callable[..., Path], instead: dict[str, Any], capfd: pytest.CaptureFixture[str]
    ) -> None:
        write(**instead)
        with pytest.raises(UsageError) as caught:
            Provider.from_profile("bamboo")
        assert main(["credential-process", "--profile", "bamboo"]) == caught.value.exit_status
        assert capfd.readouterr().err == f"hwsigner: {caught.value}\n"

    def test_overrides_take_precedence_over_the_profile(self, stage: Stage, write: Callable[..., Path]) -> None:
        write(session_duration=3600, certificate="/nonexistent")
        with Provider.from_profile("bamboo", session_duration=900, certificate=str(stage.leaf)) as provider:
            assert (provider().expiration - datetime.now(UTC)).total_seconds() <= 900
        with pytest.raises(UsageError, match="there is no flag for 'duration'"):
            Provider.from_profile("bamboo", duration=900)

    def test_missing_profile_is_an_error(self, write: Callable[..., Path]) -> None:
        write()
        with pytest.raises(ConfigError, match="'bambus'"):
            Provider.from_profile("bambus")
        with pytest.raises(ConfigError, match="/elsewhere"):
            Provider.from_profile("bamboo", environ={"XDG_CONFIG_HOME": "/elsewhere"})

    def test_given_environment_is_used(self, write: Callable[..., Path], stage: Stage) -> None:
        write()
        environ = {"XDG_CONFIG_HOME": str(stage.folder / "xdg"), "AWS_MAX_ATTEMPTS": "no"}
        with pytest.raises(UsageError, match="AWS_MAX_ATTEMPTS"):
            Provider.from_profile("bamboo", environ=environ)

    def test_only_the_callable_is_asked_for_a_pin(self, stage: Stage, write: Callable[..., Path]) -> None:
        stage.encrypt_key()
        write()
        with pytest.raises(PinRequiredError):
            Provider.from_profile("bamboo")()
        asked: list[PinRequest] = []

        def ask(request: PinRequest) -> str:
            asked.append(request)
            return PASSPHRASE

        with Provider.from_profile("bamboo", ask) as provider:
            assert asked == []
            provider()
        assert [request.kind for request in asked] == ["passphrase"]

    def test_pin_in_a_file_that_others_can_read_is_warned_of(self, stage: Stage, write: Callable[..., Path]) -> None:
        stage.encrypt_key()
        path = write(pkcs8_password=PASSPHRASE)
        Provider.from_profile("bamboo")
        path.chmod(0o644)
        with pytest.warns(HwsignerWarning, match="--pkcs8-password in .*config.toml is visible") as caught:
            Provider.from_profile("bamboo")()
        assert PASSPHRASE not in str(caught[0].message)

    def test_selector_searches_the_tokens_when_the_key_is_opened(
        self, stage: Stage, write: Callable[..., Path], softhsm: InProcessSoftHSM
    ) -> None:
        softhsm.generate("picked", b"\x41", "EC:prime256v1")
        leaf = certs.issue(stage.ca, softhsm.public_key(b"\x41"), certs.Shape(serial=0x4141))
        selector = "Key=x509Serial,Value=4141"
        write(certificate=None, private_key=None, cert_selector=selector, pkcs11_lib=softhsm.module)
        provider = Provider.from_profile("bamboo", lambda _: softhsm.pin)
        softhsm.write_certificate(leaf.public_bytes(Encoding.DER), "picked", b"\x41")
        softhsm.reload()
        try:
            with provider:
                provider()
        finally:
            softhsm.delete("cert", b"\x41")  # Other modules' tests search all tokens.
        assert stage.leaf_of_last_request().serial_number == 0x4141

    def test_pinentry_is_never_run(
        self, stage: Stage, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stage.encrypt_key()
        run, program = stage.folder / "run", stage.folder / "pinentry"
        program.write_text(f"#!/bin/sh\ntouch {run}\n")
        program.chmod(0o755)
        write(pinentry=str(program))
        monkeypatch.setenv("HWSIGNER_PINENTRY", str(program))
        monkeypatch.setenv("DISPLAY", ":0")
        for ask in (None, lambda _: None):
            with pytest.raises(PinRequiredError):
                Provider.from_profile("bamboo", ask)()
        assert not run.exists()

    def test_pin_command_of_the_profile_is_run(self, stage: Stage, write: Callable[..., Path]) -> None:
        stage.encrypt_key()
        uri = f"file:{stage.key}?pin-source=cmd:echo%20{PASSPHRASE}"
        write(private_key=uri)
        asked: list[PinRequest] = []
        with Provider.from_profile("bamboo", asked.append) as provider:
            provider()
        assert len(asked) == 1
        with pytest.raises(PinError, match="commands are not allowed"):
            stage.provider(IdentitySource(str(stage.leaf), uri))()

    def test_pin_in_the_profile_is_used_without_asking(self, stage: Stage, write: Callable[..., Path]) -> None:
        stage.encrypt_key()
        write(pkcs8_password=PASSPHRASE)
        asked: list[PinRequest] = []
        with Provider.from_profile("bamboo", asked.append) as provider:
            provider()
        assert asked == []
