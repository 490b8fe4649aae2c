"""The module and the token of a trial: what it shows, the one login, and the keys that the trial makes on it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from hwsigner._pins import AskPin, PinRequest, PinSource
from hwsigner._uri import KeyURI
from hwsigner.backends.pkcs11.errors import PKCS11Error
from hwsigner.backends.pkcs11.functions import PKCS11Session, TokenFlag, TokenInfo
from hwsigner.backends.pkcs11.module import Module, load_module
from hwsigner.backends.pkcs11.objects import CertificateObject, KeyObject, Objects
from hwsigner.backends.pkcs11.paths import FLAG_HINT
from hwsigner.backends.pkcs11.pins import has_keypad, listed_pin_state, user_pin_request
from hwsigner.backends.pkcs11.token import OpenToken, acquire
from hwsigner.errors import (
    AmbiguousKeyError,
    BackendUnavailableError,
    KeyNotFoundError,
    PinLockedError,
    PinRequiredError,
    SigningKeyError,
    WrongPinError,
)
from hwsigner.trial.questions import NotAskedError
from hwsigner.trial.token.calls import TriedSession
from hwsigner.trial.token.piv_count import piv_pin_state


@dataclass(frozen=True)
class TokenPlan:
    """What the user wants of the trial.

    Attributes:
        module: the path of the module, or a name that the dynamic linker looks up.
        token: the slot's number or the token's label; an empty string for the only token.
        label: the label of what the trial makes on the token; an empty string if it makes nothing.
        sign_with: the label, or the id in hexadecimal, of a private key that may make signatures; or an empty string.
        pin_source: where the user PIN comes from, as in a key URI; or an empty string.
        may_ask: whether the user can be asked for the PIN, and to pull the token.
        is_cleaning: whether to delete what earlier trials left, and ask nothing.
        is_repeated: whether a process with this plan has crashed, and may have left something on the token.
    """

    module: str
    token: str = ""
    label: str = ""
    sign_with: str = ""
    pin_source: str = ""
    may_ask: bool = False
    is_cleaning: bool = False
    is_repeated: bool = False


class ShownObjects(NamedTuple):
    """The objects that a token shows."""

    privates: list[KeyObject]
    publics: list[KeyObject]
    certificates: list[CertificateObject]

    @property
    def everything(self) -> list[KeyObject | CertificateObject]:
        """All of them."""
        return [*self.privates, *self.publics, *self.certificates]

    @classmethod
    def by(cls, session: PKCS11Session) -> ShownObjects:
        """Return what a session sees."""
        found = Objects(session, {})
        return cls(found.privates, found.publics, found.certificates)


class MadePair(NamedTuple):
    """A key pair that the trial made; the public key is None if it can't be read. The id is the one it was to have."""

    key: KeyObject
    public: KeyObject | None
    id: bytes


