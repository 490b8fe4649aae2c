"""Every error and warning of hwsigner, each with its exit status.

A message says what is wrong; a hint says what to do. Both may quote foreign text (a token's label, an answer of the
service), so control characters are escaped here, once for all output.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from hwsigner._version import __version__


def printable(text: str) -> str:
    """Return text with each unprintable character (controls, bidirectional marks, surrogates) escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def printable_lines(lines: Iterable[str]) -> str:
    """Return lines as one text, each of them `printable`."""
    return "\n".join([line if line.isprintable() else printable(line) for line in lines])


# The command for boto3, by what installed hwsigner. These packages bring what the other extras need.
_BOTO3_COMMANDS = {"debian": "apt-get install python3-boto3", "rpm": "dnf install python3-boto3"}


def install_command(extra: str) -> str:
    """Return the command that installs an extra for the Python that runs this program."""
    if extra == "aws" and (command := _BOTO3_COMMANDS.get(_installer())):
        return command
    # Without the version, pip takes another project of this name from an index that lacks one of our libraries.
    return f"{sys.executable or 'python3'} -m pip install 'hwsigner[{extra}]=={__version__}'"


def _installer() -> str:
    """Return the name that an installer leaves in its INSTALLER file; an empty string without one."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        return (distribution("hwsigner").read_text("INSTALLER") or "").strip()
    except PackageNotFoundError:
        return ""


def suggestion(word: str, known: Iterable[str], otherwise: str) -> str:
    """Return a hint for an unknown word: the most similar known one, or else the text `otherwise`."""
    from difflib import get_close_matches

    found = get_close_matches(word, list(known), 1, 0.66)  # web for wbe
    return f"Did you mean {found[0]}?" if found else otherwise


class _Message(Exception):  # noqa: N818  also the base of warnings
    """A message and a hint, in errors and warnings."""

    exit_status = 1
    cause = "internal"

    def __init__(self, message: str, hint: str = "") -> None:
        self.message = printable(message)
        self.hint = printable(hint)
        super().__init__(self.message, self.hint)

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class HwsignerError(_Message):
    """Base of all errors.

    Attributes:
        message: what is wrong, one sentence without a full stop.
        hint: what to do, one sentence without a full stop, or an empty string.
        exit_status: the exit status of a command that fails with this error.
        cause: the kind of error in one word, for logs and metrics: audit, agent, certificate, config, internal, key,
            lock, pin, service, token or unreachable.
    """


class PluginError(HwsignerError):
    """A backend or issuer from a package of its own raised or returned what it must not."""

    @classmethod
    def of(cls, plugin: str, error: BaseException, package: str = "") -> PluginError:
        """Return the error that names a plugin, and where it failed. What the failure says could be a secret.

        Args:
            plugin: what failed, such as `hwsigner_acme of the package acme 1.0, the issuer acme`.
            error: the failure.
            package: the plugin's module, whose last line in the traceback is named.
        """
        return cls(f"{plugin}, failed: {place_of(error, package)}", "Report it to the authors of that package")


def place_of(error: BaseException, package: str = "") -> str:
    """Return the type of an exception, and the file and line that raised it, in a package's modules if it is there."""
    last = own = ""
    trace = error.__traceback__
    while trace:
        last = f" at {trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
        if trace.tb_frame.f_globals.get("__name__", "").startswith(package):
            own = last
        trace = trace.tb_next
    return f"{type(error).__name__}{own or last}"


class UsageError(HwsignerError):
    """An invalid flag, key URI, ARN or argument."""

    exit_status = 2
    cause = "config"


class ConfigError(UsageError):
    """A configuration file that can't be read, can't be trusted or is invalid."""


class NoProfileError(ConfigError):
    """There is no profile with a name in the configuration files that this user can read."""


class SigningKeyError(HwsignerError):
    """A key that can't be found, opened or used."""

    exit_status = 3
    cause = "key"


class BackendUnavailableError(SigningKeyError):
    """A library, module, token or device that a backend needs is missing."""

    cause = "token"


class TokenRemovedError(SigningKeyError):
    """The token of an open key was removed or replaced by another one. Once it is back, the key works again."""

    cause = "token"


class KeyNotFoundError(SigningKeyError):
    """No key has this key URI."""


class OtherChipError(SigningKeyError):
    """A key of another TPM, or of this one before it was cleared. It has no auth value.

    It has TPM Names in hexadecimal: of the key's parent, such a parent in this TPM, and this TPM's storage root key.
    """

    def __init__(self, message: str, hint: str = "", *, key_chip: str = "", chip: str = "", root: str = "") -> None:
        super().__init__(message, hint)
        self.key_chip = key_chip
        self.chip = chip
        self.root = root


