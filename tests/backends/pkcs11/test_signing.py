"""Signatures of PKCS #11 keys: by the mechanisms that a token offers, with a PIN for each, a keypad, a touch."""

from __future__ import annotations

import hashlib
import sys
import threading
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import mldsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import judges
from any_module import open_key
from backends.contract import HASHES, openssl_verifies
from hwsigner._pins import PinSource
from hwsigner._system import notices
from hwsigner.errors import PinLockedError, PinRequiredError, SigningKeyError, TokenRemovedError, WrongPinError
from hwsigner.key import ECDSA, MLDSA, Key
from pkcs11_shim import LOGIN, SIGN, SIGN_INIT, Person, Shim
from terminals import Terminal

CKM_RSA_PKCS, CKM_ECDSA = 0x1, 0x1041
HASHING_RSA = (0x40, 0x41, 0x42)
HASHING_ECDSA = (0x1044, 0x1045, 0x1046)
ALWAYS_AUTHENTICATE, KEYPAD, COUNT_LOW, FINAL_TRY, LOCKED = 0x202, 0x100, 0x10000, 0x20000, 0x40000
DEVICE_ERROR, DEVICE_REMOVED, ATTRIBUTE_TYPE_INVALID = 0x30, 0x32, 0x12


def kinds(person: Person) -> list[str]:
    return [request.kind for request in person.asked]


def verify(key: Key, folder: Path) -> None:
    for name in HASHES:
        assert openssl_verifies(folder, key.public_key() or b"", key.sign(b"message", name), b"message", name)


# Mechanisms


def test_rsa_digest_is_made_here_when_the_token_has_no_hash(shim: Shim, tmp_path: Path) -> None:
    with open_key(shim.uri("RSA-2048"), "1234") as key:
        offered = [key.sign(b"message", name) for name in HASHES]
    for mechanism in HASHING_RSA:
        shim.hide(mechanism)
    with open_key(shim.uri("RSA-2048"), "1234") as key:
        assert [key.sign(b"message", name) for name in HASHES] == offered
        verify(key, tmp_path)


def test_rsa_is_signed_with_the_hash_of_the_token_when_it_has_nothing_else(shim: Shim, tmp_path: Path) -> None:
    shim.hide(CKM_RSA_PKCS)
    with open_key(shim.uri("RSA-2048"), "1234") as key:
        verify(key, tmp_path)


def test_ecdsa_is_signed_with_the_hash_of_the_token_when_it_has_nothing_else(shim: Shim, tmp_path: Path) -> None:
    shim.hide(CKM_ECDSA)
    for mechanism in HASHING_ECDSA:
        shim.offer(mechanism)
    with open_key(shim.uri(), "1234") as key:
        verify(key, tmp_path)


def test_mechanism_is_tried_even_if_the_token_does_not_list_it(shim: Shim) -> None:
    shim.hide(CKM_ECDSA)
    words = r"does not offer the mechanism \(CKR_MECHANISM_INVALID\)"
    with open_key(shim.uri(), "1234") as key, pytest.raises(SigningKeyError, match=words):
        key.sign(b"message")


@judges.needs_openssl_3_5
@pytest.mark.parametrize("size", [44, 65, 87])
def test_mldsa_signs_the_message_itself(shim: Shim, size: int) -> None:
    seed = hashlib.sha256(b"%d" % size).digest()
    private = getattr(mldsa, f"MLDSA{size}PrivateKey").from_seed_bytes(seed)
    shim.become_mldsa(f"ML-DSA-{size}", seed)
    with open_key(shim.uri(), "1234") as key:
        assert key.algorithm == MLDSA
        public = private.public_key()
        assert key.public_key() == public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for message in (b"", b"message", b"m" * 10_000):
            public.verify(key.sign(message), message)
    shim.reset()
    with open_key(shim.uri(), "1234") as key:
        assert key.algorithm == ECDSA


def test_digest_is_cut_to_the_length_of_the_order_of_the_curve(shim: Shim, tmp_path: Path) -> None:
    with open_key(shim.uri(), "1234") as key:
        verify(key, tmp_path)
        assert shim.library.shim_longest() == 32


# A PIN for each signature


@pytest.fixture
def careful(shim: Shim) -> str:
    """The URI of a key that needs a PIN for each signature."""
    shim.library.shim_careful(1)
    return shim.uri()


def test_always_authenticate_asks_for_a_pin_each_time(shim: Shim, careful: str, tmp_path: Path) -> None:
    person = Person("1234", "1234", "1234")
    with open_key(careful, person) as key:
        for message in (b"one", b"two"):
            assert openssl_verifies(tmp_path, key.public_key() or b"", key.sign(message), message, "sha256")
    assert kinds(person) == [
        "user PIN",
        "PIN for this signature",
        "PIN for this signature",
    ]
    assert [request.for_one_signature for request in person.asked] == [False, True, True]
    assert (shim.count(LOGIN), shim.context_logins()) == (3, 2)


def test_stored_pin_is_sent_for_each_signature_only_if_reuse_is_allowed(careful: str) -> None:
    with open_key(careful, "1234") as key, pytest.raises(PinRequiredError, match="PIN for this signature") as caught:
        key.sign(b"message")
    assert "--reuse-pin" in caught.value.hint
    answers = ["1234", None]
    with open_key(careful, lambda request: answers.pop(0)) as key, pytest.raises(PinRequiredError) as caught:
        key.sign(b"message")
    assert "pin-source=" in caught.value.hint


def test_pin_of_the_login_is_sent_for_each_signature_if_reuse_is_allowed(shim: Shim, careful: str) -> None:
    person = Person("1234")
    for pins in (PinSource("1234", reuse=True), PinSource(ask=person, reuse=True)):
        with open_key(careful, pins) as key:
            for message in (b"one", b"two"):
                assert key.sign(message)
    assert len(person.asked) == 1
    assert shim.context_logins() == 4


