"""Where a PIN comes from. A PIN is any secret that unlocks a key: user PIN, TPM auth value, passphrase.

The first of these places that has one gives it:

1. the caller: the PIN itself, or a callable;
2. the key URI's `pin-value`;
3. its `pin-source`: `file:`, `env:`, `credential:`, `cmd:`;
4. the systemd credentials: `hwsigner.profile-pin.NAME` for the key of that profile, `hwsigner.pin.SERIAL` for the token
   with that serial number, then `hwsigner.pin`;
5. the environment variable `HWSIGNER_PIN`;
6. prompts: a pinentry, then the terminal. The commands have them; the library by itself never prompts.

A backend logs in to a token with a PIN pad without a PIN. `hwsigner.pin` and `HWSIGNER_PIN` name no key: they are for
the key that is opened, and each goes to one token or file in a process. If a process serves profiles that use several,
it uses neither.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Final, NamedTuple, TypeVar

from hwsigner._pins import sources as pin_sources
from hwsigner._pins.child import VARIABLE
from hwsigner._uri import KeyURI
from hwsigner.errors import PinError, PinRequiredError, WrongPinError, check_text

# How many times the user is asked for one PIN, if a wrong one is typed.
MAX_QUESTIONS = 3
# The state of a request for a PIN that there may not be: an empty answer says so.
IF_ANY = "Enter if there is none"


class PinRequest(NamedTuple):
    """A question for a PIN.

    Attributes:
        kind: what to ask for, such as `user PIN`, `passphrase` or `TPM auth value`.
        subject: what it unlocks, such as `token 'alpha'` or a path.
        state: what the token says about its PIN (`an earlier try failed`), or an empty string.
        serial: the token's serial number, or an empty string.
        for_one_signature: whether the PIN is for one signature, so that the next one needs it again.
    """

    kind: str
    subject: str
    state: str = ""
    serial: str = ""
    for_one_signature: bool = False

    @property
    def may_be_empty(self) -> bool:
        """Whether an empty answer is one."""
        return self.state == IF_ANY

    @property
    def question(self) -> str:
        """The question as one line. It may have control characters from a token's label."""
        notes = ", ".join(filter(None, (self.serial and f"serial {self.serial}", self.state)))
        return f"{self.kind} for {self.subject}" + (f" ({notes})" if notes else "")


AskPin = Callable[[PinRequest], "str | None"]


class FoundPin:
    """A PIN.

    Attributes:
        pin: the PIN itself.
        is_stored: whether it was stored somewhere, so that a wrong one would be sent each time; false if the caller's
            callable or a prompt gave it for this request.
        place: the file that it was stored in and when that changed; an empty string for another place.
        is_typed: whether a prompt gave it for this request, so that the user can be asked again if it is wrong.
    """

    def __init__(self, pin: str, *, is_stored: bool, place: str = "", is_typed: bool = False) -> None:
        self.pin: Final = pin
        self.is_stored: Final = is_stored
        self.place: Final = place
        self.is_typed: Final = is_typed


Found = TypeVar("Found", bound=FoundPin | None)
Result = TypeVar("Result")


def use_until_right(find: Callable[[str], Found], use: Callable[[Found], Result]) -> Result:
    """Find a PIN and use it. If the user typed a wrong one, repeat that while more than one attempt is left.

    The user is asked MAX_QUESTIONS times at most. No PIN is used twice. `find` takes the state for the question, and
    returns None for a keypad. `use` raises a WrongPinError if the PIN is wrong.
    """
    wrong: dict[str, WrongPinError] = {}
    while True:
        given = find("the last one was wrong" if wrong else "")
        found: FoundPin | None = given
        if found and found.pin in wrong:
            raise wrong[found.pin]
        try:
            return use(given)
        except WrongPinError as error:
            if not (found and found.is_typed and error.may_ask_again and len(wrong) < MAX_QUESTIONS - 1):
                raise
            wrong[found.pin] = error


