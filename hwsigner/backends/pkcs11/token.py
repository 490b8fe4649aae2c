"""Tokens in use: one session and one login for each, shared by all the keys of a process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from pkcs11 import PKCS11Error, TokenFlag
from pkcs11.exceptions import ArgumentsBad, PinLenRange, UserAlreadyLoggedIn
from pkcs11.types import Session, Token

from hwsigner.backends.pkcs11.errors import SESSION_LOST
from hwsigner.backends.pkcs11.module import Module
from hwsigner.backends.pkcs11.pins import (
    REFUSED,
    Sight,
    checked,
    forget_refusals,
    has_keypad,
    is_anothers,
    only_try,
    pin_state,
    refuse_risk,
    signature_pin_request,
    tell_of_keypad,
    unmeant,
    user_pin_request,
)
from hwsigner.backends.pkcs11.registry import registry_lock
from hwsigner.backends.pkcs11.session import TokenSession, handle
from hwsigner.backends.pkcs11.uris import token_uri
from hwsigner.errors import PinError, PinRequiredError, SigningKeyError, TokenRemovedError
from hwsigner.pins import FoundPin, PinSource
from hwsigner.system.stderr import quiet
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
        self._request = user_pin_request(token, is_twin=module.is_twin(token))
        self._refusal: SigningKeyError | None = None
        self._sight = Sight()
        self._certified: bytes | None = None

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
                self._recognise()
                self._log_in(again=True)
        return self._opened

    def log_in(self, uri: KeyURI, pins: PinSource, public_key: bytes | None = None) -> None:
        """Log in, unless done: with the stored PIN, the PIN that a person gives, or at the token's own keypad.

        Args:
            uri: what is looked for. Where it names no token, and this one shows other keys only, no stored PIN is sent.
            pins: where the PIN comes from.
            public_key: the certificate's DER SubjectPublicKeyInfo, where it is known.

        Raises:
            PinRequiredError: no place gives a PIN for this token.
            WrongPinError: the PIN was sent, once, and is wrong.
            PinLockedError: the PIN is locked, or a try would risk it.
            SigningKeyError: the login failed otherwise. After a failed one, no PIN is sent before `forget_refusal`.
        """
        if self._logged_in:
            return
        if self._refusal is not None:
            message = f"{self._refusal.message}; the login is not tried again"
            raise type(self._refusal)(message, "Check the token and its PIN, then open the key again")
        self.session()
        self._refresh()
        self._recognise()
        self._uri, self._pins = uri, pins
        self._sight.remember(self._opened, uri)
        self._certified = public_key
        self._log_in()

    @property
    def wants_login(self) -> bool:
        """Whether private objects are hidden until a login."""
        return not self._logged_in and bool(self.token.flags & TokenFlag.LOGIN_REQUIRED)

    @property
    def can_log_in(self) -> bool:
        """Whether a login is still to be had."""
        return not self._logged_in and bool(self.token.flags & TokenFlag.USER_PIN_INITIALIZED)

    def log_in_for_signature(self, uri: KeyURI, pins: PinSource, begin: Callable[[], None]) -> None:
        """Begin a signature of a key that wants a PIN each time (CKA_ALWAYS_AUTHENTICATE), and log in for it.

        Args:
            uri: the key.
            pins: where its PIN comes from.
            begin: begins the signature, which can't be taken back; called once there is a PIN that may be sent.

        Raises:
            PinError: no place gives one, or a try would risk locking the PIN.
            PKCS11Error: the token's, of beginning or of the login.
        """
        self._refresh()
        refuse_risk(self.token, pins)
        found = self._signature_pin(uri, pins)
        try:
            with self._trying(found, pins):
                begin()
                self._call_log_in(found, for_signature=True)
        except REFUSED:
            if pins.reuse:  # What was right at the login is wrong now.
                for source in (pins, self._pins):
                    source.forget(self._request)
            raise

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

    def _signature_pin(self, uri: KeyURI, pins: PinSource) -> FoundPin | None:
        if has_keypad(self.token):
            return None
        if pins.reuse:
            return self._found_pin(uri, pins)
        request = signature_pin_request(self.token, is_twin=self.is_twin)
        try:
            with self._asking():
                return FoundPin(checked(self.token, pins.ask(request)), is_stored=False)
        except PinRequiredError as error:
            if pins.stored(uri, self._request) is None:
                raise
            hint = "Send the stored PIN for each signature with --reuse-pin, or run from a terminal"
            raise PinRequiredError(error.message, hint) from None

    def release(self) -> None:
        """Give the token back; the last one closes it. Not to be called while holding its lock."""
        with registry_lock:
            self.users -= 1
        with self.lock:
            if self.users == 0:
                self._close_session()
                self._logged_in = False
                self._sight = Sight()

    def _log_in(self, *, again: bool = False) -> None:
        found: FoundPin | None = None
        is_own = True
        try:
            found = self._login_pin(again=again)
            self._send(found)
        except UserAlreadyLoggedIn:  # Another part of the program did, and its login counts for all sessions.
            found, is_own = None, False
        except PKCS11Error as error:
            # The token may have counted a try, whatever the error is.
            # libykcs11 answers CKR_ARGUMENTS_BAD to a PIN that is too long or too short.
            told = PinLenRange() if isinstance(error, ArgumentsBad) else error
            self._refusal = self.error("did not accept the login", told)
            if isinstance(self._refusal, PinError):
                self._pins.forget(self._request)
            self._log_out()
            raise self._refusal from error
        except BaseException:
            self._log_out()
            raise
        self._logged_in, self._owns_login = True, is_own
        if found is not None:
            self._pins.remember(self._request, found.pin)

    def _send(self, found: FoundPin | None) -> None:
        """Send a PIN; again only where the module had not noticed that the token was away, so that none arrived."""
        with self._trying(found, self._pins):
            try:
                self._call_log_in(found)
            except SESSION_LOST:
                self.drop_session()
                self.module.look_again()
                self._open_session()
                self._recognise()
                refuse_risk(self.token, self._pins, is_stored=True)
                self._call_log_in(found)
        forget_refusals(self.token, is_twin=self.is_twin, by_hand=found is None or not found.is_stored)

    def _call_log_in(self, found: FoundPin | None, *, for_signature: bool = False) -> None:
        if found is None:
            tell_of_keypad(self.token)
        with quiet():
            self.module.calls.log_in(handle(self._opened), found.pin if found else None, for_signature=for_signature)

    def _trying(self, found: FoundPin | None, pins: PinSource) -> AbstractContextManager[None]:
        if found is None or not found.is_stored:
            return nullcontext()
        return only_try(self.token, pins, self.module.looked_at, is_twin=self.is_twin)

    def _recognise(self) -> None:
        """See, before a PIN is sent, that what is in the slot is not another token that says the same of itself."""
        if not self._sight.is_same(self._opened, is_twin=self.is_twin):
            self.drop_session()
            what = (
                f"{self.name} was removed, or its keys: what is in its slot says the same of itself, and is not known"
            )
            raise TokenRemovedError(what, "Insert it again, or open the key again by its slot-id")

    def _log_out(self) -> None:
        self._logged_in = False
        self.drop_session()

    def _login_pin(self, *, again: bool) -> FoundPin | None:
        """Return the PIN to log in with; None: a keypad.

        A login made anew gets the answer that the first one got, unless a try has failed since then.
        """
        refuse_risk(self.token, self._pins)
        if has_keypad(self.token):
            return None
        state = pin_state(self.token)
        if state or not again:
            self._request = user_pin_request(self.token, state, is_twin=self.is_twin)
        return self._found_pin(self._uri, self._pins)

    def _found_pin(self, uri: KeyURI, pins: PinSource) -> FoundPin:
        with self._asking():
            found = pins.find(uri, self._request)
        refuse_risk(self.token, pins, is_stored=found.is_stored)
        if found.is_stored and is_anothers(self._opened, uri, self._certified):
            raise unmeant(self.token, uri, replace(uri, path={**token_uri(self.token, uri).path, **uri.path}))
        checked(self.token, found.pin)
        return found


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
