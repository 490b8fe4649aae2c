"""A server from its first sessions to its end: readiness, lost profiles, signals, and what hangs at the end."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hwsigner._cli.process import report, report_thread_failures, signals_handled, stop_signals
from hwsigner._pins.terminal import release_terminal
from hwsigner._serving.server import HTTPServer
from hwsigner._system.systemd import Notifier
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

if TYPE_CHECKING:
    from hwsigner._cli.served_profiles import ServedProfile

# What may pass, or be fixed, while the server runs.
_TEMPORARY = (BackendUnavailableError, ServiceError, ServiceUnreachableError, TokenRemovedError)
# How long a key or a service that hangs is waited for at the end.
_CLOSE_SECONDS = 1.0
# Units that need the credentials start when systemd is told that they are there, or that they are late.
_READY_SECONDS = 10.0
# Between two looks for lost profiles.
_LOOK_SECONDS = 10.0


class ServerRun:
    """A run of a server: in the main thread, with the first session of each profile in a thread of its own.

    `closes` is called at the end.
    """

    def __init__(
        self, profiles: Sequence[ServedProfile], server: HTTPServer, closes: Sequence[Callable[[], None]] = ()
    ) -> None:
        self._profiles = profiles
        self._server = server
        self._closes = [*(one.close for one in profiles), *closes]
        self._failure: HwsignerError | HwsignerWarning | None = None
        self._is_ending = threading.Event()

    def run(self) -> None:
        """Serve until SIGINT, SIGTERM or SIGHUP. Under nohup, SIGHUP stays ignored.

        Raises:
            HwsignerError: there is no first session, and another attempt would not help.
            PinError: the last credentials of all profiles have expired, and a PIN keeps hwsigner from getting others.
        """
        notifier = Notifier(os.environ)
        report_thread_failures()
        # From the first prompt to the last: a signal's default action would leave the terminal as a prompt has set it.
        with signals_handled(dict.fromkeys(stop_signals(), lambda *_: self._server.stop())):
            first = [threading.Thread(target=self._warm, args=(one,), daemon=True) for one in self._profiles]
            for one, thread in zip(self._profiles, first, strict=True):
                one.start()
                thread.start()
            threading.Thread(target=self._watch, args=(first, notifier), daemon=True).start()
            gc.freeze()  # What exists now stays: collecting it again and again would delay requests.
            self._server.run()
            self._is_ending.set()
            notifier.stopping()
            failure = self._failure
            is_closed = close_in_time(self._closes)
            release_terminal()
            if not is_closed:
                if failure:
                    report(str(failure))
                os._exit(failure.exit_status if failure else 0)
        if failure:
            raise failure

    def _warm(self, one: ServedProfile) -> None:
        try:
            one.credentials()
        except AgentError as error:
            report(f"{one.name}: no credentials: {error}")
        except _TEMPORARY:
            pass  # It is in the log already.
        except (HwsignerError, HwsignerWarning) as error:
            self._fail(error)

    def _fail(self, failure: HwsignerError | HwsignerWarning) -> None:
        self._failure = failure
        self._server.stop()

    def _watch(self, first: Sequence[threading.Thread], notifier: Notifier) -> None:
        """Report readiness, then lost profiles. End the server once all are lost, so that a service manager sees it."""
        _join(first, _READY_SECONDS)
        if self._failure is None and not self._is_ending.is_set():
            notifier.ready("answering")
        lost: dict[str, PinError] = {}
        while not self._is_ending.wait(_LOOK_SECONDS):
            reported, lost = lost, {one.name: error for one in self._profiles if (error := _loss(one))}
            if lost and len(lost) == len(self._profiles):
                self._fail(next(error for name, error in lost.items() if name not in reported))
                return
            for name in lost.keys() - reported.keys():
                report(f"{name}: no credentials until the server is restarted: {lost[name]}")


def _loss(one: ServedProfile) -> PinError | None:
    """Return the error if a PIN keeps a profile from credentials, which the server can't fix by itself; else None."""
    if not isinstance(one.credentials.own().failure, PinError):
        return None
    try:
        one.credentials()  # Sends no PIN again, but an agent may have credentials by now.
    except PinError as error:
        return error
    except (HwsignerError, HwsignerWarning):
        return None
    return None


def close_in_time(closes: Sequence[Callable[[], None]]) -> bool:
    """Call these functions; return False if one of them hangs, as a key may, and the process would not end for it."""
    threads = [threading.Thread(target=close, daemon=True) for close in closes]
    for thread in threads:
        thread.start()
    _join(threads, _CLOSE_SECONDS)
    return not any(thread.is_alive() for thread in threads)


def _join(threads: Sequence[threading.Thread], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
