"""An ESAPI context, and a TPM as it is used through it."""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import NamedTuple

os.environ.setdefault("TSS2_LOG", "all+NONE")  # The libraries print a line for each refusal otherwise.

from tpm2_pytss import ESAPI, ESYS_TR, TPM2_SU, TPMS_CONTEXT, TSS2_Exception

from hwsigner.backends.tpm2.errors import INITIALIZE, code
from hwsigner.backends.tpm2.leftovers import Leftovers
from hwsigner.backends.tpm2.process_lock import is_managed
from hwsigner.backends.tpm2.sessions import Sessions, SessionSettings, Way
from hwsigner.backends.tpm2.slots import ManagedSlots, Owner, Saved, SharedSlots, Slots
from hwsigner.backends.tpm2.tcti import unavailable

_FIRST_OBJECT = 0x1000  # Below are the handles of the hierarchies, which all keys of the process share.


class TPM:
    """A TPM, while one thread uses it: its ESAPI context, its slots, and the sessions that prove auth values.

    Attributes:
        esys: the context.
        tcti: the TPM's TCTI.
        is_at_risk: whether an auth value was sent in this use, so that nothing is done again by itself after a fault.
    """

    def __init__(self, esys: ESAPI, tcti: str, slots: Slots, sessions: Sessions) -> None:
        self.esys = esys
        self.tcti = tcti
        self.is_at_risk = False
        self._slots = slots
        self._sessions = sessions

    def loaded(self, owner: Owner, load: Callable[[], ESYS_TR]) -> AbstractContextManager[ESYS_TR]:
        """Give a transient object that is used again and again.

        Args:
            owner: what stands for it.
            load: loads it, and is called where it is not at hand.
        """
        return self._slots.loaded(owner, load)

    def temporary(self, load: Callable[[], ESYS_TR]) -> AbstractContextManager[ESYS_TR]:
        """Give a transient object for one use, and flush it."""
        return self._slots.temporary(load)

    def release(self, owner: object) -> None:
        """Let go of a transient object that is not used any more."""
        self._slots.release(owner)

    def authorize(self, handle: ESYS_TR, auth: bytes) -> ESYS_TR:
        """Set a handle's auth value, and return the session that proves it: the first one of a command."""
        if not auth and handle >= _FIRST_OBJECT:
            return ESYS_TR.PASSWORD  # An object has the empty one, unless another was set.
        session = self._sessions.proving(auth)
        self.is_at_risk = self.is_at_risk or bool(auth)
        self.esys.tr_set_auth(handle, auth)
        return session

    @property
    def encryption(self) -> ESYS_TR:
        """The session that encrypts a command's first parameters and proves nothing; ESYS_TR.NONE where it is plain."""
        return self._sessions.encryption

    def policy_session(self, hash: int) -> AbstractContextManager[ESYS_TR]:
        """Give a policy session, salted and encrypting unless it is plain, and flush it.

        Args:
            hash: the number of its hash, which is the key's nameAlg.
        """
        return self._sessions.policy(hash)


class SavedContexts(NamedTuple):
    """What is saved between uses of a TPM without a resource manager, and outlives the ESAPI context.

    Attributes:
        objects: by what stands for them.
        sessions: by how they prove auth values.
    """

    objects: dict[object, Saved]
    sessions: dict[SessionSettings, TPMS_CONTEXT]


class Context:
    """An open ESAPI context, and a TPM for each of the ways in which its keys prove auth values."""

    def __init__(self, tcti: str, left: Leftovers, saved: SavedContexts) -> None:
        self.esys = _connect(tcti)
        self._tcti = tcti
        self._left = None if is_managed(tcti) else left
        self._saved = saved
        self.slots: Slots = (
            SharedSlots(self.esys, left, saved.objects) if self._left is not None else ManagedSlots(self.esys)
        )
        self._ways: dict[SessionSettings, tuple[TPM, Sessions]] = {}
        self._settings: SessionSettings | None = None
        self._tpm: TPM
        self._poll = _poll(self.esys)

    def is_stale(self) -> bool:
        """Return whether the other end has gone: no answer is due, so that there is nothing else to read."""
        return bool(self._poll.poll(0))

    def tpm(self, settings: SessionSettings) -> TPM:
        """Return the TPM for keys that prove their auth values in a way."""
        if settings is not self._settings:  # To compare them, or their hashes, takes long.
            self._settings, self._tpm = settings, self._tpm_for(settings)
        self._tpm.is_at_risk = False
        return self._tpm

    def _tpm_for(self, settings: SessionSettings) -> TPM:
        if settings not in self._ways:
            way = Way(self._tcti, settings, self._saved.sessions)
            sessions = Sessions(self.esys, self.slots, self._left, way)
            self._ways[settings] = TPM(self.esys, self._tcti, self.slots, sessions), sessions
        return self._ways[settings][0]

    def park(self, *, is_sound: bool) -> None:
        """After a use, take the sessions out of a TPM without a resource manager; see `Sessions.park`."""
        for _, sessions in self._ways.values():
            sessions.park(is_sound=is_sound)

    def end_sessions(self) -> None:
        """Flush the sessions."""
        for _, sessions in self._ways.values():
            sessions.end()


def _connect(tcti: str) -> ESAPI:
    try:
        esys = ESAPI(tcti)
        if tcti.partition(":")[0] == "libtpms":
            _start_up(esys)
    except (TSS2_Exception, ValueError) as error:  # ValueError: a TCTI that is no UTF-8.
        raise unavailable(tcti, error) from error
    return esys


def _start_up(esys: ESAPI) -> None:
    """Start up a TPM that is a library in this process: there is nobody else to do it."""
    try:
        esys.startup(TPM2_SU.CLEAR)
    except TSS2_Exception as error:
        if code(error) != INITIALIZE:  # It was started up before.
            raise


def _poll(esys: ESAPI) -> select.poll:
    """Return what watches the connection, where there is one that lasts."""
    poll = select.poll()
    with suppress(TSS2_Exception):
        for handle in esys.tcti.get_poll_handles():
            poll.register(handle.fd, select.POLLIN)
    return poll
