"""Sessions: how an auth value is proven to a TPM, and what passes the bus in the clear.

By default an HMAC session proves it: the auth value itself is not sent. The session's key comes from a salt that is
encrypted to the storage root key, and encrypts the first parameter of each command and answer (AES-128-CFB). Starting
one costs more than a signature, so it is kept. An empty auth value is no secret, and is proven by nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from tpm2_pytss import (
    ESAPI,
    ESYS_TR,
    TPM2_ALG,
    TPM2_SE,
    TPMA_SESSION,
    TPMS_CONTEXT,
    TPMT_SYM_DEF,
    TPMU_SYM_KEY_BITS,
    TPMU_SYM_MODE,
    TSS2_Exception,
)

from hwsigner.backends.tpm2.errors import are_sessions_full, is_answer, is_not_now
from hwsigner.backends.tpm2.left_sessions import LeftSessions
from hwsigner.backends.tpm2.leftovers import Leftovers
from hwsigner.backends.tpm2.slots import Slots
from hwsigner.backends.tpm2.srk import Trust, storage_key

_AES_128_CFB = TPMT_SYM_DEF(
    algorithm=TPM2_ALG.AES, keyBits=TPMU_SYM_KEY_BITS(aes=128), mode=TPMU_SYM_MODE(aes=TPM2_ALG.CFB)
)
_NO_CIPHER = TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL)
_ATTRIBUTES = TPMA_SESSION.CONTINUESESSION | TPMA_SESSION.DECRYPT | TPMA_SESSION.ENCRYPT


@dataclass(frozen=True)
class SessionSettings:
    """How auth values are proven.

    Attributes:
        plain: as passwords, which pass the bus in the clear.
        trust: which storage root key is the right one.
    """

    plain: bool = False
    trust: Trust = field(default_factory=Trust)


class Way(NamedTuple):
    """To which TPM sessions lead, and how.

    Attributes:
        tcti: the TPM's TCTI.
        settings: how auth values are proven.
        kept: the saved sessions, which outlive the ESAPI context.
    """

    tcti: str
    settings: SessionSettings
    kept: dict[SessionSettings, TPMS_CONTEXT]


class Sessions:
    """The sessions of one context.

    Args:
        esys: the context.
        slots: its slots.
        left: what may be left in the TPM, where there is no resource manager; there, a session is saved between uses.
        way: to which TPM, and how auth values are proven.
    """

    def __init__(self, esys: ESAPI, slots: Slots, left: Leftovers | None, way: Way) -> None:
        self._esys = esys
        self._slots = slots
        self._left = left
        self._tcti = way.tcti
        self._settings = way.settings
        self._kept = way.kept
        self._active: ESYS_TR | None = None

    def proving(self, auth: bytes) -> ESYS_TR:
        """Return the session that proves an auth value."""
        return self.encryption if auth and not self._settings.plain else ESYS_TR.PASSWORD

    @property
    def encryption(self) -> ESYS_TR:
        """The session that is kept; ESYS_TR.NONE where sessions are plain."""
        if self._settings.plain:
            return ESYS_TR.NONE
        if self._active is None:
            self._active = self._restored() or self._started(TPM2_SE.HMAC, TPM2_ALG.SHA256)
        return self._active

    @contextmanager
    def policy(self, hash: int) -> Iterator[ESYS_TR]:
        """Give a policy session with a hash, and flush it."""
        session = self._started(TPM2_SE.POLICY, hash)
        try:
            yield session
        finally:
            self._flush(session)

    def park(self, *, is_sound: bool) -> None:
        """After a use, take the session out of a TPM without a resource manager.

        Args:
            is_sound: whether all went well. Otherwise it is not kept.
        """
        if self._active is None or (is_sound and self._left is None):
            return
        session, self._active = self._active, None
        if is_sound:
            self._save(session)
        else:
            self._flush(session)

    def end(self) -> None:
        """Flush the session that is loaded."""
        if self._active is not None:
            session, self._active = self._active, None
            self._flush(session)

    def _save(self, session: ESYS_TR) -> None:
        handle = self._handle(session)
        try:
            self._kept[self._settings] = self._esys.context_save(session)
        except TSS2_Exception as error:
            if not is_answer(error):
                raise
            self._flush(session)
        else:
            if self._left is not None:
                self._left.sessions.saved(handle)

    def _restored(self) -> ESYS_TR | None:
        saved = self._kept.pop(self._settings, None)
        if saved is None or self._left is None:
            return None
        handle = int(saved.savedHandle)
        self._left.sessions.expect_saved(handle)
        try:
            return self._esys.context_load(saved)
        except TSS2_Exception as error:
            if is_not_now(error):
                self._left.sessions.saved(handle)
                self._kept[self._settings] = saved
                raise
            if not is_answer(error):
                raise
            return None  # It does not outlive a reset of the TPM.

    def _started(self, kind: TPM2_SE, hash: int = TPM2_ALG.SHA256) -> ESYS_TR:
        if self._settings.plain:
            return self._start(kind, ESYS_TR.NONE, hash)
        with storage_key(self._esys, self._slots, self._tcti, self._settings.trust) as salt_key:
            return self._start(kind, salt_key, hash)

    def _start(self, kind: TPM2_SE, salt_key: ESYS_TR, hash_number: int) -> ESYS_TR:
        cipher = _NO_CIPHER if salt_key == ESYS_TR.NONE else _AES_128_CFB
        if self._left is None:
            session = self._esys.start_auth_session(salt_key, ESYS_TR.NONE, kind, cipher, hash_number)
        else:
            session = self._start_among_others(
                self._left.sessions,
                lambda: self._esys.start_auth_session(salt_key, ESYS_TR.NONE, kind, cipher, hash_number),
            )
        if salt_key != ESYS_TR.NONE:
            self._esys.trsess_set_attributes(session, _ATTRIBUTES)
        return session

    def _start_among_others(self, left: LeftSessions, start: Callable[[], ESYS_TR]) -> ESYS_TR:
        """Start a session where there is no resource manager. If there is no room for it, other processes make some."""
        left.expect(self._esys)
        try:
            try:
                session = start()
            except TSS2_Exception as error:
                if not are_sessions_full(error):
                    raise
                left.make_room(self._esys)
                session = start()
        except TSS2_Exception as error:
            if is_answer(error):
                left.not_started()
            raise
        left.started(self._handle(session))
        return session

    def _flush(self, session: ESYS_TR) -> None:
        handle = self._handle(session)
        if self._slots.flush(session):
            self._forget(handle)

    def _forget(self, handle: int) -> None:
        if self._left is not None:
            self._left.sessions.flushed(handle)

    def _handle(self, session: ESYS_TR) -> int:
        return int(self._esys.tr_get_tpm_handle(session))