def test_wrong_pin_for_a_signature_is_sent_once_and_the_right_one_works_next(shim: Shim, careful: str) -> None:
    person = Person("1234", "wrong")
    with open_key(careful, person) as key:
        with pytest.raises(WrongPinError, match="wrong PIN for token 'one'"):
            key.sign(b"message")
        assert shim.context_logins() == 1
        person.answers += ["1234", "1234"]
        assert key.sign(b"message")
    # The token says that a try failed: hwsigner asks for the login's PIN again and does not send the old one.
    assert kinds(person) == [
        "user PIN",
        "PIN for this signature",
        "user PIN",
        "PIN for this signature",
    ]
    assert person.asked[2].state == "an earlier try failed"


@pytest.mark.parametrize(("call", "answer"), [(SIGN, DEVICE_ERROR), (SIGN, DEVICE_REMOVED), (SIGN_INIT, DEVICE_ERROR)])
def test_signature_is_not_repeated_when_a_pin_was_sent_for_it(shim: Shim, careful: str, call: int, answer: int) -> None:
    with open_key(careful, PinSource("1234", reuse=True)) as key:
        shim.fail(call, answer)
        with pytest.raises(SigningKeyError):
            key.sign(b"message")
        assert shim.count(call) == 1
        shim.fail(call, 0)
        assert key.sign(b"message")


def test_no_pin_is_asked_for_when_the_token_is_gone(shim: Shim, careful: str) -> None:
    person = Person("1234", "1234", "1234")
    with open_key(careful, person) as key:
        assert key.sign(b"message")
        shim.remove()
        with pytest.raises(TokenRemovedError):
            key.sign(b"message")
        shim.insert()
        assert key.sign(b"message")
    assert person.answers == []


@pytest.mark.parametrize("flag", [FINAL_TRY, LOCKED, COUNT_LOW])
def test_no_pin_is_sent_for_a_signature_when_that_might_lock_it(shim: Shim, careful: str, flag: int) -> None:
    with open_key(careful, PinSource("1234", reuse=True)) as key:
        shim.flags(raised=flag)
        with pytest.raises(PinLockedError):
            key.sign(b"message")
        assert shim.context_logins() == 0


# Keypads


def test_token_with_a_keypad_needs_no_pin_and_a_notice_is_shown(shim: Shim, told: list[str]) -> None:
    open_key(shim.uri(), "1234").close()
    shim.flags(raised=KEYPAD)
    with open_key(shim.uri()) as key:
        assert key.sign(b"message")
    assert told == ["type the PIN of token 'one' at its keypad"]


def test_keypad_is_used_for_each_signature(shim: Shim, careful: str, told: list[str]) -> None:
    open_key(shim.uri(), "1234").close()
    shim.flags(raised=KEYPAD)
    with open_key(careful) as key:
        assert key.sign(b"message")
        assert key.sign(b"message")
    assert told == ["type the PIN of token 'one' at its keypad"] * 3
    assert shim.context_logins() == 2


# Touches


def test_notice_of_a_touch_is_shown_after_half_a_second(shim: Shim, told: list[str]) -> None:
    with open_key(shim.uri(), "1234") as key:
        for wanted in (1, 2):
            shim.hold()
            thread = threading.Thread(target=key.sign, args=(b"message",))
            began = time.monotonic()
            thread.start()
            while len(told) < wanted:
                time.sleep(0.01)
            assert time.monotonic() - began > notices.PATIENCE_SECONDS
            shim.hold(held=False)
            thread.join()
        assert told == ["touch token 'one' if it blinks: waiting for its signature"] * 2


def test_command_shows_the_notice_of_a_touch_on_the_terminal(loaded_shim: Shim, tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    uri = f"{loaded_shim.uri()}&pin-value=1234"
    command = (sys.executable, "-m", "hwsigner", "sign-string", "--private-key", uri)
    process = terminal.start(*command, **loaded_shim.env, SHIM_SECONDS="1")
    line = "hwsigner: touch token 'one' if it blinks: waiting for its signature"
    assert terminal.shown_until("\n") == f"{line}\r\n"
    out, err = process.communicate(timeout=30)
    assert (process.returncode, len(out) > 100, b"touch" in err) == (0, True, False)
    terminal.close()


def test_quick_signatures_show_no_notice_and_start_one_thread(shim: Shim, told: list[str]) -> None:
    with open_key(shim.uri(), "1234") as key:
        key.sign(b"message")
        threads, slowest = set(threading.enumerate()), 0.0
        until = time.monotonic() + 1.5 * notices.PATIENCE_SECONDS
        while (began := time.monotonic()) < until:
            key.sign(b"message")
            slowest = max(slowest, time.monotonic() - began)
    assert set(threading.enumerate()) <= threads
    assert told == [] or slowest > notices.PATIENCE_SECONDS


def test_library_starts_no_thread_without_a_notifier(shim: Shim) -> None:
    threads = set(threading.enumerate())
    with open_key(shim.uri(), "1234") as key:
        key.sign(b"message")
    assert set(threading.enumerate()) <= threads


# Odd modules


def test_key_signs_when_the_module_lacks_an_attribute(shim: Shim, tmp_path: Path) -> None:
    shim.library.shim_unknown(ALWAYS_AUTHENTICATE)
    with open_key(shim.uri(), "1234") as key:
        verify(key, tmp_path)


def test_closed_key_does_not_use_the_token(shim: Shim) -> None:
    key = open_key(shim.uri(), "1234")
    key.close()
    with pytest.raises(SigningKeyError, match="closed"):
        key.sign(b"message")
    assert shim.count(SIGN_INIT) == 0
