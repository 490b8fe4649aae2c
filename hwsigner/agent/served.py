"""One profile as the agent serves it: its provider, its PINs, and the thread that does for it what takes time."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from hwsigner.agent import protocol
from hwsigner.agent.memory import LockedMemory
from hwsigner.agent.pins import Pins
from hwsigner.backoff import Setback
from hwsigner.config import Profile
from hwsigner.credentials import Credentials
from hwsigner.errors import AgentError, HwsignerError, HwsignerWarning, PinError, PinRequiredError
from hwsigner.held_session import HeldSession
from hwsigner.pin import PinRequest
from hwsigner.provider import Provider
from hwsigner.resident import Reply, ResidentProvider

_FORMAT = "process"
_MAX_PROBLEM = 200

Log = Callable[[str], None]


class Surroundings(NamedTuple):
    """What profiles share.

    Attributes:
        environ: the agent's environment.
        memory: where replies and PINs lie.
        log: takes a line for each session and each refusal.
    """

    environ: Mapping[str, str]
    memory: LockedMemory
    log: Log


class Served:
    """A profile that is served. `read` is for the loop's thread; the others may be called by any.

    Args:
        profile: the profile.
        around: what it shares with others.
    """

    def __init__(self, profile: Profile, around: Surroundings) -> None:
        self.profile = profile
        self.pins = Pins()
        self._around = around
        self._users = _uids(profile.values.get("allow-users", ()), around.log)
        self._resident: ResidentProvider | None = None
        self._is_locked = False
        # One thread, so that nothing of it happens at the same time.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix=f"profile-{profile.name}")

    def allows(self, uid: int) -> bool:
        """Tell whether a user may have its credentials: root, who runs the agent, and whom `allow-users` names."""
        return uid in (0, os.geteuid()) or uid in self._users

    def read(self) -> Reply | None:
        """Return the finished answer at once, or None where `answer` is to be called."""
        resident = self._resident
        return None if resident is None or self._is_locked else resident.read(_FORMAT)

    def answer(self) -> Future[Reply]:
        """Return what will be the answer, credentials or an error; it raises nothing."""
        return self._worker.submit(self._answer)

    def renew(self, *, mended: bool = False) -> Future[bytes]:
        """Return what will be the answer once a new session was created now; with `mended`, after a PinError too."""
        return self._worker.submit(self._told, partial(self._renew, mended=mended))

    def unlock(self) -> Future[bytes]:
        """Return what will be the answer once it is known whether the profile can be used without another PIN."""
        self._is_locked = False
        return self._worker.submit(self._told, self._use)

    def lock(self) -> Future[None]:
        """Forget the PINs and the credentials, close the key, and give nothing before `unlock`."""
        self._is_locked = True
        return self._worker.submit(self._close)

    def close(self) -> Future[None]:
        """Lock for ever."""
        closed = self.lock()
        self._worker.shutdown(wait=False)
        return closed

    def wanted_pin(self, failure: type[PinError]) -> PinRequest | None:
        """Return what was asked for last, if the last try ended with such a failure."""
        resident = self._resident
        return self.pins.wanted if resident and isinstance(resident.failure, failure) else None

    def status(self) -> str:
        """Return a line without secrets: name, state, expiration and what failed, split by tabs."""
        resident = self._resident
        status = resident.status() if resident else None
        failure = status.failure if status else None
        ends = f"{status.expiration:%Y-%m-%dT%H:%M:%SZ}" if status and status.expiration else ""
        if self._is_locked or (isinstance(failure, PinError) and not (status and status.left)):
            state = "locked"
        elif status and status.left:
            state = "ready"
        else:
            state = "failing" if failure else "idle"
        return "\t".join((self.profile.name, state, ends, failure.message[:_MAX_PROBLEM] if failure else ""))

    def _answer(self) -> Reply:
        try:
            return self._used().reply(_FORMAT)
        except Exception as error:
            return self._refusal(error)

    def _told(self, act: Callable[[], ResidentProvider]) -> bytes:
        """Return what an act's end is told with."""
        try:
            status = act().status()
        except Exception as error:
            return self._refusal(error)
        text = f"profile {self.profile.name!r} has credentials until {status.expiration:%Y-%m-%dT%H:%M:%SZ}"
        return protocol.with_body("ok", text.encode())

    def _use(self) -> ResidentProvider:
        resident = self._used()
        resident.reply(_FORMAT)
        return resident

    def _renew(self, *, mended: bool) -> ResidentProvider:
        resident = self._used()
        resident.refresh(mended=mended)
        return resident

    def _used(self) -> ResidentProvider:
        if self._is_locked:
            raise PinRequiredError("it was locked by hand")
        if self._resident is None:
            provider = _provider(self.profile.name, self.pins, self._around.environ)
            attended = self.profile.values.get("attended")
            formats = {_FORMAT: self._format}
            self._resident = ResidentProvider(provider, formats=formats, attended=attended, on_try=self._note)
            self._resident.start()
        return self._resident

    def _close(self) -> None:
        resident, self._resident = self._resident, None
        self.pins.forget()
        if resident:
            resident.close()

    def _format(self, credentials: Credentials) -> Reply:
        try:
            return self._around.memory.put(protocol.with_body("ok", f"{credentials.process_json()}\n".encode()))
        except AgentError as error:
            return protocol.error(error.exit_status, str(error))

    def _note(self, outcome: HeldSession | Setback) -> None:
        name = self.profile.name
        if isinstance(outcome, Setback):
            if isinstance(outcome.error, PinError) and not isinstance(outcome.error, PinRequiredError):
                self.pins.forget()
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
        wanted = self.pins.wanted
        is_missing = isinstance(error, PinRequiredError) and not self._is_locked and wanted
        problem = f"{wanted.subject} wants its {wanted.kind}" if is_missing and wanted else error.message
        text = f"profile {name!r} is locked: {problem}. Run hwsigner agent unlock {name}"
        return protocol.error(error.exit_status, text)


def _provider(name: str, pins: Pins, environ: Mapping[str, str]) -> Provider:
    from hwsigner import settings

    values = settings.read_profile(name, environ)
    return Provider.from_values(values, settings.resident_service(values, environ), pins)


def _uids(users: object, log: Log) -> frozenset[int]:
    """Return the uids of users that are named or numbered; one that is unknown is nobody."""
    found = set()
    for user in users if isinstance(users, list) else ():
        if str(user).isdigit():
            found.add(int(user))
            continue
        try:
            found.add(pwd.getpwnam(str(user)).pw_uid)
        except KeyError:
            log(f"allow-users names {user!r}, whom this system does not know")
    return frozenset(found)
