"""Where a PIN comes from. A PIN is whatever unlocks a key: user PIN, TPM auth value, passphrase.

In this order: the PIN that the caller gave, the key URI's `pin-value`, its `pin-source=file:`, and last the caller's
callable, which may ask a person. The library itself never prompts.
"""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from hwsigner.errors import PinError, PinRequiredError, UnsafeKeyWarning
from hwsigner.trust import check_only_mine
from hwsigner.uri import KeyURI

MAX_PIN_FILE_BYTES = 4096
# The flags that give a PIN of each kind.
_FLAGS = {
    "passphrase": ", give --pkcs8-password",
    "TPM auth value": ", give --tpm-key-password, or --no-tpm-key-password if it is empty",
}


@dataclass(frozen=True)
class PinRequest:
    """A question for a PIN.

    Attributes:
        kind: what is asked for, such as `user PIN`, `passphrase` or `TPM auth value`.
        subject: what it unlocks, such as `token 'alpha'` or a path.
        state: what the token says of its PIN (`an earlier try failed`), or an empty string.
        serial: the token's serial number, or an empty string.
    """

    kind: str
    subject: str
    state: str = ""
    serial: str = ""


AskPin = Callable[[PinRequest], "str | None"]


class PinSource:
    """The places that may give the PIN of one key, in their order.

    Args:
        pin: the PIN itself, or None.
        ask: called with a PinRequest when no stored place gives the PIN; returns it, or None for "I have none".
        reuse: answer a key that wants a PIN at each signature with the PIN of the login.
        allow_final_try: send a PIN even where one more wrong one locks the token.
    """

    def __init__(
        self, pin: str | None = None, ask: AskPin | None = None, *, reuse: bool = False, allow_final_try: bool = False
    ) -> None:
        self._pin = pin
        self._ask = ask
        self._answers: dict[PinRequest, str] = {}
        self._sources: dict[str, str] = {}
        self.reuse = reuse
        self.allow_final_try = allow_final_try

    def __repr__(self) -> str:
        return "PinSource(…)"

    def without_pin(self) -> PinSource:
        """Return the same places less the PIN itself, for another token or file than the key's."""
        return PinSource(ask=self._ask, allow_final_try=self.allow_final_try)

    def stored(self, uri: KeyURI, request: PinRequest) -> str | None:
        """Return the PIN that needs nobody to type it, or None. A `pin-source` is read once: it may be a pipe.

        Raises:
            PinError: the file of `pin-source` can't be read or trusted.
        """
        if self._pin is not None:
            return self._pin
        if uri.pin_value is not None:
            return uri.pin_value
        source = uri.text("pin-source")
        if source is not None and source not in self._sources:
            self._sources[source] = read_pin_source(source)
        return None if source is None else self._sources[source]

    def get(self, uri: KeyURI, request: PinRequest) -> str:
        """Return the PIN for a key, from the first place that has one.

        A person is not asked again for what `remember` was told: a PKCS #12 file's certificate and key cost one answer.

        Raises:
            PinRequiredError: no place gives one; the message says all of them.
            PinError: the file of `pin-source` can't be read or trusted.
        """
        pin = self.stored(uri, request)
        return self._answers.get(request) or self.ask(request) if pin is None else pin

    def remember(self, request: PinRequest, pin: str) -> None:
        """Keep an answer that was right for the same request. A wrong one is not kept: it must not be sent again."""
        self._answers[request] = pin

    def ask(self, request: PinRequest) -> str:
        """Ask a person, anew each time.

        Raises:
            PinRequiredError: there is nobody to ask.
        """
        pin = self._ask(request) if self._ask else None
        if pin is None:
            raise PinRequiredError(
                f"{request.subject} wants its {request.kind} and there is no place to take it from",
                f"Add pin-source=file:/path or pin-value= to the key URI{_FLAGS.get(request.kind, '')}, "
                "or run from a terminal",
            )
        return pin


def read_pin_source(source: str) -> str:
    """Return the PIN that a `pin-source` names: `file:` and a path; one trailing newline is dropped (RFC 7512, 2.4).

    Raises:
        PinError: another kind of source; or a file that is missing, too long, not text, or that others can write.
    """
    if not source.startswith("file:"):
        # Not quoted: somebody may have written the PIN itself there.
        raise PinError("a key URI's pin-source is no file: URI", "Write pin-source=file:/path")
    path = source.removeprefix("file:")
    for authority in ("///", "//localhost/"):
        if path.startswith(authority):
            path = "/" + path.removeprefix(authority)
    data = _read(path)
    if len(data) > MAX_PIN_FILE_BYTES:
        raise PinError(f"PIN file {path} holds more than {MAX_PIN_FILE_BYTES} bytes", "Let it hold the PIN alone")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        # Not chained: the exception would carry the file's bytes.
        raise PinError(f"PIN file {path} is not UTF-8 text", "Let it hold the PIN as text") from None
    return text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            check_only_mine(path, status, PinError)
            mode = stat.S_IMODE(status.st_mode)
            if stat.S_ISREG(status.st_mode) and mode & (stat.S_IRGRP | stat.S_IROTH):
                text = f"PIN file {path} has mode {mode:04o}: other users can read it"
                warnings.warn(UnsafeKeyWarning(text, f"Run chmod 600 {path}"), stacklevel=2)
            return file.read(MAX_PIN_FILE_BYTES + 1)
    except OSError as error:
        hint = "Name a file that this user can read"
        raise PinError(f"can't read PIN file {path}: {error.strerror}", hint) from error
