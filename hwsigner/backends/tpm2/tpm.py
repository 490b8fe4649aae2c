"""A TPM, as one thread uses it: an ESAPI context, what is loaded through it, and sessions that prove auth values.

Behind a resource manager, keys and sessions stay loaded. Without one, a TPM has three slots for the keys of all
programs. So each key is loaded once and its saved context kept in memory; each use loads that context and flushes it.

By default an HMAC session proves an auth value, which is not sent itself. The session's key comes from a salt that is
encrypted to the storage root key. The session also encrypts the first parameter of each command and answer
(AES-128-CFB). An empty auth value is no secret, and needs no session.
"""

from __future__ import annotations

import os
import select
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Final, NamedTuple

os.environ.setdefault("TSS2_LOG", "all+NONE")  # The libraries print a line for each refusal otherwise.

from tpm2_pytss import (
    ESAPI,
    ESYS_TR,
    TPM2_ALG,
    TPM2_CAP,
    TPM2_CC,
    TPM2_PT,
    TPM2_SE,
    TPM2_ST,
    TPM2_SU,
    TPMA_SESSION,
    TPMS_CONTEXT,
    TPMT_SYM_DEF,
    TPMU_SYM_KEY_BITS,
    TPMU_SYM_MODE,
    TSS2_Exception,
)

from hwsigner.backends.tpm2 import errors
from hwsigner.backends.tpm2.srk import TrustedSRK, storage_root_key
from hwsigner.errors import PinLockedError

Load = Callable[[], ESYS_TR]
_MANAGED = ("tabrmd", "device:/dev/tpmrm")
_FIRST_OBJECT = 0x1000  # ESYS handles of hierarchies are lower.
_AES_128_CFB = TPMT_SYM_DEF(
    algorithm=TPM2_ALG.AES, keyBits=TPMU_SYM_KEY_BITS(aes=128), mode=TPMU_SYM_MODE(aes=TPM2_ALG.CFB)
)
_NO_CIPHER = TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL)
_ATTRIBUTES = TPMA_SESSION.CONTINUESESSION | TPMA_SESSION.DECRYPT | TPMA_SESSION.ENCRYPT


class SessionSettings(NamedTuple):
    """How auth values are proven."""

    plain: bool = False  # Send them as passwords, unencrypted.
    srk: TrustedSRK = TrustedSRK()


class Lockout:
    """The TPM's protection against guessing (TPM 2.0 Library, part 1, 19.8)."""

    def __init__(self, failures: int, limit: int, interval: int) -> None:
        self.failures: Final = failures  # How many wrong auth values it counts now.
        self.limit: Final = limit  # At this many, every protected key is locked.
        self.interval: Final = interval  # Seconds until one failure is forgotten; 0 if the protection is off.

    @property
    def left(self) -> int | None:
        """How many more wrong auth values lock the TPM; None for any number."""
        return max(self.limit - self.failures, 0) if self.interval else None

    @property
    def way_out(self) -> str:
        """What to do about too many failures, as a hint."""
        return (
            f"Wait {self.interval} seconds, after which the TPM forgets one, "
            "or run tpm2_dictionarylockout --clear-lockout"
        )

    def error(self, tcti: str, subject: str) -> PinLockedError:
        """Return the error of a key, as messages name it, that can't be used now."""
        return PinLockedError(f"the TPM at {tcti} is in lockout, so {subject} can't be used", self.way_out)


