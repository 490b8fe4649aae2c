"""Certificates in a TPM's NV indices: PEM, or DER, usually padded."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from tpm2_pytss import ESYS_TR, TPM2_CAP, TPM2_PT, TPMA_NV, TPMA_PERMANENT, TSS2_Exception

from hwsigner.backends.pem import first_element, read_blocks
from hwsigner.backends.tpm2.auth import UNSTATED, earlier_refusal, keep_refusal
from hwsigner.backends.tpm2.errors import AUTH_FAIL, BAD_AUTH, HANDLE, code
from hwsigner.backends.tpm2.tpm import TPM
from hwsigner.errors import CertificateError, HwsignerWarning

# TCG's EK Credential Profile, 2.2.1.4 and 2.2.1.5.
EK_CERTIFICATES = range(0x01C00000, 0x01C08000)
_FIRST_INDEX, _LISTED = 0x01000000, 100
NV_BUFFER_MAX = 0x12C  # TPM 2.0 Library, part 2, 6.13: this many bytes are read or written at once.
_LEAST_BYTES = 200  # No certificate is shorter; counters, bits and most other data are.
_DER_SEQUENCE = b"\x30"
_PADDING = b"\0\xff"
_PUBLIC = "Certificates are public: make the index with authread and no auth value"
_WRITE_ONE = "Write one there, in DER or PEM"
_GIVE_IT = "Give the certificate in it with --vendor-certificates, or make the index with no_da"
_WANTS_AUTH = ("needs an auth value to be read", _PUBLIC)


class NVIndex(NamedTuple):
    """An NV index: its name for messages, its handle, its TPM Name in hexadecimal, its attributes and its size."""

    name: str
    handle: ESYS_TR
    tpm_name: str
    attributes: int
    size: int

    def error(self, fault: str, hint: str) -> CertificateError:
        """Return an error about the index."""
        return CertificateError(f"{self.name} {fault}", hint)


def nv_name(index: int) -> str:
    """Return an NV index as messages name it."""
    return f"NV index {index:#010x}"


def read_certificates(tpm: TPM, index: int) -> list[bytes]:
    """Return the DER of the certificates in an NV index, at least one.

    If there is no such index, it can't be read with an empty auth value, or holds none, that is a CertificateError.
    """
    return certificates_in(read_index(tpm, index), index)


def read_index(tpm: TPM, index: int, *, may_risk: bool = True) -> bytes:
    """Return all bytes of an NV index; raises as `read_certificates`, but whatever it holds.

    `may_risk` is whether an empty auth value may be sent if a wrong one counts. Otherwise, that is an error, and an
    HwsignerWarning says that the index was not read.
    """
    with open_index(tpm, index) as found:
        if found is None:
            raise CertificateError(f"the TPM has no {nv_name(index)}", _existing(tpm))
        if not may_risk and _is_at_risk(tpm, found):
            error = found.error("counts wrong auth values and may have an auth value, so it was not read", _GIVE_IT)
            warnings.warn(HwsignerWarning(error.message, error.hint), stacklevel=2)
            raise error
        return _read(tpm, found)


def list_certificates(tpm: TPM) -> list[tuple[int, bytes]]:
    """Return the certificates in all NV indices that can be read without a risk, each with its index.

    An index that can't be read, or that wants an auth value for which a wrong one counts, is left out.
    """
    _, answer = tpm.esys.get_capability(TPM2_CAP.HANDLES, _FIRST_INDEX, _LISTED)
    certificates = []
    for index in [int(handle) for handle in answer.data.handles]:
        with suppress(CertificateError), open_index(tpm, index) as found:
            if found is None or found.size < _LEAST_BYTES:
                continue
            if not _is_at_risk(tpm, found):
                certificates += [(index, der) for der in certificates_in(_read(tpm, found), index)]
    return certificates


@contextmanager
def open_index(tpm: TPM, index: int) -> Iterator[NVIndex | None]:
    """Open an NV index for a `with` statement; None if there is none."""
    handle = None
    try:
        handle = tpm.esys.tr_from_tpmpublic(index)
    except TSS2_Exception as error:
        if code(error) != HANDLE:
            raise
    if handle is None:
        yield None
        return
    try:
        public, tpm_name = tpm.esys.nv_read_public(handle)
        area = public.nvPublic
        yield NVIndex(nv_name(index), handle, bytes(tpm_name).hex(), int(area.attributes), int(area.dataSize))
    finally:
        with suppress(TSS2_Exception):  # Removing it has closed it.
            tpm.esys.tr_close(handle)


def _read(tpm: TPM, index: NVIndex) -> bytes:
    if not index.attributes & TPMA_NV.WRITTEN:
        raise index.error("was never written", "Write the certificate with tpm2_nvwrite")
    if index.attributes & TPMA_NV.READLOCKED:
        raise index.error("is locked against reading", "The lock ends when the TPM restarts")
    authority = _authority(tpm, index)
    at_once = tpm.property(NV_BUFFER_MAX)
    data = b""
    try:
        while len(data) < index.size:
            size = min(at_once, index.size - len(data))
            part = bytes(tpm.esys.nv_read(index.handle, size, len(data), authority))
            if len(part) != size or not size:  # Otherwise a faulty TPM would keep this from ending.
                raise index.error(f"gives {len(part)} bytes instead of {size}", "Check what is between hwsigner and it")
            data += part
    except TSS2_Exception as error:
        if code(error) not in (AUTH_FAIL, BAD_AUTH):
            raise
        if code(error) == AUTH_FAIL:
            keep_refusal(index.tpm_name, UNSTATED, tpm.lockout().failures)
        raise index.error(*_WANTS_AUTH) from error
    return data


def _is_at_risk(tpm: TPM, index: NVIndex) -> bool:
    """Return whether reading an index sends an auth value that counts if it is wrong; raises as `_authority`."""
    return not index.attributes & TPMA_NV.NO_DA and _authority(tpm, index) == index.handle


def _authority(tpm: TPM, index: NVIndex) -> ESYS_TR:
    """Return the handle whose empty auth value is sent. One for which a wrong value counts comes after the owner's."""
    may = index.attributes
    if may & TPMA_NV.AUTHREAD and may & TPMA_NV.NO_DA:
        return index.handle
    if may & TPMA_NV.OWNERREAD and not tpm.property(TPM2_PT.PERMANENT) & TPMA_PERMANENT.OWNERAUTHSET:
        return ESYS_TR.RH_OWNER
    if may & TPMA_NV.AUTHREAD:
        lockout = tpm.lockout()
        if lockout.failures and earlier_refusal(index.tpm_name, UNSTATED, lockout.failures) is not None:
            raise index.error(*_WANTS_AUTH)
        if lockout.left is not None and lockout.left <= 1:
            raise index.error("may need an auth value, and one more wrong one locks the TPM", lockout.way_out)
        return index.handle
    if may & TPMA_NV.PPREAD:
        return ESYS_TR.RH_PLATFORM
    if may & TPMA_NV.POLICYREAD:
        raise index.error("can be read only with a policy", _PUBLIC)
    raise index.error("needs the owner's auth value to be read", _PUBLIC)


def certificates_in(data: bytes, index: int) -> list[bytes]:
    """Return the DER of the certificates in the bytes of an NV index, at least one, or raise a CertificateError."""
    certificates = []
    try:
        if data.startswith(_DER_SEQUENCE):
            while data.startswith(_DER_SEQUENCE):
                certificates.append(first_element(data))
                data = data[len(certificates[-1]) :]
        else:
            blocks = read_blocks(data.rstrip(_PADDING))
            certificates = [block.data for block in blocks if block.label.endswith("CERTIFICATE")]
    except ValueError as error:
        raise CertificateError(f"{nv_name(index)} holds no certificate: {error}", _WRITE_ONE) from error
    if not certificates:
        raise CertificateError(f"{nv_name(index)} holds no certificate", _WRITE_ONE)
    return certificates


def _existing(tpm: TPM) -> str:
    _, answer = tpm.esys.get_capability(TPM2_CAP.HANDLES, _FIRST_INDEX, _LISTED)
    indices = [f"{int(handle):#010x}" for handle in answer.data.handles]
    if indices:
        return f"It has {', '.join(indices)}"
    return "It has none: use the TPM that has the certificate, or install it again"