class PinSource:
    """The places that may give the PIN of one key, in order.

    Args:
        pin: the PIN itself, or None.
        ask: the caller's callable, the first place: it takes a PinRequest and returns the PIN, or None for "I have
            none".
        prompts: such callables that ask the user, called in turn if no other place gives a PIN.
        allow_commands: whether a URI's `pin-source=cmd:` may run a program. Only for URIs from a command line or a
            configuration file.
        reuse: whether a key that wants a PIN for each signature gets the PIN of the login.
        allow_final_try: whether to send a PIN even if one more wrong one locks the token.
        profile: the name of the key's profile, or None.
    """

    def __init__(
        self,
        pin: str | None = None,
        ask: AskPin | None = None,
        *,
        prompts: Sequence[AskPin] = (),
        allow_commands: bool = False,
        reuse: bool = False,
        allow_final_try: bool = False,
        profile: str | None = None,
    ) -> None:
        if pin is not None:
            check_text(pin, "the PIN")
        self._pin = pin
        self._ask = ask
        self._prompts = prompts
        self._allow_commands = allow_commands
        self._is_for_key = True
        self._profile = profile
        self._answers: dict[PinRequest, str] = {}
        self._stored_for: set[PinRequest] = set()
        self._sources: dict[str, str] = {}
        self.typed: set[str] = set()  # The kinds of PINs that a prompt gave.
        self.reuse = reuse
        self.allow_final_try = allow_final_try

    @classmethod
    def of(cls, pin: str | AskPin | PinSource | None) -> PinSource:
        """Return what a caller gave for a PIN as a PinSource."""
        if isinstance(pin, PinSource):
            return pin
        return cls(ask=pin) if callable(pin) else cls(pin)

    def __repr__(self) -> str:
        return "PinSource(…)"

    def without_pin(self) -> PinSource:
        """Return these places for another token or file than the key's: without the PIN, and those that name no key."""
        other = PinSource(ask=self._ask, prompts=self._prompts, allow_commands=self._allow_commands)
        other.allow_final_try = self.allow_final_try
        other._is_for_key = False
        return other

    def given(self, uri: KeyURI) -> str | None:
        """Return the PIN that was stored for this very key, or None.

        That is the caller's, `pin-value`, `pin-source` (read once, as it may be a pipe) or the profile's credential.

        Raises:
            PinError: the `pin-source` or the credential can't be read or trusted.
        """
        if self._pin is not None:
            return self._pin
        if uri.pin_value is not None:
            return uri.pin_value
        source = uri.text("pin-source")
        if source is not None and source not in self._sources:
            self._sources[source] = pin_sources.read_pin_source(source, allow_commands=self._allow_commands)
        if source is not None:
            return self._sources[source]
        return None if self._profile is None else pin_sources.profile_credential(self._profile)

    def stored(self, uri: KeyURI, request: PinRequest) -> str | None:
        """Return the PIN that is there without asking, or None: that of `given`, a credential, or `HWSIGNER_PIN`.

        Raises:
            PinError: the `pin-source` or a credential can't be read or trusted.
        """
        pin = self.given(uri)
        if pin is None:
            pin = pin_sources.serial_credential(request.serial, request.subject)
        if pin is None and self._is_for_key:
            pin = pin_sources.unnamed_pin(_taker(uri, request))
        return pin

    def offered(self, uri: KeyURI, request: PinRequest) -> str | None:
        """Return the PIN for a new key: that of the caller's callable, or the stored one. The user is not asked.

        Raises:
            PinError: as `stored`.
        """
        pin = self._answer(request) if self._pin is None else None
        return self.stored(uri, request) if pin is None else pin

    def find(self, uri: KeyURI, request: PinRequest) -> FoundPin:
        """Return the PIN for a key, from the first place that has one.

        An answer that was passed to `remember` is used again: a PKCS #12 file's certificate and key need one answer.

        Raises:
            PinRequiredError: no place gives one; the message lists all of them.
            PinError: a place has one that can't be read or trusted, or that names no token while the profiles use
                several; or the user cancelled.
        """
        answer = self._answers.get(request)
        if answer is None and self._pin is None:
            answer = self._answer(request)
        self._stored_for.discard(request)
        if answer is not None:
            return FoundPin(answer, is_stored=False)
        pin = self.stored(uri, request)
        if pin is not None:
            self._stored_for.add(request)
            return FoundPin(pin, is_stored=True, place=pin.place if isinstance(pin, pin_sources.FilePin) else "")
        return FoundPin(self._prompt(request, uri.backend.password_flag), is_stored=False, is_typed=True)

    def get(self, uri: KeyURI, request: PinRequest) -> str:
        """Return the PIN that `find` finds; raises as `find`."""
        return self.find(uri, request).pin

    def remember(self, request: PinRequest, pin: str) -> None:
        """Keep a right answer for the same request. Do not call it for a wrong one, which must not be sent again.

        A PIN from a stored place is not kept.
        """
        if request not in self._stored_for:
            self._answers[request] = pin

    def forget(self, request: PinRequest) -> None:
        """Drop an answer that was right once and is wrong now, as it must not be sent again."""
        self._answers.pop(request, None)

    def ask(self, request: PinRequest) -> FoundPin:
        """Ask the caller's callable or the user, at each call.

        Raises:
            PinRequiredError: neither gives a PIN.
            PinError: the user cancelled.
        """
        pin = self._answer(request)
        return FoundPin(self._prompt(request) if pin is None else pin, is_stored=False, is_typed=pin is None)

    def prompt(self, request: PinRequest) -> str | None:
        """Ask the user; return None if no prompt can.

        Raises:
            PinError: the user cancelled.
        """
        for prompt in self._prompts:
            pin = prompt(request)
            if pin is not None:
                return pin
        return None

    def _answer(self, request: PinRequest) -> str | None:
        """Return the answer of the caller's callable, or None without one."""
        pin = self._ask(request) if self._ask else None
        if pin is not None:
            check_text(pin, "the PIN from your callable")
        return pin

    def _prompt(self, request: PinRequest, password_flag: str = "") -> str:
        pin = self.prompt(request)
        if pin is not None:
            self.typed |= {request.kind} if pin else set()
            return pin
        withheld = pin_sources.withheld_place() if self._is_for_key else None
        if withheld:
            credential = f"{pin_sources.PROFILE_CREDENTIAL}.{self._profile or 'NAME'}"
            raise PinError(
                f"{request.subject} needs its {request.kind}. {withheld} is not used, because the profiles use several "
                f"tokens or files: use the systemd credential {credential} or pin-source=credential:NAME",
                "Put pin-source into the key URI",
            )
        flag = f"give --{password_flag}, " if password_flag and self._is_for_key else ""
        unnamed = f"give the systemd credential {pin_sources.CREDENTIAL}, set {VARIABLE}, " if self._is_for_key else ""
        raise PinRequiredError(
            f"{request.subject} needs its {request.kind}, and none was given",
            f"Add pin-value= or {pin_sources.KINDS} to the key URI, {flag}{unnamed}"
            "or run from a terminal or where a pinentry can ask",
        )


def _taker(uri: KeyURI, request: PinRequest) -> Hashable:
    """Return what one PIN unlocks: a token however its URIs name it, else the place."""
    return (request.serial, request.subject) if request.serial else uri.place