class TPM:
    """A TPM through an ESAPI context of its own.

    `saved` has the contexts of keys of a TPM without a resource manager, by what stands for the key; they outlive this
    object. `unflushed` has handles that an earlier context could not flush, in such a TPM; they are flushed now.
    `is_at_risk` is whether an auth value was sent in this use, so that nothing is repeated by itself after a fault.
    """

    def __init__(self, tcti: str, saved: dict[object, TPMS_CONTEXT], unflushed: set[int]) -> None:
        self.esys = _connect(tcti)
        self.tcti = tcti
        self.settings = SessionSettings()
        self.is_at_risk = False
        self._is_managed = is_managed(tcti)
        self._saved = saved
        self._unflushed = unflushed
        self._loaded: dict[object, ESYS_TR] = {}
        self._persistent: dict[int, ESYS_TR] = {}
        self._sessions: dict[SessionSettings, ESYS_TR] = {}
        self._poll = select.poll()
        with suppress(TSS2_Exception):  # Not every TCTI has a connection that lasts.
            for handle in self.esys.tcti.get_poll_handles():
                self._poll.register(handle.fd, select.POLLIN)

    def close(self) -> None:
        """Close the context.

        A TPM that is a library in this process is shut down. Otherwise it counts a failure when it next starts up.
        """
        if _is_library(self.tcti):
            with suppress(TSS2_Exception):
                self.esys.shutdown(TPM2_SU.CLEAR)
        self.esys.close()

    def is_stale(self) -> bool:
        """Return whether the other end has gone: nothing else can be readable while no answer is due."""
        return bool(self._poll.poll(0))

    @contextmanager
    def loaded(self, owner: object, load: Load) -> Iterator[ESYS_TR]:
        """Load an object that is used again and again, unless it is loaded or saved, for a `with` statement."""
        if not self._is_managed:
            with self.temporary(lambda: self._restored(owner) or load()) as handle:
                if owner not in self._saved:
                    self._saved[owner] = self.esys.context_save(handle)
                yield handle
            return
        if owner not in self._loaded:
            self._loaded[owner] = load()
        try:
            yield self._loaded[owner]
        except TSS2_Exception as error:
            if errors.is_lost(error):
                with suppress(TSS2_Exception):
                    self.esys.tr_close(self._loaded.pop(owner))
            raise

    @contextmanager
    def temporary(self, load: Load) -> Iterator[ESYS_TR]:
        """Load an object or start a session, and flush it after the `with` statement."""
        handle = load()
        try:
            yield handle
        finally:
            self._flush(handle)

    @contextmanager
    def persistent(self, handle: int) -> Iterator[ESYS_TR]:
        """Open a persistent object for a `with` statement.

        Before tpm2-tss 4, the first one to close an object closes it for all, so an inner `with` leaves it open.
        """
        if handle in self._persistent:
            yield self._persistent[handle]
            return
        self._persistent[handle] = self.esys.tr_from_tpmpublic(handle)
        try:
            yield self._persistent[handle]
        finally:
            self.esys.tr_close(self._persistent.pop(handle))

    def release(self, owner: object) -> None:
        """Flush a loaded object that is not used any more."""
        if owner in self._loaded:
            self._flush(self._loaded.pop(owner))

    def authorize(self, handle: ESYS_TR, auth: bytes, *, encrypts: bool = False) -> ESYS_TR:
        """Set a handle's auth value, and return the session that proves it: the first one of a command.

        If the command carries a secret (`encrypts`), even an empty auth value needs a session.
        """
        if not (auth or encrypts) and handle >= _FIRST_OBJECT:
            return ESYS_TR.PASSWORD  # An object has the empty one, unless another was set.
        session = ESYS_TR.PASSWORD
        if (auth or encrypts) and not self.settings.plain:
            if self.settings not in self._sessions:
                self._sessions[self.settings] = self._start_session(TPM2_SE.HMAC, TPM2_ALG.SHA256)
            session = self._sessions[self.settings]
        self.is_at_risk = self.is_at_risk or bool(auth)
        self.esys.tr_set_auth(handle, auth)
        return session

    def policy_session(self, hash: int, *, has_secret: bool = True) -> AbstractContextManager[ESYS_TR]:
        """Start a policy session, salted and encrypting unless it is plain, and flush it after the `with` statement.

        Unless it `has_secret`, any storage root key will do.
        """
        return self.temporary(lambda: self._start_session(TPM2_SE.POLICY, hash, check_srk=has_secret))

    def root_name(self) -> str:
        """Return the Name of the TPM's storage root key, whether or not it is the pinned one."""
        with self._storage_root_key(None) as key:
            return bytes(self.esys.tr_get_name(key)).hex()

    def property(self, number: int) -> int:
        """Ask the TPM for one of its properties (TPM 2.0 Library, part 2, 6.13)."""
        _, answer = self.esys.get_capability(TPM2_CAP.TPM_PROPERTIES, number, 1)
        return int(answer.data.tpmProperties[0].value)

    def lockout(self) -> Lockout:
        """Ask the TPM how many wrong auth values it counts, and how many it allows."""
        _, answer = self.esys.get_capability(TPM2_CAP.TPM_PROPERTIES, TPM2_PT.LOCKOUT_COUNTER, 3)
        return Lockout(*(item.value for item in answer.data.tpmProperties))

    def end_use(self, error: BaseException | None) -> bool:
        """Flush what must not outlast a use: all sessions after an error or without a resource manager.

        Returns whether the context can be used again.
        """
        if error is not None or not self._is_managed:
            while self._sessions:
                self._flush(self._sessions.popitem()[1])
        return not self._unflushed and (not isinstance(error, TSS2_Exception) or errors.is_answer(error))

    def flush_left(self) -> None:
        """Flush what an earlier context could not. By handle: ESYS gets no hold of a hash sequence.

        If the connection breaks, the rest is kept for the next context.
        """
        for handle in tuple(self._unflushed):
            self.flush_handle(handle)
            self._unflushed.discard(handle)

    def flush_handle(self, handle: int) -> None:
        """Flush what is loaded at a handle, if anything is, without ESYS, which may have it as another object."""
        tcti = self.esys.get_tcti()
        tcti.transmit(struct.pack(">HIII", TPM2_ST.NO_SESSIONS, 14, TPM2_CC.FlushContext, handle))
        tcti.receive()

    def _flush(self, handle: ESYS_TR) -> None:
        try:
            self.esys.flush_context(handle)
        except TSS2_Exception as error:
            if errors.code(error) != errors.BAD_TR:  # Otherwise a command, such as SequenceComplete, has flushed it.
                self._unflushed.add(int(self.esys.tr_get_tpm_handle(handle)))

    def _restored(self, owner: object) -> ESYS_TR | None:
        """Load an object's saved context, if it has one that is still valid."""
        if owner not in self._saved:
            return None
        try:
            return self.esys.context_load(self._saved[owner])
        except TSS2_Exception as error:
            if not errors.is_answer(error) or errors.is_not_now(error) or errors.code(error) == errors.OBJECT_MEMORY:
                raise
            del self._saved[owner]  # A reset of the TPM invalidates saved contexts.
            return None

    def _storage_root_key(self, trusted: TrustedSRK | None) -> AbstractContextManager[ESYS_TR]:
        return storage_root_key(self.esys, self.persistent, self.temporary, self.tcti, trusted)

    def _start_session(self, kind: TPM2_SE, hash: int, *, check_srk: bool = True) -> ESYS_TR:
        none = ESYS_TR.NONE
        if self.settings.plain:
            return self.esys.start_auth_session(none, none, kind, _NO_CIPHER, hash)
        with self._storage_root_key(self.settings.srk if check_srk else None) as salt_key:
            session = self.esys.start_auth_session(salt_key, none, kind, _AES_128_CFB, hash)
        self.esys.trsess_set_attributes(session, _ATTRIBUTES)
        return session


def is_managed(tcti: str) -> bool:
    """Return whether a resource manager shares out the slots of the TPM at a TCTI."""
    return tcti.startswith(_MANAGED)


def _is_library(tcti: str) -> bool:
    return tcti.partition(":")[0] == "libtpms"


def _connect(tcti: str) -> ESAPI:
    try:
        esys = ESAPI(tcti)
        if _is_library(tcti):
            _start_up(esys)
    except (TSS2_Exception, ValueError) as error:  # ValueError: a TCTI that is not UTF-8.
        raise errors.unavailable(tcti, error) from error
    return esys


def _start_up(esys: ESAPI) -> None:
    """Start up a TPM that is a library in this process: nothing else does."""
    try:
        esys.startup(TPM2_SU.CLEAR)
    except TSS2_Exception as error:
        if errors.code(error) != errors.INITIALIZE:  # It was started up before.
            raise
