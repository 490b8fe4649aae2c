"""Keys on tokens in an agent: a PIN from `unlock` is sent once, and a key that needs a PIN each time asks for it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import certs
from agent.homes import Home, Running, run_agent
from emulators import InProcessSoftHSM
from hwsigner._agent import client
from hwsigner._agent.client import command
from hwsigner._agent.protocol import AgentRequest, Verb
from hwsigner._pins import PinRequest
from hwsigner.errors import AgentError, PinRequiredError
from softhsm.token import PIN
from softhsm.tpm import SoftTPM
from softhsm.yubikey import YKCS11, YubiKey

UNLOCK = AgentRequest(Verb.UNLOCK, "web")
SIGNATURE, AUTHENTICATION = 0x9C, 0x9A
_HANDLE = 0x81000078
TOUCH_ALWAYS = 2


def put_key(home: Home, uri: str, public_key: bytes) -> None:
    """Give the profile `web` a token's key."""
    (home.folder / "web.pem").write_bytes(certs.pem(certs.issue(home.ca, public_key)))
    home.write_profiles(web={"private-key": uri})


class Person:
    """Answers with some PINs, the last one again and again, and remembers what was asked."""

    def __init__(self, *pins: str) -> None:
        self.pins = list(pins)
        self.asked: list[PinRequest] = []

    def __call__(self, request: PinRequest) -> str:
        self.asked.append(request)
        return self.pins.pop(0) if len(self.pins) > 1 else self.pins[0]

    @property
    def kinds(self) -> list[str]:
        return [request.kind for request in self.asked]


def is_locked(running: Running) -> bool:
    answer = running.get()
    assert answer.startswith((b"1 ok ", b"1 error 3 "))
    return answer.endswith(b"Run hwsigner agent unlock web")


def test_softhsm_token_is_unlocked_once(home: Home, softhsm: InProcessSoftHSM) -> None:
    softhsm.generate("agent", b"\x07", "EC:prime256v1")
    put_key(
        home, f"pkcs11:token={softhsm.label};object=agent?module-path={softhsm.module}", softhsm.public_key(b"\x07")
    )
    person = Person(PIN)
    with run_agent(home) as running:
        assert is_locked(running)
        with pytest.raises(AgentError, match="wrong"):
            command(home.address, UNLOCK, Person("999999"))
        assert is_locked(running)
        command(home.address, UNLOCK, person)
        assert not is_locked(running)
        assert running.ask(b"1 refresh web\n").count(b"1 ok ") == 1
    assert person.kinds == ["user PIN"]
    assert len(home.emulator.requests) == 2


class TestTPMHandle:
    """A persistent handle does not say whether the key has an auth value."""

    @pytest.fixture(params=["", "auth-value"])
    def auth(self, home: Home, swtpm: SoftTPM, any_auth_values: None, request: pytest.FixtureRequest) -> Iterator[str]:
        """The auth value of the profile's key."""
        auth: str = request.param
        swtpm.persist(_HANDLE, "ecc256", auth)
        put_key(home, swtpm.uri(_HANDLE), swtpm.public_key(_HANDLE))
        shutil.rmtree(Path(os.environ["XDG_STATE_HOME"], "hwsigner"), ignore_errors=True)
        yield auth
        subprocess.run(["tpm2_evictcontrol", "-Q", "-C", "o", "-c", hex(_HANDLE)], env=swtpm_env(swtpm), check=True)

    def test_unlock_asks_before_an_attempt_is_used(self, home: Home, auth: str) -> None:
        person = Person(auth)
        with run_agent(home) as running:
            command(home.address, UNLOCK, person)
            assert running.get().startswith(b"1 ok ")
            assert not [line for line in running.log if "not the empty one" in line]
        assert [request.question for request in person.asked] == [
            f"TPM auth value for handle:{_HANDLE:#x} (Enter if there is none)"
        ]

    def test_unlock_asks_at_once_after_the_empty_auth_value_was_refused(self, home: Home, auth: str) -> None:
        person = Person(auth)
        with run_agent(home) as running:
            assert running.get().startswith(b"1 error 3 " if auth else b"1 ok ")
            command(home.address, UNLOCK, person)
            assert running.get().startswith(b"1 ok ")
        assert [request.state for request in person.asked] == (["the last one was wrong"] if auth else [])


