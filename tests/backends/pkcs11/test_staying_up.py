"""PKCS #11 keys after a token was removed, its session ended or its module restarted; and PINs in these cases."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

import pytest

from any_module import find_certificates, list_tokens, open_key
from hwsigner._pins import PinRequest, PinSource
from hwsigner._uri import KeyURI
from hwsigner.backends.pkcs11 import pins as pkcs11_pins
from hwsigner.backends.pkcs11.functions import ObjectClass
from hwsigner.backends.pkcs11.module import load_module
from hwsigner.backends.pkcs11.search import choose_token
from hwsigner.backends.pkcs11.token import acquire
from hwsigner.errors import CertificateError, PinLockedError, SigningKeyError, TokenRemovedError, WrongPinError
from hwsigner.key import Key
from pkcs11_shim import FINALIZE, INITIALIZE, LOGIN, LOGOUT, SIGN, SIGN_INIT, Person, Shim

DEVICE_ERROR, DEVICE_REMOVED, SESSION_HANDLE_INVALID, FUNCTION_FAILED = 0x30, 0x32, 0xB3, 6
PIN_INCORRECT, USER_NOT_LOGGED_IN, GENERAL_ERROR, SLOT_ID_INVALID = 0xA0, 0x101, 5, 3
TOKEN_NOT_PRESENT, TOKEN_NOT_RECOGNIZED = 0xE0, 0xE1
COUNT_LOW, FINAL_TRY = 0x10000, 0x20000
COUNTED_SERIAL = b"other serial    "


@pytest.fixture
def person() -> Person:
    return Person("1234")


@pytest.fixture
def key(shim: Shim, person: Person) -> Iterator[Key]:
    """A key whose PIN the user has typed once."""
    with open_key(shim.uri(), person) as key:
        key.sign(b"message")
        yield key


def test_process_logs_in_once(shim: Shim) -> None:
    with open_key(shim.uri(), "1234") as key, open_key(shim.uri("RSA-2048"), "1234") as other:
        for _ in range(3):
            assert key.sign(b"message")
            assert other.sign(b"message")
    assert (shim.count(LOGIN), shim.count(SIGN)) == (1, 6)


def test_removed_token_is_a_token_removed_error_until_it_is_back(shim: Shim, key: Key, person: Person) -> None:
    shim.remove()
    for _ in range(2):
        with pytest.raises(TokenRemovedError, match="token 'one' was removed") as caught:
            key.sign(b"message")
        assert caught.value.hint == "Insert it again"
        assert caught.value.exit_status == 3
    assert shim.count(LOGIN) == 1
    shim.insert()
    assert key.sign(b"message")
    assert (len(person.asked), shim.count(LOGIN)) == (1, 2)


def test_key_signs_when_the_token_was_removed_and_is_back(shim: Shim, key: Key, person: Person) -> None:
    shim.remove()
    shim.insert()
    assert key.sign(b"message")
    assert (len(person.asked), shim.count(LOGIN)) == (1, 2)


@pytest.mark.parametrize("answer", [DEVICE_REMOVED, DEVICE_ERROR, SESSION_HANDLE_INVALID, USER_NOT_LOGGED_IN])
def test_signature_is_repeated_once_when_the_session_has_ended(shim: Shim, key: Key, answer: int) -> None:
    signed = shim.count(SIGN)
    shim.fail(SIGN, answer)
    with pytest.raises(SigningKeyError, match="token 'one' could not sign"):
        key.sign(b"message")
    assert (shim.count(SIGN) - signed, shim.count(LOGIN)) == (2, 2)
    shim.fail(SIGN, 0)
    assert key.sign(b"message")


def test_login_for_a_repeated_signature_is_not_repeated_when_it_fails(shim: Shim, key: Key) -> None:
    signed = shim.count(SIGN)
    shim.fail(SIGN, DEVICE_ERROR)
    shim.fail(LOGIN, PIN_INCORRECT)
    with pytest.raises(WrongPinError):
        key.sign(b"message")
    for _ in range(2):
        with pytest.raises(SigningKeyError):
            key.sign(b"message")
    assert (shim.count(SIGN) - signed, shim.count(LOGIN)) == (1, 2)


def test_no_pin_is_sent_to_repeat_a_signature_on_the_final_try(shim: Shim, key: Key) -> None:
    shim.fail(SIGN, DEVICE_ERROR)
    shim.flags(raised=COUNT_LOW | FINAL_TRY)
    with pytest.raises(PinLockedError, match="one more wrong PIN locks"):
        key.sign(b"message")
    assert shim.count(LOGIN) == 1


@pytest.mark.parametrize(
    ("call", "answer"),
    [(SIGN_INIT, DEVICE_ERROR), *itertools.product((SIGN_INIT, SIGN), (FUNCTION_FAILED, GENERAL_ERROR))],
)
def test_other_errors_are_raised_at_once_and_the_session_is_dropped(
    shim: Shim, key: Key, call: int, answer: int
) -> None:
    made = shim.count(call)
    shim.fail(call, answer)
    with pytest.raises(SigningKeyError, match="token 'one' could not sign") as caught:
        key.sign(b"message")
    assert type(caught.value) is SigningKeyError
    assert (shim.count(call) - made, shim.count(LOGIN)) == (1, 1)
    shim.fail(call, 0)
    assert key.sign(b"message")
    assert shim.count(LOGIN) == 2


def test_error_says_that_the_token_was_removed_whatever_the_module_returns(shim: Shim, key: Key) -> None:
    shim.fail(SIGN_INIT, DEVICE_ERROR)
    shim.remove()
    with pytest.raises(TokenRemovedError, match="was removed"):
        key.sign(b"message")


def test_another_token_in_the_slot_gets_no_pin(shim: Shim, key: Key, person: Person) -> None:
    shim.remove()
    shim.serial(COUNTED_SERIAL)
    shim.insert()
    with pytest.raises(TokenRemovedError, match="another one is in its slot"):
        key.sign(b"message")
    assert shim.count(LOGIN) == 1
    shim.serial(b"")
    assert key.sign(b"message")
    assert len(person.asked) == 1


def test_key_signs_when_the_module_was_finalised_by_others(shim: Shim, key: Key, person: Person) -> None:
    shim.library.shim_finalise()
    assert key.sign(b"message")
    assert len(person.asked) == 1


def test_module_is_not_finalised_while_another_token_is_in_use(shim: Shim, key: Key) -> None:
    with open_key(shim.uri(token="two"), "1234") as other:
        started = shim.count(INITIALIZE), shim.count(FINALIZE)
        shim.remove()
        with pytest.raises(TokenRemovedError):
            key.sign(b"message")
        assert other.sign(b"message")
        assert (shim.count(INITIALIZE), shim.count(FINALIZE)) == started


# PINs


# Only the first says what became of the PIN: a token that is removed during a login may have counted the attempt.
LOGIN_ERRORS = [
    *(PIN_INCORRECT, DEVICE_ERROR, GENERAL_ERROR, FUNCTION_FAILED, SLOT_ID_INVALID),
    *(DEVICE_REMOVED, TOKEN_NOT_PRESENT, TOKEN_NOT_RECOGNIZED, SESSION_HANDLE_INVALID),
]


@pytest.mark.parametrize("answer", LOGIN_ERRORS)
@pytest.mark.parametrize("cleared", [0, 4])
def test_login_that_fails_later_is_not_repeated(shim: Shim, key: Key, answer: int, cleared: int) -> None:
    shim.flags(cleared=cleared)  # CKF_LOGIN_REQUIRED
    shim.remove()
    shim.insert()
    shim.fail(LOGIN, answer)
    for _ in range(3):
        with pytest.raises(SigningKeyError):
            key.sign(b"message")
        assert shim.count(LOGIN) == 2
    with pytest.raises(SigningKeyError, match="is not repeated") as caught:
        key.sign(b"message")
    assert "open the key again" in caught.value.hint
    shim.fail(LOGIN, 0)
    with pytest.raises(SigningKeyError, match="is not repeated"):
        key.sign(b"message")
    with open_key(shim.uri("RSA-2048"), "1234") as another:
        assert another.sign(b"message")
        assert key.sign(b"message")
    assert shim.count(LOGIN) == 3


@pytest.mark.parametrize("answer", LOGIN_ERRORS)
def test_first_login_that_fails_is_not_repeated(shim: Shim, answer: int) -> None:
    shim.uri()
    shim.fail(LOGIN, answer)
    with pytest.raises(SigningKeyError):
        open_key(shim.uri(), "1234")
    assert shim.count(LOGIN) == 1


@pytest.mark.parametrize("is_back", [True, False])
def test_pin_is_sent_once_or_not_at_all_when_the_token_is_removed_while_the_user_is_asked(
    shim: Shim, is_back: bool
) -> None:
    assert list(list_tokens(shim.uri()))

    def answer(_: PinRequest) -> str:
        shim.remove()
        if is_back:
            shim.insert()
        return "1234"

    if is_back:
        with open_key(shim.uri(), answer) as key:
            assert key.sign(b"message")
    else:
        with pytest.raises(TokenRemovedError, match="token 'one' was removed"):
            open_key(shim.uri(), answer)
    assert shim.count(LOGIN) == is_back


def test_no_pin_is_sent_on_the_final_try_when_the_attempts_failed_while_the_user_was_asked(shim: Shim) -> None:
    assert list(list_tokens(shim.uri()))

    def answer(_: PinRequest) -> str:
        shim.remove()
        shim.flags(raised=COUNT_LOW | FINAL_TRY)
        shim.insert()
        return "1234"

    with pytest.raises(PinLockedError, match="one more wrong PIN locks"):
        open_key(shim.uri(), answer)
    assert shim.count(LOGIN) == 0


def test_remembered_pin_is_not_sent_after_a_try_of_another_program_failed(shim: Shim, key: Key, person: Person) -> None:
    shim.remove()
    shim.insert()
    shim.flags(raised=COUNT_LOW)
    person.answers.append("1234")
    assert key.sign(b"message")
    assert [request.state for request in person.asked] == ["", "an earlier try failed"]


def test_stored_pin_is_not_sent_after_a_try_of_another_program_failed(shim: Shim) -> None:
    with open_key(shim.uri(), "1234") as key:
        shim.remove()
        shim.insert()
        shim.flags(raised=COUNT_LOW)
        with pytest.raises(PinLockedError, match="the stored one was not sent"):
            key.sign(b"message")
        assert shim.count(LOGIN) == 1


def test_no_pin_is_sent_on_the_final_try_after_a_reinsertion(shim: Shim, key: Key, person: Person) -> None:
    shim.remove()
    shim.insert()
    shim.flags(raised=COUNT_LOW | FINAL_TRY)
    with pytest.raises(PinLockedError, match="one more wrong PIN locks"):
        key.sign(b"message")
    assert (len(person.asked), shim.count(LOGIN)) == (1, 1)


def test_wrong_pin_is_sent_once_even_if_the_token_shows_no_flag(shim: Shim) -> None:
    with open_key(shim.uri(), "1234"):
        pass
    shim.flags(cleared=COUNT_LOW | FINAL_TRY)
    logins = shim.count(LOGIN)
    with pytest.raises(WrongPinError):
        open_key(shim.uri(), PinSource("wrong"))
    assert shim.count(LOGIN) - logins == 1
    shim.flags()
    with open_key(shim.uri(), lambda request: "1234"):  # Clears the token's flag.
        pass


def test_login_of_another_part_of_the_program_is_kept(shim: Shim) -> None:
    # While the other token has a session, the module is not initialised again, which would end all sessions.
    with open_key(shim.uri(token="two"), "1234"):
        module = load_module(str(shim.path))
        [token] = (one for one in module.tokens() if one.label == "one")
        session = module.functions.open_session(token.slot)
        session.log_in("1234")
        with open_key(shim.uri(), "1234") as key:
            assert key.sign(b"message")
        assert shim.count(LOGOUT) == 0
        assert session.find(ObjectClass.PRIVATE_KEY, {})
        session.close()


def test_public_key_is_shown_when_the_token_was_removed_and_is_back(shim: Shim) -> None:
    shim.library.shim_careful(1)
    # While the other token has a session, the module does not start to number its sessions from one.
    with open_key(shim.uri(token="two"), "1234"), open_key(shim.uri(), "1234") as key:
        shim.remove()
        shim.insert()
        assert key.public_key()


def test_missing_certificates_are_looked_for_with_one_login(shim: Shim) -> None:
    with pytest.raises(CertificateError, match="no certificate is named by"):
        find_certificates(shim.uri().replace("object=P-256", ""), "1234")
    assert shim.count(LOGIN) == 1


def test_token_that_is_acquired_during_a_release_keeps_its_fingerprint(
    shim: Shim, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = KeyURI.parse(shim.uri())
    found = choose_token(uri, None)
    token = acquire(found.module, found.info)
    with token.lock:
        token.forget_refusal()  # As `open_key` does: an earlier test's PIN may have been refused.
        token.log_in(uri, PinSource("1234"))
        releasing = threading.Thread(target=token.release)
        releasing.start()
        while token.users:
            time.sleep(0.001)
        assert acquire(found.module, found.info) is token
    releasing.join()
    monkeypatch.setattr(pkcs11_pins, "visible_keys", lambda session, uri: {b"another"})
    with token.lock:
        token.drop_session()
        with pytest.raises(TokenRemovedError):
            token.current_session()
    token.release()
    assert shim.count(LOGIN) == 1