class TriedToken:
    """A module, and the token that the plan names.

    `failure` is why a login or the search for the named key failed, for the user; it may have names. `is_slow` is
    whether a signature took so long that it may have waited for a touch. `made` has the key pairs that the trial made,
    by their kinds, or how the token refused. `has_written` is whether something of the trial may be on the token, and
    `others_before` how many other objects there were before.
    """

    def __init__(self, plan: TokenPlan, ask: AskPin = lambda _: None, pause: Callable[[str], None] = print) -> None:
        """Load the module and find the token, without a login; raise a HwsignerError if there is no such, or several.

        `ask` asks the user for the PIN. `pause` shows the user what to do, and waits until that is done.
        """
        self.plan = plan
        self.pause = pause
        self.module: Module = _load(plan.module)
        self.failure: SigningKeyError | None = None
        self.is_slow = False
        self.forked: dict[str, str] | None = None
        self.measured: dict[str, str] = {}
        self.made: dict[str, MadePair | str] = {}
        self.has_written = False
        self.others_before: int | None = None
        self._ask = ask
        self._token: OpenToken | None = None
        self._pin: str | None = None
        self._why_not = ""
        self._is_in = False
        self._info = self._find()
        self.before = self.shown = ShownObjects([], [], [])
        if self._info:
            self.before = self.shown = ShownObjects.by(self.session)

    @property
    def info(self) -> TokenInfo:
        """The token as it was found; raises a NotAskedError if the module has none."""
        if self._info is None:
            raise NotAskedError("no token is present")
        return self._info

    @property
    def slot(self) -> int:
        """The token's slot."""
        return self.info.slot

    @property
    def token(self) -> OpenToken:
        """The token, in use by hwsigner itself."""
        if self._token is None:
            self._token = acquire(self.module, self.info)
        return self._token

    @property
    def session(self) -> PKCS11Session:
        """The read-only session of hwsigner itself, logged in or not. If it has ended, it is opened again."""
        self.token.drop_lost_session(thoroughly=True)
        return self.token.current_session()

    @property
    def uri(self) -> KeyURI:
        """The URI of the token."""
        path = {"slot-id": str(self.slot).encode(), "token": self.info.label.encode()}
        query = {"module-path": self.plan.module.encode()}
        query |= {"pin-source": self.plan.pin_source.encode()} if self.plan.pin_source else {}
        return KeyURI("pkcs11", path, query)

    @property
    def pin(self) -> str:
        """The PIN that the token accepted; raises a NotAskedError if it was typed at the token."""
        self.log_in()
        if self._pin is None:
            raise NotAskedError("no PIN was sent to the token")
        return self._pin

    def require_accepted_pin(self) -> None:
        """Raise a NotAskedError unless the token has accepted a PIN."""
        if self._pin is None:
            raise NotAskedError("no PIN was accepted before")

    @contextmanager
    def own_session(self, *, writing: bool = False) -> Iterator[TriedSession]:
        """Open a session beside that of hwsigner, and close it."""
        try:
            session = TriedSession(self.module.functions, self.slot, writing=writing)
        except PKCS11Error as error:
            raise NotAskedError(f"no session: C_OpenSession answers {error.name}") from None
        try:
            yield session
        finally:
            with suppress(PKCS11Error):
                session.close()

    def log_in(self) -> None:
        """Log in, unless the login still holds. A PIN is sent only while the token counts no wrong one.

        Raises:
            NotAskedError: no PIN was sent, or the token refused it. What failed is kept in `failure`.
        """
        if self._is_in:
            with self.own_session() as session:
                if self.session.is_open() and session.state() == "logged in":
                    return
            self.release()
        if not self._why_not:
            try:
                self._log_in()
                self._is_in = True
                self.shown = ShownObjects.by(self.session)
                return
            except NotAskedError as error:
                self._why_not = error.message
            except SigningKeyError as error:
                self.failure = error
                self._why_not = self._without_names(error)
        raise NotAskedError(self._why_not)

    def log_in_if_wanted(self) -> None:
        """Log in, unless the token shows and does all without a login; raises as `log_in`."""
        if self.info.flags & TokenFlag.LOGIN_REQUIRED:
            self.log_in()

    def after_login(self) -> ShownObjects:
        """Log in if the token wants that, and return what it shows then."""
        self.log_in_if_wanted()
        return ShownObjects.by(self.session)

    def named_key(self) -> KeyObject:
        """Return the private key that the user named, by its label or its id in hexadecimal.

        Raises:
            NotAskedError: there is none, or several. `failure` keeps that for the user.
        """
        name, ids = self.plan.sign_with, set[bytes]()
        with suppress(ValueError):
            ids.add(bytes.fromhex(name))
        found = [one for one in ShownObjects.by(self.session).privates if one.label == name.encode() or one.id in ids]
        if len(found) == 1:
            return found[0]
        problem = "no private key has" if not found else "several private keys have"
        kind = AmbiguousKeyError if found else KeyNotFoundError
        self.failure = kind(
            f"{problem} the label or id {name!r} of --sign-with", "See what is there with hwsigner list"
        )
        raise NotAskedError(f"{problem} the name to sign with")

    def refreshed(self) -> TokenInfo:
        """Return what the token says of itself now."""
        return self.module.functions.token(self.slot)

    def release(self) -> None:
        """Log out and close the session."""
        if self._token is not None:
            self._token.release()
            self._token = None
        self._is_in = False

    def _without_names(self, error: SigningKeyError) -> str:
        """Return why a login failed. Some messages have the path of the PIN's file."""
        match error:
            case WrongPinError():
                return "the token refused the PIN"
            case PinRequiredError():
                return "no PIN was given"
            case PinLockedError():
                return error.message.replace(self.token.name, "the token")
        return f"the login failed with {type(error).__name__}"

    def _log_in(self) -> None:
        info = self.refreshed()
        self._require_full_count(info)
        if not info.flags & (TokenFlag.LOGIN_REQUIRED | TokenFlag.USER_PIN_INITIALIZED):
            raise NotAskedError("the token has no login")
        if not info.flags & TokenFlag.USER_PIN_INITIALIZED:
            raise NotAskedError("the token's user PIN was never set")
        if has_keypad(info):
            if not self.plan.may_ask:
                raise NotAskedError("the PIN is typed at the token's keypad")
            self.token.log_in(self.uri, PinSource())
            return
        pins, pin = self._find_pin(user_pin_request(info))
        self.token.log_in(self.uri, pins)
        self._pin = pin

    def _require_full_count(self, info: TokenInfo) -> None:
        """Raise a PinLockedError if the token counts a wrong PIN, or hwsigner knows of one."""
        state = listed_pin_state(info)
        if state == "good":
            state = piv_pin_state(info)
        if state not in ("", "not set"):
            raise PinLockedError(f"no PIN was sent, because the token or hwsigner says of its PIN: {state}", _BY_HAND)

    def _find_pin(self, request: PinRequest) -> tuple[PinSource, str]:
        """Return the PIN: the one that the token accepted, else the stored one, else what the user types, once."""
        pins = PinSource(allow_commands=True)
        pin = self._pin
        if pin is None and (pin := pins.stored(self.uri, request)) is not None:
            return pins, pin
        if pin is None and self.plan.may_ask:
            pin = self._ask(request)
        if not pin:
            raise NotAskedError("no PIN was given")
        # Not as a prompt, which would ask again after a wrong answer.
        return PinSource(ask=lambda _: pin), pin

    def _find(self) -> TokenInfo | None:
        """Return the token that the plan names; None if none is present and the plan names none."""
        there = self.module.retry(self.module.tokens)
        wanted = self.plan.token
        found = [one for one in there if wanted in ("", one.label, str(one.slot))]
        listed = ", ".join(f"slot {one.slot} ('{one.label}')" for one in there)
        if len(found) > 1:
            raise AmbiguousKeyError(f"PKCS #11 module {self.module.path} has several such tokens: {listed}", _NAME_ONE)
        if not found and (wanted or self.plan.label or self.plan.is_cleaning):
            hint = f"Tokens present: {listed}" if listed else "Insert the token, or initialise it with its own tool"
            raise BackendUnavailableError(f"PKCS #11 module {self.module.path} has no token {wanted!r}", hint)
        return found[0] if found else None


