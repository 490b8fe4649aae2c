"""Threads for work that may take long: they are started for it, and end with it."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

# More threads than these would only take the processor from each other, and from the thread that answers clients. One
# that has worked for longer than this waits for a key, a person or the network: it no longer counts.
MOST_AT_ONCE = 4
PATIENCE_SECONDS = 0.05

_T = TypeVar("_T")


class Workers:
    """Threads that each do one thing. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Callable[[], object]] = deque()
        self._begun: dict[threading.Thread, float] = {}
        self._timer: threading.Timer | None = None

    def start(self, work: Callable[[], object]) -> None:
        """Call something in another thread, soon. It must not raise."""
        with self._lock:
            self._waiting.append(work)
            self._start_threads()

    def _start_threads(self) -> None:
        now = time.monotonic()
        self._begun = {thread: begun for thread, begun in self._begun.items() if now - begun < PATIENCE_SECONDS}
        while self._waiting and len(self._begun) < MOST_AT_ONCE:
            thread = threading.Thread(target=self._work, args=(self._waiting[0],), name="hwsigner-worker")
            try:
                thread.start()
            except RuntimeError:  # The system allows no more threads: this waits until another one ends.
                return
            self._begun[thread] = now
            self._waiting.popleft()
        if self._waiting and self._timer is None:
            self._timer = threading.Timer(min(self._begun.values()) + PATIENCE_SECONDS - now, self._start_late)
            self._timer.daemon = True
            self._timer.start()

    def _start_late(self) -> None:
        with self._lock:
            self._timer = None
            self._start_threads()

    def _work(self, work: Callable[[], object]) -> None:
        try:
            work()
        finally:
            with self._lock:
                self._begun.pop(threading.current_thread(), None)
                self._start_threads()


class WorkQueue:
    """Things that are done one after another, by a worker that ends when none is left. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._acts: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._has_worker = False

    def submit(self, act: Callable[[], _T]) -> Future[_T]:
        """Call something once all before it is done; return what will be its result."""
        future = Future[_T]()
        with self._lock:
            self._acts.append((act, future))
            is_first, self._has_worker = not self._has_worker, True
        if is_first:
            start_work(self._run)
        return future

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._acts:
                    self._has_worker = False
                    return
                act, future = self._acts.popleft()
            try:
                result = act()
            except BaseException as error:
                future.set_exception(error)
            else:
                del act  # It may hold a PIN, which must be gone once the result is there.
                future.set_result(result)
                del result
            del future


_workers = Workers()


def start_work(work: Callable[[], object]) -> None:
    """Call something in another thread, soon. It must not raise."""
    _workers.start(work)


def _start_in_child() -> None:
    global _workers
    _workers = Workers()


os.register_at_fork(after_in_child=_start_in_child)
