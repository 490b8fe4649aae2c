"""One profile in the agent: its provider, its PINs, and the queue of what takes time."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import NamedTuple

from hwsigner._agent import protocol
from hwsigner._agent.crashes import UseMark
from hwsigner._agent.desktop import Desktop
from hwsigner._agent.memory import LockedMemory
from hwsigner._aws.credentials import Credentials, Reply, read_agent_credentials
from hwsigner._config import settings
from hwsigner._config.profiles import Profile
from hwsigner._pins import PinRequest
from hwsigner._refresh.monitor import Monitor
from hwsigner._refresh.outcome import Failure, Rendered, profile_state, without_frames
from hwsigner._refresh.refresher import Refresher
from hwsigner._system.clocks import utc_now
from hwsigner._system.users import find_gid, find_uid, peer_groups
from hwsigner._system.workers import WorkQueue
from hwsigner.errors import (
    AgentError,
    HwsignerError,
    HwsignerWarning,
    PinError,
    PinLockedError,
    PinRequiredError,
    WrongPinError,
)

_FORMAT = "process"

# What a client gets: credentials, or an error without any.
Answer = Rendered | bytes
# Takes a line, and its fields as keyword arguments.
Log = Callable[..., None]


class Shared(NamedTuple):
    """What profiles share: the agent's environment, the memory for replies and PINs, what takes lines, whether this is
    the system's agent, what takes sessions and failures, and what shows notifications to the agent's user, if anything.
    """

    environ: Mapping[str, str]
    memory: LockedMemory
    log: Log
    is_system: bool
    monitor: Monitor
    desktop: Desktop | None = None


class ProfileStatus(NamedTuple):
    """How a profile is: `ready`, `idle`, `locked`, `failing` or `closed`. Nothing in it is secret."""

    name: str
    state: str
    expiration: datetime | None  # Of its last credentials.
    failure: HwsignerError | HwsignerWarning | None  # Why it can't be used, or its last attempt failed.


class UnlockProgress(NamedTuple):
    """What came of a step of `unlock`: the PIN that is still needed, or None, and the answer to send then."""

    wanted: PinRequest | None
    answer: bytes


class UnlockedPins:
    """The PINs of a profile that `hwsigner agent unlock` was given. The agent never prompts."""

    def __init__(self) -> None:
        self.wanted: PinRequest | None = None  # The last that was asked for.
        self.is_unlocking = False  # Whether `unlock` runs, so that a PIN can be added.
        self._pins: dict[PinRequest, memoryview] = {}

    def __call__(self, request: PinRequest) -> str | None:
        """Return the PIN for a request, or None to leave it to the stored places."""
        self.wanted = request
        key = request._replace(state="")  # The state may differ each time.
        pin = self._pins.pop(key, None) if request.for_one_signature else self._pins.get(key)
        return None if pin is None else str(pin, "utf-8")

    def prompt(self, request: PinRequest) -> str | None:
        """Return the PIN for a request that the stored places do not answer, or None.

        While `unlock` runs, raises a PinRequiredError if there may be no PIN: a wrong empty one would be an attempt.
        """
        pin = self(request)
        if pin is None and request.may_be_empty and self.is_unlocking:
            raise PinRequiredError(f"{request.subject} may need its {request.kind}")
        return pin

    def add(self, request: PinRequest, pin: memoryview) -> None:
        """Keep the PIN for a request: UTF-8 in locked memory."""
        self._pins[request._replace(state="")] = pin

    def forget(self) -> None:
        """Forget all PINs: they are overwritten with their views."""
        self._pins.clear()


class _State(StrEnum):
    OPEN = "open"
    LOCKED = "locked"  # By a command: nothing is given out until `unlock`.
    CLOSED = "closed"  # For good: another profile may have taken its place.


class AgentProfile:
    """A profile of config.toml that the agent serves. If it can't be used, every answer says why. Thread-safe.

    What takes time is queued, and done one thing after another by a worker, which alone changes the state. `allows`,
    `read` and `status` only look, and so does `notice`: what its token waits for just now, such as a touch.
    """

    def __init__(self, config: Profile, shared: Shared) -> None:
        self.config = config
        self.name = config.name
        self._shared = shared
        self._pins = UnlockedPins()
        self._queue = WorkQueue()
        self._provider: Refresher | None = None
        self._state = _State.OPEN
        self.notice: str | None = None
        self._asks_to_unlock = False  # On the desktop.
        self._ending: set[Future[None]] = set()  # Queued locks: once there is one, `read` gives nothing.
        self._mark = UseMark(self.name)
        self._pause = self._left_out() if self._mark.left > 0 else None
        self._unopened: HwsignerError | HwsignerWarning | None = None
        self._fault: HwsignerError | HwsignerWarning | None = None
        self._settings = settings.Settings()
        try:
            self._settings = settings.of_profile(config)
            settings.serve_profile(self.name, self._settings)
        except (HwsignerError, HwsignerWarning) as error:
            self._fault = error
            shared.log(f"error: profile {self.name!r} can't be used: {error}", profile=self.name, cause=error.cause)
        names = self._settings.allow_users
        self._users = _ids("user", (name for name in names if not name.startswith("@")), find_uid, shared.log)
        self._groups = _ids("group", (name[1:] for name in names if name.startswith("@")), find_gid, shared.log)

    def allows(self, uid: int) -> bool:
        """Return whether a user may have the credentials: root, the agent's user, and the users of `allow-users`."""
        return uid in (0, os.geteuid()) or uid in self._users

    def allows_member(self, sock: socket.socket) -> bool:
        """Return whether the process at the other end of a socket is in a group of `allow-users`."""
        return bool(self._groups) and not self._groups.isdisjoint(peer_groups(sock))

    def read(self) -> Rendered | None:
        """Return the finished answer at once, or None if `answer` must be called."""
        provider = self._provider
        if provider is None or self._ending or self._state is not _State.OPEN:
            return None
        rendered = provider.read(_FORMAT)
        return rendered if rendered and rendered.reply else None

    def answer(self) -> Future[Answer]:
        """Queue getting the answer: credentials or an error. The future raises nothing."""
        return self._queue.submit(self._answer)

    def renew(self) -> Future[bytes]:
        """Queue creating a session now, if the profile is left out too; the future has the answer."""
        self._mark.until = 0.0
        return self._queue.submit(partial(self._report, lambda: self._open().refresh()))

    def unlock(self) -> Future[UnlockProgress]:
        """Queue trying the profile, as `renew` does; the future has the PIN that is still needed, if any."""
        self._mark.until = 0.0
        return self._queue.submit(self._unlock)

    def unlock_with(self, request: PinRequest, pin: memoryview) -> Future[UnlockProgress]:
        """Queue creating a session with a PIN, which is UTF-8 in locked memory. A profile locked by then drops it."""
        return self._queue.submit(partial(self._unlock_with, request, pin))

    def take(self, session: bytes) -> Future[bytes]:
        """Queue taking over a session that another process of this user created; the future has the answer."""
        return self._queue.submit(partial(self._report, partial(self._take, session)))

    def lock(self) -> Future[None]:
        """Queue forgetting the PINs and credentials and closing the key. From now on nothing is given out."""
        return self._end(_State.LOCKED)

    def close(self) -> Future[None]:
        """Lock for good. What is queued already is still done; later callers are told to retry."""
        settings.serve_profile(self.name, None)
        self._mark.remove()  # Not once the key is closed: a key that hangs is not waited for.
        return self._end(_State.CLOSED)

    def status(self) -> ProfileStatus:
        """Return the state as it is now."""
        status = self._provider.status() if self._provider else None
        pause = self._pause if self._mark.left > 0 else None
        failure = self._fault or (status.failure if status else self._unopened or pause)
        state = profile_state(failure, is_live=status is not None and status.left > 0)
        if self._state is not _State.OPEN:
            state = str(self._state)
        elif state == "failing" and isinstance(failure, PinError):
            state = "locked"
        return ProfileStatus(self.name, state, status.expiration if status else None, failure)

    def _end(self, state: _State) -> Future[None]:
        ended = self._queue.submit(partial(self._shut, state))
        self._ending.add(ended)
        ended.add_done_callback(self._ending.discard)
        return ended

    # The worker calls what follows, but for `_format` and `_note`, which the thread that refreshes calls.

    def _answer(self) -> Answer:
        try:
            rendered = self._open().reply(_FORMAT)
            return rendered if rendered.reply else self._too_large(rendered.credentials)
        except Exception as error:
            if isinstance(error, PinError) and self._state is _State.OPEN and not self._asks_to_unlock:
                self._asks_to_unlock = True
                self._show(f"it is {self._locked(error)}", is_urgent=False)
            return self._error(error)

    def _unlock(self) -> UnlockProgress:
        if self._state is _State.LOCKED:
            self._state = _State.OPEN
        self._pins.is_unlocking = True
        try:
            return self._progress(lambda: self._open().reply(_FORMAT), PinError)  # A stored PIN may be wrong too.
        finally:
            self._pins.is_unlocking = False

    def _unlock_with(self, request: PinRequest, pin: memoryview) -> UnlockProgress:
        if self._state is _State.OPEN:
            self._pins.add(request, pin)
        return self._progress(lambda: self._open().refresh(fixed=True), PinRequiredError)

    def _progress(self, act: Callable[[], object], kind: type[PinError]) -> UnlockProgress:
        """Do something; return the progress, with the PIN that was wanted if another one may help."""
        answer = self._report(act)
        failure, wanted = self._provider and self._provider.failure, self._pins.wanted
        may_ask_again = isinstance(failure, WrongPinError) and failure.may_ask_again
        if wanted and (may_ask_again or (isinstance(failure, WrongPinError) and wanted.may_be_empty)):
            wanted = wanted._replace(state="the last one was wrong")
        return UnlockProgress(wanted if may_ask_again or isinstance(failure, kind) else None, answer)

    def _take(self, session: bytes) -> None:
        if self._shared.is_system:
            raise AgentError("the system's agent takes no sessions")
        credentials = read_agent_credentials(session, role_arn=self._settings.role_arn or "")
        provider = self._open()
        if provider.adopt(credentials):
            self._stop_asking()
            self._shared.monitor.took_over(self.name, credentials)
        elif provider.status().expiration is None:
            raise AgentError("the session has expired, by this machine's clock, or another one is being created")

    def _report(self, act: Callable[[], object]) -> bytes:
        """Do something, and return the answer that reports it."""
        try:
            act()
            expiration = self._open().status().expiration
        except Exception as error:
            return self._error(error)
        return protocol.ok(f"profile {self.name!r} has credentials until {expiration:%Y-%m-%dT%H:%M:%SZ}")

    def _shut(self, state: _State) -> None:
        if self._state is not _State.CLOSED:
            self._state = state
        provider, self._provider = self._provider, None
        self._stop_asking()
        self._pins.forget()
        try:
            if provider:
                provider.stop()
        except Exception as error:
            self._shared.log(f"error: profile {self.name!r}: its key was not closed: {type(error).__name__}")

    def _open(self) -> Refresher:
        """Return the provider, made if need be."""
        if self._state is _State.CLOSED:
            raise AgentError(f"profile {self.name!r} has changed", "Retry")
        if self._state is _State.LOCKED:
            raise PinRequiredError("it was locked with hwsigner agent lock")
        if self._fault:
            raise self._fault.with_traceback(None)  # It would grow with each time that it is raised.
        if self._provider is None:
            if self._pause and self._mark.left > 0:
                raise self._pause.with_traceback(None)
            self._provider = self._make_provider()
            self._provider.start()
        return self._provider

    def _make_provider(self) -> Refresher:
        try:
            service = settings.service_for_daemon(self._settings, self._shared.environ)
            self._settings.prompts = lambda _: [self._pins.prompt]
            provider = Refresher.from_settings(self._settings, service, self._pins)
        except (HwsignerError, HwsignerWarning) as error:
            self._unopened = without_frames(error)
            raise
        self._unopened = None
        attended = self._settings.attended
        provider.configure(
            formats={_FORMAT: self._format},
            attended=attended,
            on_try=self._note,
            on_notice=None if attended is False else self._show_notice,
            guard=self._mark.used if settings.uses_library(self._settings) else None,
        )
        return provider

    def _left_out(self) -> AgentError:
        """Return why the profile is left out for a while, which is logged."""
        times = "" if self._mark.crashes == 1 else f" {self._mark.crashes} times"
        end = utc_now() + timedelta(seconds=self._mark.left)
        error = AgentError(
            f"the agent ended{times} while a library used the key of profile {self.name!r}, which is left out until "
            f"{end:%Y-%m-%dT%H:%M:%SZ}",
            f"Check the module or library of its key, then run hwsigner agent refresh{self._flag} {self.name}",
        )
        self._shared.log(f"warning: {error}", profile=self.name, cause=error.cause)
        return error

    def _format(self, credentials: Credentials) -> Reply:
        """Return the answer with credentials; nothing if they are too large, as clients take none in parts."""
        text = f"{credentials.process_json()}\n"
        return self._shared.memory.put(protocol.ok(text)) if len(text.encode()) <= protocol.MAX_BODY else b""

    def _too_large(self, credentials: Credentials) -> bytes:
        size = len(credentials.process_json()) + 1
        problem = f"its credentials are {size:,} bytes, and an agent gives out {protocol.MAX_BODY:,} at most"
        return protocol.error(7, f"profile {self.name!r}: {problem}. Set HWSIGNER_AGENT=none to do without")

    def _note(self, outcome: Credentials | Failure) -> None:
        if self._provider:
            self._shared.monitor.attempted(self.name, outcome, self._provider)
        if not isinstance(outcome, Failure):
            self._mark.crashes = 0
            self._stop_asking()
        elif isinstance(outcome.error, PinError) and not isinstance(outcome.error, PinRequiredError):
            self._pins.forget()

    def _show_notice(self, notice: str | None) -> None:
        self.notice = f"{self.name}: {notice}" if notice else None
        if self.notice:
            self._shared.log(self.notice, profile=self.name)
        self._show(notice)

    def _show(self, text: str | None, *, is_urgent: bool = True) -> None:
        """Show a text on the desktop in place of the last, or nothing any more."""
        if self._shared.desktop and self._settings.desktop_notifications is not False:
            self._shared.desktop.show(self.name, text, is_urgent=is_urgent)

    def _stop_asking(self) -> None:
        if self._asks_to_unlock:
            self._asks_to_unlock = False
            self._show(None)

    def _error(self, error: Exception) -> bytes:
        """Return the answer for an error. If a PIN is needed, it names the command that unlocks."""
        if not isinstance(error, HwsignerError | HwsignerWarning):
            return protocol.error(1, f"profile {self.name!r}: the agent failed with {type(error).__name__}")
        if not isinstance(error, PinError):
            return protocol.error(error.exit_status, str(error))
        reason = protocol.LOCKED if self._state is _State.LOCKED else protocol.NEEDS_PIN
        if reason == protocol.NEEDS_PIN and (self._shared.is_system or isinstance(error, PinLockedError)):
            reason = ""  # Only root may unlock there, or the token takes no PIN now.
        return protocol.error(error.exit_status, f"profile {self.name!r} is {self._locked(error)}", reason)

    def _locked(self, error: PinError) -> str:
        """Return that the profile is locked, why, and the command that unlocks it."""
        wanted = self._pins.wanted
        is_missing = isinstance(error, PinRequiredError) and self._state is _State.OPEN
        problem = f"{wanted.subject} needs its {wanted.kind}" if is_missing and wanted else error.message
        step = "Once its PIN works, run" if isinstance(error, PinLockedError) else "Run"
        return f"locked: {problem}. {step} hwsigner agent unlock{self._flag} {self.name}"

    @property
    def _flag(self) -> str:
        return " --system" if self._shared.is_system else ""


def _ids(kind: str, names: Iterable[str], find: Callable[[str], int | None], log: Log) -> frozenset[int]:
    """Return the numbers of users or groups given by name or number; one that is unknown is logged and left out."""
    found = {name: find(name) for name in names}
    for name in (name for name, number in found.items() if number is None):
        hint = "Make it with groupadd --system, or correct the name"
        if kind == "user":
            hint = "For a unit with DynamicUser=yes, name a group: see hwsigner help agent"
        log(f"warning: allow-users names {name!r}, which is not a {kind} of this system. {hint}")
    return frozenset(number for number in found.values() if number is not None)
