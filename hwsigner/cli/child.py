"""A program that is run for a user: signals reach it, and its end is told."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from hwsigner.cli.process import report

_CANNOT_RUN = 126
_NOT_FOUND = 127
_SIGNALLED = 128

_PASSED_ON = {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}
_AWAITED = {*_PASSED_ON, signal.SIGCHLD}
# Python, or a parent that wants to know nothing of its children, ignores these, which the program would inherit.
_DEFAULTS = (signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ)
_FROM_KERNEL = 0x80
# A thread that was there before can take a signal away, unless this one waits for it at the moment. Then the program's
# end is seen so late, and other signals are sent on so late, by handlers.
_LOOK_SECONDS = 1.0


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
    with _signals_held() as before:
        prepare()
        try:
            child = os.posix_spawnp(command[0], list(command), dict(environ), setsigmask=before, setsigdef=_DEFAULTS)
        except OSError as error:
            report(f"can't run {command[0]}: {error.strerror}")
            return _NOT_FOUND if isinstance(error, FileNotFoundError) else _CANNOT_RUN
        return _wait(child)


@contextmanager
def _signals_held() -> Iterator[set[int | signal.Signals]]:
    """Let signals wait for `_wait`, and yield the mask that held before."""
    handlers = {number: signal.getsignal(number) for number in _AWAITED}
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # Of children whose SIGCHLD is ignored the kernel tells nothing.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
    try:
        yield before
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(child: int) -> int:
    for number in _PASSED_ON:
        signal.signal(number, lambda number, _: _send(child, number))
    while True:
        told = signal.sigtimedwait(_AWAITED, _LOOK_SECONDS)
        if told and told.si_signo != signal.SIGCHLD and not _has_reached_all(told):
            _send(child, told.si_signo)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else _SIGNALLED - code


def _send(child: int, number: int) -> None:
    with suppress(PermissionError, ProcessLookupError):  # It has become another user, as sudo does; or has just ended.
        os.kill(child, number)


def _has_reached_all(told: signal.struct_siginfo) -> bool:
    """Tell whether the program has got a signal too, as one of the same group: by a key of the terminal or its end.

    When a terminal goes away, its session's leader alone is told.
    """
    is_for_leader = told.si_signo == signal.SIGHUP and os.getsid(0) == os.getpid()
    return told.si_code == _FROM_KERNEL and not is_for_leader
