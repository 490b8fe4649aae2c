"""CreateSession: each attempt is dated and signed again, with growing random pauses, within one time limit."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

import certs
from hwsigner.aws.create_session import Service, SessionRequest, build_request, create_session, find_service
from hwsigner.emulator import Emulator, Fault, World
from hwsigner.errors import ConfigError, ServiceError, ServiceUnreachableError, UsageError
from hwsigner.http import defaults
from hwsigner.http.tls import TrustedCAs
from hwsigner.http.transport import TransportOptions
from hwsigner.identity import Identity, IdentitySource, open_identity


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
