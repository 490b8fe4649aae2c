"""The PKCS #11 modules of this process, and what becomes of them when it forks."""

from __future__ import annotations

import os
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hwsigner.backends.pkcs11.module import Module

# How long a call may be under way before a fork goes on without it: a person may be waited for, and never come.
_FORK_PATIENCE_SECONDS = 0.5

# By their files.
modules: dict[str, Module] = {}
registry_lock = threading.RLock()
_is_forking = False
_held_for_fork = ExitStack()
_busy_at_fork: list[Module] = []


def let_forks_pass() -> None:
    """Wait while the process forks. Without this, threads that sign without a pause would never let it."""
    if _is_forking:
        with registry_lock:
            pass


def _lock_before_fork() -> None:
    """Let no call be under way in a module while the process forks: the child would wait for its locks for ever.

    A module that is inside a call for longer is lost to the child. A person who is asked for a PIN is outside.
    """
    global _is_forking
    registry_lock.acquire()
    _is_forking = True
    deadline = time.monotonic() + _FORK_PATIENCE_SECONDS
    for module in modules.values():
        if not module.hold(_held_for_fork, deadline):
            _busy_at_fork.append(module)


def _unlock_after_fork() -> None:
    global _is_forking
    _is_forking = False
    _held_for_fork.close()
    _busy_at_fork.clear()
    registry_lock.release()


def _reset_after_fork() -> None:
    for module in _busy_at_fork:
        module.lose()
    for module in modules.values():
        module.forget_sessions()
    _unlock_after_fork()


os.register_at_fork(before=_lock_before_fork, after_in_parent=_unlock_after_fork, after_in_child=_reset_after_fork)
