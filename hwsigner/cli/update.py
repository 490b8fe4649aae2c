"""`hwsigner update`: write credentials into a section of the AWS SDKs' shared credentials file, and keep them fresh."""

from __future__ import annotations

import argparse
import gc
import math
import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Protocol

from hwsigner.cli import options
from hwsigner.cli.parser import Parser
from hwsigner.cli.process import report
from hwsigner.config.flags import CONFIG_PROFILE, IDENTITY, SESSION, Flag, switch
from hwsigner.errors import (
    AgentError,
    CertificateError,
    HwsignerError,
    HwsignerWarning,
    PinError,
    UsageError,
)

if TYPE_CHECKING:
    from hwsigner.aws.credentials import Credentials

HELP = "write credentials into the shared credentials file, and keep them fresh"

_FLAGS = (
    Flag("profile", "the section of the credentials file to write", "NAME", default="default"),
    *CONFIG_PROFILE,
    switch("once", "write once and end"),
)
# Seconds between two looks at the clock: a longer sleep would not notice that it was set, or the machine suspended.
_PAUSE = 10.0
_PAUSE_IN_TROUBLE = 1.0
# Between two tries to write: it doubles from a second.
_LONGEST_PAUSE = 120.0


def add_arguments(parser: Parser) -> None:
    """Add the flags."""
    parser.add_flags(_FLAGS, IDENTITY, SESSION)


def run(arguments: argparse.Namespace) -> int:
    """Write once, or until SIGINT or SIGTERM; what the flags get wrong is found before a key is touched.

    Returns:
        0, once written or interrupted.
    """
    from hwsigner.aws.credentials_file import check_section, credentials_path

    # An empty text is as good as no flag.
    section = check_section(arguments.profile or "default")
    write = partial(_write, credentials_path(os.environ), section)
    with ExitStack() as stack:

        def provide() -> Source:  # Even with --once it is a command that stays, for what it writes does.
            return stack.enter_context(options.provider(arguments))

        name = _lone_profile(arguments)
        source = AgentOrProvider(name, provide, role_arn=arguments.role_arn) if name else provide()
        if arguments.once:
            write(source())
            return 0
        return _keep_until_interrupted(Upkeep(source, write))


def _lone_profile(arguments: argparse.Namespace) -> str | None:
    """Return the profile of config.toml that is named, if no flag says anything else of a session."""
    is_alone = {flag.name for flag, _ in arguments.given} <= {flag.name for flag in _FLAGS}
    return arguments.config_profile if is_alone else None


def _write(path: str, section: str, credentials: Credentials) -> None:
    from hwsigner.aws.credentials_file import with_credentials
    from hwsigner.system.files import edit_file

    edit_file(path, partial(with_credentials, section=section, credentials=credentials))
    report(f"wrote [{section}] of {path}, good until {credentials.expiration:%Y-%m-%dT%H:%M:%SZ}")


def _keep_until_interrupted(upkeep: Upkeep) -> int:
    from hwsigner.cli.process import discard_frames, forbid_dumps

    gc.enable()  # Unlike other commands, this one stays.
    forbid_dumps()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while True:
            time.sleep(_PAUSE if upkeep.look() else _PAUSE_IN_TROUBLE)
    except KeyboardInterrupt as interruption:
        discard_frames(interruption)
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)


class Source(Protocol):
    """Gives credentials: a provider, or something like it."""

    @property
    def failure(self) -> HwsignerError | HwsignerWarning | None:
        """What the last try met, the same object until the next one; None if it succeeded."""
        ...

    def __call__(self) -> Credentials:
        """Return credentials; raises HwsignerError where there are none."""
        ...


class AgentOrProvider:
    """The credentials of a running agent, and of a provider where no agent has them.

    Args:
        name: the profile, for the agent.
        provide: makes a provider, once, where no agent runs, or none knows the profile.
        role_arn: the profile's role.
    """

    def __init__(self, name: str, provide: Callable[[], Source], *, role_arn: str) -> None:
        self._name = name
        self._provide = provide
        self._provider: Source | None = None
        self._role_arn = role_arn
        self._refusal: AgentError | None = None
        self._is_of_agent = False

    @property
    def failure(self) -> HwsignerError | HwsignerWarning | None:
        """The agent's refusal, or what the provider's last try met."""
        if self._is_of_agent:
            return self._refusal
        return self._provider.failure if self._provider else None

    def __call__(self) -> Credentials:
        """Return credentials.

        Raises:
            AgentError: the agent can't give them.
            HwsignerError: as a call of a provider does.
        """
        self._is_of_agent = True
        try:
            found = self._of_agent()
        except AgentError as error:
            if str(error) != str(self._refusal):
                self._refusal = error
            raise
        self._refusal = None
        if found:
            return found
        self._is_of_agent = False
        if self._provider is None:
            self._provider = self._provide()
        return self._provider()

    def _of_agent(self) -> Credentials | None:
        from hwsigner.agent.client import find_credentials
        from hwsigner.aws.credentials import read_agent_credentials

        body = find_credentials(self._name)
        return read_agent_credentials(body, role_arn=self._role_arn) if body else None


class Upkeep:
    """Writes what a provider gives, whenever that is new; one line on stderr tells of each failure.

    Args:
        source: decides when a session is renewed, and how soon a try is repeated.
        write: writes credentials.
        clock: tells seconds; for the pauses between tries to write.
    """

    def __init__(
        self, source: Source, write: Callable[[Credentials], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._source = source
        self._write = write
        self._clock = clock
        self._written: Credentials | None = None
        self._told: Exception | None = None
        self._failed_writes = 0
        self._next_write = -math.inf

    def look(self) -> bool:
        """Write credentials if there are new ones, and return whether all is well.

        What is in the file stays there as long as there is nothing better.

        Raises:
            PinError: there are no credentials, and there will be none, as a wrong PIN is not sent twice.
            UsageError: likewise, as what was asked for can't be meant.
            CertificateError: there have been no credentials yet, and no other try mends that.
        """
        credentials = self._credentials()
        if credentials and credentials != self._written and self._clock() >= self._next_write:
            self._try_to_write(credentials)
        return credentials is not None and self._told is None and self._failed_writes == 0

    def _credentials(self) -> Credentials | None:
        credentials = None
        try:
            credentials = self._source()
        except HwsignerError as error:
            # A certificate that was good once may be renewed.
            lasting = (PinError, UsageError) if self._written else (PinError, UsageError, CertificateError)
            if isinstance(error, lasting):
                raise
            # The others are told of as the provider's failure, as one is that leaves good credentials.
        failure = self._source.failure
        if failure and failure is not self._told:  # It is the same one until the next try.
            report(f"no new credentials: {failure}")
        self._told = failure
        return credentials

    def _try_to_write(self, credentials: Credentials) -> None:
        try:
            self._write(credentials)
        except HwsignerError as error:
            report(str(error))
            pause = min(_LONGEST_PAUSE, 2.0 ** min(self._failed_writes, 10))
            self._failed_writes, self._next_write = self._failed_writes + 1, self._clock() + pause
        else:
            self._written, self._failed_writes, self._next_write = credentials, 0, -math.inf
