"""Hide what native libraries print on stderr, in commands only.

File descriptor 2 belongs to the whole process, so nothing is hidden until a program calls `silence`.
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
    """Let `quiet` work in this process, or no longer."""
    global _is_silenced
    _is_silenced = on


def quiet() -> AbstractContextManager[None]:
    """Discard what any thread writes to file descriptor 2 inside the `with` statement, if `silence` was called.

    If several threads are inside, the last one to leave restores the descriptor.
    """
    return _quiet() if _is_silenced else _NOTHING


@contextmanager
def _quiet() -> Iterator[None]:
    global _depth, _saved
    with _lock:
        _depth += 1
        if _depth == 1:
            _saved = _redirect()
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                _restore()


def _redirect() -> int | None:
    """Send file descriptor 2 to /dev/null and return a copy of it, or None if it is closed."""
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


def _restore() -> None:
    global _saved
    if _saved is not None:
        os.dup2(_saved, _STDERR)
        os.close(_saved)
        _saved = None


def _reset_after_fork() -> None:
    """Restore a child's stderr: the threads inside `quiet` are the parent's."""
    global _lock, _depth
    _lock, _depth = threading.Lock(), 0
    _restore()


os.register_at_fork(after_in_child=_reset_after_fork)