def swtpm_env(swtpm: SoftTPM) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", **swtpm.env}


class TestYubiKey:
    @pytest.fixture
    def card(self, yubikey: YubiKey) -> YubiKey:
        yubikey.write_chuid()
        for slot in (AUTHENTICATION, SIGNATURE):
            yubikey.generate(slot)
            yubikey.self_sign(slot, "hwsigner")
        return yubikey

    def test_wrong_pin_costs_one_try(self, home: Home, card: YubiKey) -> None:
        put_key(home, card.uri(AUTHENTICATION, YKCS11), card.public_key(AUTHENTICATION))
        with run_agent(home) as running:
            assert is_locked(running)
            assert card.pin_tries == []
            with pytest.raises(PinRequiredError):
                command(home.address, UNLOCK, Person("999999", ""))
            for _ in range(3):
                assert is_locked(running)
                running.ask(b"1 refresh web\n")
            assert len(card.pin_tries) == 1
            command(home.address, UNLOCK, Person(card.pin))
            assert not is_locked(running)

    def test_wrong_pin_is_asked_again_while_more_than_one_try_is_left(self, home: Home, card: YubiKey) -> None:
        put_key(home, card.uri(AUTHENTICATION, YKCS11), card.public_key(AUTHENTICATION))
        mistaken, stubborn = Person("999999", card.pin), Person("999999")
        with run_agent(home) as running:
            command(home.address, UNLOCK, mistaken)
            assert not is_locked(running)
            assert [request.state for request in mistaken.asked] == ["", "the last one was wrong"]
            command(home.address, AgentRequest(Verb.LOCK, "web"))
            with pytest.raises(AgentError, match="one try is left"):
                command(home.address, UNLOCK, stubborn)
        assert len(stubborn.asked) == 2
        assert len(card.pin_tries) == 4

    def test_unlock_shows_that_the_token_waits_for_a_touch(
        self, home: Home, yubikey: YubiKey, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        yubikey.write_chuid()
        yubikey.generate(AUTHENTICATION, touch_policy=TOUCH_ALWAYS)
        yubikey.self_sign(AUTHENTICATION, "hwsigner")
        put_key(home, yubikey.uri(AUTHENTICATION, YKCS11), yubikey.public_key(AUTHENTICATION))
        shown = list[str]()

        def show(text: str) -> None:
            shown.append(text)
            yubikey.touch()

        monkeypatch.setattr(client, "notices", SimpleNamespace(notify=show))
        with run_agent(home) as running:
            command(home.address, UNLOCK, Person(yubikey.pin))
            assert shown[0] in running.log
        assert len(shown) == 1
        assert re.fullmatch(r"web: touch token '.*' if it blinks: waiting for its signature", shown[0])

    def test_pin_for_one_signature_is_asked_for_each_time(self, home: Home, card: YubiKey) -> None:
        put_key(home, card.uri(SIGNATURE, YKCS11), card.public_key(SIGNATURE))
        person = Person(card.pin)
        with run_agent(home) as running:
            command(home.address, UNLOCK, person)
            assert person.kinds == ["user PIN", "PIN for this signature"]
            assert not is_locked(running)
            # The next session needs another signature, and the PIN of the last is gone.
            assert running.ask(b"1 refresh web\n").count(b"1 error 3 ") == 1
            assert not is_locked(running)  # The last credentials live.
            command(home.address, AgentRequest(Verb.LOCK, "web"))
            command(home.address, UNLOCK, person)
        assert set(card.pin_tries) == {0x9000}

    def test_pin_serves_all_signatures_with_reuse_pin(self, home: Home, card: YubiKey) -> None:
        uri = card.uri(SIGNATURE, YKCS11)
        put_key(home, uri, card.public_key(SIGNATURE))
        home.write_profiles(web={"private-key": uri, "reuse-pin": True})
        person = Person(card.pin)
        with run_agent(home) as running:
            command(home.address, UNLOCK, person)
            assert running.ask(b"1 refresh web\n").count(b"1 ok ") == 1
        assert person.kinds == ["user PIN"]