Ask: TypeAlias = Callable[[TriedToken], str]


def yes_or(problem: str) -> str:
    """Return `yes`, or the problem if there is one."""
    return problem or "yes"


def in_four_threads(work: Callable[[], list[str]]) -> str:
    """Do work that returns problems in four threads at once, and return `yes`, or how many there are and the first."""
    wrong: list[str] = []

    def collect() -> None:
        try:
            wrong.extend(work())
        except NotAskedError as error:
            wrong.append(f"fails: {error.message}")
        except Exception as error:
            wrong.append(f"fails with {getattr(error, 'name', type(error).__name__)}")

    threads = [threading.Thread(target=collect) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return yes_or(f"{len(wrong)} times one {wrong[0]}" if wrong else "")


def _load(path: str) -> Module:
    """Load a module. A hint about flags that a trial does not have is replaced."""
    try:
        return load_module(path)
    except BackendUnavailableError as error:
        hint = HINT if error.hint == FLAG_HINT else error.hint
        raise BackendUnavailableError(error.message, hint) from error


HINT = "Give the path of a PKCS #11 module, such as libykcs11.so.2"
_BY_HAND = "Log in with the right PIN by hwsigner list --login, then run the trial again"
_NAME_ONE = "Name one with --token SLOT-OR-LABEL"
