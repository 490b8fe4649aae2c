"""A program that is run for a user: signals reach it, and its end is told."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence

from hwsigner.cli.streams import tell

_CANNOT_RUN = 126
_NOT_FOUND = 127
_SIGNALLED = 128

_PASSED_ON = {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}
# Python ignores these, which the program would inherit.
_DEFAULTS = (signal.SIGPIPE, signal.SIGXFSZ)
# A signal that a key of the terminal sent has reached the program already, as one of the same group.
_FROM_KERNEL = 0x80


def run_program(command: Sequence[str], environ: Mapping[str, str], prepare: Callable[[], None]) -> int:
    """Run a program to its end, in this process's group and on its terminal.

    Signals to this process are sent on: SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1 and SIGUSR2.

    Args:
        command: the program, found by PATH, and its arguments.
        environ: its environment.
        prepare: called before it is started; the place to start threads, as they must not take its signals.

    Returns:
        Its exit status; 128 and the signal's number if one ended it; 126 or 127 if it can't be run or is not there.
    """
    awaited = {*_PASSED_ON, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    try:
        prepare()
        child = os.posix_spawnp(command[0], list(command), dict(environ), setsigmask=before, setsigdef=_DEFAULTS)
        return _wait(child, awaited)
    except OSError as error:
        tell(f"can't run {command[0]}: {error.strerror}")
        return _NOT_FOUND if isinstance(error, FileNotFoundError) else _CANNOT_RUN
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(child: int, awaited: set[signal.Signals]) -> int:
    while True:
        told = signal.sigwaitinfo(awaited)
        if told.si_signo != signal.SIGCHLD:
            if told.si_code != _FROM_KERNEL:
                os.kill(child, told.si_signo)
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else _SIGNALLED - code
