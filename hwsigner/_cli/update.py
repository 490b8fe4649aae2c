"""`hwsigner update`: write credentials into the AWS SDKs' shared credentials file, and keep them fresh."""

from __future__ import annotations

import gc
import math
import os
import signal
import stat
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from hwsigner._cli.monitoring import audit_of_sessions
from hwsigner._cli.parser import Arguments, Parser
from hwsigner._cli.process import asker, report, report_shorter_session
from hwsigner._config import settings
from hwsigner._config.flags import CONFIG_PROFILE, IDENTITY, SESSION, Flag, switch
from hwsigner.errors import CertificateError, HwsignerError, HwsignerWarning, PinError, UnsafeKeyWarning, UsageError

if TYPE_CHECKING:
    from hwsigner._agent.agent_or_own import LiveCredentials
    from hwsigner._aws.credentials import Credentials
    from hwsigner._refresh.attempts import Attempts

HELP = "keep the SDKs' shared credentials file fresh"

_FLAGS = (
    Flag("profile", "section of the credentials file to write", "NAME", default="default"),
    *CONFIG_PROFILE,
    switch("once", "write once and exit"),
)
# Seconds between checks. A longer sleep would not notice that the clock was set or the machine suspended.
_PAUSE = 10.0
_PAUSE_AFTER_FAILURE = 1.0
# Between attempts to write. The first pause is one second; each one is twice the last.
_LONGEST_WRITE_PAUSE = 120.0


def add_arguments(parser: Parser) -> None:
    """Add the flags."""
    parser.add_flags(_FLAGS, IDENTITY, SESSION)
    parser.takes_hidden = True


def run(arguments: Arguments) -> int:
    """Write once, or keep the section fresh until SIGINT or SIGTERM. Wrong flags are errors before the key is used."""
    from hwsigner._agent.agent_or_own import AgentOrOwn
    from hwsigner._aws.config_file import credentials_path
    from hwsigner._aws.credentials_file import check_section

    section = check_section(arguments.profile)
    path, audit = credentials_path(os.environ), audit_of_sessions()
    with ExitStack() as stack:

        def make() -> Attempts:
            from hwsigner._refresh.attempts import Attempts

            if arguments.hidden:
                raise arguments.hidden
            found = settings.service_for_daemon(arguments.settings)
            return stack.enter_context(closing(Attempts.from_settings(arguments.settings, found)))

        is_told = False

        def write(credentials: Credentials) -> None:
            nonlocal is_told
            if audit and credentials is not source.of_agent:
                audit.give_self(arguments.config_profile or "", credentials)
            _write(path, section, credentials)
            if not is_told and credentials is not source.of_agent:
                report_shorter_session(credentials, arguments.settings)
                is_told = True

        name = _only_profile(arguments)
        source = AgentOrOwn(
            name, make, role_arn=arguments.settings.role_arn or "", ask_pin=asker(arguments.settings.pinentry)
        )
        if name is None:
            source.own()  # Reports invalid flags now.
        if arguments.once:
            write(source())
            return 0
        return _update_until_stopped(Updater(source, write))


def _only_profile(arguments: Arguments) -> str | None:
    """Return the profile of config.toml that the flags name, if they set nothing else of a session."""
    if not {flag.name for flag, _ in arguments.given} <= {flag.name for flag in _FLAGS}:
        return None
    if not arguments.config_profile:
        hint = "Give --config-profile NAME: --profile names the section to write"
        raise UsageError("update needs a profile of config.toml, or the flags for a session", hint)
    return str(arguments.config_profile)


def _write(path: str, section: str, credentials: Credentials) -> None:
    from hwsigner._aws.credentials_file import with_credentials
    from hwsigner._system.files import edit_file

    def edit(old: bytes) -> bytes:
        new = with_credentials(old, section, credentials)
        _warn_of_mistake(path, new)
        return new

    _warn_of_readers(path)
    edit_file(path, edit)
    report(f"wrote [{section}] of {path}, good until {credentials.expiration:%Y-%m-%dT%H:%M:%SZ}")


def _warn_of_readers(path: str) -> None:
    try:
        status = os.stat(path)
    except OSError:
        return  # A new file gets mode 0600.
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISREG(status.st_mode) and mode & (stat.S_IRGRP | stat.S_IROTH):
        problem = f"{path} has mode {mode:04o}: other users can read the credentials in it"
        warnings.warn(UnsafeKeyWarning(problem, f"Run chmod 600 {path}"), stacklevel=2)


def _warn_of_mistake(path: str, data: bytes) -> None:
    """Warn that botocore can't read the new content. It is no error, because other SDKs may read it."""
    from hwsigner._aws.config_lines import unreadable_reason

    if reason := unreadable_reason(data.decode("utf-8", "surrogateescape")):
        problem = f"{path} {reason}, so the AWS CLI and boto3 can't read it"
        warnings.warn(HwsignerWarning(problem, "Fix it in an editor"), stacklevel=2)


def _update_until_stopped(updater: Updater) -> int:
    from hwsigner._cli.process import discard_frames

    gc.enable()  # Unlike other commands, this one stays.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while True:
            time.sleep(_PAUSE if updater.update() else _PAUSE_AFTER_FAILURE)
    except KeyboardInterrupt as interruption:
        discard_frames(interruption)
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)


class Updater:
    """Writes new credentials whenever the source has them, and reports each failure in a line on stderr.

    The source decides when to refresh and when to retry.
    """

    def __init__(
        self, source: LiveCredentials, write: Callable[[Credentials], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._source = source
        self._write = write
        self._clock = clock
        self._written: Credentials | None = None
        self._reported: Exception | None = None
        self._failed_writes = 0
        self._next_write = -math.inf

    def update(self) -> bool:
        """Write the credentials if they are new, and return whether there was no failure.

        After a failure, the old credentials stay in the file.

        Raises:
            PinError, UsageError: there are no credentials, and a retry can't help.
            CertificateError: there have never been credentials, and a retry can't help.
        """
        credentials = self._credentials()
        if credentials and credentials != self._written and self._clock() >= self._next_write:
            self._try_to_write(credentials)
        return credentials is not None and self._reported is None and self._failed_writes == 0

    def _credentials(self) -> Credentials | None:
        credentials = None
        try:
            credentials = self._source()
        except HwsignerError as error:
            # A certificate that was valid once may be renewed.
            lasting = (PinError, UsageError) if self._written else (PinError, UsageError, CertificateError)
            if isinstance(error, lasting):
                raise
            # Other errors are the source's failure, reported below.
        failure = self._source.failure
        if failure and failure is not self._reported:
            report(f"no new credentials: {failure}")
        self._reported = failure
        return credentials

    def _try_to_write(self, credentials: Credentials) -> None:
        try:
            self._write(credentials)
        except HwsignerError as error:
            report(str(error))
            pause = min(_LONGEST_WRITE_PAUSE, 2.0 ** min(self._failed_writes, 10))
            self._failed_writes, self._next_write = self._failed_writes + 1, self._clock() + pause
        else:
            self._written, self._failed_writes, self._next_write = credentials, 0, -math.inf
