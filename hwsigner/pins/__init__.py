"""Where a PIN comes from. A PIN is whatever unlocks a key: user PIN, TPM auth value, passphrase.

In this order, and the first that has one gives it:

1. the caller: the PIN itself, or a callable;
2. the key URI's `pin-value`;
3. its `pin-source`: `file:`, `env:`, `cmd:`;
4. the systemd credentials `hwsigner.pin.SERIAL` of the token with that serial number, and `hwsigner.pin`;
5. the environment variable `HWSIGNER_PIN`;
6. what asks a person: a pinentry, then the terminal. The commands ask so; the library by itself prompts nobody.

A token with a PIN pad is logged in to without a PIN, by its backend. 4 and 5 name no key: they are for the key that is
opened, and but for the serial number's they go to one token or file in a process.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from hwsigner.errors import PinRequiredError
from hwsigner.pins import sources as pin_sources
from hwsigner.pins.child import VARIABLE
from hwsigner.uri import KeyURI

_FOR_KEYS = f"give the systemd credential {pin_sources.CREDENTIAL}, set {VARIABLE}, "
# The flags that give a PIN of each kind.
_FLAGS = {
    "passphrase": "give --pkcs8-password, ",
    "TPM auth value": "give --tpm-key-password, or --no-tpm-key-password if it is empty, ",
}


@dataclass(frozen=True)
class PinRequest:
    """A question for a PIN.

    Attributes:
        kind: what is asked for, such as `user PIN`, `passphrase` or `TPM auth value`.
        subject: what it unlocks, such as `token 'alpha'` or a path.
        state: what the token says of its PIN (`an earlier try failed`), or an empty string.
        serial: the token's serial number, or an empty string.
        slot: the slot, where another token says the same of itself, else an empty string.
    """

    kind: str
    subject: str
    state: str = ""
    serial: str = ""
    slot: str = ""

    @property
    def question(self) -> str:
        """The question as one line. It may hold control characters of foreign labels."""
        named = (self.serial and f"serial {self.serial}", self.slot and f"slot {self.slot}", self.state)
        notes = ", ".join(filter(None, named))
        return f"{self.kind} for {self.subject}" + (f" ({notes})" if notes else "")


AskPin = Callable[[PinRequest], "str | None"]


@dataclass(frozen=True)
class FoundPin:
    """A PIN.

    Attributes:
        pin: the PIN itself.
        is_stored: whether it lay somewhere, so that a wrong one would be sent again and again; false when the caller's
            callable or a person gave it for this request.
    """

    pin: str = field(repr=False)
    is_stored: bool


class PinSource:
    """The places that may give the PIN of one key, in their order.

    Args:
        pin: the PIN itself, or None.
        ask: the caller's callable: called first, with a PinRequest; returns the PIN, or None for "I have none".
        prompts: such callables that ask a person, called in turn when no other place gives a PIN.
        allow_commands: let a URI's `pin-source=cmd:` run a program. Only for URIs of a command line or a configuration.
        reuse: answer a key that wants a PIN at each signature with the PIN of the login.
        allow_final_try: send a PIN even where one more wrong one locks the token.
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
    ) -> None:
        self._pin = pin
        self._ask = ask
        self._prompts = prompts
        self._allow_commands = allow_commands
        self._is_for_key = True
        self._answers: dict[PinRequest, str] = {}
        self._stored_for: set[PinRequest] = set()
        self._sources: dict[str, str] = {}
        self.reuse = reuse
        self.allow_final_try = allow_final_try

    def __repr__(self) -> str:
        return "PinSource(…)"

    def without_pin(self) -> PinSource:
        """Return the same places for another token or file than the key's: less the PIN, and less what names no key."""
        other = PinSource(
            ask=self._ask,
            prompts=self._prompts,
            allow_commands=self._allow_commands,
            allow_final_try=self.allow_final_try,
        )
        other._is_for_key = False
        return other

    def given(self, uri: KeyURI) -> str | None:
        """Return the PIN that was stored for this very key, or None: the caller's, `pin-value`, `pin-source`.

        A `pin-source` is read once: it may be a pipe.

        Raises:
            PinError: the `pin-source` can't be read or trusted.
        """
        if self._pin is not None:
            return self._pin
        if uri.pin_value is not None:
            return uri.pin_value
        source = uri.text("pin-source")
        if source is not None and source not in self._sources:
            self._sources[source] = pin_sources.read_pin_source(source, allow_commands=self._allow_commands)
        return None if source is None else self._sources[source]

    def stored(self, uri: KeyURI, request: PinRequest) -> str | None:
        """Return the PIN that needs nobody to give it now, or None: that of `given`, a credential, `HWSIGNER_PIN`.

        Raises:
            PinError: the `pin-source` or a credential can't be read or trusted.
        """
        pin = self.given(uri)
        if pin is None:
            pin = pin_sources.serial_credential(request.serial, (request.subject, request.slot))
        if pin is None and self._is_for_key:
            pin = pin_sources.unnamed_pin(_taker(uri, request))
        return pin

    def find(self, uri: KeyURI, request: PinRequest) -> FoundPin:
        """Return the PIN for a key, from the first place that has one.

        Nobody is asked again for what `remember` was told: a PKCS #12 file's certificate and key cost one answer.

        Raises:
            PinRequiredError: no place gives one; the message says all of them.
            PinError: a place has one that can't be read or trusted, or a person refused to answer.
        """
        answer = self._answers.get(request)
        if answer is None and self._ask and self._pin is None:
            answer = self._ask(request)
        self._stored_for.discard(request)
        if answer is not None:
            return FoundPin(answer, is_stored=False)
        pin = self.stored(uri, request)
        if pin is not None:
            self._stored_for.add(request)
            return FoundPin(pin, is_stored=True)
        return FoundPin(self._prompt(request), is_stored=False)

    def get(self, uri: KeyURI, request: PinRequest) -> str:
        """Return the PIN that `find` finds; raises as it does."""
        return self.find(uri, request).pin

    def remember(self, request: PinRequest, pin: str) -> None:
        """Keep an answer that was right for the same request. A wrong one is not kept: it must not be sent again.

        What a stored place gave stays there.
        """
        if request not in self._stored_for:
            self._answers[request] = pin

    def forget(self, request: PinRequest) -> None:
        """Keep an answer no longer that was right once and is wrong now: it must not be sent again."""
        self._answers.pop(request, None)

    def ask(self, request: PinRequest) -> str:
        """Ask the caller's callable or a person, anew each time.

        Raises:
            PinRequiredError: there is nobody to ask.
            PinError: a person refused to answer.
        """
        pin = self._ask(request) if self._ask else None
        return self._prompt(request) if pin is None else pin

    def _prompt(self, request: PinRequest) -> str:
        for prompt in self._prompts:
            pin = prompt(request)
            if pin is not None:
                return pin
        raise PinRequiredError(
            f"{request.subject} wants its {request.kind} and there is no place to take it from",
            f"Add {pin_sources.KINDS} or pin-value= to the key URI, {_FLAGS.get(request.kind, '')}"
            f"{_FOR_KEYS if self._is_for_key else ''}or run from a terminal or where a pinentry can ask",
        )


def _taker(uri: KeyURI, request: PinRequest) -> Hashable:
    """Return what one PIN unlocks: a token however its URIs name it, else the place."""
    return (request.serial, request.subject, request.slot) if request.serial else uri.place