class AmbiguousKeyError(SigningKeyError):
    """More than one key has this key URI."""


class UnsupportedKeyError(SigningKeyError):
    """A key without an algorithm in SigV4-X509, in an unsupported form, or asked for what it can't do."""


class KeyMismatchError(SigningKeyError):
    """A key that does not belong to its certificate."""


class PinError(SigningKeyError):
    """A PIN (user PIN, TPM auth value, passphrase) that is missing, wrong or locked."""

    cause = "pin"


class PinRequiredError(PinError):
    """A key wants a PIN, and no place gives one."""


class WrongPinError(PinError):
    """A PIN is wrong. It was sent once at most.

    Attributes:
        may_ask_again: whether more than one attempt is left, as far as the token, TPM or file shows.
    """

    may_ask_again = False


class PinLockedError(PinError):
    """No PIN is accepted now, or none was sent because a wrong one could lock the token."""


class AttestationError(SigningKeyError):
    """A document of an attestation that can't be read, or that does not prove what it should."""


class CertificateError(HwsignerError):
    """A certificate or chain that can't be read, or that the service would refuse."""

    exit_status = 4
    cause = "certificate"


class AmbiguousCertificateError(CertificateError):
    """More than one certificate may be the leaf."""


class ServiceError(HwsignerError):
    """The service answered, but not with credentials.

    Attributes:
        retryable: whether the same request may succeed later.
        retry_after: how long the service asks to wait before a retry, in seconds; 0.0 if it does not ask.
        request_id: the service's number of the request, or an empty string.
        reason: the service's name for why it refused, such as AccessDeniedException, or an empty string.
    """

    exit_status = 5
    cause = "service"

    def __init__(self, message: str, hint: str = "", *, retryable: bool = False, retry_after: float = 0.0) -> None:
        super().__init__(message, hint)
        self.retryable = retryable
        self.retry_after = retry_after
        self.request_id = ""
        self.reason = ""


class ServiceUnreachableError(HwsignerError):
    """The service gave no complete answer in time.

    Attributes:
        retryable: whether a retry may succeed. It can't if a certificate is not trusted, or a proxy refuses.
    """

    exit_status = 6
    cause = "unreachable"

    def __init__(self, message: str, hint: str = "", *, retryable: bool = True) -> None:
        super().__init__(message, hint)
        self.retryable = retryable


class LockError(HwsignerError):
    """Another process has locked for too long what only one may use at a time."""

    exit_status = 7
    cause = "lock"


class AgentError(HwsignerError):
    """The agent can't run or be reached, or it answered with an error.

    Attributes:
        exit_status: 7, or the status that the agent gave.
        reason: `locked` if the profile was locked by a command, `pin` if a typed PIN may help, else empty.
    """

    exit_status = 7
    cause = "agent"

    def __init__(self, message: str, hint: str = "", *, exit_status: int = exit_status, reason: str = "") -> None:
        super().__init__(message, hint)
        self.exit_status = exit_status
        self.reason = reason


class AuditError(HwsignerError):
    """An audit line that can't be written. Without it no credentials are given out if the audit log is required."""

    exit_status = 7
    cause = "audit"


class Interruption(HwsignerError):  # noqa: N818  no fault
    """The user ended a command that changes something elsewhere. The hint says what has changed."""

    exit_status = 130


class HwsignerWarning(_Message, UserWarning):
    """Base of all warnings: something works and should be fixed. With `--strict` it is an error.

    They come through the standard `warnings` module, so a program can filter them.

    Attributes:
        message: what is wrong, one sentence without a full stop.
        hint: what to do, one sentence without a full stop, or an empty string.
        exit_status: the exit status of a command that fails with this warning because of `--strict`.
    """


class UnsafeKeyWarning(HwsignerWarning):
    """Other users of the machine could read a key or PIN."""

    exit_status = 3
    cause = "key"


class CertificateWarning(HwsignerWarning):
    """A chain has certificates of no use, or a token one that can't be read."""

    exit_status = 4
    cause = "certificate"


class UnsafeConnectionWarning(HwsignerWarning):
    """A connection does not verify its other end."""

    exit_status = 2
    cause = "config"


def check_text(value: object, what: str) -> None:
    """Check that a caller's argument is a str. It may be a secret, so the message has only its type.

    Raises:
        UsageError: it is not.
    """
    if not isinstance(value, str):
        raise UsageError(f"{what} is of type {type(value).__name__}, not str", "Pass text")
