"""Flushing what is in a TPM, by its handle too."""

from __future__ import annotations

import struct

from tpm2_pytss import ESAPI, ESYS_TR, TPM2_CAP, TPM2_CC, TPM2_HC, TPM2_ST, TSS2_Exception

from hwsigner.backends.tpm2.errors import BAD_TR, code, is_answer, is_lost

TRANSIENT, SESSIONS = int(TPM2_HC.TRANSIENT_FIRST), int(TPM2_HC.LOADED_SESSION_FIRST)
_MANY = 100  # More than there are slots, or loaded sessions.


def handles_at(esys: ESAPI, first: int) -> list[int]:
    """Return the handles of what is loaded, from a first one on."""
    _, answer = esys.get_capability(TPM2_CAP.HANDLES, first, _MANY)
    return [int(handle) for handle in answer.data.handles]


def found(esys: ESAPI, handle: int) -> ESYS_TR | None:
    """Return the object at a handle; None where the TPM has none by now."""
    try:
        return esys.tr_from_tpmpublic(handle)
    except TSS2_Exception as error:
        if is_lost(error):
            return None
        raise


def flush(esys: ESAPI, handle: ESYS_TR) -> None:
    """Flush an object or a session, with a second try.

    Raises:
        TSS2_Exception: that could not be done, and not because it is not there.
    """
    try:
        esys.flush_context(handle)
    except TSS2_Exception as error:
        if code(error) == BAD_TR:
            return  # A command, such as SequenceComplete, has used it up.
        if not is_answer(error):
            raise
        _flush_again(esys, handle)


def flush_sequence(esys: ESAPI, handle: int) -> None:
    """Flush a sequence of hashes, which has no public area, so that ESYS gets no hold of it."""
    tcti = esys.get_tcti()
    tcti.transmit(struct.pack(">HIII", TPM2_ST.NO_SESSIONS, 14, TPM2_CC.FlushContext, handle))
    tcti.receive()


def _flush_again(esys: ESAPI, handle: ESYS_TR) -> None:
    try:
        esys.flush_context(handle)
    except TSS2_Exception as error:
        if not is_lost(error):
            raise
        esys.tr_close(handle)
