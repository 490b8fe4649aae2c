"""Run a program for the user: pass signals on to it, and return its exit status."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from hwsigner._cli.process import report

_CANNOT_RUN = 126
_NOT_FOUND = 127
_SIGNALLED = 128

_PASSED_ON = {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}
_AWAITED = {*_PASSED_ON, signal.SIGCHLD}
# Python ignores these, or a parent process may; the program must not inherit that.
_DEFAULTS = (signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ)
_FROM_KERNEL = 0x80
# The longest delay before the program's end is noticed or a signal is passed on. It occurs if a signal arrives while
# this thread is not waiting for it, and a thread that was started earlier receives it.
_POLL_SECONDS = 1.0
# More than this process has opened when the program starts: the kernel gives out the lowest that are free.
_DESCRIPTORS = 256


def inheritable_descriptors() -> set[int]:
    """Return the descriptors that a program would inherit from this process."""
    return {number for number in range(_DESCRIPTORS) if _is_inheritable(number)}


def _is_inheritable(number: int) -> bool:
    try:
        return os.get_inheritable(number)
    except OSError:  # It is not open.
        return False


def run_program(
    command: Sequence[str], environ: Mapping[str, str], prepare: Callable[[], None], *, inherited: set[int]
) -> int:
    """Run a program to its end, in this process's group and on its terminal.

    SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1 and SIGUSR2 to this process are passed on to the program.

    Args:
        command: the program, searched in PATH, and its arguments.
        environ: its environment.
        prepare: called before the program starts. It must start all threads, as others would receive the signals.
        inherited: the descriptors that it may have. Libraries open others without O_CLOEXEC, such as a TPM's: with that
            one, a program that has become another user could sign.

    Returns:
        The program's exit status; 128 plus the signal's number if a signal ended it; 126 if it can't be run, 127 if it
        is not found.
    """
    # Also those that are not open, as other threads may open them meanwhile.
    limit = os.sysconf("SC_OPEN_MAX")  # glibc fails to close a number from here on; -1 means no limit.
    last = _DESCRIPTORS if limit < 0 else min(_DESCRIPTORS, limit)
    closes = [(os.POSIX_SPAWN_CLOSE, number) for number in range(last) if number not in inherited]
    with _signals_blocked() as before:
        prepare()
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
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # While it is ignored, the kernel reports no child's end.
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
        received = signal.sigtimedwait(_AWAITED, _POLL_SECONDS)
        if received and received.si_signo != signal.SIGCHLD and not _has_reached_all(received):
            _send(child, received.si_signo)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else _SIGNALLED - code


def _send(child: int, number: int) -> None:
    with suppress(PermissionError, ProcessLookupError):  # It runs as another user, like sudo, or has just ended.
        os.kill(child, number)


def _has_reached_all(received: signal.struct_siginfo) -> bool:
    """Return whether a terminal sent the signal to the whole group. A closed one sends SIGHUP to its leader alone."""
    is_for_leader = received.si_signo == signal.SIGHUP and os.getsid(0) == os.getpid()
    return received.si_code == _FROM_KERNEL and not is_for_leader
