"""Tokens in use: one session and one login for each, shared by all the keys of a process; and what guards a PIN."""

from __future__ import annotations

from contextlib import suppress

from pkcs11 import PROTECTED_AUTH, Attribute, PKCS11Error, TokenFlag
from pkcs11.attributes import AttributeMapper, handle_bytes, handle_ulong
from pkcs11.exceptions import PinIncorrect, PinLocked, UserAlreadyLoggedIn
from pkcs11.types import Session, Token

from hwsigner.backends._pkcs11_module import Module, hint_for, in_words, serial_text
from hwsigner.errors import PinError, PinLockedError, PinRequiredError, SigningKeyError, WrongPinError, printable
from hwsigner.pin import PinRequest, PinSource
from hwsigner.uri import KeyURI

_STATES = (
    (TokenFlag.USER_PIN_LOCKED, "the PIN is locked"),
    (TokenFlag.USER_PIN_FINAL_TRY, "one try is left"),
    (TokenFlag.USER_PIN_COUNT_LOW, "an earlier try failed"),
)


class OpenToken:
    """A token with a session on it. Get one with `acquire`, give it back with `release`, hold the module's lock.

    Attributes:
        name: the token as messages name it.
        generation: counts sessions; object handles of an earlier one are void.
    """

    def __init__(self, module: Module, token: Token) -> None:
        self.module = module
        self.token = token
        self.name = token_name(token)
        self.generation = 0
        self.users = 0
        self._uri = KeyURI("pkcs11", {})
        self._pins = PinSource()
        self._logged_in = False
        self._session: Session | None = None
        self._request = user_pin_request(token)
        self._refusal: SigningKeyError | None = None

    def session(self) -> Session:
        """Return the session, opened anew, with the login that it had, after it was dropped.

        Raises:
            SigningKeyError: the token is gone or can't be opened.
            PinError: its login failed. Whatever a login fails with, the token counts as logged out then.
        """
        if self._session is None:
            self._session = self._reopen() if self.generation else self._open(None)
            self.generation += 1
        return self._session

    def log_in(self, uri: KeyURI, pins: PinSource) -> None:
        """Log in, unless done: with the stored PIN, the PIN that a person gives, or at the token's own keypad.

        Raises:
            PinRequiredError: no place gives a PIN.
            WrongPinError: the PIN was sent, once, and is wrong.
            PinLockedError: the PIN is locked, or a try would risk it.
            SigningKeyError: the login failed otherwise. After a failed one, no PIN is sent before `forget_refusal`.
        """
        if not self._logged_in:
            if self._refusal is not None:
                message = f"{self._refusal.message}; the login is not tried again"
                raise type(self._refusal)(message, "Check the token and its PIN, then open the key again")
            self._uri, self._pins = uri, pins
            if self._session is not None:
                self.drop_session()
                self._refresh()
            self._session = self._login()
            self._logged_in = True
            self.generation += 1

    @property
    def has_session(self) -> bool:
        """Whether a session is open now."""
        return self._session is not None

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

    def signature_pin(self, uri: KeyURI, pins: PinSource) -> str:
        """Return the PIN for one signature of a key that wants it each time (CKA_ALWAYS_AUTHENTICATE).

        Raises:
            PinError: no place gives one, or a try would risk locking the PIN.
        """
        self._refresh()
        self._refuse_risk(pins, is_stored=pins.reuse and self.has_stored_pin(uri, pins))
        if pins.reuse:
            return self._checked(pins.get(uri, self._request))
        try:
            return self._checked(
                pins.ask(PinRequest("PIN for this signature", self.name, self._pin_state(), serial_text(self.token)))
            )
        except PinRequiredError as error:
            if not self.has_stored_pin(uri, pins):
                raise
            hint = "Send the stored PIN for each signature with --reuse-pin, or run from a terminal"
            raise PinRequiredError(error.message, hint) from None

    def error(self, action: str, error: PKCS11Error) -> SigningKeyError:
        """Return what to raise for an error of the token; for one of its PIN, what the token says of the PIN."""
        if isinstance(error, PinIncorrect):
            with suppress(SigningKeyError):
                self._refresh()
            state = self._pin_state()
            message = f"wrong PIN for {self.name}" + (f": {state}" if state else "")
            return WrongPinError(message, "It was tried once: check it before the next try")
        if isinstance(error, PinLocked):
            return self._locked()
        kind = PinError if "Pin" in type(error).__name__ else SigningKeyError
        return kind(f"{self.name} {action}: {in_words(error)}", hint_for(error))

    def drop_session(self) -> None:
        """Close the session, which logs the token out. The next use opens another one."""
        session, self._session = self._session, None
        if session is not None:
            with suppress(PKCS11Error):  # The token may be gone.
                session.close()

    def forget_session(self) -> None:
        """Leave the session to the process that opened it."""
        self._session = None

    def forget_refusal(self) -> None:
        """Let a login be tried again after a failed one, with the PIN of a key that is being opened."""
        self._refusal = None

    def release(self) -> None:
        """Give the token back; the last one closes it."""
        self.users -= 1
        if self.users == 0:
            self.drop_session()
            del self.module.open_tokens[self.token.slot.slot_id]
            self.module.end_leaked_sessions()

    def _reopen(self) -> Session:
        if not self._logged_in:
            return self.module.insist(self._open_anew)
        self.module.insist(self._refresh)
        return self._login()

    def _open_anew(self) -> Session:
        self._refresh()
        return self._open(None)

    def _refresh(self) -> None:
        """Read the token's flags anew, and see that it is still the same one."""
        try:
            token = self.token.slot.get_token()
        except PKCS11Error as error:
            raise self.error("can't be reached", error) from error
        if (token.label, token.serial) != (self.token.label, self.token.serial):
            raise SigningKeyError(f"{self.name} was removed and another one is in its slot", "Insert it again")
        self.token = token

    def _login(self) -> Session:
        self._refuse_risk(self._pins, is_stored=self.has_stored_pin(self._uri, self._pins))
        pin: str | object = PROTECTED_AUTH
        if not self.token.flags & TokenFlag.PROTECTED_AUTHENTICATION_PATH:
            if not self._logged_in:  # A login made anew has the answer that the first one got.
                self._request = user_pin_request(self.token, self._pin_state())
            pin = self._checked(self._pins.get(self._uri, self._request))
        try:
            session = self._open(pin)
        except SigningKeyError as error:
            self._refusal = error  # The token may have counted a try, whatever the error is.
            self._logged_in = False
            raise
        if isinstance(pin, str):
            self._pins.remember(self._request, pin)
        return session

    def _open(self, pin: str | object | None) -> Session:
        try:
            try:
                return self.token.open(user_pin=pin, attribute_mapper=_MAPPER)
            except UserAlreadyLoggedIn:  # Another part of the program did, and its login counts for all sessions.
                return self.token.open(attribute_mapper=_MAPPER)
        except PKCS11Error as error:
            self.module.has_leaked_session |= pin is not None
            raise self.error("can't be opened" if pin is None else "did not accept the login", error) from error

    def _refuse_risk(self, pins: PinSource, *, is_stored: bool) -> None:
        flags = self.token.flags
        if flags & TokenFlag.USER_PIN_LOCKED:
            raise self._locked()
        if pins.allow_final_try:
            return
        if flags & TokenFlag.USER_PIN_FINAL_TRY:
            raise PinLockedError(
                f"one more wrong PIN locks {self.name}, so none was sent",
                "Log in once by hand with the right PIN, or allow the try with --allow-final-pin-try",
            )
        if flags & TokenFlag.USER_PIN_COUNT_LOW and is_stored:
            raise PinLockedError(
                f"an earlier PIN failed at {self.name}, so the stored one was not sent",
                "Log in once by hand with the right PIN, then correct the stored one",
            )

    def _pin_state(self) -> str:
        return next((words for flag, words in _STATES if self.token.flags & flag), "")

    def _locked(self) -> PinLockedError:
        return PinLockedError(f"the PIN of {self.name} is locked", "Unblock it with its SO PIN or PUK")

    def _checked(self, pin: str) -> str:
        if not pin:
            raise PinError(f"the PIN for {self.name} is empty, so it was not sent", "Give the token's user PIN")
        try:
            pin.encode()
        except UnicodeEncodeError:
            # Not chained: the exception would carry the PIN.
            raise PinError(f"the PIN for {self.name} is not UTF-8 text", "Give it as UTF-8 text") from None
        return pin


def acquire(module: Module, token: Token) -> OpenToken:
    """Return the token as it is open already in this process, or newly. The caller holds the module's lock."""
    opened = module.open_tokens.setdefault(token.slot.slot_id, OpenToken(module, token))
    opened.users += 1
    return opened


def user_pin_request(token: Token, state: str = "") -> PinRequest:
    """Return the question for a token's user PIN."""
    return PinRequest("user PIN", token_name(token), state, serial_text(token))


def token_name(token: Token) -> str:
    """Return a token as messages name it."""
    return f"token '{printable(token.label)}'"


def _mapper() -> AttributeMapper:
    """Return a mapper that takes what tokens hold: labels that are not UTF-8, key types of vendors."""
    mapper = AttributeMapper()
    mapper.register_handler(Attribute.LABEL, *handle_bytes)
    mapper.register_handler(Attribute.KEY_TYPE, *handle_ulong)
    mapper.register_handler(Attribute.CERTIFICATE_TYPE, *handle_ulong)
    return mapper


_MAPPER = _mapper()
