"""Every error and warning of hwsigner, each with its exit status.

A message names what was wrong; a hint says what to do about it. Both may quote foreign text (a token's
label, an answer of the service), so control characters are escaped here, once, for every way out.
"""

from __future__ import annotations


def printable(text: str) -> str:
    """Return text with each unprintable character (controls, bidirectional marks, surrogates) escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class _Told(Exception):  # noqa: N818  warnings are told like this too
    """What errors and warnings tell: what was wrong, and what to do."""

    exit_status = 1

    def __init__(self, message: str, hint: str = "") -> None:
        self.message = printable(message)
        self.hint = printable(hint)
        super().__init__(self.message, self.hint)

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class HwsignerError(_Told):
    """Anything that hwsigner could not do.

    Attributes:
        message: what was wrong, one sentence without a full stop.
        hint: what to do about it, or an empty string.
        exit_status: the status with which a command ends when it meets this error.
    """


class UsageError(HwsignerError):
    """A flag, a key URI or an ARN that can't be meant."""

    exit_status = 2


class ConfigError(UsageError):
    """A configuration file that can't be read, trusted or understood."""


class SigningKeyError(HwsignerError):
    """A key that can't be found, opened or used."""

    exit_status = 3


class BackendUnavailableError(SigningKeyError):
    """A library, module, token or device that a backend needs and does not find."""


class TokenRemovedError(SigningKeyError):
    """The token of an open key is gone, or another one is in its place. The key works again when it is back."""


class KeyNotFoundError(SigningKeyError):
    """No key under this key URI."""


class AmbiguousKeyError(SigningKeyError):
    """More than one key under this key URI."""


class UnsupportedKeyError(SigningKeyError):
    """A key that SigV4-X509 has no algorithm for, or in a form that hwsigner does not read."""


class KeyMismatchError(SigningKeyError):
    """A key that does not belong to its certificate."""


class PinError(SigningKeyError):
    """A PIN (user PIN, TPM auth value, passphrase) that is missing, wrong or locked."""


class PinRequiredError(PinError):
    """A key wants a PIN and no place gives one."""


class WrongPinError(PinError):
    """A PIN is wrong; it was sent once at most."""


class PinLockedError(PinError):
    """No PIN is accepted now, or a try would risk locking it, so none was made."""


class CertificateError(HwsignerError):
    """A certificate or chain that can't be read, or that the service would refuse."""

    exit_status = 4


class AmbiguousCertificateError(CertificateError):
    """More than one certificate may be the leaf."""


class ServiceError(HwsignerError):
    """The service answered, and not with credentials.

    Attributes:
        retryable: whether the same request may succeed later.
        retry_after: how long the service asks to wait before a retry, in seconds; 0.0 if it does not ask.
    """

    exit_status = 5

    def __init__(self, message: str, hint: str = "", *, retryable: bool = False, retry_after: float = 0.0) -> None:
        super().__init__(message, hint)
        self.retryable = retryable
        self.retry_after = retry_after


class ServiceUnreachableError(HwsignerError):
    """The service gave no whole answer in time.

    Attributes:
        retryable: another try may succeed: not so after a certificate that is not trusted, or a proxy's refusal.
    """

    exit_status = 6

    def __init__(self, message: str, hint: str = "", *, retryable: bool = True) -> None:
        super().__init__(message, hint)
        self.retryable = retryable


class LockError(HwsignerError):
    """Another process holds for too long what only one may use at a time."""

    exit_status = 7


class AgentError(HwsignerError):
    """An agent that can't run or be asked, or what an agent answered instead of credentials.

    Attributes:
        exit_status: 7, or the status that the agent gave.
    """

    exit_status = 7

    def __init__(self, message: str, hint: str = "", *, exit_status: int = exit_status) -> None:
        super().__init__(message, hint)
        self.exit_status = exit_status


class HwsignerWarning(_Told, UserWarning):
    """Something that works and should be mended; `--strict` makes it an error.

    Issued through the standard `warnings` module, so that a library's user filters it as any other.

    Attributes:
        message: what is wrong, one sentence without a full stop.
        hint: what to do about it, or an empty string.
        exit_status: the status with which a command ends under `--strict`.
    """


class UnsafeKeyWarning(HwsignerWarning):
    """A key or PIN that other users of the machine could read."""

    exit_status = 3


class CertificateWarning(HwsignerWarning):
    """A chain that holds certificates which are of no use."""

    exit_status = 4


class UnsafeConnectionWarning(HwsignerWarning):
    """A connection whose other end is not verified."""

    exit_status = 2
