"""Tokens in use: one session and one login for each, shared by all the keys of a process."""

from __future__ import annotations

from pkcs11 import PKCS11Error, TokenFlag
from pkcs11.exceptions import UserAlreadyLoggedIn
from pkcs11.types import Session, Token

from hwsigner.backends._pkcs11_errors import SESSION_LOST
from hwsigner.backends._pkcs11_module import Module
from hwsigner.backends._pkcs11_pins import (
    checked,
    has_keypad,
    pin_state,
    refuse_risk,
    signature_pin_request,
    user_pin_request,
)
from hwsigner.backends._pkcs11_registry import registry_lock
from hwsigner.backends._pkcs11_sessions import TokenSession, handle
from hwsigner.errors import PinRequiredError, SigningKeyError, TokenRemovedError
from hwsigner.pin import PinSource
from hwsigner.uri import KeyURI


class OpenToken(TokenSession):
    """A token in use, and its login. Get one with `acquire`, give it back with `release`.

    Attributes:
        users: how many keys and searches use it.
    """

    def __init__(self, module: Module, token: Token) -> None:
        super().__init__(module, token)
        self.users = 0
        self._uri = KeyURI("pkcs11", {})
        self._pins = PinSource()
        self._request = user_pin_request(token)
        self._refusal: SigningKeyError | None = None

    def session(self) -> Session:
        """Return the session, opened anew, with the login that it had, after it was dropped.

        Raises:
            TokenRemovedError: the token is not there.
            SigningKeyError: it can't be opened.
            PinError: its login failed. Whatever a login fails with, the token counts as logged out then.
        """
        if self._session is None:
            if self._is_lost:
                self.module.look_again()
                self._is_lost = False
            self._open_session()
            if self._logged_in:
                self._log_in(again=True)
        return self._opened

    def log_in(self, uri: KeyURI, pins: PinSource) -> None:
        """Log in, unless done: with the stored PIN, the PIN that a person gives, or at the token's own keypad.

        Raises:
            PinRequiredError: no place gives a PIN.
            WrongPinError: the PIN was sent, once, and is wrong.
            PinLockedError: the PIN is locked, or a try would risk it.
            SigningKeyError: the login failed otherwise. After a failed one, no PIN is sent before `forget_refusal`.
        """
        if self._logged_in:
            return
        if self._refusal is not None:
            message = f"{self._refusal.message}; the login is not tried again"
            raise type(self._refusal)(message, "Check the token and its PIN, then open the key again")
        self._uri, self._pins = uri, pins
        self.session()
        self._refresh()
        self._log_in()

    @property
    def wants_login(self) -> bool:
        """Whether private objects are hidden until a login."""
        return not self._logged_in and bool(self.token.flags & TokenFlag.LOGIN_REQUIRED)

    @property
    def can_log_in(self) -> bool:
        """Whether a login is still to be had."""
        return not self._logged_in and bool(self.token.flags & TokenFlag.USER_PIN_INITIALIZED)

    def has_stored_pin(self, uri: KeyURI, pins: PinSource) -> bool:
        """Tell whether a place gives the user PIN without asking a person."""
        return pins.stored(uri, self._request) is not None

    def signature_pin(self, uri: KeyURI, pins: PinSource) -> str | None:
        """Return the PIN for one signature of a key that wants it each time (CKA_ALWAYS_AUTHENTICATE); None: a keypad.

        Raises:
            PinError: no place gives one, or a try would risk locking the PIN.
        """
        self._refresh()
        refuse_risk(self.token, pins)
        if has_keypad(self.token):
            return None
        if pins.reuse:
            return self._found_pin(uri, pins)
        try:
            with self._asking():
                return checked(self.token, pins.ask(signature_pin_request(self.token)))
        except PinRequiredError as error:
            if not self.has_stored_pin(uri, pins):
                raise
            hint = "Send the stored PIN for each signature with --reuse-pin, or run from a terminal"
            raise PinRequiredError(error.message, hint) from None

    def failure(self, action: str, error: PKCS11Error) -> SigningKeyError:
        """Return what to raise for an operation that failed: a TokenRemovedError where the token is not there now."""
        failed = self.error(action, error)
        if type(failed) is SigningKeyError:
            self.module.look_again()
            try:
                self._refresh()
            except TokenRemovedError as removed:
                return removed
            except SigningKeyError:
                pass
        return failed

    def forget_refusal(self) -> None:
        """Let a login be tried again after a failed one, with the PIN of a key that is being opened."""
        self._refusal = None

    def release(self) -> None:
        """Give the token back; the last one closes it. Not to be called while holding its lock."""
        with registry_lock:
            self.users -= 1
        with self.lock:
            if self.users == 0:
                self._close_session()
                self._logged_in = False

    def _log_in(self, *, again: bool = False) -> None:
        try:
            pin = self._login_pin(again=again)
            self._send(pin)
        except UserAlreadyLoggedIn:  # Another part of the program did, and its login counts for all sessions.
            pin = None
        except PKCS11Error as error:
            # The token may have counted a try, whatever the error is.
            self._refusal = self.error("did not accept the login", error)
            self._log_out()
            raise self._refusal from error
        except BaseException:
            self._log_out()
            raise
        self._logged_in = True
        if pin is not None:
            self._pins.remember(self._request, pin)

    def _send(self, pin: str | None) -> None:
        """Send a PIN; again only where the module had not noticed that the token was away, so that none arrived."""
        try:
            self.module.calls.log_in(handle(self._opened), pin)
        except SESSION_LOST:
            self.drop_session()
            self.module.look_again()
            self._open_session()
            refuse_risk(self.token, self._pins, is_stored=True)
            self.module.calls.log_in(handle(self._opened), pin)

    def _log_out(self) -> None:
        self._logged_in = False
        self.drop_session()

    def _login_pin(self, *, again: bool) -> str | None:
        """Return the PIN to log in with; None: a keypad.

        A login made anew gets the answer that the first one got, unless a try has failed since then.
        """
        refuse_risk(self.token, self._pins)
        if has_keypad(self.token):
            return None
        state = pin_state(self.token)
        if state or not again:
            self._request = user_pin_request(self.token, state)
        return self._found_pin(self._uri, self._pins)

    def _found_pin(self, uri: KeyURI, pins: PinSource) -> str:
        with self._asking():
            found = pins.find(uri, self._request)
        refuse_risk(self.token, pins, is_stored=found.is_stored)
        return checked(self.token, found.pin)


def acquire(module: Module, token: Token) -> OpenToken:
    """Return the token as it is open already in this process, or newly. It is used while holding its lock."""
    slot = token.slot.slot_id
    with registry_lock:
        there = [opened for opened in module.open_tokens if opened.token.slot.slot_id == slot]
        opened = next((one for one in there if one.is_same(token)), None)
        if opened is None:
            opened = OpenToken(module, token)
            module.open_tokens.append(opened)
        if opened.users == 0:
            opened.token = token
        opened.users += 1
    return opened
