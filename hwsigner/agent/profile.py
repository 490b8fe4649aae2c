"""One profile as the agent holds it: its provider, its PINs, and the thread that does for it what takes time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from enum import StrEnum
from functools import partial
from typing import NamedTuple, TypeVar

from hwsigner.agent import protocol
from hwsigner.agent.memory import LockedMemory
from hwsigner.agent.unlocked_pins import Pins
from hwsigner.aws.credentials import Credentials
from hwsigner.config import settings
from hwsigner.config.profiles import Profile
from hwsigner.errors import AgentError, HwsignerError, HwsignerWarning, PinError, PinRequiredError
from hwsigner.pins import PinRequest
from hwsigner.refresh.background import Reply, ResidentProvider, Status
from hwsigner.refresh.outcome import HeldSession, Setback
from hwsigner.refresh.provider import Provider
from hwsigner.system.users import find_uid

_FORMAT = "process"
_MAX_PROBLEM = 200
_NO_REPLY = b""

Log = Callable[[str], None]
_T = TypeVar("_T")


class Surroundings(NamedTuple):
    """What profiles share.

    Attributes:
        environ: the agent's environment.
        memory: where replies and PINs lie.
        log: takes a line for each session and for what can't be used.
    """

    environ: Mapping[str, str]
    memory: LockedMemory
    log: Log


class Unlocking(NamedTuple):
    """How far an `unlock` has come.

    Attributes:
        wanted: the PIN that is wanted yet, or None.
        answer: what to say where none is.
    """

    wanted: PinRequest | None
    answer: bytes


class _State(StrEnum):
    OPEN = "open"
    LOCKED = "locked"  # By hand: nothing is given before `unlock`.
    CLOSED = "closed"  # For ever: another one may have its place.


class HeldProfile:
    """A profile that is held.

    What is to be done is sent to its worker, a thread that does one thing after the other and alone changes what is
    here; `allows`, `read` and `status` only look. All may be called by any thread, but `close` by one.

    Args:
        profile: the profile. One that can't be used is held too, and answers with what is wrong.
        around: what it shares with others.
    """

    def __init__(self, profile: Profile, around: Surroundings) -> None:
        self.profile = profile
        self._around = around
        self._pins = Pins()
        self._resident: ResidentProvider | None = None
        self._state = _State.OPEN
        # What is on its way to lock or close: from then on, `read` gives nothing.
        self._ends: set[Future[None]] = set()
        self._memory_is_full: AgentError | None = None
        self._fault: HwsignerError | HwsignerWarning | None = None
        self._values: settings.Values = {"allow_users": []}
        try:
            self._values = settings.values_of(profile)
        except (HwsignerError, HwsignerWarning) as error:
            self._fault = error
            around.log(f"profile {profile.name!r} can't be used: {error}")
        self._users = _uids(self._values["allow_users"], around.log)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix=f"profile-{profile.name}")

    def allows(self, uid: int) -> bool:
        """Tell whether a user may have its credentials: root, who runs the agent, and whom `allow-users` names."""
        return uid in (0, os.geteuid()) or uid in self._users

    def read(self) -> Reply | None:
        """Return the finished answer at once, or None where `answer` is to be called."""
        resident = self._resident
        if resident is None or self._ends or self._state is not _State.OPEN:
            return None
        return resident.read(_FORMAT) or None

    def answer(self) -> Future[Reply]:
        """Return what will be the answer, credentials or an error; it raises nothing."""
        return self._send(self._answer, self._gone())

    def renew(self) -> Future[bytes]:
        """Return what will be the answer once a new session was created now."""
        return self._send(partial(self._told, self._renew), self._gone())

    def unlock(self) -> Future[Unlocking]:
        """Return what will be known once the profile was used, if that can be without another PIN."""
        return self._send(self._unlock, Unlocking(None, self._gone()))

    def bring(self, request: PinRequest, pin: memoryview) -> Future[Unlocking]:
        """Return what will be known once a new session was created with a PIN.

        Args:
            request: what the PIN is for.
            pin: in locked memory, as UTF-8. It is not kept if the profile was locked meanwhile.
        """
        return self._send(partial(self._bring, request, pin), Unlocking(None, self._gone()))

    def lock(self) -> Future[None]:
        """Forget the PINs and the credentials, close the key, and give nothing before `unlock`."""
        return self._end(_State.LOCKED)

    def close(self) -> Future[None]:
        """Lock for ever. What was sent before is done yet; whoever sends something later is told to ask again."""
        closed = self._end(_State.CLOSED)
        self._worker.shutdown(wait=False)
        return closed

    def status(self) -> str:
        """Return a line without secrets: name, state, expiration and what failed, split by tabs."""
        resident = self._resident
        status = resident.status() if resident else None
        failure = self._fault or (status.failure if status else None) or self._memory_is_full
        ends = f"{status.expiration:%Y-%m-%dT%H:%M:%SZ}" if status and status.expiration else ""
        problem = failure.message[:_MAX_PROBLEM] if failure else ""
        return "\t".join((self.profile.name, self._state_name(status, failure), ends, problem))

    def _state_name(self, status: Status | None, failure: HwsignerError | HwsignerWarning | None) -> str:
        has_credentials = status is not None and status.left > 0
        if self._state is not _State.OPEN:
            return str(self._state)
        if has_credentials and not self._memory_is_full:
            return "ready"
        if isinstance(failure, PinError):
            return "locked"
        return "failing" if failure else "idle"

    def _send(self, act: Callable[[], _T], gone: _T) -> Future[_T]:
        """Let the worker do something; after `close` there is none, and what comes of it is finished at once."""
        try:
            return self._worker.submit(act)
        except RuntimeError:
            done = Future[_T]()
            done.set_result(gone)
            return done

    def _end(self, state: _State) -> Future[None]:
        ended = self._send(partial(self._shut, state), None)
        self._ends.add(ended)
        ended.add_done_callback(self._ends.discard)
        return ended

    # What follows is done by the worker, but for `_format` and `_note`, which whoever refreshes calls.

    def _answer(self) -> Reply:
        try:
            return self._reply()
        except Exception as error:
            return self._refusal(error)

    def _unlock(self) -> Unlocking:
        if self._state is _State.LOCKED:
            self._state = _State.OPEN
        return self._unlocking(self._reply, PinError)  # A stored PIN may be wrong too.

    def _bring(self, request: PinRequest, pin: memoryview) -> Unlocking:
        if self._state is _State.OPEN:
            self._pins.bring(request, pin)
        return self._unlocking(partial(self._renew, mended=True), PinRequiredError)

    def _unlocking(self, act: Callable[[], object], failure: type[PinError]) -> Unlocking:
        """Do something; where it ends with such a failure, another PIN may mend it."""
        answer = self._told(act)
        resident = self._resident
        is_wanted = resident is not None and isinstance(resident.failure, failure)
        return Unlocking(self._pins.wanted if is_wanted else None, answer)

    def _told(self, act: Callable[[], object]) -> bytes:
        """Do something, and return what its end is told with."""
        try:
            act()
            ends = self._used().status().expiration
        except Exception as error:
            return self._refusal(error)
        text = f"profile {self.profile.name!r} has credentials until {ends:%Y-%m-%dT%H:%M:%SZ}"
        return protocol.with_body("ok", text.encode())

    def _reply(self) -> Reply:
        resident = self._used()
        return resident.reply(_FORMAT) or self._stored(resident())

    def _renew(self, *, mended: bool = False) -> None:
        self._used().refresh(mended=mended)

    def _shut(self, state: _State) -> None:
        if self._state is not _State.CLOSED:
            self._state = state
        resident, self._resident = self._resident, None
        self._pins.forget()
        self._memory_is_full = None
        try:
            if resident:
                resident.close()
        except Exception as error:
            self._around.log(f"profile {self.profile.name!r}: its key was not closed: {type(error).__name__}")

    def _used(self) -> ResidentProvider:
        if self._state is _State.CLOSED:
            raise self._changed()
        if self._state is _State.LOCKED:
            raise PinRequiredError("it was locked by hand")
        if self._resident is None:
            self._resident = self._opened()
            self._resident.start()
        return self._resident

    def _opened(self) -> ResidentProvider:
        if self._fault:
            raise self._fault.with_traceback(None)  # Which would grow, each time.
        values = self._values
        provider = Provider.from_values(values, settings.resident_service(values, self._around.environ), self._pins)
        formats = {_FORMAT: self._format}
        return ResidentProvider(provider, formats=formats, attended=values["attended"], on_try=self._note)

    def _format(self, credentials: Credentials) -> Reply:
        """Return the finished reply; none if there is no room for it, so that whoever asks tries anew."""
        try:
            return self._stored(credentials)
        except AgentError as error:
            self._around.log(f"profile {self.profile.name!r}: {error}")
            return _NO_REPLY

    def _stored(self, credentials: Credentials) -> Reply:
        data = protocol.with_body("ok", f"{credentials.process_json()}\n".encode())
        try:
            reply = self._around.memory.put(data)
        except AgentError as error:
            self._memory_is_full = AgentError(error.message)  # Without the frames, which hold the reply.
            raise
        self._memory_is_full = None
        return reply

    def _note(self, outcome: HeldSession | Setback) -> None:
        name = self.profile.name
        if isinstance(outcome, Setback):
            if isinstance(outcome.error, PinError) and not isinstance(outcome.error, PinRequiredError):
                self._pins.forget()
            self._around.log(f"profile {name!r}: no session: {outcome.error.message}")
        else:
            ends = outcome.credentials.expiration
            self._around.log(f"profile {name!r}: session created, credentials until {ends:%Y-%m-%dT%H:%M:%SZ}")

    def _refusal(self, error: Exception) -> bytes:
        """Return the answer for an error. Where a PIN is the matter, it names what unlocks."""
        name = self.profile.name
        if not isinstance(error, HwsignerError | HwsignerWarning):
            return protocol.error(1, f"profile {name!r}: the agent failed with {type(error).__name__}")
        if not isinstance(error, PinError):
            return protocol.error(error.exit_status, str(error))
        wanted = self._pins.wanted
        is_missing = isinstance(error, PinRequiredError) and self._state is _State.OPEN and wanted
        problem = f"{wanted.subject} wants its {wanted.kind}" if is_missing and wanted else error.message
        text = f"profile {name!r} is locked: {problem}. Run hwsigner agent unlock {name}"
        return protocol.error(error.exit_status, text)

    def _changed(self) -> AgentError:
        return AgentError(f"profile {self.profile.name!r} has changed meanwhile", "Ask again")

    def _gone(self) -> bytes:
        return self._refusal(self._changed())


def _uids(users: Iterable[str], log: Log) -> frozenset[int]:
    """Return the uids of users that are named or numbered; one that is unknown is nobody."""
    found = {user: find_uid(user) for user in users}
    for user in (user for user, uid in found.items() if uid is None):
        log(f"allow-users names {user!r}, whom this system does not know")
    return frozenset(uid for uid in found.values() if uid is not None)
