"""Tokens in use: one session and one login for each, shared by all the keys of a process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress

from hwsigner._pins import FoundPin, PinSource, use_until_right
from hwsigner._system import notices
from hwsigner._system.notices import quiet
from hwsigner._uri import KeyURI
from hwsigner.backends.pkcs11 import errors
from hwsigner.backends.pkcs11.functions import PKCS11Session, TokenFlag, TokenInfo
from hwsigner.backends.pkcs11.module import Module, TokenSession, registry_lock
from hwsigner.backends.pkcs11.pins import (
    TokenFingerprint,
    checked,
    forget_refusals,
    has_keypad,
    has_tries_left,
    locked,
    only_try,
    pin_state,
    refuse_risk,
    refuse_stranger,
    signature_pin_request,
    token_name,
    user_pin_request,
)
from hwsigner.errors import PinError, PinRequiredError, SigningKeyError, TokenRemovedError, WrongPinError


class OpenToken(TokenSession):
    """A token in use, with at most one session and one login. Get one with `acquire`, give it back with `release`."""

    def __init__(self, module: Module, info: TokenInfo) -> None:
        super().__init__()
        self.module = module
        self.info = info  # As it was seen last.
        self.name = token_name(info)
        self.generation = 0  # Counts sessions; the handles of objects are void in a later one.
        self.users = 0  # How many keys and searches use it.
        self._is_lost = False
        self._logged_in = False
        self._owns_login = False
        self._uri = KeyURI("pkcs11", {})
        self._pins = PinSource()
        self._public_key: bytes | None = None
        self._request = user_pin_request(info)
        self._refusal: SigningKeyError | None = None
        self._fingerprint = TokenFingerprint()

    @property
    def wants_login(self) -> bool:
        """Whether private objects are hidden until a login."""
        return not self._logged_in and bool(self.info.flags & TokenFlag.LOGIN_REQUIRED)

    @property
    def can_log_in(self) -> bool:
        """Whether a login is still possible."""
        return not self._logged_in and bool(self.info.flags & TokenFlag.USER_PIN_INITIALIZED)

    def current_session(self) -> PKCS11Session:
        """Return the session. If it was dropped, open a new one and log in as before.

        After any failure of a login, the token counts as logged out. If the token is not there, that is a
        TokenRemovedError.
        """
        if self.session is not None:
            return self.session
        session = self._open_session()
        if self._logged_in:
            self._recognise(session)
            self._log_in(again=True)
            return self.current_session()
        return session

    def drop_lost_session(self, *, thoroughly: bool = False) -> None:
        """Drop the session if the token was removed; with `thoroughly`, also if the session has ended otherwise.

        OpenSC's module would log in to another card in the same reader by itself, and libykcs11 would sign with it.
        """
        if self.session is None:
            return
        is_there = self.module.functions.has_token(self.info.slot)
        if not is_there or (thoroughly and not self.session.is_open()):
            self.drop_session()

    def drop_session(self) -> None:
        """Close the session, because something is wrong with it. The next use opens a new one."""
        self._is_lost = True
        self._close_session()

    def log_in(self, uri: KeyURI, pins: PinSource, public_key: bytes | None = None) -> None:
        """Log in, unless this was done: with the stored PIN, the PIN that the user gives, or at the token's keypad.

        If the URI names no token, and this one shows only other keys, no stored PIN is sent; see `refuse_stranger`.

        Raises:
            PinRequiredError: no place gives a PIN for this token.
            WrongPinError: the PIN was sent, once, and is wrong. If the user typed it, and the token shows that more
                than one attempt is left, the user was asked again before.
            PinLockedError: the PIN is locked, or an attempt would risk it.
            SigningKeyError: the login failed otherwise. After a failed one, no PIN is sent before `forget_refusal`.
        """
        if self._logged_in:
            return
        if self._refusal is not None:
            message = f"{self._refusal.message}; the login is not repeated"
            raise type(self._refusal)(message, "Check the token and its PIN, then open the key again")
        session = self.current_session()
        self.refresh()
        self._recognise(session)
        self._uri, self._pins, self._public_key = uri, pins, public_key
        self._fingerprint.take(session, uri)
        self._log_in()

    def log_in_for_signature(self, uri: KeyURI, pins: PinSource, begin: Callable[[], None]) -> None:
        """Begin a signature of a key that wants a PIN each time (CKA_ALWAYS_AUTHENTICATE), and log in for it.

        `begin` is called once there is a PIN that may be sent, since a signature that was begun can't be cancelled.
        What the token refuses is a PKCS11Error.
        """
        session = self.current_session()
        self.refresh()
        refuse_risk(self.info, pins, module=self.module.path)
        begun = False

        def send(found: FoundPin | None) -> None:
            nonlocal begun
            try:
                with only_try(self.module, self.info, found, pins):
                    if not begun:
                        begin()
                    begun = True
                    self._send(session, found, for_signature=True)
            except errors.PinRefusedError as error:
                if pins.reuse:  # What was right at the login is wrong now.
                    for source in (pins, self._pins):
                        source.forget(self._request)
                raise self.error("could not sign", error) from error

        try:
            use_until_right(lambda _: self._signature_pin(session, uri, pins), send)
        except PinError:
            if begun:
                self.drop_session()
            raise

    def forget_refusal(self) -> None:
        """Allow another login after a failed one, with the PIN of a key that is being opened."""
        self._refusal = None

    def refresh(self) -> TokenInfo:
        """Return the token with its flags as they are now, if it is still there, in its slot or in another.

        If it is gone, that is a TokenRemovedError.
        """
        found: TokenInfo | None = None
        with suppress(errors.PKCS11Error):
            found = self.module.functions.token(self.info.slot)
        if found is None or found.identity != self.info.identity:
            there = next((one for one in self.module.tokens() if one.identity == self.info.identity), None)
            if there is None:
                what = "was removed" + (" and another one is in its slot" if found is not None else "")
                raise TokenRemovedError(f"{self.name} {what}", "Insert it again")
            found = there
        self.info = found
        return found

    def error(self, action: str, error: errors.PKCS11Error) -> SigningKeyError:
        """Return what to raise for an error of the token; if its PIN is wrong, with the token's warning about it."""
        if error.code == errors.PIN_INCORRECT:
            with suppress(SigningKeyError):
                self.refresh()
            may_ask_again = has_tries_left(self.info)
            state = "" if may_ask_again else pin_state(self.info)
            message = f"wrong PIN for {self.name}" + (f": {state}" if state else "")
            wrong = WrongPinError(message, "hwsigner does not send it again: check the PIN, then retry")
            wrong.may_ask_again = may_ask_again
            return wrong
        if error.code == errors.PIN_LOCKED:
            return locked(self.info, self.module.path)
        kind = PinError if "PIN" in error.name else TokenRemovedError if error.is_removal else SigningKeyError
        return kind(f"{self.name} {action}: {error}", error.hint)

    def failure(self, action: str, error: errors.PKCS11Error) -> SigningKeyError:
        """Return what to raise for an operation that failed: a TokenRemovedError if the token is not there now."""
        failed = self.error(action, error)
        if type(failed) is SigningKeyError:
            self.module.refresh_tokens()
            try:
                self.refresh()
            except TokenRemovedError as removed:
                return removed
            except SigningKeyError:
                pass
        return failed

    def release(self) -> None:
        """Give the token back; the last user closes its session. Not to be called while holding its lock."""
        with registry_lock:
            self.users -= 1
        with self.lock:
            if self.users == 0:
                self._close_session()
                self._logged_in = False
                self._fingerprint = TokenFingerprint()

    def _open_session(self) -> PKCS11Session:
        if self._is_lost:
            self.module.refresh_tokens()
            self._is_lost = False

        def open_session() -> PKCS11Session:
            self.refresh()
            try:
                return self.module.functions.open_session(self.info.slot)
            except errors.PKCS11Error as error:
                raise self.error("can't be opened", error) from error

        self.session = self.module.retry(open_session)
        self.generation += 1
        return self.session

    def _close_session(self) -> None:
        session, self.session = self.session, None
        if session is not None:
            # The token may be gone, and the session with it. A login that another part of the process made stays.
            if self._logged_in and self._owns_login:
                with suppress(errors.PKCS11Error):
                    session.log_out()
            with suppress(errors.PKCS11Error):
                session.close()

    def _recognise(self, session: PKCS11Session) -> None:
        """Check, before a PIN is sent, that the token in the slot is not another one with the same details."""
        if not self._fingerprint.fits(session):
            self.drop_session()
            what = f"{self.name} was removed, or its keys: the token in its slot has the same details and other keys"
            raise TokenRemovedError(what, "Insert it again, or open the key again by its slot-id")

    def _log_in(self, *, again: bool = False) -> None:
        """Log in; if the user typed a wrong PIN, ask again, unless one more would be the last attempt."""
        use_until_right(lambda _: self._login_pin(again=again), self._log_in_with)

    def _login_pin(self, *, again: bool) -> FoundPin | None:
        """Return the PIN to log in with; None if it is typed at the token's keypad."""
        try:
            refuse_risk(self.info, self._pins, module=self.module.path)
            if has_keypad(self.info):
                return None
            # A repeated login gets the answer that the first one got, unless an attempt has failed since then.
            if pin_state(self.info) or not again:
                self._request = user_pin_request(self.info)
            found = self._find_pin(self.current_session(), self._uri, self._pins)
            if not found.is_stored:
                self._reopen_if_lost()
            return found
        except BaseException:
            self._log_out()
            raise

    def _reopen_if_lost(self) -> None:
        """Open another session if this one has ended while the user was asked, as when the token was away.

        This must come before the login: if that fails, no error tells whether the token has counted an attempt.
        """
        self.module.refresh_tokens()
        self.drop_lost_session(thoroughly=True)
        if self.session is None:
            self._recognise(self._open_session())
            refuse_risk(self.info, self._pins, module=self.module.path)

    def _log_in_with(self, found: FoundPin | None) -> None:
        is_own = True
        self._refusal = None
        try:
            with only_try(self.module, self.info, found, self._pins):
                self._send(self.current_session(), found)
            forget_refusals(self.info)
        except errors.PKCS11Error as error:
            if error.code != errors.USER_ALREADY_LOGGED_IN:
                raise self._refused(error) from error
            # Another part of the program has logged in, and its login counts for all sessions.
            found, is_own = None, False
        except BaseException:
            self._log_out()
            raise
        self._logged_in, self._owns_login = True, is_own
        if found is not None:
            self._pins.remember(self._request, found.pin)

    def _refused(self, error: errors.PKCS11Error) -> SigningKeyError:
        """Log out, and return the error of a failed login. The token may have counted an attempt for any error."""
        # libykcs11 answers CKR_ARGUMENTS_BAD to a PIN that is too long or too short.
        shown = errors.PKCS11Error(errors.PIN_LEN_RANGE) if error.code == errors.ARGUMENTS_BAD else error
        self._refusal = self.error("did not accept the login", shown)
        if isinstance(self._refusal, PinError):
            self._pins.forget(self._request)
        self._log_out()
        return self._refusal

    def _log_out(self) -> None:
        self._logged_in = False
        self.drop_session()

    def _signature_pin(self, session: PKCS11Session, uri: KeyURI, pins: PinSource) -> FoundPin | None:
        if has_keypad(self.info):
            return None
        if pins.reuse:
            return self._find_pin(session, uri, pins)
        try:
            with self._asking():
                found = pins.ask(signature_pin_request(self.info))
        except PinRequiredError as error:
            if pins.stored(uri, self._request) is None:
                raise
            hint = "Send the stored PIN for each signature with --reuse-pin, or run from a terminal"
            raise PinRequiredError(error.message, hint) from None
        checked(self.info, found.pin)
        return found

    def _find_pin(self, session: PKCS11Session, uri: KeyURI, pins: PinSource) -> FoundPin:
        with self._asking():
            found = pins.find(uri, self._request)
        refuse_risk(self.info, pins, found, module=self.module.path)
        if found.is_stored:
            refuse_stranger(session, self.info, uri, self._public_key)
        checked(self.info, found.pin)
        return found

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Ask the user: the process can fork meanwhile."""
        self.asks_user = True
        try:
            yield
        finally:
            with registry_lock:  # A fork that has seen the user asked is over.
                self.asks_user = False

    def _send(self, session: PKCS11Session, found: FoundPin | None, *, for_signature: bool = False) -> None:
        keypad = f"type the PIN of {self.name} at its keypad"
        with notices.waiting(keypad, at_once=True) if found is None else nullcontext(), quiet():
            session.log_in(found.pin if found else None, for_signature=for_signature)


def acquire(module: Module, info: TokenInfo) -> OpenToken:
    """Return the token as it is open already in this process, or newly. Hold its lock to use it."""
    with registry_lock:
        there = [one for one in module.sessions if isinstance(one, OpenToken) and one.info.slot == info.slot]
        token = next((one for one in there if one.info.identity == info.identity), None)
        if token is None:
            token = OpenToken(module, info)
            module.sessions.append(token)
        if token.users == 0:
            token.info = info
        token.users += 1
    return token
