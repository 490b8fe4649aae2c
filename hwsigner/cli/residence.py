"""Serving until told to stop: the server in the main thread, the first sessions in others, and an end that comes."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hwsigner.agent.notify import Notifier
from hwsigner.cli.staying import tell_of_threads
from hwsigner.cli.streams import tell
from hwsigner.errors import (
    AgentError,
    BackendUnavailableError,
    HwsignerError,
    HwsignerWarning,
    ServiceError,
    ServiceUnreachableError,
    TokenRemovedError,
)
from hwsigner.serving.formats import CONTAINER
from hwsigner.serving.server import Server

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
        self._is_ending = False

    def stay(self) -> None:
        """Serve until SIGINT, SIGTERM or, but under nohup, SIGHUP.

        Raises:
            HwsignerError: there is no first session, and another try would not help.
        """
        notifier = Notifier(os.environ)
        tell_of_threads()
        first = [threading.Thread(target=self._warm, args=(one,), daemon=True) for one in self._sourced]
        for one, thread in zip(self._sourced, first, strict=True):
            one.own.start()
            thread.start()
        threading.Thread(target=self._tell_of, args=(first, notifier), daemon=True).start()
        gc.freeze()  # What is there by now stays: it is looked through no more, which would hold up requests.
        with _stopping(self._server):
            self._server.run()
            self._is_ending = True
            notifier.stopping()
        failure = self._failure
        if not close_in_time(self._sourced):
            if failure:
                tell(str(failure))
            os._exit(failure.exit_status if failure else 0)
        if failure:
            raise failure

    def _warm(self, one: Sourced) -> None:
        try:
            one.source.reply(CONTAINER)
        except AgentError as error:
            tell(f"{one.name}: no credentials: {error}")
        except _PASSING:
            pass  # The provider's log has it.
        except (HwsignerError, HwsignerWarning) as error:
            self._failure = error
            self._server.stop()

    def _tell_of(self, first: Sequence[threading.Thread], notifier: Notifier) -> None:
        _join(first, _READY_SECONDS)
        if self._failure is None and not self._is_ending:
            notifier.ready("answering")


def close_in_time(sourced: Sequence[Sourced]) -> bool:
    """Close providers; return False where one hangs in its key or the service, and a process would not end for it."""
    threads = [threading.Thread(target=one.own.close, daemon=True) for one in sourced]
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
