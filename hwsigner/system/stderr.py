"""What native libraries print on stderr by themselves, and keeping it from there: for a command, not for a library.

File descriptor 2 belongs to the whole process, so nothing happens here before `silence` is called.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

_STDERR = 2
_NOTHING = nullcontext()
_lock = threading.Lock()
_is_silenced = False
_saved: int | None = None
_depth = 0


def silence(*, on: bool = True) -> None:
    """Let `quiet` work in this process from now on, or no more."""
    global _is_silenced
    _is_silenced = on


def quiet() -> AbstractContextManager[None]:
    """Send what is written to file descriptor 2 to nowhere, if `silence` was called: what other threads write as well.

    Several threads may be in it at once; the last one to leave restores the descriptor.
    """
    return _quiet() if _is_silenced else _NOTHING


@contextmanager
def _quiet() -> Iterator[None]:
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    global _depth, _saved
    with _lock:
        _depth += 1
        if _depth == 1:
            _saved = _redirect()


def _leave() -> None:
    global _depth, _saved
    with _lock:
        _depth -= 1
        if _depth == 0 and _saved is not None:
            os.dup2(_saved, _STDERR)
            os.close(_saved)
            _saved = None


def _redirect() -> int | None:
    """Return a copy of file descriptor 2, which leads nowhere now, or None when it is closed."""
    if sys.stderr is not None:
        with suppress(OSError):
            sys.stderr.flush()
    try:
        saved = os.dup(_STDERR)
        nowhere = os.open(os.devnull, os.O_WRONLY)
    except OSError:
        return None
    os.dup2(nowhere, _STDERR)
    os.close(nowhere)
    return saved


def _reset_after_fork() -> None:
    """Give a child its stderr back: the threads that were in `quiet` are the parent's."""
    global _lock, _depth, _saved
    _lock, _depth = threading.Lock(), 0
    if _saved is not None:
        os.dup2(_saved, _STDERR)
        os.close(_saved)
        _saved = None


os.register_at_fork(after_in_child=_reset_after_fork)
