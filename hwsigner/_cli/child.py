"""Run a program for the user: pass signals on to it, and return its exit status."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from hwsigner._cli.process import report
from hwsigner._system.processes import withhold
from hwsigner._system.signals import ReceivedSignal, is_typed, wait_for_signal

_CANNOT_RUN = 126
_NOT_FOUND = 127
_SIGNALLED = 128

_PASSED_ON = {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}
_AWAITED = {*_PASSED_ON, signal.SIGCHLD}
# Python ignores these, or a parent process may; the program must not inherit that.
_DEFAULTS = (signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ)
# The longest delay before the program's end is noticed or a signal is passed on. It occurs if a signal arrives while
# this thread is not waiting for it, and a thread that was started earlier receives it.
_POLL_SECONDS = 1.0


def run_program(
    command: Sequence[str], environ: Mapping[str, str], prepare: Callable[[], None], *, inherited: set[int]
) -> int:
    """Run a program to its end, in this process's group and on its terminal, and return its exit status.

    SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1 and SIGUSR2 to this process are passed on to the program.

    The status is 128 plus the signal's number if a signal ended it, 126 if it can't be run, 127 if it is not found.
    `prepare` is called before it starts, and must start all threads, as others would receive the signals. `inherited`
    are the descriptors that it may have. Libraries open others without O_CLOEXEC, such as a TPM's: with that one, a
    program that has become another user could sign.
    """
    with _signals_blocked() as before:
        prepare()
        closes = withhold(inherited)
        try:
            child = os.posix_spawnp(
                command[0], list(command), dict(environ), file_actions=closes, setsigmask=before, setsigdef=_DEFAULTS
            )
        except OSError as error:
            report(f"can't run {command[0]}: {error.strerror}")
            return _NOT_FOUND if isinstance(error, FileNotFoundError) else _CANNOT_RUN
        return _wait(child)


@contextmanager
def _signals_blocked() -> Iterator[set[int | signal.Signals]]:
    """Block the signals that `_wait` waits for, and yield the previous mask."""
    handlers = {number: signal.getsignal(number) for number in _AWAITED}
    signal.signal(signal.SIGCHLD, lambda *_: None)  # While it is ignored, the kernel reports no child's end.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
    try:
        yield before
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(child: int) -> int:
    for number in _PASSED_ON:
        signal.signal(number, lambda number, _: None if is_typed(number) else _send(child, number))
    while True:
        received = wait_for_signal(_AWAITED, _POLL_SECONDS)
        if received and received.number != signal.SIGCHLD and not _has_reached_all(received):
            _send(child, received.number)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else _SIGNALLED - code


def _send(child: int, number: int) -> None:
    with suppress(PermissionError, ProcessLookupError):  # It runs as another user, like sudo, or has just ended.
        os.kill(child, number)


def _has_reached_all(received: ReceivedSignal) -> bool:
    """Return whether a terminal sent the signal to the whole group. A closed one sends SIGHUP to its leader alone."""
    is_for_leader = received.number == signal.SIGHUP and os.getsid(0) == os.getpid()
    return received.is_from_kernel and not is_for_leader
