"""Serving until told to stop: the server in the main thread, the first sessions in others, and an end that comes."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hwsigner.cli.process import report, report_thread_failures
from hwsigner.errors import (
    AgentError,
    BackendUnavailableError,
    HwsignerError,
    HwsignerWarning,
    PinError,
    ServiceError,
    ServiceUnreachableError,
    TokenRemovedError,
)
from hwsigner.pins.terminal import release_terminal
from hwsigner.serving.credentials import CONTAINER
from hwsigner.serving.server import Server
from hwsigner.system.systemd import Notifier

if TYPE_CHECKING:
    from hwsigner.cli.sources import Sourced

# What may pass, or be mended, while the server runs.
_PASSING = (
    BackendUnavailableError,
    ServiceError,
    ServiceUnreachableError,
    TokenRemovedError,
)
# A key or a service that hangs is left behind.
_CLOSE_SECONDS = 1.0
# systemd starts what needs the credentials when it is told that they are there, or that they are late.
_READY_SECONDS = 10.0
# Between two looks for profiles that are lost.
_LOOK_SECONDS = 10.0


class Residence:
    """A server and the providers of what it serves.

    Args:
        sourced: whose credentials are to be there before anybody asks.
        server: serves them.
    """

    def __init__(self, sourced: Sequence[Sourced], server: Server) -> None:
        self._sourced = sourced
        self._server = server
        self._failure: HwsignerError | HwsignerWarning | None = None
        self._is_ending = threading.Event()

    def stay(self) -> None:
        """Serve until SIGINT, SIGTERM or, but under nohup, SIGHUP.

        Raises:
            HwsignerError: there is no first session, and another try would not help.
            PinError: the last credentials of all profiles have ended, and nobody tries to get others.
        """
        notifier = Notifier(os.environ)
        report_thread_failures()
        # From the first prompt to the last: another end would leave the terminal as a prompt has made it.
        with _stopping(self._server):
            self._start_threads(notifier)
            gc.freeze()  # What is there by now stays: it is looked through no more, which would hold up requests.
            self._server.run()
            self._is_ending.set()
            notifier.stopping()
            failure = self._failure
            is_closed = close_in_time([one.own.close for one in self._sourced])
            release_terminal()
            if not is_closed:
                if failure:
                    report(str(failure))
                os._exit(failure.exit_status if failure else 0)
        if failure:
            raise failure

    def _start_threads(self, notifier: Notifier) -> None:
        first = [threading.Thread(target=self._warm, args=(one,), daemon=True) for one in self._sourced]
        for one, thread in zip(self._sourced, first, strict=True):
            one.own.start()
            thread.start()
        threading.Thread(target=self._tell_of, args=(first, notifier), daemon=True).start()
        threading.Thread(target=self._watch, daemon=True).start()

    def _warm(self, one: Sourced) -> None:
        try:
            one.source.reply(CONTAINER)
        except AgentError as error:
            report(f"{one.name}: no credentials: {error}")
        except _PASSING:
            pass  # The provider's log has it.
        except (HwsignerError, HwsignerWarning) as error:
            self._fail(error)

    def _fail(self, failure: HwsignerError | HwsignerWarning) -> None:
        self._failure = failure
        self._server.stop()

    def _tell_of(self, first: Sequence[threading.Thread], notifier: Notifier) -> None:
        _join(first, _READY_SECONDS)
        if self._failure is None and not self._is_ending.is_set():
            notifier.ready("answering")

    def _watch(self) -> None:
        """Tell of profiles that are lost, and end once all of them are, so that a service manager sees it."""
        lost: dict[str, PinError] = {}
        while not self._is_ending.wait(_LOOK_SECONDS):
            told, lost = lost, {one.name: error for one in self._sourced if (error := _loss(one))}
            if len(lost) == len(self._sourced):
                self._fail(next(error for name, error in lost.items() if name not in told))
                return
            for name in lost.keys() - told.keys():
                report(f"{name}: no credentials until the server is started again: {lost[name]}")


def _loss(one: Sourced) -> PinError | None:
    """Return why a profile has no credentials any more and nobody tries to get some, or None."""
    if not isinstance(one.own.provider().failure, PinError):
        return None
    try:
        one.source.reply(CONTAINER)  # It tries nothing, as a wrong PIN is not sent twice; an agent may have some.
    except PinError as error:
        return error
    except (HwsignerError, HwsignerWarning):
        return None
    return None


def close_in_time(closes: Sequence[Callable[[], None]]) -> bool:
    """Close what a process has open; return False where something hangs, such as a key, and it would not end for it."""
    threads = [threading.Thread(target=close, daemon=True) for close in closes]
    for thread in threads:
        thread.start()
    _join(threads, _CLOSE_SECONDS)
    return not any(thread.is_alive() for thread in threads)


def _join(threads: Sequence[threading.Thread], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


@contextmanager
def _stopping(server: Server) -> Iterator[None]:
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: server.stop()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
