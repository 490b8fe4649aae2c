"""An identity that several providers share: opened once, in turn, and no PIN sent twice, whichever provider asks."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

import certs
from emulators import InProcessSoftHSM
from hwsigner._aws.create_session import SessionRequest, find_service
from hwsigner._identity import Identity, IdentitySource, open_identity
from hwsigner._pins import PinRequest
from hwsigner._refresh import reopening, shared_identity
from hwsigner._refresh.attempts import Attempts
from hwsigner._refresh.shared_identity import SharedIdentity
from hwsigner._system.clocks import Clocks
from hwsigner.errors import CertificateError, HwsignerError, PinRequiredError, SigningKeyError, WrongPinError
from stage import Stage, in_threads


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Identity]:
    """The identities that were opened."""
    opened: list[Identity] = []

    def open_and_keep(*arguments: Any) -> Identity:
        opened.append(open_identity(*arguments))
        return opened[-1]

    monkeypatch.setattr(reopening, "open_identity", open_and_keep)
    return opened


def _shared(stage: Stage, source: Any = None) -> SharedIdentity:
    return SharedIdentity(source or IdentitySource(str(stage.leaf), str(stage.key)), stage.clock.monotonic)


def _provider(stage: Stage, shared: SharedIdentity) -> Attempts:
    """Return a provider of an account, whose clock the test advances."""
    emulator = stage.emulator
    request = SessionRequest(emulator.trust_anchor_arn, emulator.profile_arn, emulator.role_arn)
    service = find_service("us-east-1", endpoint=emulator.url, environ={})._replace(max_attempts=1)
    shared.join()
    return Attempts(shared, request, service, Clocks(stage.clock.now, stage.clock.monotonic, stage.clock.advance))


def _now(stage: Stage) -> datetime:
    return stage.clock.now()


def test_providers_open_one_identity_and_have_sessions_of_their_own(stage: Stage, opened: list[Identity]) -> None:
    shared = _shared(stage)
    providers = [_provider(stage, shared) for _ in range(3)]
    assert len({provider().access_key_id for provider in providers}) == 3
    assert len(opened) == 1


def test_threads_of_all_providers_open_one_identity(stage: Stage, opened: list[Identity]) -> None:
    shared = _shared(stage)
    providers = [_provider(stage, shared) for _ in range(8)]
    waiting = iter(providers)
    lock = threading.Lock()

    def call() -> str:
        with lock:
            provider = next(waiting)
        return provider().access_key_id

    assert len(set(in_threads(8, call))) == 8
    assert len(opened) == 1


def test_provider_that_closes_leaves_the_identity_to_the_others(stage: Stage, opened: list[Identity]) -> None:
    shared = _shared(stage)
    one, other = _provider(stage, shared), _provider(stage, shared)
    one()
    one.close()
    shared.part()
    other()
    assert len(opened) == 1


def test_identity_is_closed_after_the_last_provider_and_opened_for_the_next(
    stage: Stage, opened: list[Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = _shared(stage)
    closed: list[Identity] = []
    monkeypatch.setattr(Identity, "close", lambda self: closed.append(self))
    for _ in range(2):
        provider = _provider(stage, shared)
        provider()
        provider.close()
        assert opened[-1] not in closed
        shared.part()
        assert opened[-1] in closed
    assert len(opened) == 2


def test_wrong_pin_is_sent_once_for_all_providers(stage: Stage) -> None:
    stage.encrypt_key()
    asked: list[PinRequest] = []

    def ask(request: PinRequest) -> str:
        asked.append(request)
        return "wrong"

    shared = _shared(stage, lambda: IdentitySource(str(stage.leaf), str(stage.key), pin=ask))
    for _ in range(5):
        provider = _provider(stage, shared)
        with pytest.raises(WrongPinError):
            provider()
        stage.clock.advance(86400)  # Nor later.
    assert len(asked) == 1
    assert stage.count == 0


def test_missing_pin_is_looked_for_once(stage: Stage) -> None:
    stage.encrypt_key()
    shared = _shared(stage)
    for _ in range(2):
        with pytest.raises(PinRequiredError):
            _provider(stage, shared)()


def test_failure_of_one_identity_does_not_stop_another(stage: Stage) -> None:
    shared = _shared(stage, IdentitySource(str(stage.leaf), str(stage.folder / "missing.key")))
    with pytest.raises(SigningKeyError):
        _provider(stage, shared)()
    _provider(stage, _shared(stage))()


def test_failed_key_is_tried_again_after_a_pause_by_any_provider(stage: Stage, opened: list[Identity]) -> None:
    tried = 0

    def source() -> IdentitySource:
        nonlocal tried
        tried += 1
        if tried == 1:
            raise SigningKeyError("the token is not there", "Plug it in")
        return IdentitySource(str(stage.leaf), str(stage.key))

    shared = _shared(stage, source)
    for _ in range(10):
        with pytest.raises(SigningKeyError, match="not there"):
            _provider(stage, shared)()
    assert tried == 1
    stage.clock.advance(shared_identity.PAUSE_SECONDS)
    _provider(stage, shared)()
    assert (tried, len(opened)) == (2, 1)


def test_renewed_certificate_is_read_again_once(stage: Stage, opened: list[Identity], ca: certs.Authority) -> None:
    shared = _shared(stage)
    providers = [_provider(stage, shared) for _ in range(3)]
    for provider in providers:
        provider()
    first = stage.leaf_of_last_request()
    key = ec.generate_private_key(ec.SECP256R1())
    stage.write_leaf(key)
    certs.write_key(stage.key, key)
    for provider in providers:
        provider.refresh()
    assert stage.leaf_of_last_request() != first
    assert len(opened) == 2


def test_signature_is_not_made_with_another_certificate_than_the_request_has(stage: Stage) -> None:
    shared = _shared(stage)
    turn = shared.get(_now(stage))
    turn.sign(b"before")
    key = ec.generate_private_key(ec.SECP256R1())
    stage.write_leaf(key)
    certs.write_key(stage.key, key)
    with pytest.raises(CertificateError, match="replaced"):
        turn.sign(b"after")
    shared.get(_now(stage)).sign(b"after")  # The others do not wait.


def test_certificate_that_is_renewed_just_before_a_signature_does_not_stop_it(stage: Stage) -> None:
    shared = _shared(stage)
    key = ec.generate_private_key(ec.SECP256R1())
    stage.write_leaf(key)
    certs.write_key(stage.key, key)
    turn = shared.get(_now(stage))
    stage.write_leaf(key)
    signature = turn.sign(b"message")
    assert shared.leaf
    assert shared.leaf.der != turn.chain.leaf.der
    assert turn.chain.leaf.verify(b"message", signature=signature)


def test_key_that_fails_to_sign_is_opened_again(
    stage: Stage, opened: list[Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = _shared(stage)
    one, other = _provider(stage, shared), _provider(stage, shared)
    one()

    def fail(*_: object) -> bytes:
        raise SigningKeyError("the token is gone")

    monkeypatch.setattr(opened[0].key, "sign", fail)
    with pytest.raises(SigningKeyError, match="gone"):
        other()
    with pytest.raises(SigningKeyError, match="gone"):
        _provider(stage, shared)()
    stage.clock.advance(200)
    other()
    assert len(opened) == 2


def test_joining_does_not_wait_for_a_signature(
    stage: Stage, opened: list[Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = _shared(stage)
    turn = shared.get(_now(stage))
    signs, may_end = threading.Event(), threading.Event()

    def hang(*_: object) -> bytes:
        signs.set()
        assert may_end.wait(30)
        raise HwsignerError("it hung")

    monkeypatch.setattr(opened[0].key, "sign", hang)

    def sign() -> None:
        with pytest.raises(HwsignerError, match="it hung"):
            turn.sign(b"message")

    thread = threading.Thread(target=sign)
    thread.start()
    assert signs.wait(30)
    shared.join()  # As the event loop does.
    assert not shared.needs_person(datetime.now(UTC))
    may_end.set()
    thread.join(30)


def test_token_key_is_opened_once_for_all(stage: Stage, softhsm: InProcessSoftHSM, opened: list[Identity]) -> None:
    softhsm.generate("shared", b"\x27", "EC:prime256v1")
    stage.leaf.write_bytes(certs.pem(certs.issue(stage.ca, softhsm.public_key(b"\x27"))))
    shared = _shared(stage, IdentitySource(str(stage.leaf), softhsm.uri("shared"), pin=softhsm.pin))
    providers = [_provider(stage, shared) for _ in range(4)]
    assert len({provider().access_key_id for provider in providers}) == 4
    for provider in providers:
        provider.close()
        shared.part()
    assert len(opened) == 1
