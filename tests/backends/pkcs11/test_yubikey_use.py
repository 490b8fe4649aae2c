"""Keys of emulated YubiKeys in use, through both modules: touches, PINs for each signature, removed cards."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backends.contract import openssl_verifies
from hwsigner._pins import AskPin, PinRequest, PinSource
from hwsigner.errors import PinRequiredError, SigningKeyError, TokenRemovedError, WrongPinError
from hwsigner.key import Key, open_key
from pkcs11_shim import ROOT, Person
from softhsm.pcsc import SoftPcsc
from softhsm.yubikey import OPENSC, YKCS11, YubiKey

MODULES = [YKCS11, OPENSC]
SIGNATURE, AUTHENTICATION = 0x9C, 0x9A
TOUCH_ALWAYS = 2
# OpenSC's module checks a reader only this often, and no user exchanges cards in a second.
OPENSC_BELIEVES_SECONDS = 1.0


@pytest.fixture(params=MODULES)
def module(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def card_key(card: YubiKey, module: str, slot: int, pin: str | AskPin | PinSource) -> Key:
    return open_key(card.uri(slot, module), pin)


def prepare(card: YubiKey, slot: int = AUTHENTICATION, name: str = "hwsigner", touch_policy: int = 0) -> bytes:
    card.write_chuid()
    card.generate(slot, touch_policy=touch_policy)
    for each in {slot, AUTHENTICATION}:  # OpenSC names the token after the certificate in 9A.
        if each not in card.state.keys:
            card.generate(each)
        card.self_sign(each, name)
    return card.public_key(slot)


def right(tries: list[int]) -> bool:
    return set(tries) == {0x9000}


def test_removed_card_is_a_token_removed_error_and_works_when_it_is_back(
    yubikey: YubiKey, pcsc: SoftPcsc, module: str, tmp_path: Path
) -> None:
    public_key = prepare(yubikey)
    person = Person(yubikey.pin)
    with card_key(yubikey, module, AUTHENTICATION, person) as key:
        for _ in range(2):
            assert openssl_verifies(tmp_path, public_key, key.sign(b"message"), b"message", "sha256")
            yubikey.remove()
            for _ in range(2):
                with pytest.raises(TokenRemovedError):
                    key.sign(b"message")
            yubikey.insert(pcsc)
        assert openssl_verifies(tmp_path, public_key, key.sign(b"message"), b"message", "sha256")
    assert len(person.asked) == 1
    assert yubikey.pin_tries == [0x9000] * 3


def test_key_signs_when_the_card_was_removed_and_is_back(yubikey: YubiKey, pcsc: SoftPcsc, module: str) -> None:
    prepare(yubikey)
    with card_key(yubikey, module, AUTHENTICATION, yubikey.pin) as key:
        assert key.sign(b"message")
        yubikey.remove()
        yubikey.insert(pcsc)
        assert key.sign(b"message")
    assert right(yubikey.pin_tries)


def test_typed_pin_reaches_the_card_that_was_removed_and_is_back_while_the_user_was_asked(
    yubikey: YubiKey, pcsc: SoftPcsc, module: str
) -> None:
    prepare(yubikey)

    def answer(_: PinRequest) -> str:
        yubikey.remove()
        yubikey.insert(pcsc)
        return yubikey.pin

    with card_key(yubikey, module, AUTHENTICATION, answer) as key:
        assert key.sign(b"message")
    assert yubikey.pin_tries == [0x9000]


def test_another_card_in_the_reader_gets_no_pin(
    yubikey: YubiKey, pcsc: SoftPcsc, module: str, new_yubikey: Callable[[], YubiKey]
) -> None:
    prepare(yubikey)
    with card_key(yubikey, module, AUTHENTICATION, yubikey.pin) as key:
        assert key.sign(b"message")
        yubikey.remove()
        time.sleep(OPENSC_BELIEVES_SECONDS)
        other = new_yubikey()
        prepare(other, name="other")
        other.insert(pcsc)
        try:
            with pytest.raises(TokenRemovedError):
                key.sign(b"message")
            assert other.pin_tries == []
        finally:
            other.remove()
        yubikey.insert(pcsc)
        assert key.sign(b"message")


def test_card_is_found_in_another_reader(yubikey: YubiKey, pcsc: SoftPcsc, module: str) -> None:
    prepare(yubikey)
    with card_key(yubikey, module, AUTHENTICATION, yubikey.pin) as key:
        assert key.sign(b"message")
        yubikey.remove()
        yubikey.insert(pcsc, reader=1)
        assert key.sign(b"message")
        yubikey.remove()


def test_key_signs_after_pcscd_was_restarted(yubikey: YubiKey, pcsc: SoftPcsc, module: str) -> None:
    prepare(yubikey)
    person = Person(yubikey.pin)
    with card_key(yubikey, module, AUTHENTICATION, person) as key:
        assert key.sign(b"message")
        yubikey.remove()
        pcsc.stop()
        with pytest.raises(SigningKeyError):
            key.sign(b"message")
        pcsc.start()
        yubikey.insert(pcsc)
        assert key.sign(b"message")
    assert len(person.asked) == 1
    assert right(yubikey.pin_tries)


def test_key_in_9c_needs_its_pin_for_each_signature(yubikey: YubiKey, module: str, tmp_path: Path) -> None:
    public_key = prepare(yubikey, SIGNATURE)
    with card_key(yubikey, module, SIGNATURE, PinSource(yubikey.pin, reuse=True)) as key:
        for message in (b"one", b"two"):
            assert openssl_verifies(tmp_path, public_key, key.sign(message), message, "sha256")
    assert right(yubikey.pin_tries)
    person = Person(yubikey.pin, "654321", yubikey.pin, yubikey.pin)
    with card_key(yubikey, module, SIGNATURE, person) as key:
        wrong_before = len(yubikey.pin_tries)
        with pytest.raises(WrongPinError):
            key.sign(b"message")
        assert [status for status in yubikey.pin_tries[wrong_before:] if status != 0x9000] == [0x63C2]
        person.answers = [yubikey.pin] * 2
        assert key.sign(b"message")


def test_notice_is_shown_when_a_card_waits_for_a_touch(yubikey: YubiKey, module: str, told: list[str]) -> None:
    prepare(yubikey, touch_policy=TOUCH_ALWAYS)
    with card_key(yubikey, module, AUTHENTICATION, yubikey.pin) as key:
        thread = threading.Thread(target=key.sign, args=(b"message",))
        thread.start()
        assert yubikey.sensor.wait_until_asked()
        while not told:
            time.sleep(0.01)
        yubikey.touch()
        thread.join(30)
        assert not thread.is_alive()
    assert [line.startswith("touch token '") for line in told] == [True]


def test_missing_touch_is_an_error_that_costs_no_pin_try(yubikey: YubiKey, module: str) -> None:
    prepare(yubikey, touch_policy=TOUCH_ALWAYS)
    with card_key(yubikey, module, AUTHENTICATION, yubikey.pin) as key:
        yubikey.sensor.seconds = 1.0  # Longer than the half second after which a notice is shown.
        with pytest.raises(SigningKeyError, match=r"was not touched in time\. Retry, and touch it when it blinks$"):
            key.sign(b"message")
        yubikey.sensor.delay = 0.1
        assert key.sign(b"message")
    assert right(yubikey.pin_tries)


def test_wrong_pin_that_the_user_types_is_asked_again(yubikey: YubiKey) -> None:
    prepare(yubikey)
    person = Person("999999", yubikey.pin)
    with card_key(yubikey, YKCS11, AUTHENTICATION, PinSource(prompts=[person])) as key:
        assert key.sign(b"message")
    assert [request.state for request in person.asked] == ["", "an earlier try failed"]
    assert len([status for status in yubikey.pin_tries if status != 0x9000]) == 1


def test_user_is_not_asked_again_when_one_try_is_left_or_the_module_does_not_say(yubikey: YubiKey, module: str) -> None:
    prepare(yubikey)
    person = Person("999999", "999998", "999997", "999996")
    with pytest.raises(
        WrongPinError, match="one try is left" if module == YKCS11 else r"'hwsigner'\. hwsigner does not send it again"
    ):
        card_key(yubikey, module, AUTHENTICATION, PinSource(prompts=[person])).sign(b"message")
    assert len(person.asked) == len(yubikey.pin_tries) == (2 if module == YKCS11 else 1)


def test_wrong_pin_that_the_user_types_twice_is_sent_once(yubikey: YubiKey) -> None:
    prepare(yubikey)
    person = Person("999999", "999999")
    with pytest.raises(WrongPinError, match=r"wrong PIN for token '.*'\. hwsigner does not send it again"):
        card_key(yubikey, YKCS11, AUTHENTICATION, PinSource(prompts=[person]))
    assert len(yubikey.pin_tries) == 1


def test_wrong_pin_for_a_signature_that_the_user_types_is_asked_again(yubikey: YubiKey) -> None:
    prepare(yubikey, SIGNATURE)
    person = Person(yubikey.pin, "999999", yubikey.pin, yubikey.pin)
    with card_key(yubikey, YKCS11, SIGNATURE, PinSource(prompts=[person])) as key:
        assert key.sign(b"message")
        assert key.sign(b"message")
    assert [(request.kind, request.state) for request in person.asked] == [
        ("user PIN", ""),
        ("PIN for this signature", ""),
        ("PIN for this signature", "an earlier try failed"),
        ("PIN for this signature", ""),
    ]
    assert len([status for status in yubikey.pin_tries if status != 0x9000]) == 1


def test_user_who_gives_up_after_a_wrong_pin_for_a_signature_can_sign_later(yubikey: YubiKey) -> None:
    prepare(yubikey, SIGNATURE)
    answers: list[str | None] = [yubikey.pin, "999999", None, yubikey.pin, yubikey.pin]
    with card_key(yubikey, YKCS11, SIGNATURE, PinSource(prompts=[lambda _: answers.pop(0)])) as key:
        with pytest.raises(PinRequiredError):
            key.sign(b"message")
        assert key.sign(b"message")
    assert answers == []


@pytest.mark.parametrize("pins", [PinSource("999999"), PinSource(ask=lambda _: "999999")], ids=["stored", "callable"])
def test_wrong_pin_that_no_user_typed_is_sent_once(yubikey: YubiKey, module: str, pins: PinSource) -> None:
    prepare(yubikey)
    with pytest.raises(WrongPinError):
        card_key(yubikey, module, AUTHENTICATION, pins).sign(b"message")
    assert len(yubikey.pin_tries) == 1


def test_ctrl_c_ends_a_command_that_waits_for_a_touch(yubikey: YubiKey, module: str, tmp_path: Path) -> None:
    prepare(yubikey, touch_policy=TOUCH_ALWAYS)
    (tmp_path / "pin").write_text(yubikey.pin)
    (tmp_path / "pin").chmod(0o600)
    uri = f"{yubikey.uri(AUTHENTICATION, module)}&pin-source=file:{tmp_path / 'pin'}"
    command = [sys.executable, "-m", "hwsigner", "sign-string", "--certificate", uri]
    yubikey.sensor.seconds = 60
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        process.stdin.write(b"message")
        process.stdin.close()
        assert yubikey.sensor.wait_until_asked()
        process.send_signal(signal.SIGINT)
        assert process.wait(yubikey.sensor.seconds / 2) == 130
        assert process.stdout is not None
        assert process.stderr is not None
        assert (process.stdout.read(), process.stderr.read()) == (b"", b"")
    yubikey.sensor.touch()  # With OpenSC's module, the card waits on.
    assert right(yubikey.pin_tries)
